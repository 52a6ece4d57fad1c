package embedded_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// Events are facts, never a step of an orchestrated checkout: that all of them were heard moves nothing before its pivot.
func TestI1NothingIsCapturedByEventsWhileAnOrderAwaitsApproval(t *testing.T) {
	t.Parallel()
	const orders = 20
	s := harness.StartInProcess(t, harness.InProcess{ApprovalAbove: approvedInUSD})
	s.WatchSums(t)
	ids := startMany(t, s, "await", orders, inUSD)
	for _, id := range ids {
		s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	// What goes by events does so meanwhile, through the same bus.
	for _, id := range startMany(t, s, "choreographed", 5, harness.Order{Coordination: "choreographed"}) {
		s.AwaitEnd(t, id, harness.Confirmed)
	}
	s.AwaitEvents(t, time.Minute)
	underWay, err := s.Judge.EventsUnderWay(t.Context())
	require.NoError(t, err)
	require.Zero(t, underWay)
	heard := query[int](t, s, `SELECT count(*) FROM outbox WHERE key LIKE 'await-%' AND published_at IS NOT NULL`)
	require.Equal(t, orders, heard, "each was told of as created")
	for _, id := range ids {
		c, err := s.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, checkoutv1.Status_STATUS_AWAITING_APPROVAL, c.Status)
		require.Equal(t, "reserve-stock done, authorize-payment done, approval running, capture-payment pending, commit-stock pending", harness.Steps(c))
		charges, err := s.Sandbox.ListCharges(t.Context(), connect.NewRequest(&paymentv1.ListChargesRequest{OrderId: id}))
		require.NoError(t, err)
		require.Len(t, charges.Msg.Charges, 1, "the authorization, and nothing else: %v", charges.Msg.Charges)
		require.Equal(t, "authorize", charges.Msg.Charges[0].Kind)
	}

	for i, id := range ids {
		if i%4 == 3 {
			_, err := s.Checkouts.Reject(t.Context(), connect.NewRequest(&checkoutv1.RejectRequest{OrderId: id, Reason: "too dear", Actor: "test"}))
			require.NoError(t, err)
			require.Equal(t, "approval_rejected", s.AwaitEnd(t, id, harness.Rejected).ReasonCode)
			continue
		}
		approve(t, s, id)
		s.AwaitEnd(t, id, harness.Confirmed)
	}
	s.Audit(t)
}
