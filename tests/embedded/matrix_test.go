package embedded_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

const allDone = "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done"

// trouble is a way in which calls go wrong for a while.
type trouble struct {
	name  string
	kind  harness.Kind
	times int
}

// troubles last into the saga's second attempt: the first makes up to three calls.
var troubles = []trouble{
	{"fails and then works", harness.Fail, 4},
	{"is applied and its answer is lost", harness.LoseAfter, 4},
	{"is lost before it is applied", harness.LoseBefore, 4},
	// These last as long as the activity waits, so one attempt's worth of them is enough.
	{"is applied and answers too late", harness.HoldAfter, 3},
	{"hangs and is never applied", harness.HoldBefore, 3},
}

var forward = []struct{ step, procedure string }{
	{"reserve-stock", "Reserve"}, {"authorize-payment", "Authorize"}, {"capture-payment", "Capture"}, {"commit-stock", "Commit"},
}

func TestI1EachStepInEachTrouble(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	t.Run("all", func(t *testing.T) {
		for _, step := range forward {
			for _, trouble := range troubles {
				t.Run(step.step+" "+trouble.name, func(t *testing.T) {
					t.Parallel()
					id := step.procedure + "." + string(trouble.kind)
					n.Arm(t, harness.Fault{Kind: trouble.kind, Procedure: step.procedure, OrderID: id, Times: trouble.times})
					n.Start(t, harness.Order{ID: id})
					ended := n.AwaitEnd(t, id, harness.Confirmed)
					require.Equal(t, allDone, harness.Steps(ended))
				})
			}
		}
	})
	n.Audit(t)
}

func TestI1EachStepRejected(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	t.Run("all", func(t *testing.T) {
		t.Run("reserve-stock: one line of two is out of stock", func(t *testing.T) {
			t.Parallel()
			n.Start(t, harness.Order{ID: "out-of-stock", Items: []*checkoutv1.Item{
				{Sku: "CHAIR-OAK", Quantity: 1}, {Sku: "SOFA-LINEN", Quantity: 1001},
			}})
			ended := n.AwaitEnd(t, "out-of-stock", harness.Rejected)
			require.Equal(t, "reserve-stock rejected, authorize-payment skipped, capture-payment skipped, commit-stock skipped", harness.Steps(ended))
		})
		t.Run("authorize-payment: declined", func(t *testing.T) {
			t.Parallel()
			n.Start(t, harness.Order{ID: "declined", Method: "tok_declined"})
			ended := n.AwaitEnd(t, "declined", harness.Rejected)
			require.Equal(t, "reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped", harness.Steps(ended))
		})
		t.Run("capture-payment, the pivot: the authorization has expired, so the way back opens once more", func(t *testing.T) {
			t.Parallel()
			n.Start(t, harness.Order{ID: "expires", Method: "tok_expires"})
			ended := n.AwaitEnd(t, "expires", harness.Rejected)
			require.Equal(t, "reserve-stock done/done, authorize-payment done/done, capture-payment rejected, commit-stock skipped", harness.Steps(ended))
		})
		t.Run("commit-stock, after the pivot: a person is called, and it goes on by itself once it works", func(t *testing.T) {
			t.Parallel()
			const refusal = `{"outcome": "OUTCOME_REJECTED", "reason": "no_reservation"}`
			fault := n.Arm(t, harness.Fault{Kind: harness.Answer, Procedure: "Commit", OrderID: "commit", Answer: refusal})
			n.Start(t, harness.Order{ID: "commit"})
			stuck := n.AwaitStatus(t, "commit", harness.NeedsAttention)
			require.Equal(t, "commit-stock", stuck.Attention.GetStep())
			require.Equal(t, int64(4999), stuck.Held.GetCaptured().GetMinorUnits())
			fault.Lift()
			ended := n.AwaitEnd(t, "commit", harness.Confirmed)
			require.Equal(t, allDone, harness.Steps(ended))
			require.Nil(t, ended.Attention)
		})
	})
	n.Audit(t)
}

// Both compensations are reached by a cancel while the authorization's answer is on its way.
var backward = []struct{ step, procedure string }{{"release-stock", "Release"}, {"void-authorization", "Void"}}

const allUndone = "reserve-stock done/done, authorize-payment done/done, capture-payment skipped, commit-stock skipped"

func TestI1EachCompensationInEachTrouble(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	t.Run("all", func(t *testing.T) {
		for _, step := range backward {
			for _, trouble := range troubles {
				t.Run(step.step+" "+trouble.name, func(t *testing.T) {
					t.Parallel()
					id := step.procedure + "." + string(trouble.kind)
					n.Arm(t, harness.Fault{Kind: trouble.kind, Procedure: step.procedure, OrderID: id, Times: trouble.times})
					cancelAt(t, n, id, "Authorize")
					ended := n.AwaitEnd(t, id, harness.Cancelled)
					require.Equal(t, allUndone, harness.Steps(ended))
				})
			}
		}
	})
	n.Audit(t)
}

// cancelAt starts an order, holds its call's answer, cancels, and lets the answer go.
func cancelAt(t *testing.T, s *harness.System, orderID, procedure string) {
	t.Helper()
	held := s.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: procedure, OrderID: orderID})
	s.Start(t, harness.Order{ID: orderID})
	held.Await(t)
	_, err := s.Cancel(t.Context(), orderID)
	require.NoError(t, err)
	held.Lift()
}

// Each has a system of its own, because going down hits every order; they run side by side.
func TestI1AParticipantIsDownFor20s(t *testing.T) {
	t.Parallel()
	const away = 20 * time.Second
	for _, step := range forward {
		t.Run("at "+step.step, func(t *testing.T) {
			t.Parallel()
			n := harness.StartInProcess(t, harness.InProcess{})
			n.Arm(t, harness.Fault{Kind: harness.TakeDown, Procedure: step.procedure, OrderID: "down", Times: 1, Down: away})
			began := time.Now()
			n.Start(t, harness.Order{ID: "down"})
			ended := n.AwaitEnd(t, "down", harness.Confirmed)
			require.Greater(t, time.Since(began), away, "it ended while the participant was away")
			require.Equal(t, allDone, harness.Steps(ended))
			n.Audit(t)
		})
	}
	for _, step := range backward {
		t.Run("at "+step.step, func(t *testing.T) {
			t.Parallel()
			n := harness.StartInProcess(t, harness.InProcess{})
			n.Arm(t, harness.Fault{Kind: harness.TakeDown, Procedure: step.procedure, OrderID: "down", Times: 1, Down: away})
			began := time.Now()
			cancelAt(t, n, "down", "Authorize")
			ended := n.AwaitEnd(t, "down", harness.Cancelled)
			require.Greater(t, time.Since(began), away, "it ended while the participant was away")
			require.Equal(t, allUndone, harness.Steps(ended))
			n.Audit(t)
		})
	}
}
