package sagaverbs_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

func TestEachVerbOfAnOperatorAsksForWhatWasTypedAboutASaga(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	for line, want := range map[string]proto.Message{
		"approve travel x --reason known":                                 &sagav1.ApproveRequest{Reason: "known"},
		"approve travel x --reason known --dry-run":                       &sagav1.ApproveRequest{Reason: "known", DryRun: true},
		"reject travel x --reason costly":                                 &sagav1.RejectRequest{Reason: "costly"},
		"cancel travel x --reason typo --dry-run":                         &sagav1.CancelRequest{Reason: "typo", DryRun: true},
		"redrive travel x --reason lost":                                  &sagav1.RedriveRequest{Reason: "lost"},
		"redrive travel x --reason l --engine dapr":                       &sagav1.RedriveRequest{Reason: "l", Engine: "dapr"},
		"resolve travel x --step s --as retry --reason up":                &sagav1.ResolveRequest{Step: "s", As: sagav1.Resolution_RESOLUTION_RETRY, Reason: "up"},
		"resolve travel x --step s --as refund --reason up --dry-run":     &sagav1.ResolveRequest{Step: "s", As: sagav1.Resolution_RESOLUTION_REFUND, Reason: "up", DryRun: true},
		"resolve travel x --step s --as done --without-proof --reason up": &sagav1.ResolveRequest{Step: "s", As: sagav1.Resolution_RESOLUTION_DONE, Reason: "up", WithoutProof: true},
	} {
		a.asked = nil
		require.Equal(t, answer{out: "x\n"}, a.types(t, "saga "+line+" -o ids"), line)
		require.Len(t, a.asked, 1)
		by := a.asked[0].ProtoReflect()
		fields := by.Descriptor().Fields()
		require.Equal(t, "travel", by.Get(fields.ByName("definition")).String())
		require.Equal(t, "x", by.Get(fields.ByName("key")).String())
		require.NotEmpty(t, by.Get(fields.ByName("actor")).String(), "who asks is told")
		for _, name := range []protoreflect.Name{"definition", "key", "actor"} {
			by.Clear(fields.ByName(name))
		}
		require.Empty(t, cmp.Diff(want, a.asked[0], protocmp.Transform()), line)
	}
}

func TestAVerbTellsHowTheSagaStandsAndWhatItDid(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.saga = turningBack()
	for line, want := range map[string]string{
		"approve travel trip-17 --reason r":                                 "approved: it goes on",
		"approve travel trip-17 --reason r --dry-run":                       "would be approved: it would go on",
		"reject travel trip-17 --reason r":                                  "rejected: what it holds is given back",
		"reject travel trip-17 --reason r --dry-run":                        "would be rejected: what it holds would be given back",
		"redrive travel trip-17 --reason r":                                 "run 2 goes on",
		"resolve travel trip-17 --step cancel-flight --as retry --reason r": "cancel-flight is tried at once",
	} {
		require.Equal(t, answer{out: "SAGA     KEY       STATUS         WHAT\ntravel   trip-17   COMPENSATING   " + want + "\n"}, a.types(t, "saga "+line))
		require.Contains(t, a.types(t, "saga "+line+" -o wide").out, "\nissue-ticket   airline       rejected")
		json := a.types(t, "saga "+line+" -o json").out
		require.Contains(t, json, "{\n  \"saga\": \"travel\",\n  \"version\": 3,\n  \"key\": \"trip-17\",\n")
		dry := map[bool]string{true: "true", false: "false"}[strings.Contains(line, "--dry-run")]
		require.Contains(t, json, "  ],\n  \"dry_run\": "+dry+",\n  \"what\": \""+want+"\"\n}\n")
	}
}

func TestCancelOfASagaTellsWhatIsAndIsNotUndone(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.saga = turningBack()
	require.Equal(t, answer{out: `SAGA     KEY       STATUS         UNDONE       STILL TO UNDO   CANNOT BE UNDONE
travel   trip-17   COMPENSATING   book-hotel   book-flight     -
`}, a.types(t, "saga cancel travel trip-17 --reason typo"))
	require.Equal(t, `{"saga":"travel","key":"trip-17","status":"COMPENSATING","dry_run":true,"undone":["book-hotel"],"to_undo":["book-flight"],"cannot_undo":[]}`,
		compact(a.types(t, "saga cancel travel trip-17 --reason typo --dry-run -o json").out))
}

func TestAQueryOfSagasIsWorkedThroughAllItsPages(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.pages = [][]*sagav1.Saga{keyed("trip-3", "trip-2"), keyed("trip-1")}
	a.pages[1][0].Money = nil
	a.refusals["trip-2"] = connect.NewError(connect.CodeFailedPrecondition, errText("too late: <it> is CONFIRMED"))
	const line = "saga redrive travel --attention --about ann --reason lost --yes --rps 1000"
	require.Equal(t, answer{
		status: cli.ExitConflict,
		out: `SAGA     KEY      RESULT    WHY
travel   trip-3   done      run 2 goes on
travel   trip-2   refused   too late: <it> is CONFIRMED
travel   trip-1   done      run 2 goes on
`,
		err: "redrive 3 sagas (3 NEEDS_ATTENTION), 838.00 EUR in all, because: lost\ntravelling: 1 of 3 were refused\n",
	}, a.types(t, line))
	require.Empty(t, cmp.Diff(&sagav1.ListRequest{Definition: "travel", About: "ann", Attention: true, Limit: 1000}, a.asked[0], protocmp.Transform()))
	require.Equal(t, "trip-3\ntrip-1\n", a.types(t, line+" -o ids").out)
	require.Contains(t, compact(a.types(t, line+" -o json").out), `[{"saga":"travel","key":"trip-3","done":true,"dry_run":false,"status":"CONFIRMED",`+
		`"what":"run2goeson","error":""},{"saga":"travel","key":"trip-2","done":false,"dry_run":false,"status":"NEEDS_ATTENTION","what":"",`+
		`"error":"toolate:<it>isCONFIRMED"},`)

	require.Equal(t, "travel trip-3\ntravel trip-1\n", a.types(t, "saga redrive --attention --reason r --dry-run --rps 1000 -o ids").out, "of all definitions")
	got := a.types(t, "saga cancel travel --attention --reason r")
	require.Equal(t, cli.ExitUsage, got.status)
	require.Contains(t, got.err, "nobody can be asked here, so nothing was changed")

	a.pages = nil
	require.Equal(t, answer{out: "[]\n", err: "no saga fits\n"}, a.types(t, "saga cancel travel --attention --reason r -o json"))
}
