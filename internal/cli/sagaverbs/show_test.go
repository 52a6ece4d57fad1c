package sagaverbs_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

func TestDefinitionsAreListedInEachForm(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for form, want := range map[string]string{
		"table": `NAME     VERSION   DEADLINE   STEPS
errand   1         -          1
travel   3         15m        4
`,
		"wide": `NAME     VERSION   DEADLINE   STEPS   IN ORDER
errand   1         -          1       run
travel   3         15m        4       book-flight, sign-off, issue-ticket, send-papers
`,
		"ids": "errand\ntravel\n",
	} {
		require.Equal(t, answer{out: want}, a.types(t, "saga list-definitions -o "+form), form)
	}
	require.Contains(t, compact(a.types(t, "saga list-definitions -o json").out), `[{"name":"errand","version":1,"deadline":"","plan":{"version":1,"steps":[{"number":1,"name":"run","participant":"runner",`+
		`"compensation":"","pivot":false,"decision":false}]}},{"name":"travel"`)
	a.definitions = nil
	require.Equal(t, "[]\n", a.types(t, "saga list-definitions -o json").out)
}

func TestShowNumbersTheStepsOfAPlan(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	require.Equal(t, answer{out: `NAME     VERSION   DEADLINE   STEPS
travel   3         15m        4

#   STEP           PARTICIPANT   COMPENSATION    MARK
1   book-flight    airline       cancel-flight   -
2   sign-off       operator      -               decision
3   issue-ticket   airline       return-ticket   pivot
4   send-papers    post          -               -
`}, a.types(t, "saga show travel"))
	require.Contains(t, compact(a.types(t, "saga show travel -o json").out),
		`{"name":"travel","version":3,"deadline":"15m0s","plan":{"version":3,"steps":[{"number":1,"name":"book-flight","participant":"airline",`+
			`"compensation":"cancel-flight","pivot":false,"decision":false},{"number":2,"name":"sign-off"`)
	require.Equal(t, "travel\n", a.types(t, "saga show travel -o ids").out)
	require.Equal(t, answer{status: cli.ExitNotFound, err: "travelling: there is no definition \"cruise\"; there are: errand, travel\n"},
		a.types(t, "saga show cruise"))
}

func TestShowOfASagaTellsHowFarItIsInThePlanItWasAcceptedWith(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.saga = turningBack()
	require.Equal(t, answer{out: `SAGA     KEY       STATUS         AMOUNT       ABOUT   AGE   AT
travel   trip-17   COMPENSATING   419.00 EUR   ann     3m    undoing book-flight

#   STEP           PARTICIPANT   COMPENSATION    MARK       STATE      UNDOING      ERROR
1   book-flight    airline       cancel-flight   -          done       running      -
2   sign-off       operator      -               decision   -          -            -
3   issue-ticket   airline       return-ticket   pivot      rejected   not-needed   sold out
4   send-papers    post          -               -          -          -            -
`}, a.types(t, "saga show travel trip-17"))
	json := compact(a.types(t, "saga show travel trip-17 -o json").out)
	require.Contains(t, json, `{"saga":"travel","key":"trip-17","plan":{"version":3,"steps":[{"number":1,`)
	require.Contains(t, json, `"standing":{"saga":"travel","version":3,"key":"trip-17","status":"COMPENSATING"`)
	require.Equal(t, "trip-17\n", a.types(t, "saga show travel trip-17 -o ids").out)
	require.Contains(t, func() string { a.saga = stuck(); return a.types(t, "saga show travel trip-17").out }(), "NEEDS ATTENTION   cancel-flight\n")
}

func TestStatusOfASagaInEachForm(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for form, want := range map[string]string{
		"table": `SAGA     KEY       STATUS      AMOUNT       ABOUT   AGE   AT
travel   trip-17   CONFIRMED   419.00 EUR   ann     3m    -

STEP          PARTICIPANT   STATE   ATTEMPTS   TOOK   UNDOING      ERROR
book-flight   airline       done    1          12ms   not-needed   -
`,
		"wide": `SAGA     KEY       STATUS      AMOUNT       ABOUT   AGE   AT   PHASE   ENGINE     RUN   UPDATED   ENDED   DEADLINE   REASON   REASON CODE   VERSION
travel   trip-17   CONFIRMED   419.00 EUR   ann     3m    -    final   embedded   1     2m        2m      -          -        -             3

STEP          PARTICIPANT   STATE   ATTEMPTS   TOOK   UNDOING      ERROR   STARTED   ENDED
book-flight   airline       done    1          12ms   not-needed   -       3m        2m
`,
		"json": `{
  "saga": "travel",
  "version": 3,
  "key": "trip-17",
  "status": "CONFIRMED",
  "phase": "final",
  "engine": "embedded",
  "run": 1,
  "about": "ann",
  "amount": {
    "currency": "EUR",
    "minor_units": 41900
  },
  "started_at": "2026-01-31T11:57:00Z",
  "updated_at": "2026-01-31T11:58:00Z",
  "ended_at": "2026-01-31T11:58:00Z",
  "deadline": "2026-01-31T12:12:00Z",
  "approval_deadline": null,
  "reason": "",
  "reason_code": "",
  "input": {
    "from": "VIE",
    "seats": 2,
    "to": "LIS"
  },
  "attention": null,
  "steps": [
    {
      "name": "book-flight",
      "participant": "airline",
      "state": "done",
      "attempts": 1,
      "started_at": "2026-01-31T11:57:00Z",
      "ended_at": "2026-01-31T11:57:00.012Z",
      "error": "",
      "compensation": "not-needed",
      "reference": "PNR-4711",
      "output": {
        "seat": "12A"
      }
    }
  ]
}
`,
		"ids": "trip-17\n",
	} {
		require.Empty(t, cmp.Diff(answer{out: want}, a.types(t, "saga status travel trip-17 -o "+form), cmp.AllowUnexported(answer{})), form)
	}
	require.Contains(t, a.types(t, "saga status travel trip-17 -o yaml").out, "saga: travel\nversion: 3\nkey: trip-17\n")
	require.Empty(t, cmp.Diff(&sagav1.GetRequest{Definition: "travel", Key: "trip-17"}, a.last(), protocmp.Transform()))
	a.saga.Input = nil
	require.Contains(t, a.types(t, "saga status travel trip-17 -o json").out, "\n  \"input\": null,\n")
}

func TestStatusOfASagaSaysWhatAPersonIsToDo(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.saga = stuck()
	require.Contains(t, a.types(t, "saga status travel trip-17").out, `
NEEDS ATTENTION   cancel-flight
cause             cancel-flight has failed 12 times
since             1h
attempts          12
next attempt      in 30s
last error        no answer\x1b[2J
what to do        look at the airline
                  call it

STEP`)
	a.saga = awaiting()
	require.Contains(t, a.types(t, "saga status travel trip-17").out, `travel   trip-17   AWAITING_APPROVAL   -        ann     3m    sign-off

AWAITS APPROVAL   sign-off
is undone         in 23h
approve           travelling saga approve travel trip-17 --reason "..."
reject            travelling saga reject travel trip-17 --reason "..."
`, "in the words of the program that is typed")
}

func TestStatusWatchPrintsASagaAfterEachChange(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.watched = []*sagav1.Saga{turningBack(), nil, ending(sagav1.Status_STATUS_REJECTED, "sold out")}
	got := a.types(t, "saga status travel trip-17 --watch -o json")
	require.Zero(t, got.status, got.err)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 2, "one object a line")
	require.Contains(t, lines[0], `{"saga":"travel","version":3,"key":"trip-17","status":"COMPENSATING"`)
	require.Contains(t, lines[1], `"status":"REJECTED"`)
	require.Empty(t, cmp.Diff(&sagav1.WatchRequest{Definition: "travel", Key: "trip-17"}, a.last(), protocmp.Transform()))
}

func TestHistoryOfASagaInEachForm(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.history = &sagav1.HistoryResponse{
		Saga: booked(),
		Entries: []*sagav1.Entry{
			{At: ago(60e9), Kind: "attempt", Step: "book-flight", Attempt: 1, DurationMs: 12, Outcome: "applied"},
			{At: ago(1e9), Kind: "command", Actor: "ann", Reason: "typo", Outcome: "cancel accepted"},
		},
		Operations: []*sagav1.ParticipantOperation{
			{Participant: "airline", Step: "book-flight", Do: "applied", Reference: "PNR-4711", CreatedAt: ago(60e9), UpdatedAt: ago(1e9)},
			{Participant: "post", Step: "send-papers", Unreachable: "connection refused"},
		},
	}
	require.Equal(t, answer{
		out: `AGE   WHAT      STEP          ATTEMPT   OUTCOME           TOOK   BY    WHY
1m    attempt   book-flight   1         applied           12ms   -     -
1s    command   -             -         cancel accepted   -      ann   typo

PARTICIPANT   STEP          DO        UNDO   REFERENCE   WHY
airline       book-flight   applied   -      PNR-4711    -
post          send-papers   -         -      -           cannot be asked
`,
		err: "post cannot be asked: connection refused\n",
	}, a.types(t, "saga history travel trip-17"))
	require.Contains(t, a.types(t, "saga history travel trip-17 -o wide").out, "\ntravel   trip-17   CONFIRMED")
	require.Contains(t, compact(a.types(t, "saga history travel trip-17 -o json").out), `{"saga":"travel","key":"trip-17","entries":[{"at":"2026-01-31T11:59:00Z",`+
		`"kind":"attempt","step":"book-flight","attempt":1,"actor":"","reason":"","duration_ms":12,"outcome":"applied","error":""},`)
	require.Contains(t, compact(a.types(t, "saga history travel trip-17 -o json").out), `"unreachable":"connectionrefused"}],"standing":{"saga":"travel"`)
}

func TestListIsOfOneDefinitionOrOfAll(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	require.Equal(t, "[]\n", a.types(t, "saga list -o json").out)
	require.Equal(t, "SAGA   KEY   STATUS   AMOUNT   ABOUT   AGE   AT\n", a.types(t, "saga list").out)

	a.pages = [][]*sagav1.Saga{{booked(), awaiting()}, nil}
	got := a.types(t, "saga list travel --status confirmed --status needs-attention --about ann --step cancel-flight --amount-over 5 --older-than 10m "+
		"--since 1h --attention --reason-code sold_out --limit 2")
	require.Equal(t, answer{
		out: `SAGA     KEY       STATUS              AMOUNT       ABOUT   AGE   AT
travel   trip-17   CONFIRMED           419.00 EUR   ann     3m    -
travel   trip-17   AWAITING_APPROVAL   -            ann     3m    sign-off
`,
		err: "there are more: --page-token +\n",
	}, got)
	require.Empty(t, cmp.Diff(&sagav1.ListRequest{
		Definition: "travel", Statuses: []sagav1.Status{sagav1.Status_STATUS_CONFIRMED, sagav1.Status_STATUS_NEEDS_ATTENTION}, About: "ann",
		Step: "cancel-flight", AmountOver: 5, OlderThan: minutes(10), Since: ago(60 * 60e9), Attention: true, ReasonCode: "sold_out", Limit: 2,
	}, a.last(), protocmp.Transform()))

	require.Equal(t, "trip-17\ntrip-17\n", a.types(t, "saga list travel -o ids").out)
	require.Equal(t, "travel trip-17\ntravel trip-17\n", a.types(t, "saga list -o ids").out, "what is left to type")
	a.types(t, "saga list --page-token +")
	require.Empty(t, cmp.Diff(&sagav1.ListRequest{Limit: 100, PageToken: "+"}, a.last(), protocmp.Transform()))
}

func TestWhatTheServerRefusesEndsWithItsExitStatus(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.history = &sagav1.HistoryResponse{}
	for _, verb := range []string{
		"list-definitions", "show travel", "show travel x", "start travel x", "status travel x", "status travel x --watch", "list", "history travel x",
		"wait travel x", "cancel travel x --reason r", "approve travel x --reason r", "reject travel x --reason r",
		"resolve travel x --step s --as retry --reason r", "redrive travel x --reason r",
	} {
		for code, status := range map[connect.Code]int{
			connect.CodeInvalidArgument: cli.ExitUsage, connect.CodeNotFound: cli.ExitNotFound, connect.CodeFailedPrecondition: cli.ExitConflict,
			connect.CodeAlreadyExists: cli.ExitConflict, connect.CodePermissionDenied: cli.ExitForbidden, connect.CodeInternal: cli.ExitFailed,
			connect.CodeUnavailable: cli.ExitUnreachable,
		} {
			a.refusal = connect.NewError(code, errText("it is so"))
			got := a.types(t, "saga "+verb)
			require.Equal(t, status, got.status, "%s: %s", verb, code)
			require.True(t, strings.HasSuffix(got.err, "travelling: it is so\n"), "%s: %s", verb, got.err)
			require.Empty(t, got.out)
		}
	}
}

func TestWrongUsageOfSagaVerbsAsksNobody(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for _, args := range [][]string{
		{"saga"}, {"saga", "begin"}, {"saga", "list-definitions", "x"}, {"saga", "list-definitions", "-o", "xml"},
		{"saga", "show"}, {"saga", "show", ""}, {"saga", "show", "travel", ""}, {"saga", "show", "travel", "x", "y"},
		{"saga", "status"}, {"saga", "status", "travel"}, {"saga", "status", "travel", "x", "y"}, {"saga", "status", "", "x"}, {"saga", "status", "travel", ""},
		{"saga", "history", "travel"}, {"saga", "wait", "travel"}, {"saga", "wait", "travel", "x", "--timeout", "-1s"},
		{"saga", "list", "travel", "x"}, {"saga", "list", ""}, {"saga", "list", "--status", "DONE"}, {"saga", "list", "--amount-over", "-1"},
		{"saga", "list", "--since", "yesterday"}, {"saga", "list", "--limit", "0"}, {"saga", "list", "--customer", "ann"},
		{"saga", "start"}, {"saga", "start", ""}, {"saga", "start", "travel", ""}, {"saga", "start", "travel", "x", "y"}, {"saga", "start", "-"},
		{"saga", "start", "travel", "--timeout", "5s"}, {"saga", "start", "travel", "--wait", "--timeout", "-5s"}, {"saga", "start", "travel", "--deadline", "-5s"},
		{"saga", "start", "travel", "-f", "a.json", "-"},
		{"saga", "approve", "travel", "--reason", "r"}, {"saga", "approve", "travel", "x"}, {"saga", "approve", "travel", "x", "--reason", " "},
		{"saga", "reject", "travel", "x", "y", "--reason", "r"},
		{"saga", "cancel", "--reason", "r"}, {"saga", "cancel", "travel", "--reason", "r"}, {"saga", "cancel", "travel", "--reason", "r", "--yes"},
		{"saga", "cancel", "travel", "x"}, {"saga", "cancel", "travel", "", "--reason", "r"}, {"saga", "cancel", "", "--attention", "--reason", "r", "--yes"},
		{"saga", "cancel", "travel", "x", "y", "--reason", "r"}, {"saga", "cancel", "travel", "x", "--attention", "--reason", "r"},
		{"saga", "cancel", "travel", "x", "--limit", "3", "--reason", "r"}, {"saga", "cancel", "--about", "", "--reason", "r", "--yes"},
		{"saga", "resolve", "travel", "x", "--as", "retry", "--reason", "r"}, {"saga", "resolve", "travel", "x", "--step", "s", "--reason", "r"},
		{"saga", "resolve", "travel", "x", "--step", "s", "--as", "skip", "--reason", "r"},
		{"saga", "resolve", "travel", "x", "--step", "s", "--as", "retry", "--without-proof", "--reason", "r"},
		{"saga", "redrive", "travel", "x", "--engine", "temporal", "--reason", "r"},
	} {
		got := a.typed(t.Context(), "", args...)
		require.Equal(t, cli.ExitUsage, got.status, "%q: %s", args, got.err)
		require.Empty(t, got.out, args)
		require.NotEmpty(t, got.err, args)
	}
	require.Empty(t, a.asked)
}

func TestEverySagaVerbExplainsItselfWithAnExample(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for _, verb := range []string{
		"list-definitions", "show", "start", "status", "list", "history", "wait", "cancel", "approve", "reject", "resolve", "redrive",
	} {
		got := a.types(t, "saga "+verb+" --help")
		require.Zero(t, got.status)
		require.Contains(t, got.out, "Examples:\n  travelling saga "+verb, verb)
		for line := range strings.Lines(got.out) {
			if strings.HasPrefix(line, "Flags:") {
				break
			}
			require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), 135, line)
		}
	}
}

func TestCompletionOffersDefinitionsThenKeys(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.pages = [][]*sagav1.Saga{{{Key: "trip-2"}, {Key: "trip-1"}, {Key: "other"}}}
	for line, want := range map[string]string{
		"saga status tr":              "travel\n",
		"saga show e":                 "errand\n",
		"saga start t":                "travel\n",
		"saga list t":                 "travel\n",
		"saga status travel trip":     "trip-2\ntrip-1\n",
		"saga cancel travel o":        "other\n",
		"saga list --status C":        "RUNNING\n", // The shell chooses among them.
		"saga resolve travel --as r":  "done\nrefund\nretry\n",
		"saga list --reason-code can": "approval_rejected\n",
	} {
		got := a.types(t, "__complete "+line)
		require.Zero(t, got.status)
		require.True(t, strings.HasPrefix(got.out, want), "%s: %s", line, got.out)
	}
	a.types(t, "__complete saga approve travel trip")
	require.Empty(t, cmp.Diff(&sagav1.ListRequest{
		Definition: "travel", Statuses: []sagav1.Status{sagav1.Status_STATUS_AWAITING_APPROVAL}, Limit: 1000,
	}, a.last(), protocmp.Transform()))
}

func TestAServerThatIsNotThereIsToldWithHowThisProgramStartsOne(t *testing.T) {
	t.Parallel()
	got := (&agency{url: "http://127.0.0.1:1"}).types(t, "saga list")
	require.Equal(t, cli.ExitUnreachable, got.status)
	require.Contains(t, got.err, "\n  `travelling serve` starts one; --server or ORCHESTRATOR_SERVER names another\n")
}
