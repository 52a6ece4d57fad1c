package sagaverbs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/process"
)

type errText string

func (e errText) Error() string { return string(e) }

func minutes(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Minute) }

// compact is a text without its spaces.
func compact(text string) string { return strings.Join(strings.Fields(text), "") }

func TestStartTakesAnyJSONFromAFileOrStdin(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	text := `{"from": "VIE", "legs": [1, 2.5, null, true], "who": {"name": "Žofie"}}`
	file := filepath.Join(t.TempDir(), "input.json")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	input, err := structpb.NewValue(map[string]any{"from": "VIE", "legs": []any{1, 2.5, nil, true}, "who": map[string]any{"name": "Žofie"}})
	require.NoError(t, err)
	for name, args := range map[string][]string{
		"a file": {"-f", file}, "stdin": {"-f", "-"}, "a lone dash": {"-"},
	} {
		got := a.typed(t.Context(), text, append([]string{"saga", "start", "travel", "trip-17", "-o", "ids"}, args...)...)
		require.Equal(t, answer{out: "trip-17\n"}, got, name)
		require.Empty(t, cmp.Diff(&sagav1.StartRequest{Definition: "travel", Key: "trip-17", Input: input}, a.last(), protocmp.Transform()), name)
	}
	a.types(t, "saga start travel trip-17 --deadline 15m --approval-deadline 24h")
	require.Empty(t, cmp.Diff(&sagav1.StartRequest{Definition: "travel", Key: "trip-17", Deadline: minutes(15), ApprovalDeadline: minutes(24 * 60)},
		a.last(), protocmp.Transform()), "without a file there is no input")
	for _, text := range []string{"7", `"VIE"`, "[]", "null", " {}\n"} {
		require.Zero(t, a.typed(t.Context(), text, "saga", "start", "travel", "trip-17", "-").status, text)
		require.NotNil(t, a.last().(*sagav1.StartRequest).Input, text)
	}
}

func TestStartMakesAKeyWhichARepeatCanUse(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for _, line := range []string{"saga start travel -o ids", "saga start travel - -o ids"} {
		got := a.typed(t.Context(), "{}", strings.Fields(line)...)
		require.Zero(t, got.status)
		key := a.last().(*sagav1.StartRequest).Key
		require.Regexp(t, `^travel-[a-z0-9]{16}$`, key)
		require.Equal(t, answer{out: key + "\n", err: "key " + key + "\n"}, got)
	}
	a.before = true
	require.Equal(t, "travel trip-17 was accepted before\n", a.types(t, "saga start travel trip-17").err)

	a.refusal = connect.NewError(connect.CodeUnavailable, errText("going down"))
	require.Equal(t, answer{
		status: cli.ExitUnreachable,
		err: "it is not known whether travel trip-17 was accepted; the same start with the key trip-17 finds out and does nothing twice\n" +
			"travelling: going down\n",
	}, a.types(t, "saga start travel trip-17"))
}

func TestI9AnInputThatWouldNotArriveAsWrittenIsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for name, c := range map[string]struct{ text, want string }{
		"empty":               {" \n", "the input on stdin is empty; it must hold an input as JSON"},
		"not JSON":            {"from: VIE", "the input on stdin, line 1, column 1: this is not JSON: invalid character 'r' in literal false"},
		"a comma too many":    {"{\n  \"from\": \"VIE\",\n}", "line 3, column 1: this is not JSON: invalid character '}'"},
		"a comma too few":     {"{\n  \"from\": \"VIE\"\n  \"to\": \"LIS\"}", "line 3, column 3: this is not JSON: invalid character '\"' after object key:value pair"},
		"no colon":            {`{"from" "VIE"}`, "line 1, column 9: this is not JSON: invalid character '\"' after object key"},
		"no value":            {`{"from":, "to": 1}`, "line 1, column 9: this is not JSON: invalid character ','"},
		"behind an umlaut":    {`["ü", x]`, "line 1, column 7: this is not JSON: invalid character 'x'"},
		"a broken literal":    {"[\n true,\n nul]", "line 3, column 2: this is not JSON"},
		"a broken escape":     {`{"from": "\q"}`, `line 1, column 10: this is not JSON: invalid character 'q' in string escape code`},
		"cut off":             {"{\"from\": [1,\n", "line 2, column 1: this is not JSON: it ends too early"},
		"the wrong bracket":   {`[1}`, "line 1, column 3: this is not JSON: invalid character '}' after array element"},
		"two values":          {"{}\n{}", "line 2, column 1: there is more after the JSON value"},
		"a comma behind":      {"{},", "line 1, column 3: there is more after the JSON value"},
		"a field twice":       {"{\"to\": 1,\n \"to\": 2}", "line 2, column 2: the field \"to\" is there twice"},
		"no UTF-8":            {"{\"to\": \"\xff\"}", "line 1, column 9: this is not UTF-8"},
		"a number too long":   {`{"id": 12345678901234567890}`, "line 1, column 8: the number 12345678901234567890 is too large to be kept exactly; write it as a text, in quotes"},
		"a number too large":  {`[1e400]`, "line 1, column 2: the number 1e400 is too large"},
		"nested far too deep": {strings.Repeat("[", 200), "line 1, column 102: this is nested more than 100 deep"},
		"over 1 MiB":          {`"` + strings.Repeat("a", 1<<20) + `"`, "the input on stdin is larger than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.typed(t.Context(), c.text, "saga", "start", "travel", "-f", "-")
			require.Equal(t, cli.ExitUsage, got.status)
			require.Contains(t, got.err, c.want)
			require.Empty(t, got.out)
		})
	}
	file := filepath.Join(t.TempDir(), "input.json")
	require.NoError(t, os.WriteFile(file, []byte("{\n\"a\":}"), 0o600))
	require.Equal(t, answer{status: cli.ExitUsage, err: "travelling: " + file + ", line 2, column 5: this is not JSON: invalid character '}'" +
		" looking for beginning of value\n"}, a.types(t, "saga start travel -f "+file))
	require.Contains(t, a.types(t, "saga start travel -f "+file+"x").err, "input.jsonx: no such file or directory")
	require.Empty(t, a.asked)
	require.Zero(t, a.typed(t.Context(), "[9007199254740991, -9007199254740991, 0.1, 1e20]", "saga", "start", "travel", "-").status, "these can be kept")
}

func TestWaitEndsAsTheSagaDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		watched []*sagav1.Saga
		status  int
		err     string
	}{
		"confirmed": {[]*sagav1.Saga{booked()}, cli.ExitDone, "trip-17  book-flight       done\ntrip-17  CONFIRMED\n"},
		"rejected": {[]*sagav1.Saga{turningBack(), ending(sagav1.Status_STATUS_REJECTED, "sold out")}, cli.ExitRejected,
			"travelling: travel trip-17 was rejected (sold out); all is undone\n"},
		"cancelled":                           {[]*sagav1.Saga{ending(sagav1.Status_STATUS_CANCELLED, "typo")}, cli.ExitUndone, "travel trip-17 was cancelled (typo); all is undone\n"},
		"expired":                             {[]*sagav1.Saga{ending(sagav1.Status_STATUS_EXPIRED, "late")}, cli.ExitUndone, "travel trip-17 expired (late); all is undone\n"},
		"needs attention":                     {[]*sagav1.Saga{stuck()}, cli.ExitAttention, "travel trip-17 needs attention: cancel-flight has failed 12 times\n"},
		"approved":                            {[]*sagav1.Saga{awaiting(), booked()}, cli.ExitDone, "trip-17  AWAITING_APPROVAL\ntrip-17  CONFIRMED\n"},
		"the server was killed and came back": {[]*sagav1.Saga{turningBack(), nil, booked()}, cli.ExitDone, "trip-17  CONFIRMED\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := openAgency(t)
			for _, line := range []string{"saga wait travel trip-17 -o ids", "saga start travel trip-17 --wait -o ids"} {
				a.watched = c.watched
				got := a.types(t, line)
				require.Equal(t, c.status, got.status, got.err)
				require.Contains(t, got.err, c.err)
				require.Equal(t, "trip-17\n", got.out, "the result is on stdout, and nothing else")
				require.Empty(t, cmp.Diff(&sagav1.WatchRequest{Definition: "travel", Key: "trip-17", UntilSettled: true}, a.last(), protocmp.Transform()))
			}
		})
	}
}

func TestAWaitThatEndsTooEarlySaysThatTheSagaGoesOn(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.watched, a.hold = []*sagav1.Saga{turningBack()}, true
	got := a.types(t, "saga wait travel trip-17 --timeout 200ms")
	require.Equal(t, cli.ExitNotEnded, got.status, got.err)
	require.Contains(t, got.err, "travelling: travel trip-17 has not ended within 200ms; it goes on\n")
	require.Contains(t, got.out, "COMPENSATING")

	a.watched = []*sagav1.Saga{awaiting()}
	got = a.types(t, "saga start travel trip-17 --wait --timeout 200ms")
	require.Equal(t, cli.ExitNotEnded, got.status, got.err)
	require.Contains(t, got.err, "travelling: travel trip-17 has not ended within 200ms; it awaits approval\n")

	a.watched = nil
	got = a.types(t, "saga wait travel trip-17 --timeout 200ms")
	require.Equal(t, answer{status: cli.ExitNotEnded, err: "travelling: nothing was heard of travel trip-17 within 200ms\n"}, got)
}

func TestAnInterruptedWaitSaysThatTheSagaGoesOn(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"saga wait travel trip-17", "saga start travel trip-17 --wait", "saga status travel trip-17 --watch"} {
		for signal, status := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
			t.Run(line+" "+signal.String(), func(t *testing.T) {
				t.Parallel()
				a := openAgency(t)
				ctx, stop := context.WithCancelCause(t.Context())
				heard := turningBack()
				a.watched, a.hold = []*sagav1.Saga{heard}, true
				a.beforeSend = func() {
					// What was sent is on its way; the verb is given the time to hear it.
					time.AfterFunc(200*time.Millisecond, func() { stop(process.Stopped{Signal: signal}) })
				}
				got := a.typed(ctx, "", strings.Fields(line)...)
				require.Equal(t, status, got.status, got.err)
				require.True(t, strings.HasSuffix("\n"+got.err, "\ntravel trip-17 goes on; see it with: travelling saga wait travel trip-17\n"), got.err)
			})
		}
	}
}
