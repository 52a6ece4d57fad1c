package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// airline is a participant that keeps its promises.
func airline(t *testing.T) participant.Participant {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, ledger.Migrate(t.Context(), pool))
	return ledger.New(pool, map[string]ledger.Step{"book-flight": {
		Do: func(_ context.Context, _ pgx.Tx, r participant.Request) (participant.Result, error) {
			if strings.Contains(string(r.Input), "10") {
				return participant.Reject("sold_out", "the aircraft has 9 seats"), nil
			}
			return participant.Result{Outcome: participant.Applied, Reference: "PNR-" + r.Key}, nil
		},
		Undo: func(context.Context, pgx.Tx, participant.Request) error { return nil },
	}})
}

// again is a participant that books once more each time that it is asked.
type again struct {
	participant.Participant
	bookings atomic.Int64
}

func (a *again) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	result, err := a.Participant.Do(ctx, r)
	if result.Outcome == participant.Applied {
		result.Reference = fmt.Sprint("PNR-", a.bookings.Add(1))
	}
	return result, err
}

func serveParticipant(t *testing.T, p participant.Participant) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(participant.Handler(p))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// sample writes a JSON file.
func sample(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "sample.json")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestParticipantCheckTellsThatOneKeepsItsPromisesAndWhatIsNotProven(t *testing.T) {
	t.Parallel()
	got := typed(t, "", nil, "participant", "check", serveParticipant(t, airline(t)), "--step", "book-flight", "--definition", "book-trip",
		"--input", sample(t, `{"seats": 2}`), "--other", sample(t, `{"seats": 3}`), "--refused", sample(t, `{"seats": 10}`))
	require.Equal(t, cli.ExitDone, got.status, got)
	require.Regexp(t, `^STEP +PASSED +FAILED +NOT CHECKED\nbook-flight +11 +0 +5\n`, got.out)
	require.Regexp(t, `(?m)^passed +rule 3 +undone before it arrived, the late step is refused +-$`, got.out)
	require.Regexp(t, `(?m)^not checked .*killed in the middle of work`, got.out)
	require.Contains(t, got.err, "not proven: what is in effect was read by Get")
}

func TestParticipantCheckTellsWhichPromiseIsBroken(t *testing.T) {
	t.Parallel()
	got := typed(t, "", nil, "participant", "check", serveParticipant(t, &again{Participant: airline(t)}), "--step", "book-flight", "-o", "json")
	require.Equal(t, cli.ExitFindings, got.status, got)
	require.Contains(t, got.err, "the participant breaks ")
	var report participanttest.Report
	require.NoError(t, json.Unmarshal([]byte(got.out), &report))
	require.Equal(t, "book-flight", report.Step)
	require.NotEmpty(t, report.NotProven)
	for _, f := range report.Findings {
		if f.Tried == "the same again returns the recorded outcome and applies nothing twice" {
			require.Equal(t, participanttest.Failed, f.Result)
			require.Regexp(t, `asked again it answered applied "" "PNR-\d+", first applied "" "PNR-\d+"`, f.Evidence[0])
		}
	}
}

func TestParticipantCheckRefusesWhatItCannotCheck(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		args   string
		status int
		says   string
	}{
		"no address":                {"--step s", cli.ExitUsage, "URL is missing"},
		"an address that is none":   {"localhost:80 --step s", cli.ExitUsage, "is no address such as"},
		"no step":                   {page.URL, cli.ExitUsage, "--step is missing"},
		"a step that is none":       {page.URL + " --step \x1b[2J", cli.ExitUsage, "step: must be"},
		"a definition that is none": {page.URL + " --step s --definition Trip", cli.ExitUsage, "definition: must be"},
		"a file that is not there":  {page.URL + " --step s --input nowhere.json", cli.ExitUsage, "--input: open nowhere.json"},
		"a file without JSON":       {page.URL + " --step s --other " + sample(t, "seats: 2"), cli.ExitUsage, "--other: the participant cannot accept this request: input: is not JSON"},
		"no patience":               {page.URL + " --step s --patience 0s", cli.ExitUsage, "--patience must be more than 0"},
		"a form that is none":       {page.URL + " --step s -o xml", cli.ExitUsage, "is none of"},
		"nobody there":              {gone.URL + " --step s", cli.ExitUnreachable, "ask the participant at " + gone.URL},
		"no participant":            {page.URL + " --step s", cli.ExitFailed, "ask the participant at " + page.URL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := typed(t, "", nil, append([]string{"participant", "check"}, strings.Fields(c.args)...)...)
			require.Equal(t, c.status, got.status, got)
			require.Contains(t, got.err, c.says)
			require.Empty(t, got.out)
		})
	}
}

// The page for authors has a whole participant: what it says must be so.
func TestTheParticipantOfTheDocumentKeepsItsPromises(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to run the document's participant with")
	}
	page, err := os.ReadFile("../../docs/participants.md")
	require.NoError(t, err)
	_, code, found := strings.Cut(string(page), "```python\n")
	require.True(t, found)
	code, _, found = strings.Cut(code, "```\n")
	require.True(t, found)
	dir := t.TempDir()
	program := filepath.Join(dir, "airline.py")
	require.NoError(t, os.WriteFile(program, []byte(code), 0o600))
	p := participanttest.Process{Command: func() *exec.Cmd { return exec.Command(python, program, filepath.Join(dir, "flights.db"), "0") }}
	require.NoError(t, p.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, p.Kill(context.Background())) })

	got := typed(t, "", nil, "participant", "check", p.URL(), "--step", "book-flight", "--input", sample(t, `{"seats": 2}`),
		"--other", sample(t, `{"seats": 3}`), "--refused", sample(t, `{"seats": 10}`))
	require.Equal(t, cli.ExitDone, got.status, got)
	require.Regexp(t, `(?m)^book-flight +11 +0 +5$`, got.out)

	client := participant.Client(nil, p.URL())
	_, err = client.Do(t.Context(), participant.Request{Definition: "book-trip", Key: "trip-1", Step: "book-hotel"})
	require.ErrorIs(t, err, participant.ErrBadRequest)
	_, err = client.List(t.Context(), participant.Query{})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
