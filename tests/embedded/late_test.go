package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// A call that was given up is still on its way, and comes when its step has been undone: it must be refused for ever.
func TestI1AStepThatArrivesAfterItsUndoIsRefused(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	t.Run("all", func(t *testing.T) {
		for _, procedure := range []string{"Reserve", "Authorize"} {
			t.Run(procedure, func(t *testing.T) {
				t.Parallel()
				late := n.Arm(t, harness.Fault{Kind: harness.Delay, Procedure: procedure, OrderID: procedure})
				n.Start(t, harness.Order{ID: procedure})
				late.Await(t)
				_, err := n.Cancel(t.Context(), procedure)
				require.NoError(t, err)
				n.AwaitEnd(t, procedure, harness.Cancelled)
				late.Lift()
				late.AwaitDelivered()
			})
		}
	})
	n.Audit(t)
}

// Copies of calls that come when all is over change nothing.
func TestI2ACopyOfACallThatArrivesAfterTheEndChangesNothing(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	t.Run("all", func(t *testing.T) {
		for _, step := range forward {
			t.Run(step.procedure, func(t *testing.T) {
				t.Parallel()
				late := n.Arm(t, harness.Fault{Kind: harness.Delay, Procedure: step.procedure, OrderID: step.procedure, Times: 1})
				n.Start(t, harness.Order{ID: step.procedure})
				n.AwaitEnd(t, step.procedure, harness.Confirmed)
				late.Lift()
				late.AwaitDelivered()
			})
		}
		for _, step := range backward {
			t.Run(step.procedure, func(t *testing.T) {
				t.Parallel()
				late := n.Arm(t, harness.Fault{Kind: harness.Delay, Procedure: step.procedure, OrderID: step.procedure, Times: 1})
				cancelAt(t, n, step.procedure, "Authorize")
				n.AwaitEnd(t, step.procedure, harness.Cancelled)
				late.Lift()
				late.AwaitDelivered()
			})
		}
	})
	n.Audit(t)
}

// The reservation's transaction is open when the release arrives: the release must wait for it and undo it.
func TestI1AReleaseArrivesWhileItsReservationIsOpen(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	warehouse, err := pgx.Connect(t.Context(), n.Databases["warehouse"])
	require.NoError(t, err)
	defer warehouse.Close(context.Background())
	tx, err := warehouse.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM stock WHERE sku = 'CHAIR-OAK' FOR UPDATE`)
	require.NoError(t, err)

	// The proxy forwards the reservation and lets the caller give up; its transaction stays open behind the lock above.
	reserving := n.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: "Reserve", OrderID: "open", Times: 1})
	releasing := n.Arm(t, harness.Fault{Kind: harness.Delay, Procedure: "Release", OrderID: "open", Times: 1})
	n.Start(t, harness.Order{ID: "open"})
	reserving.Await(t)
	awaitWaiting(t, n, "open", 1)
	_, err = n.Cancel(t.Context(), "open")
	require.NoError(t, err)
	releasing.Await(t)
	releasing.Lift()
	awaitWaiting(t, n, "open", 2)
	require.NoError(t, tx.Rollback(t.Context()))
	reserving.AwaitDelivered()
	n.AwaitEnd(t, "open", harness.Cancelled)
	n.Audit(t)
}

// awaitWaiting waits until so many sessions of the warehouse wait for a lock, or until the checkout has ended because one
// that should have waited did not: the judge finds that.
func awaitWaiting(t *testing.T, s *harness.System, orderID string, want int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Databases["warehouse"])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	harness.Eventually(t, "sessions to wait for a lock", func(ctx context.Context) error {
		var waiting int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil || waiting >= want {
			return err
		}
		if c, err := s.Get(ctx, orderID); err != nil || c.EndedAt != nil {
			return err
		}
		return fmt.Errorf("%d do", waiting)
	})
}

// The authorization is at the card network when the void arrives: whoever learns that it was made must void it.
func TestI1AVoidArrivesWhileItsAuthorizationIsAtTheNetwork(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_visa", Authorize: "times_out_before"})
	n.Start(t, harness.Order{ID: "started"})
	awaitAttempts(t, n, "started", "authorize-payment", 1)
	_, err := n.Cancel(t.Context(), "started")
	require.NoError(t, err)
	harness.Eventually(t, "the void to be asked for", func(ctx context.Context) error {
		c, err := n.Get(ctx, "started")
		if err == nil && c.Steps[1].Compensation != "failing" {
			err = errors.New(harness.Steps(c))
		}
		return err
	})
	n.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_visa", Authorize: "works"})
	ended := n.AwaitEnd(t, "started", harness.Cancelled)
	require.Equal(t, "reserve-stock done/done, authorize-payment unknown/done, capture-payment skipped, commit-stock skipped", harness.Steps(ended))
	n.Audit(t)
}
