package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// leadership is how soon another sweeper must have taken over.
const leadership = 10 * time.Second

// TestI3TheSweepersLeaderIsKilled has two processes on one database. The embedded engine lets only one of them run, and the other
// stands by; each has a sweeper, of which one leads.
func TestI3TheSweepersLeaderIsKilled(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	ports, err := localstack.FreePorts(2)
	require.NoError(t, err)
	var processes [2]*harness.Process
	for i, port := range ports {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		processes[i] = harness.NewProcess(t, "orchestrator", "http://"+address, []string{
			"ORCHESTRATOR_DATABASE_URL=" + s.Databases["orchestrator"], "ORCHESTRATOR_LISTEN=" + address, "ORCHESTRATOR_ENGINE=embedded",
			"ORCHESTRATOR_APPROVAL_ABOVE=USD=0",
			"WAREHOUSE_URL=" + s.Config.URLs[checkout.Warehouse], "PAYMENT_URL=" + s.Config.URLs[checkout.Payment],
		}, "serve")
	}
	leader, other := processes[0], processes[1]
	leader.Start(t)
	s.Checkouts = checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, leader.URL())
	lost := startMany(t, s.System, "lost", 3, inUSD)
	for _, id := range lost {
		s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	e := openEngine(t, s.System)
	other.Start(t) // It waits for the lead, and for the engine.
	lose := func(id string) (since time.Time) {
		e.purge(t, runs.ID(checkout.Saga(id), 1))
		return query[time.Time](t, s.System, `UPDATE checkouts SET check_at = clock_timestamp() WHERE order_id = $1 RETURNING check_at`, id)
	}
	taken := func(id string, since time.Time, what string) {
		harness.Within(t, leadership, what, func(context.Context) error {
			if run := query[int](t, s.System, `SELECT run FROM checkouts WHERE order_id = $1`, id); run < 2 {
				return errors.New("nobody has looked at " + id)
			}
			return nil
		})
		next := query[time.Time](t, s.System, `SELECT min(at) FROM entries WHERE key = $1 AND outcome = 'run'`, id)
		t.Logf("%s: %s", what, next.Sub(since).Round(time.Millisecond))
	}
	taken(lost[0], lose(lost[0]), "the leader sweeps")

	leader.Kill(t)
	taken(lost[1], lose(lost[1]), "the other has taken over")

	// A leader that only lost its session leads again, or another does.
	require.True(t, query[bool](t, s.System, cutLeader))
	taken(lost[2], lose(lost[2]), "after its session was cut it leads again")

	s.Checkouts = checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, other.URL())
	harness.Eventually(t, "the other to serve", func(ctx context.Context) error {
		_, err := s.Get(ctx, lost[0])
		return err
	})
	other.AwaitReady(t)
	for _, id := range lost {
		approve(t, s.System, id)
		require.EqualValues(t, 2, s.AwaitEnd(t, id, harness.Confirmed).Run)
	}
	s.Audit(t)
}

// cutLeader ends the session of the sweeper that leads; the number is the lock of package sweeper for the embedded engine.
const cutLeader = `
	SELECT pg_terminate_backend(pid) FROM pg_locks
	WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND (classid::bigint << 32 | objid::bigint) = 7163093333788852226`
