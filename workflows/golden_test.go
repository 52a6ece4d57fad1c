package workflows

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/replay"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// Run with -update to record the golden histories anew. That is right after adding one. If a golden history does not
// replay any more, the change breaks checkouts that are under way: register the new saga under a version instead.
var update = flag.Bool("update", false, "record the golden histories in testdata anew")

// golden are the recorded runs: the file in testdata, the run, and what happens in it.
var golden = []struct {
	name   string
	phase  saga.Phase
	script sagatest.Script
	want   string
}{
	{
		name: "confirmed",
		want: "reserve-stock: applied · authorize-payment: applied · capture-payment: applied · commit-stock: applied · end: completed",
	},
	{
		name:   "out-of-stock",
		script: sagatest.Script{checkout.ReserveStock: {sagatest.Rejected("out of stock")}},
		want:   "reserve-stock: rejected, out of stock · end: undone",
	},
	{
		name:   "declined",
		script: sagatest.Script{checkout.AuthorizePayment: {sagatest.Rejected("card declined")}},
		want:   "reserve-stock: applied · authorize-payment: rejected, card declined · release-stock: applied · end: undone",
	},
	{
		name: "retried-then-confirmed",
		script: sagatest.Script{
			checkout.ReserveStock:     {sagatest.Unknown()},
			checkout.AuthorizePayment: {sagatest.Fails("dial tcp: connection refused"), sagatest.Unknown()},
			checkout.CommitStock:      {sagatest.Rejected("not known")},
		},
		want: "reserve-stock #1: unknown · wait 250ms · reserve-stock #2: applied · " +
			"authorize-payment #1: error: dial tcp: connection refused · wait 250ms · authorize-payment #2: unknown · wait 500ms · authorize-payment #3: applied · " +
			"capture-payment: applied · commit-stock: rejected, not known · wait 250ms · commit-stock #2 (stuck): applied · end: completed",
	},
	{
		name: "cancelled-in-backoff",
		script: sagatest.Script{checkout.AuthorizePayment: {
			sagatest.Unknown(),
			{Reply: saga.Reply{Outcome: saga.Unknown}, Then: []any{saga.Command{ID: "cmd-1", Kind: journal.CommandCancel}}},
			sagatest.TurnedBack(),
		}},
		want: "reserve-stock: applied · authorize-payment #1: unknown · wait 250ms · authorize-payment #2: unknown · wait 500ms · " +
			`event {"id":"cmd-1","kind":"cancel"} · authorize-payment #3: turned-back · void-authorization: applied · release-stock: applied · end: undone`,
	},
	{
		name:   "expired-with-an-answer",
		script: sagatest.Script{checkout.ReserveStock: {sagatest.AppliedTurnBack()}},
		want:   "reserve-stock: applied, turn back · release-stock: applied · end: undone",
	},
	{
		name:   "pivot-refused",
		script: sagatest.Script{checkout.CapturePayment: {sagatest.Rejected("authorization expired")}},
		want: "reserve-stock: applied · authorize-payment: applied · capture-payment: rejected, authorization expired · " +
			"void-authorization: applied · release-stock: applied · end: undone",
	},
	{
		name:   "compensation-stuck-then-done",
		script: sagatest.Script{checkout.AuthorizePayment: {sagatest.Rejected("card declined")}, checkout.ReleaseStock: sagatest.Fails("down").Times(13)},
		want: "reserve-stock: applied · authorize-payment: rejected, card declined · " +
			"release-stock #1: error: down · wait 250ms · release-stock #2: error: down · wait 500ms · release-stock #3: error: down · wait 1s · " +
			"release-stock #4: error: down · wait 2s · release-stock #5: error: down · wait 4s · release-stock #6: error: down · wait 8s · " +
			"release-stock #7: error: down · wait 8s · release-stock #8: error: down · wait 8s · release-stock #9: error: down · wait 8s · " +
			"release-stock #10: error: down · wait 8s · release-stock #11: error: down · wait 8s · release-stock #12 (stuck): error: down · wait 16s · " +
			"release-stock #13 (stuck): error: down · wait 32s · release-stock #14 (stuck): applied · end: undone",
	},
	{
		name:  "begun-undoing",
		phase: saga.Undoing,
		want:  "void-authorization: applied · release-stock: applied · end: undone",
	},
	{
		name:  "begun-pivoted",
		phase: saga.Pivoted,
		want:  "capture-payment: applied · commit-stock: applied · end: completed",
	},
	{
		name:   "begun-pivoted-and-refused",
		phase:  saga.Pivoted,
		script: sagatest.Script{checkout.CapturePayment: {sagatest.Rejected("authorization expired")}},
		want:   "capture-payment: rejected, authorization expired · void-authorization: applied · release-stock: applied · end: undone",
	},
	{
		name: "awaited-approval-and-approved",
		script: sagatest.Script{checkout.CapturePayment: {{
			Reply: saga.Reply{Outcome: saga.Held, HoldMS: 86_400_000}, Then: []any{saga.Command{ID: "cmd-1", Kind: journal.CommandApprove}},
		}}},
		want: "reserve-stock: applied · authorize-payment: applied · capture-payment: held · wait 24h0m0s · " +
			`event {"id":"cmd-1","kind":"approve"} · capture-payment: applied · commit-stock: applied · end: completed`,
	},
	{
		name:   "awaited-approval-until-its-deadline",
		script: sagatest.Script{checkout.CapturePayment: {sagatest.Held(24 * time.Hour), sagatest.TurnedBack()}},
		want: "reserve-stock: applied · authorize-payment: applied · capture-payment: held · wait 24h0m0s · capture-payment: turned-back · " +
			"void-authorization: applied · release-stock: applied · end: undone",
	},
	{
		name:   "held-back-and-then-done",
		script: sagatest.Script{checkout.AuthorizePayment: {sagatest.Held(2 * time.Minute)}},
		want: "reserve-stock: applied · authorize-payment: held · wait 2m0s · authorize-payment: applied · capture-payment: applied · " +
			"commit-stock: applied · end: completed",
	},
	{
		name:  "refunded",
		phase: saga.Reversing,
		want:  "void-authorization: applied · release-stock: applied · refund-payment: applied · end: undone",
	},
	{
		name:   "out-of-attempts",
		phase:  saga.Undoing,
		script: sagatest.Script{checkout.VoidAuthorization: sagatest.Fails("down").Times(99)},
		want:   "… · wait 1h0m0s · void-authorization #50 (stuck): error: down · wait 1h0m0s · end: continue",
	},
	{
		name:   "superseded",
		script: sagatest.Script{checkout.AuthorizePayment: {sagatest.Superseded()}},
		want:   "reserve-stock: applied · authorize-payment: superseded · end: replaced",
	},
}

func TestGoldenHistoriesReplay(t *testing.T) {
	files := make(map[string]bool)
	for _, g := range golden {
		files[g.name+".json"] = true
		t.Run(g.name, func(t *testing.T) {
			path := filepath.Join("testdata", g.name+".json")
			s, err := Checkout()
			require.NoError(t, err)
			played, err := sagatest.Scenario{
				Saga: s, Input: saga.Input{Key: "ord-1001", Run: 1, Phase: g.phase}, Script: g.script,
			}.Play()
			require.NoError(t, err)
			want, story := strings.Split(g.want, " · "), played.Story()
			if want[0] == "…" {
				want, story = want[1:], story[len(story)-len(want)+1:]
			}
			if diff := cmp.Diff(want, story); diff != "" {
				t.Fatalf("story (-want +got):\n%s", diff)
			}
			if *update {
				require.NoError(t, replay.Save(path, played.History))
			}
			history, err := replay.Load(path)
			require.NoError(t, err)
			registry := task.NewTaskRegistry()
			require.NoError(t, saga.Register(registry, saga.Policy{}))
			require.NoError(t, replay.Check(registry, "ord-1001-1", history))
		})
	}
	entries, err := os.ReadDir("testdata")
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, files[e.Name()], "testdata/%s belongs to no test: a golden history is never dropped while an instance may replay it", e.Name())
	}
}

// A run carries its plan, so that no edit of the list breaks it. The golden histories are worth something only if they tell when the
// interpreter does something else than it did, as it would here by another plan.
func TestGoldenHistoriesTellWhatBreaksRunsUnderWay(t *testing.T) {
	reserve := saga.Do(checkout.ReserveStock).At(checkout.Warehouse).UndoneBy(checkout.ReleaseStock)
	authorize := saga.Do(checkout.AuthorizePayment).At(checkout.Payment).UndoneBy(checkout.VoidAuthorization)
	capture := saga.Pivot(checkout.CapturePayment).At(checkout.Payment).UndoneBy(checkout.RefundPayment)
	commit := saga.Do(checkout.CommitStock).At(checkout.Warehouse).NothingToUndo()
	tests := []struct {
		name    string
		steps   []saga.Step
		history string
		want    string
	}{
		{
			name: "two steps swapped", steps: []saga.Step{authorize, reserve, capture, commit}, history: "confirmed",
			want: `check replay of ord-1001-1: turn 1 (on ExecutionStarted): action 0: ` +
				`expected activity reserve-stock {"definition":"checkout","key":"ord-1001","run":1,"step":"reserve-stock","participant":"warehouse","round":1,"wait_ms":250,"claims":true}, ` +
				`got activity authorize-payment {"definition":"checkout","key":"ord-1001","run":1,"step":"authorize-payment","participant":"payment","round":1,"wait_ms":250,"claims":true}`,
		},
		{
			name: "the pivot moved to the end", steps: []saga.Step{reserve, authorize, commit, capture}, history: "confirmed",
			want: "turn 3 (on TaskCompleted): action 2: expected activity capture-payment",
		},
		{
			name: "a step inserted", steps: []saga.Step{reserve, saga.Do("check-fraud").At(checkout.Warehouse).NothingToUndo(), authorize, capture, commit}, history: "declined",
			want: "turn 2 (on TaskCompleted): action 1: expected activity authorize-payment",
		},
		{
			name: "a step dropped", steps: []saga.Step{reserve, authorize, capture}, history: "confirmed",
			want: `turn 4 (on TaskCompleted): action 3: expected activity commit-stock {"definition":"checkout","key":"ord-1001","run":1,"step":"commit-stock","participant":"warehouse","round":1,"wait_ms":250}, got end COMPLETED {"end":"completed"}`,
		},
		{
			name: "a compensation forgotten", steps: []saga.Step{saga.Do(checkout.ReserveStock).At(checkout.Warehouse).NothingToUndo(), authorize, capture, commit}, history: "declined",
			want: `turn 3 (on TaskCompleted): action 2: expected activity release-stock {"definition":"checkout","key":"ord-1001","run":1,"step":"reserve-stock","participant":"warehouse","undo":true,"round":1,"wait_ms":250}, got end COMPLETED {"end":"undone"}`,
		},
		{
			name: "the pivot made an ordinary step", steps: []saga.Step{reserve, authorize, saga.Do(checkout.CapturePayment).At(checkout.Payment).NothingToUndo(), commit}, history: "retried-then-confirmed",
			want: "expected timer command, got activity void-authorization",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := saga.Define(checkout.Definition, 1, test.steps...)
			require.NoError(t, err)
			registry := task.NewTaskRegistry()
			require.NoError(t, saga.Register(registry, saga.Policy{}))
			history, err := replay.Load(filepath.Join("testdata", test.history+".json"))
			require.NoError(t, err)
			givePlan(t, history, s.Plan())
			require.ErrorContains(t, replay.Check(registry, "ord-1001-1", history), test.want)
		})
	}
}

// givePlan puts another plan into the input of a recorded run.
func givePlan(t *testing.T, history []*protos.HistoryEvent, plan saga.Plan) {
	t.Helper()
	for _, e := range history {
		started := e.GetExecutionStarted()
		if started == nil {
			continue
		}
		var input saga.Input
		require.NoError(t, json.Unmarshal([]byte(started.Input.GetValue()), &input))
		input.Plan = plan
		text, err := json.Marshal(input)
		require.NoError(t, err)
		started.Input = wrapperspb.String(string(text))
		return
	}
	t.Fatal("the history has no beginning")
}
