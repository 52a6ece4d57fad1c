package dapr

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestI8WorkGoesOnAfterACrash kills one process after another while 30 orders stand at different steps.
func TestI8WorkGoesOnAfterACrash(t *testing.T) {
	s := open(t)
	for _, victim := range []struct {
		name string
		// within is I8's bound, from the kill until every checkout that was open has gone on.
		within time.Duration
		kill   func()
		// restart is what a supervisor does at once.
		restart func(ctx context.Context) error
	}{
		{"the orchestrator", time.Minute, s.Stack.Orchestrator.App.Kill, s.RestartOrchestrator},
		{"the sidecar of the orchestrator", time.Minute, s.Stack.Orchestrator.Sidecar.Kill, s.Stack.Orchestrator.Sidecar.Restart},
		{"the sidecar of payment", time.Minute, s.Stack.Payment.Sidecar.Kill, s.Stack.Payment.Sidecar.Restart},
		{"the scheduler", 2 * time.Minute, s.Plane.KillScheduler, s.Plane.StartScheduler},
	} {
		t.Run(victim.name, func(t *testing.T) {
			killUnderWay(t, open(t), victim.kill, victim.restart, victim.within)
		})
	}
}

// killUnderWay has a victim killed while checkouts of a crowd stand at different steps, and started again at once. Each that was open
// must go on within I8's bound, and all must end. The crowd orders at the doors, which are the orchestrators that take orders, in turn.
func killUnderWay(t *testing.T, s system, kill func(), restart func(ctx context.Context) error, within time.Duration, doors ...system) {
	t.Helper()
	rows := rowsOf(t, s)
	hold(t, s)
	crowd := startCrowd(t, append(doors, s))
	rows.awaitSpread(t)

	killed := time.Now()
	kill()
	open := rows.open(t)
	require.NotEmpty(t, open)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	require.NoError(t, restart(ctx))
	back := time.Since(killed)

	p := rows.awaitProgress(t, open, killed, within)
	t.Logf("killed with %d checkouts open; it was back after %s; they went on after: first %s, median %s, last %s", len(open),
		round(back), round(p.first), round(p.median), round(p.last))
	require.Less(t, p.last, within)

	release(t, s)
	crowd.Wait()
	s.AwaitAllEnded(t, time.Minute)
	t.Logf("all had ended %s after the kill", round(time.Since(killed)))
	s.Audit(t)
}

// startCrowd starts 30 orders, a few at once, each until it is accepted: a client that got no answer asks again, at the next door.
func startCrowd(t *testing.T, doors []system) *sync.WaitGroup {
	methods := []string{"tok_visa", "tok_flaky", "tok_visa", held, "tok_visa", "tok_declined", "tok_visa", "tok_timeout", held, "tok_visa"}
	var crowd sync.WaitGroup
	places := make(chan struct{}, 3)
	for i := range 30 {
		crowd.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			order := harness.Order{ID: newID(fmt.Sprintf("crowd-%02d", i)), Method: methods[i%len(methods)]}
			if i == 17 {
				order.Items = []*checkoutv1.Item{{Sku: "BOWL-OLIVE", Quantity: 5000}}
			}
			startUntilAccepted(t, doors, i, order)
		})
	}
	t.Cleanup(crowd.Wait)
	return &crowd
}

func startUntilAccepted(t *testing.T, doors []system, first int, order harness.Order) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	for next := first; ; next++ {
		_, err := doors[next%len(doors)].TryStart(ctx, order)
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Errorf("start %s: %v", order.ID, err)
			return
		}
	}
}

// rows looks at the orchestrator's rows, which tell also while the orchestrator is dead.
type rows struct{ pool *pgxpool.Pool }

func rowsOf(t *testing.T, s system) rows {
	t.Helper()
	pool, err := pg.Open(t.Context(), s.DatabaseURL(stack.Orchestrator), 2)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return rows{pool}
}

func (r rows) open(t *testing.T) (orders []string) {
	t.Helper()
	err := r.pool.QueryRow(t.Context(), `SELECT coalesce(array_agg(order_id), '{}') FROM checkouts WHERE phase <> 'final'`).Scan(&orders)
	require.NoError(t, err)
	return orders
}

// awaitSpread waits until some checkouts have ended and open ones stand at three different steps.
func (r rows) awaitSpread(t *testing.T) {
	t.Helper()
	const query = `
		SELECT count(DISTINCT order_id), count(DISTINCT name) FROM steps JOIN checkouts ON order_id = key
		WHERE phase <> 'final' AND (state IN ('running', 'failing', 'unknown') OR compensation IN ('running', 'failing'))`
	harness.Eventually(t, "checkouts to stand at different steps", func(ctx context.Context) error {
		var open, steps int
		if err := r.pool.QueryRow(ctx, query).Scan(&open, &steps); err != nil {
			return err
		}
		if open < 8 || steps < 3 {
			return fmt.Errorf("%d are open, at %d different steps", open, steps)
		}
		return nil
	})
}

// progress is how long after a moment checkouts went on.
type progress struct{ first, median, last time.Duration }

// awaitProgress waits until something new was written about each of the orders since a moment.
func (r rows) awaitProgress(t *testing.T, orders []string, since time.Time, limit time.Duration) (p progress) {
	t.Helper()
	const query = `
		SELECT count(*), coalesce(percentile_disc(ARRAY[0, 0.5, 1]) WITHIN GROUP (ORDER BY next), '{}')
		FROM (SELECT min(at) AS next FROM entries WHERE key = ANY($1) AND at > $2 GROUP BY key) went_on`
	harness.Within(t, limit, "all to go on", func(ctx context.Context) error {
		var count int
		var at []time.Time
		if err := r.pool.QueryRow(ctx, query, orders, since).Scan(&count, &at); err != nil {
			return err
		}
		if count < len(orders) {
			return fmt.Errorf("%d of %d have", count, len(orders))
		}
		p = progress{at[0].Sub(since), at[1].Sub(since), at[2].Sub(since)}
		return nil
	})
	return p
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
