package journal_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// trip is the row of a trip that was accepted at noon.
func trip(t *testing.T, pivot saga.Step) *journal.Row {
	t.Helper()
	definition, err := saga.Define("trip", 1,
		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"), pivot, saga.Do("send-ticket").At("airline").NothingToUndo())
	require.NoError(t, err)
	return journal.Begin("trip-1", definition.Plan(), noon, time.Hour)
}

// does has a step tried and recorded.
func does(t *testing.T, r *journal.Row, step string, undo bool, outcome saga.Outcome) journal.Standing {
	t.Helper()
	a := journal.Attempt{Call: saga.Call{Key: r.Key, Run: r.Run, Step: step, Undo: undo, Round: 1}}
	pass, _ := r.Fence(a)
	require.Equal(t, journal.Go, pass.Leave, "%s: %s", step, pass.Reason)
	return r.Record(a, journal.Learned{Outcome: outcome, Reason: "because"})
}

func TestARefundNeedsSomethingThatUndoesThePivot(t *testing.T) {
	for name, test := range map[string]struct {
		pivot         saga.Step
		what, refused string
		phase         saga.Phase
	}{
		"a pivot for good":           {saga.Pivot("charge-card").At("bank"), "", "nothing undoes charge-card", saga.Pivoted},
		"a pivot that can be undone": {saga.Pivot("charge-card").At("bank").UndoneBy("pay-back"), "it is undone by free-seat, and then by pay-back", "", saga.Reversing},
	} {
		t.Run(name, func(t *testing.T) {
			r := trip(t, test.pivot)
			does(t, r, "hold-seat", false, saga.Applied)
			does(t, r, "charge-card", false, saga.Applied)
			what, refused := r.Refund("send-ticket", "ops", "the flight is off")
			require.Equal(t, test.what, what)
			if test.refused == "" {
				require.NoError(t, refused)
			} else {
				require.ErrorIs(t, refused, journal.ErrState)
				require.ErrorContains(t, refused, test.refused)
			}
			require.Equal(t, test.phase, r.RunPhase())
		})
	}
}

// What stands behind the pivot has no compensation, so a refund leaves it, and says so.
func TestARefundTellsWhatItLeavesInPlace(t *testing.T) {
	definition, err := saga.Define("trip", 1,
		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"), saga.Pivot("charge-card").At("bank").UndoneBy("pay-back"),
		saga.Do("send-ticket").At("airline").NothingToUndo(), saga.Do("send-vouchers").At("agency").NothingToUndo())
	require.NoError(t, err)
	r := journal.Begin("trip-1", definition.Plan(), noon, time.Hour)
	for _, step := range []string{"hold-seat", "charge-card", "send-ticket"} {
		does(t, r, step, false, saga.Applied)
	}
	does(t, r, "send-vouchers", false, saga.Rejected)
	what, refused := r.Refund("send-vouchers", "ops", "there are no vouchers")
	require.NoError(t, refused)
	require.Equal(t, "it is undone by free-seat, and then by pay-back; send-ticket is done, and nothing undoes it", what)
	require.Equal(t, journal.StateDone, r.Steps[2].State)
	require.Equal(t, journal.StateSkipped, r.Steps[3].State)
	does(t, r, "hold-seat", true, saga.Applied)
	does(t, r, "charge-card", true, saga.Applied)
	require.Equal(t, journal.Cancelled, r.Status)
	require.True(t, r.Steps[2].InPlace())
}

func TestARefusalBehindThePivotUndoesNothingAndCallsForSomebody(t *testing.T) {
	r := trip(t, saga.Pivot("charge-card").At("bank"))
	does(t, r, "hold-seat", false, saga.Applied)
	does(t, r, "charge-card", false, saga.Applied)
	require.Equal(t, journal.GoOn, does(t, r, "send-ticket", false, saga.Rejected))
	require.Equal(t, saga.Pivoted, r.Phase)
	require.Equal(t, journal.AttentionRefused, r.Attention.Code)
	require.Equal(t, "send-ticket is refused, and there is no other way on", r.Attention.Cause)
	require.Equal(t, journal.CancelTooLate, r.Cancel("too late"))
	does(t, r, "send-ticket", false, saga.Applied)
	require.Equal(t, journal.Confirmed, r.Status)
	require.Nil(t, r.Attention)
}

func TestWhatARowSaysOfThePastDoesNotChangeWithItsClock(t *testing.T) {
	r := trip(t, saga.Pivot("charge-card").At("bank"))
	does(t, r, "hold-seat", false, saga.Applied)
	r.Now = noon.Add(time.Minute)
	does(t, r, "charge-card", false, saga.Applied)
	require.Equal(t, noon, *r.Steps[0].EndedAt)
	require.Equal(t, noon.Add(time.Minute), *r.Steps[1].EndedAt)
}
