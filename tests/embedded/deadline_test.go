package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestI1TheDeadlinePassesAtEachPoint(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	t.Run("all", func(t *testing.T) {
		const onlyReserved = "reserve-stock done/done, authorize-payment skipped, capture-payment skipped, commit-stock skipped"
		during := []struct {
			procedure string
			hold      harness.Kind
			method    string
			want      harness.Status
			steps     string
		}{
			{"Reserve", harness.HoldBefore, "tok_visa", harness.Expired, onlyReserved},
			{"Reserve", harness.HoldAfter, "tok_visa", harness.Expired, onlyReserved},
			{"Authorize", harness.HoldBefore, "tok_visa", harness.Expired, allUndone},
			{"Authorize", harness.HoldAfter, "tok_visa", harness.Expired, allUndone},
			// The pivot was claimed in time, so it goes forward.
			{"Capture", harness.HoldBefore, "tok_visa", harness.Confirmed, allDone},
			{"Capture", harness.HoldAfter, "tok_visa", harness.Confirmed, allDone},
			{"Commit", harness.HoldBefore, "tok_visa", harness.Confirmed, allDone},
			{"Commit", harness.HoldAfter, "tok_visa", harness.Confirmed, allDone},
			{"Release", harness.HoldAfter, "tok_declined", harness.Rejected,
				"reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped"},
		}
		for _, c := range during {
			t.Run(fmt.Sprintf("during %s, %s", c.procedure, c.hold), func(t *testing.T) {
				t.Parallel()
				id := fmt.Sprintf("during.%s.%s", c.procedure, c.hold)
				held := n.Arm(t, harness.Fault{Kind: c.hold, Procedure: c.procedure, OrderID: id})
				n.Start(t, harness.Order{ID: id, Method: c.method})
				held.Await(t)
				passDeadline(t, n, id)
				held.Lift()
				require.Equal(t, c.steps, harness.Steps(n.AwaitEnd(t, id, c.want)))
			})
		}
		inBackoff := []struct{ procedure, step, steps string }{
			{"Reserve", "reserve-stock", "reserve-stock unknown/done, authorize-payment skipped, capture-payment skipped, commit-stock skipped"},
			{"Authorize", "authorize-payment", "reserve-stock done/done, authorize-payment unknown/done, capture-payment skipped, commit-stock skipped"},
		}
		for _, c := range inBackoff {
			t.Run("in backoff at "+c.procedure, func(t *testing.T) {
				t.Parallel()
				id := "backoff." + c.procedure
				n.Arm(t, harness.Fault{Kind: harness.Fail, Procedure: c.procedure, OrderID: id})
				n.Start(t, harness.Order{ID: id})
				awaitAttempts(t, n, id, c.step, 2)
				passDeadline(t, n, id)
				require.Equal(t, c.steps, harness.Steps(n.AwaitEnd(t, id, harness.Expired)))
			})
		}
	})
	n.Audit(t)
}

func TestI1TheDeadlinePassesBeforeAnybodyWasAsked(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	release := holdEngine(t, n.Databases["orchestrator"])
	started := n.Start(t, harness.Order{ID: "untouched", Deadline: time.Second}) // The shortest that there is.
	harness.Eventually(t, "the deadline to pass", func(context.Context) error {
		if time.Now().Before(started.Deadline.AsTime()) {
			return errors.New("it has not")
		}
		return nil
	})
	release()
	c := n.AwaitEnd(t, "untouched", harness.Expired)
	require.Equal(t, "reserve-stock skipped, authorize-payment skipped, capture-payment skipped, commit-stock skipped", harness.Steps(c))
	requireNeverAsked(t, n, "untouched")
	n.Audit(t)
}

// passDeadline lets the deadline of an open checkout pass at this moment, however fast the machine is. The database's clock
// judges deadlines, so it is the row that is moved and not the time.
func passDeadline(t *testing.T, s *harness.System, orderID string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Databases["orchestrator"])
	require.NoError(t, err)
	defer conn.Close(t.Context())
	tag, err := conn.Exec(t.Context(), `UPDATE checkouts SET deadline = clock_timestamp() WHERE order_id = $1 AND phase <> 'final'`, orderID)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected(), "the checkout has ended already")
}
