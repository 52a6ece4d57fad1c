package embedded_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestI1EachPaymentMethodEndsAsItShould(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	cases := []struct {
		method string
		want   harness.Status
		steps  string
	}{
		{"tok_visa", harness.Confirmed, "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done"},
		{"tok_declined", harness.Rejected, "reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped"},
		{"tok_insufficient_funds", harness.Rejected, "reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped"},
		{"tok_timeout", harness.Confirmed, "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done"},
		{"tok_flaky", harness.Confirmed, "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done"},
		{"tok_expires", harness.Rejected, "reserve-stock done/done, authorize-payment done/done, capture-payment rejected, commit-stock skipped"},
		{"tok_nobody_knows", harness.Rejected, "reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped"},
	}
	for _, c := range cases {
		n.Start(t, harness.Order{ID: c.method, Method: c.method})
	}
	for _, c := range cases {
		ended := n.AwaitEnd(t, c.method, c.want)
		if steps := harness.Steps(ended); steps != c.steps {
			t.Errorf("%s: steps are\n%s, not\n%s", c.method, steps, c.steps)
		}
	}
	n.Audit(t)
}

// The money stays held for as long as the network does not let go of it: a person is called, nothing else is given up, and
// once the network works the checkout ends by itself.
func TestI1AVoidThatFailsCallsAPersonAndEndsByItselfOnceItWorks(t *testing.T) {
	t.Parallel()
	// As in production, in a second instead of a minute.
	impatient := saga.Policy{FirstWait: 20 * time.Millisecond, LongestWait: 100 * time.Millisecond, Patience: 4,
		FirstStuckWait: 200 * time.Millisecond, LongestStuckWait: 400 * time.Millisecond}
	n := harness.StartInProcess(t, harness.InProcess{Policy: impatient})
	held := n.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: "Authorize", OrderID: "stuck"})
	n.Start(t, harness.Order{ID: "stuck", Method: "tok_void_fails"})
	held.Await(t)
	_, err := n.Cancel(t.Context(), "stuck")
	require.NoError(t, err)
	held.Lift()

	stuck := n.AwaitStatus(t, "stuck", harness.NeedsAttention)
	require.Equal(t, "void-authorization", stuck.Attention.GetStep())
	require.NotEmpty(t, stuck.Attention.GetLastError())
	require.NotEmpty(t, stuck.Attention.GetCause())
	require.EqualValues(t, 4999, stuck.Held.GetAuthorized().GetMinorUnits())
	require.NotEmpty(t, stuck.Held.GetStock(), "the stock is released after the money, not before")
	require.Equal(t, "undoing", stuck.Phase)
	n.Audit(t) // Somebody sees it, so nothing is broken.

	n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Void: "works"})
	ended := n.AwaitEnd(t, "stuck", harness.Cancelled)
	require.Equal(t, allUndone, harness.Steps(ended))
	require.Nil(t, ended.Attention)
	n.Audit(t)
}
