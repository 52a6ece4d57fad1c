package embedded_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

const choreographed = "choreographed"

// How a choreographed checkout ends when nothing goes wrong, and when its deadline passes at each point at which it can. Each order
// has a way of paying of its own, whose card network is made to do what the story needs.
func TestI1ChoreographedCheckoutsEndAsTheyShould(t *testing.T) {
	t.Parallel()
	impatient := saga.Policy{FirstWait: 50 * time.Millisecond, LongestWait: 200 * time.Millisecond, Patience: 3, FirstStuckWait: 500 * time.Millisecond,
		LongestStuckWait: time.Second}
	n := harness.StartInProcess(t, harness.InProcess{Policy: impatient})
	n.WatchSums(t)

	t.Run("all goes well", func(t *testing.T) {
		n.Start(t, harness.Order{ID: "well", Coordination: choreographed})
		c := n.AwaitEnd(t, "well", harness.Confirmed)
		require.Equal(t, allDone, harness.Steps(c))
		require.Equal(t, choreographed, c.Coordination)
		require.EqualValues(t, 4999, c.Held.Captured.MinorUnits)
	})
	t.Run("stock is out", func(t *testing.T) {
		n.Start(t, harness.Order{ID: "out", Coordination: choreographed, Items: []*checkoutv1.Item{{Sku: "SOFA-LINEN", Quantity: 5000}}})
		require.Contains(t, n.AwaitEnd(t, "out", harness.Rejected).Reason, "out_of_stock")
	})
	t.Run("the card is declined", func(t *testing.T) {
		n.Start(t, harness.Order{ID: "declined", Coordination: choreographed, Method: "tok_declined"})
		c := n.AwaitEnd(t, "declined", harness.Rejected)
		require.Contains(t, c.Reason, "card_declined")
		require.Empty(t, c.Held.Stock)
	})
	t.Run("the authorization has expired when it is captured", func(t *testing.T) {
		n.Start(t, harness.Order{ID: "expires", Coordination: choreographed, Method: "tok_expires"})
		n.AwaitEnd(t, "expires", harness.Rejected)
	})
	t.Run("an answer of the card network is lost", func(t *testing.T) {
		n.Start(t, harness.Order{ID: "lost", Coordination: choreographed, Method: "tok_timeout"})
		n.AwaitEnd(t, "lost", harness.Confirmed)
	})

	t.Run("the deadline passes while payment authorizes: it is voided, then released", func(t *testing.T) {
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_flaky", Authorize: "times_out_before"})
		n.Start(t, harness.Order{ID: "late-authorize", Coordination: choreographed, Method: "tok_flaky"})
		awaitStarted(t, n, "late-authorize", "authorize-payment")
		passChoreographedDeadline(t, n, "late-authorize")
		n.AwaitStatus(t, "late-authorize", harness.NeedsAttention)
		requireReserved(t, n, "late-authorize") // Nothing is released while a charge is possible.
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_flaky", Authorize: "works", Void: "works"})
		c := n.AwaitEnd(t, "late-authorize", harness.Expired)
		require.Empty(t, c.Held.Stock)
	})
	t.Run("the deadline passes while payment captures: it goes forward", func(t *testing.T) {
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Capture: "times_out_before"})
		n.Start(t, harness.Order{ID: "late-capture", Coordination: choreographed, Method: "tok_void_fails"})
		awaitStarted(t, n, "late-capture", "capture-payment")
		passChoreographedDeadline(t, n, "late-capture")
		n.AwaitStatus(t, "late-capture", harness.NeedsAttention)
		requireReserved(t, n, "late-capture")
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Capture: "works"})
		require.Equal(t, allDone, harness.Steps(n.AwaitEnd(t, "late-capture", harness.Confirmed)))
	})
	t.Run("the deadline passes and payment cannot be reached: a person is called, and nothing is released", func(t *testing.T) {
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_insufficient_funds", Authorize: "times_out_before"})
		n.Start(t, harness.Order{ID: "away", Coordination: choreographed, Method: "tok_insufficient_funds"})
		awaitStarted(t, n, "away", "authorize-payment")
		n.PaymentProxy.Down()
		passChoreographedDeadline(t, n, "away")
		c := n.AwaitStatus(t, "away", harness.NeedsAttention)
		require.Equal(t, "void-authorization", c.Attention.Step)
		requireReserved(t, n, "away")
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_insufficient_funds", Authorize: "refused"})
		n.PaymentProxy.Up(t)
		n.AwaitEnd(t, "away", harness.Rejected, harness.Expired)
	})
	t.Run("it is cancelled while payment authorizes", func(t *testing.T) {
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_flaky", Authorize: "times_out_before"})
		n.Start(t, harness.Order{ID: "cancelled", Coordination: choreographed, Method: "tok_flaky"})
		awaitStarted(t, n, "cancelled", "authorize-payment")
		_, err := n.Cancel(t.Context(), "cancelled")
		require.NoError(t, err)
		n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_flaky", Authorize: "works"})
		n.AwaitEnd(t, "cancelled", harness.Cancelled)
	})
	t.Run("it is cancelled too late", func(t *testing.T) {
		_, err := n.Cancel(t.Context(), "well")
		require.True(t, harness.IsCode(err, connect.CodeFailedPrecondition), "%v", err)
	})
	n.Audit(t)
}

func TestI2CancelRacesWithTheCaptureOfAChoreographedCheckout100Times(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	ended := make(map[string]int)
	for i := range 100 {
		id := "race-" + time.Duration(i).String()
		n.Start(t, harness.Order{ID: id, Coordination: choreographed})
		// The checkout takes about 30 ms; the wish comes at any moment of them.
		timer := time.NewTimer(time.Duration(i%40) * time.Millisecond)
		<-timer.C
		if _, err := n.Cancel(t.Context(), id); err != nil && !harness.IsCode(err, connect.CodeFailedPrecondition) {
			t.Fatal(err)
		}
		c, err := n.EndOf(t.Context(), id)
		require.NoError(t, err)
		ended[c.Status.String()]++
	}
	t.Logf("of 100 wishes to cancel: %v", ended)
	n.Audit(t)
}

// awaitStarted waits until payment has asked the card network for a step and has no answer.
func awaitStarted(t *testing.T, n *harness.System, orderID, step string) {
	t.Helper()
	harness.Eventually(t, step+" of "+orderID+" to be at the network", func(ctx context.Context) error {
		answer, err := n.Payment.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: orderID, Step: step}))
		if err == nil && answer.Msg.Operation.Do != operationv1.Outcome_OUTCOME_UNKNOWN {
			err = errors.New(answer.Msg.Operation.Do.String())
		}
		return err
	})
}

// passChoreographedDeadline lets the deadline pass, and the sweeper look.
func passChoreographedDeadline(t *testing.T, n *harness.System, orderID string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), n.Databases["orchestrator"])
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), `UPDATE checkouts SET deadline = now() - interval '1 second', check_at = now() WHERE order_id = $1`, orderID)
	require.NoError(t, err)
}

func requireReserved(t *testing.T, n *harness.System, orderID string) {
	t.Helper()
	answer, err := n.Warehouse.GetReservation(t.Context(), connect.NewRequest(&warehousev1.GetReservationRequest{OrderId: orderID}))
	require.NoError(t, err)
	require.Equal(t, warehousev1.ReservationState_RESERVATION_STATE_RESERVED, answer.Msg.State)
}
