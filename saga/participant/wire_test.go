package participant_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const service = "/saga.participant.v1.ParticipantService/"

// scripted is a participant that answers what a test says, and keeps what it was asked.
type scripted struct {
	asked  participant.Request
	id     participant.ID
	query  participant.Query
	result participant.Result
	op     participant.Operation
	page   participant.Page
	forgot participant.Forgotten
	err    error
}

func (s *scripted) Do(_ context.Context, r participant.Request) (participant.Result, error) {
	s.asked = r
	return s.result, s.err
}

func (s *scripted) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return s.Do(ctx, r)
}

func (s *scripted) Get(_ context.Context, id participant.ID) (participant.Operation, error) {
	s.id = id
	return s.op, s.err
}

func (s *scripted) List(_ context.Context, q participant.Query) (participant.Page, error) {
	s.query = q
	return s.page, s.err
}

func (s *scripted) Forget(_ context.Context, definition string, keys []string) (participant.Forgotten, error) {
	s.query = participant.Query{Definition: definition, Keys: keys}
	return s.forgot, s.err
}

// serve mounts a participant, and returns a client of it and its address.
func serve(t *testing.T, p participant.Participant) (*participant.Remote, string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(participant.Handler(p))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return participant.Client(server.Client(), server.URL), server.URL
}

// answers serves one body to every call, as somebody does by hand.
func answers(t *testing.T, status int, body string) *participant.Remote {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return participant.Client(server.Client(), server.URL)
}

var request = participant.Request{
	Definition: "book-trip", Key: "trip-1", Step: "book-flight", Attempt: 2, IdempotencyKey: "book-trip:trip-1:book-flight:do",
	Digest: "1:abc", Input: json.RawMessage(`{"flight":"LH 1","fare":19.99,"seats":[1,2],"note":"<&>é"}`),
}

func TestARequestAndItsAnswerArriveAsTheyWereSent(t *testing.T) {
	t.Parallel()
	want := participant.Result{
		Outcome: participant.Applied, Reference: "PNR 7", Detail: "two seats", Output: json.RawMessage(`{"code":"PNR7"}`),
		ValidUntil: time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	p := &scripted{result: want}
	client, _ := serve(t, p)
	got, err := client.Do(t.Context(), request)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got))
	require.JSONEq(t, string(request.Input), string(p.asked.Input))
	p.asked.Input = request.Input
	require.Empty(t, cmp.Diff(request, p.asked))

	p.result = participant.Result{Outcome: participant.Applied, Reason: participant.Unseen}
	got, err = client.Undo(t.Context(), request)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(p.result, got))
}

func TestEachOutcomeAndEachRecordArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	p := &scripted{}
	client, _ := serve(t, p)
	at := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, o := range []participant.Outcome{participant.Applied, participant.Rejected, participant.UndoneBefore, participant.NotKnown} {
		p.result = participant.Result{Outcome: o, Reason: "sold_out"}
		got, err := client.Do(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, p.result, got)

		p.op = participant.Operation{Definition: "book-trip", Key: "trip-1", Step: "book-flight", Do: o, Undo: participant.Applied, Reason: "r", Reference: "PNR 7", CreatedAt: at, UpdatedAt: at}
		op, err := client.Get(t.Context(), request.ID())
		require.NoError(t, err)
		require.Equal(t, p.op, op)
		require.Equal(t, request.ID(), p.id)
	}
	p.op = participant.Operation{}
	op, err := client.Get(t.Context(), request.ID())
	require.NoError(t, err)
	require.Zero(t, op, "nothing is recorded, and that is no error")
}

func TestRecordsAreListedAndForgottenOverTheWire(t *testing.T) {
	t.Parallel()
	p := &scripted{
		page:   participant.Page{Operations: []participant.Operation{{Definition: "book-trip", Key: "trip-1", Step: "book-flight", Do: participant.Applied}}, NextPageToken: "abc"},
		forgot: participant.Forgotten{Keys: []string{"trip-1"}, Kept: []participant.Kept{{Key: "trip-2", Why: "it is open"}}},
	}
	client, _ := serve(t, p)
	query := participant.Query{Definition: "book-trip", Keys: []string{"trip-1"}, Since: time.Unix(7, 0).UTC(), PageSize: 5, PageToken: "xyz"}
	page, err := client.List(t.Context(), query)
	require.NoError(t, err)
	require.Equal(t, p.page, page)
	require.Equal(t, query, p.query)

	forgotten, err := client.Forget(t.Context(), "book-trip", []string{"trip-1", "trip-2"})
	require.NoError(t, err)
	require.Equal(t, p.forgot, forgotten)
	require.Equal(t, participant.Query{Definition: "book-trip", Keys: []string{"trip-1", "trip-2"}}, p.query)

	_, err = client.List(t.Context(), participant.Query{Keys: []string{"trip-1"}})
	require.ErrorIs(t, err, participant.ErrBadRequest)
	require.ErrorContains(t, err, "definition: is missing")
	_, err = client.Forget(t.Context(), "book-trip", make([]string, 1001))
	require.ErrorIs(t, err, participant.ErrBadRequest)

	// One that offers Do, Undo and Get alone.
	client, _ = serve(t, struct{ participant.Participant }{p})
	_, err = client.List(t.Context(), query)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestEachErrorKeepsItsMeaningOverTheWire(t *testing.T) {
	t.Parallel()
	p := &scripted{}
	client, _ := serve(t, p)
	meanings := []error{participant.ErrConflict, participant.ErrBadRequest, participant.ErrForgotten, participant.ErrBadAnswer}
	for _, meant := range meanings[:3] {
		p.err = fmt.Errorf("do book-flight of trip-1: %w", meant)
		_, doErr := client.Do(t.Context(), request)
		_, undoErr := client.Undo(t.Context(), request)
		_, getErr := client.Get(t.Context(), request.ID())
		_, listErr := client.List(t.Context(), participant.Query{})
		_, forgetErr := client.Forget(t.Context(), "book-trip", nil)
		for _, err := range []error{doErr, undoErr, getErr, listErr, forgetErr} {
			require.ErrorIs(t, err, meant)
			require.Equal(t, p.err.Error(), err.Error(), "in the participant's own words, once")
		}
	}
	for name, err := range map[string]error{
		"any other":                  errors.New("the disk is full"),
		"another service's conflict": fmt.Errorf("ask the airline: %w", participantError(t, http.StatusConflict, "already_exists")),
	} {
		p.err = err
		_, err := client.Do(t.Context(), request)
		require.Error(t, err, name)
		for _, meant := range meanings {
			require.NotErrorIs(t, err, meant, "%s means: not known, ask again", name)
		}
	}
}

// participantError is an error of a participant that a participant has asked in turn, without the meaning that a client gives it.
func participantError(t *testing.T, status int, code string) error {
	t.Helper()
	_, err := answers(t, status, `{"code":"`+code+`","message":"m"}`).Do(t.Context(), request)
	require.ErrorIs(t, err, participant.ErrConflict)
	return errors.New(err.Error())
}

func TestErrorsByHandHaveTheirMeaningByCode(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"a conflict":          {409, `{"code":"already_exists","message":"other seats"}`, participant.ErrConflict},
		"a bad request":       {400, `{"code":"invalid_argument","message":"no such step"}`, participant.ErrBadRequest},
		"forgotten":           {400, `{"code":"failed_precondition","message":"gone"}`, participant.ErrForgotten},
		"a status that lies":  {500, `{"code":"already_exists","message":"other seats"}`, participant.ErrConflict},
		"unavailable":         {503, `{"code":"unavailable","message":"later"}`, nil},
		"a page of a proxy":   {502, `<html>bad gateway</html>`, nil},
		"a bare 400":          {400, ``, nil},
		"a bare 409":          {409, `{}`, nil},
		"a sidecar's trouble": {500, `{"errorCode":"ERR_DIRECT_INVOKE","message":"no such app"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := answers(t, c.status, c.body).Do(t.Context(), request)
			require.Error(t, err)
			for _, meant := range []error{participant.ErrConflict, participant.ErrBadRequest, participant.ErrForgotten, participant.ErrBadAnswer} {
				require.Equal(t, meant == c.want, errors.Is(err, meant), "%v, %v", err, meant)
			}
		})
	}
}

func TestAnAnswerThatIsNotOfTheContractIsABadAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body, why string
		undo      bool
	}{
		"nothing":                            {``, "the body is empty", false},
		"no JSON":                            {`ok`, "syntax error", false},
		"an empty answer":                    {`{}`, "outcome: is missing", false},
		"an outcome that is none":            {`{"outcome":"OUTCOME_DONE"}`, "outcome: is missing", false},
		"a number that is no outcome":        {`{"outcome":9}`, `outcome: "9" is none`, false},
		"undone before, of an undo":          {`{"outcome":"OUTCOME_UNDONE_BEFORE"}`, "no undo can be answered undone-before", true},
		"a refusal without a reason":         {`{"outcome":"OUTCOME_REJECTED"}`, "reason: is missing", false},
		"a reason of several words":          {`{"outcome":"OUTCOME_REJECTED","reason":"sold out"}`, "reason: must be a word", false},
		"a reference that steers a terminal": {`{"outcome":"OUTCOME_APPLIED","reference":"\u001b[2J"}`, "reference: must be", false},
		"an output that is too long":         {`{"outcome":"OUTCOME_APPLIED","output":"` + strings.Repeat("x", 4095) + `"}`, "output: must be at most 4096 bytes, not 4097", false},
		"an output with a zero character":    {`{"outcome":"OUTCOME_APPLIED","output":{"a":"\u0000"}}`, "output: must not contain a zero character", false},
		"an output of what was refused":      {`{"outcome":"OUTCOME_REJECTED","reason":"r","output":1}`, "output: only a step that is applied has one", false},
		"an output of an undo":               {`{"outcome":"OUTCOME_APPLIED","output":1}`, "output: only a step that is applied has one", true},
		"a time that is none":                {`{"outcome":"OUTCOME_APPLIED","valid_until":"soon"}`, `value "soon"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := answers(t, http.StatusOK, c.body)
			ask := client.Do
			if c.undo {
				ask = client.Undo
			}
			_, err := ask(t.Context(), request)
			require.ErrorIs(t, err, participant.ErrBadAnswer)
			require.NotErrorIs(t, err, participant.ErrBadRequest)
			require.ErrorContains(t, err, c.why)
			require.NotContains(t, err.Error(), "invalid_argument")
		})
	}
	for name, body := range map[string]string{
		"an outcome that is none": `{"operation":{"do":7}}`,
		"another key":             `{"operation":{"key":"trip-2"}}`,
		"undone before, undoing":  `{"operation":{"undo":"OUTCOME_UNDONE_BEFORE"}}`,
	} {
		_, err := answers(t, http.StatusOK, body).Get(t.Context(), request.ID())
		require.ErrorIs(t, err, participant.ErrBadAnswer, name)
	}
}

func TestWhatIsServedByHandMayBeShort(t *testing.T) {
	t.Parallel()
	client := answers(t, http.StatusOK, `{"outcome":"OUTCOME_APPLIED","unknown_field":1,"output":{"code":"PNR7"},"detail":"`+strings.Repeat("é", 150)+`"}`)
	got, err := client.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, participant.Result{Outcome: participant.Applied, Detail: strings.Repeat("é", 100), Output: json.RawMessage(`{"code":"PNR7"}`)}, got)

	op, err := answers(t, http.StatusOK, `{}`).Get(t.Context(), request.ID())
	require.NoError(t, err)
	require.Zero(t, op)
	op, err = answers(t, http.StatusOK, `{"operation":{"do":"OUTCOME_APPLIED"}}`).Get(t.Context(), request.ID())
	require.NoError(t, err)
	require.Equal(t, participant.Operation{Definition: "book-trip", Key: "trip-1", Step: "book-flight", Do: participant.Applied}, op)
}

func TestRequestsArriveAsPlainJSONWithTheNamesOfTheContract(t *testing.T) {
	t.Parallel()
	var got map[string]any
	var path, kind string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, kind = r.URL.Path, r.Header.Get("Content-Type")
		_ = json.NewDecoder(r.Body).Decode(&got)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, `{"outcome":"OUTCOME_APPLIED"}`)
	}))
	t.Cleanup(server.Close)
	_, err := participant.Client(server.Client(), server.URL+"/").Do(t.Context(), participant.Request{
		Definition: "book-trip", Key: "trip-1", Step: "book-flight", Input: json.RawMessage(`{"seats": 2}`),
	})
	require.NoError(t, err)
	require.Equal(t, service+"Do", path)
	require.Equal(t, "application/json", kind)
	require.Equal(t, map[string]any{
		"definition": "book-trip", "key": "trip-1", "step": "book-flight", "attempt": 0.0, "idempotency_key": "", "digest": "",
		"input": map[string]any{"seats": 2.0},
	}, got, "every field is told")
}

func TestI9ARequestThatBreaksARuleNeverReachesTheParticipant(t *testing.T) {
	t.Parallel()
	p := &scripted{result: participant.Result{Outcome: participant.Applied}}
	_, url := serve(t, p)
	good := map[string]any{"definition": "book-trip", "key": "trip-1", "step": "book-flight"}
	for name, c := range map[string]struct {
		field string
		value any
		why   string
	}{
		"a definition with capitals":   {"definition", "Book", "definition: must be 1 to 40 lower-case letters"},
		"no definition":                {"definition", "", "definition: must be"},
		"a long definition":            {"definition", strings.Repeat("a", 41), "definition: must be"},
		"a key with a slash":           {"key", "a/b", "key: must be 1 to 64"},
		"a key that ends in a line":    {"key", "a\n", "key: must be 1 to 64"},
		"no step":                      {"step", "", "step: is missing"},
		"a step with a space":          {"step", "a b", "step: must not contain spaces"},
		"a negative attempt":           {"attempt", -1, "attempt: must be greater than or equal to 0"},
		"a digest with a line":         {"digest", "a\nb", "digest: must be at most 256 bytes"},
		"an input that is too long":    {"input", strings.Repeat("x", participant.MaxInput), "input: must be at most 65536 bytes"},
		"an input that is too deep":    {"input", json.RawMessage(strings.Repeat("[", 65) + strings.Repeat("]", 65)), "input: must not be nested deeper than 64"},
		"an input of a zero character": {"input", "\x00", "input: must not contain a zero character"},
	} {
		t.Run(name, func(t *testing.T) {
			body := map[string]any{}
			for k, v := range good {
				body[k] = v
			}
			body[c.field] = c.value
			text, err := json.Marshal(body)
			require.NoError(t, err)
			res, err := http.Post(url+service+"Do", "application/json", strings.NewReader(string(text)))
			require.NoError(t, err)
			defer res.Body.Close()
			var got struct{ Code, Message string }
			require.NoError(t, json.NewDecoder(res.Body).Decode(&got))
			require.Equal(t, "invalid_argument", got.Code)
			require.Contains(t, got.Message, c.why)
			require.Zero(t, p.asked)
		})
	}
}

func TestAnInputThatWouldNotArriveAsItIsIsNeverSent(t *testing.T) {
	t.Parallel()
	p := &scripted{result: participant.Result{Outcome: participant.Applied}}
	client, _ := serve(t, p)
	for _, bad := range []string{
		`9007199254740993`, `{"id":12345678901234567890}`, `0.1234567890123456789`, `1e400`, `1e-400`, `1e-99999999999999999999`,
		`{`, `{} {}`, `{"a":1,"a":2}`, `"` + "\xff" + `"`, `nothing`, `{"a":"\u0000"}`, `[1 2]`,
		`"` + strings.Repeat("x", participant.MaxInput-1) + `"`,
	} {
		r := request
		r.Input = json.RawMessage(bad)
		_, err := client.Do(t.Context(), r)
		require.ErrorIs(t, err, participant.ErrBadRequest, "%.60s", bad)
		require.ErrorIs(t, r.Check(), participant.ErrBadRequest, "in process neither")
		require.Zero(t, p.asked)
	}
	for _, good := range []string{`9007199254740992`, `0.1`, `1.50`, `-0`, `1e3`, `123e-2`, `100000000000000000000`, `""`, `"é😀"`, `[]`, `false`} {
		r := request
		r.Input = json.RawMessage(good)
		_, err := client.Do(t.Context(), r)
		require.NoError(t, err, good)
		require.JSONEq(t, good, string(p.asked.Input))
	}
	for _, none := range []string{``, ` `, `null`} {
		r := request
		r.Input = json.RawMessage(none)
		_, err := client.Do(t.Context(), r)
		require.NoError(t, err)
		require.Nil(t, p.asked.Input)
	}
}

func TestABadAnswerOfAGoParticipantIsNeverSent(t *testing.T) {
	t.Parallel()
	p := &scripted{result: participant.Result{Outcome: "done"}}
	client, _ := serve(t, p)
	_, err := client.Do(t.Context(), request)
	require.ErrorContains(t, err, `outcome: "done" is none`)
	require.NotErrorIs(t, err, participant.ErrBadRequest, "what happened is not known")
}
