package dapr

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// place is where a checkout stands when the scheduler loses its data, by the first part of its order id.
type place string

const (
	authorizing place = "authorizing" // in backoff, because the card network fails
	capturing   place = "capturing"   // likewise, after the pivot
	voiding     place = "voiding"     // likewise, while undoing
	awaiting    place = "awaiting"    // awaits approval, and gets it after the restart
	unapproved  place = "unapproved"  // likewise, and nobody decides: it expires
	moving      place = "moving"      // in the middle of it, or accepted while there is no scheduler
)

// TestI3TheSchedulersDataIsWipedWith200CheckoutsOpen loses every reminder: each timer, each wake-up and each activity that was
// handed out. PostgreSQL still has the histories, but nobody would ever look at them again.
func TestI3TheSchedulersDataIsWipedWith200CheckoutsOpen(t *testing.T) {
	const within = 2 * time.Minute
	s := open(t)
	r := rowsOf(t, s)
	network(t, s, "fails")
	healed := sync.OnceFunc(func() { network(t, s, "works") })
	t.Cleanup(healed)

	w := wiped{system: s}
	w.start(t, authorizing, 60, harness.Order{Method: held})
	w.start(t, capturing, 30, harness.Order{Method: slow})
	w.start(t, voiding, 40, harness.Order{Method: stubborn})
	r.awaitPlaces(t, w.started, "authorize-payment")
	for _, id := range w.of(voiding) {
		_, err := s.Cancel(t.Context(), id)
		require.NoError(t, err)
	}
	w.start(t, awaiting, 10, harness.Order{Currency: "USD"})
	// Long enough to be undecided when the scheduler dies, short enough to be past within the time.
	w.start(t, unapproved, 10, harness.Order{Currency: "USD", ApprovalDeadline: 75 * time.Second})
	r.awaitPlaces(t, w.started, "void-authorization")
	// These are on their way while the scheduler dies, and more are accepted when it is dead.
	const alive = 25
	w.start(t, moving, alive, harness.Order{})
	s.Plane.KillScheduler()
	killed := time.Now()
	w.start(t, moving, 200-len(w.ids), harness.Order{})
	open := r.open(t)
	t.Logf("%d were started, and %d are open: %s", len(w.ids), len(open), r.where(t))
	require.Greater(t, len(open), 170)

	require.NoError(t, s.WipeScheduler())
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	require.NoError(t, s.Plane.StartScheduler(ctx))
	restarted := time.Now()
	t.Logf("the scheduler was back, knowing nothing, %s after it was killed", round(restarted.Sub(killed)))
	healed()
	for _, id := range w.of(awaiting) {
		_, err := s.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: id, Reason: "the trial", Actor: "trial"}))
		require.NoError(t, err)
	}

	var last error
	took := within
	func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for time.Since(restarted) < within {
			if last = r.settled(t.Context()); last == nil {
				took = time.Since(restarted)
				return
			}
			<-tick.C
		}
	}()
	t.Logf("after %s: %s", round(took), r.figures(t, w.ids, restarted))
	require.NoError(t, last, "not all have ended, or need attention, %s after the scheduler was back", within)
	s.AwaitAllEnded(t, 3*time.Minute) // Those that need attention go on by themselves, since all is healthy.
	s.Audit(t)
}

// Payment methods of these trials alone, so that what the network did with them is nobody else's surprise afterwards.
const (
	slow     = "tok_slow_to_capture"
	stubborn = "tok_stubborn"
)

// network sets how the card network answers: held and stubborn cannot be authorized, and stubborn not voided either, and slow
// cannot be captured; or all of them work.
func network(t *testing.T, s system, behaviour string) {
	t.Helper()
	// Not the test's context: it has ended when the network is healed after a failure.
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, s.System.Databases["payment"])
	require.NoError(t, err)
	defer conn.Close(ctx)
	const query = `INSERT INTO sandbox.behaviours (payment_method) VALUES ($1), ($2) ON CONFLICT (payment_method) DO NOTHING`
	_, err = conn.Exec(ctx, query, slow, stubborn)
	require.NoError(t, err)
	for _, to := range []*paymentv1.SetBehaviourRequest{
		{PaymentMethod: held, Authorize: behaviour},
		{PaymentMethod: slow, Capture: behaviour},
		{PaymentMethod: stubborn, Authorize: behaviour, Void: behaviour},
	} {
		_, err := s.Sandbox.SetBehaviour(ctx, connect.NewRequest(to))
		require.NoError(t, err)
	}
}

// wiped keeps what the trial started.
type wiped struct {
	system  system
	ids     []string
	started map[place]int
}

// of are the orders of a place.
func (w *wiped) of(p place) (ids []string) {
	for _, id := range w.ids {
		if strings.HasPrefix(id, string(p)+"-") {
			ids = append(ids, id)
		}
	}
	return ids
}

// start starts n orders for a place, a few at once.
func (w *wiped) start(t *testing.T, p place, n int, order harness.Order) {
	t.Helper()
	places := make(chan struct{}, 8)
	var starting sync.WaitGroup
	for range n {
		id := newID(string(p))
		w.ids = append(w.ids, id)
		starting.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			order := order
			order.ID = id
			if _, err := w.system.TryStart(t.Context(), order); err != nil {
				t.Errorf("start %s: %v", id, err)
			}
		})
	}
	starting.Wait()
	if w.started == nil {
		w.started = map[place]int{}
	}
	w.started[p] += n
}

// awaitPlaces waits until everybody that was started stands where it is to stand, those that are to void at a step of their own.
func (r rows) awaitPlaces(t *testing.T, want map[place]int, voidingAt string) {
	t.Helper()
	const query = `
		SELECT split_part(order_id, '-', 1), count(*) FROM checkouts
		WHERE phase <> 'final' AND (
		    order_id LIKE 'authorizing-%' AND at_step = 'authorize-payment'
		 OR order_id LIKE 'capturing-%' AND at_step = 'capture-payment' AND phase = 'pivoted'
		 OR order_id LIKE 'voiding-%' AND at_step = $1
		 OR order_id LIKE ANY ('{awaiting-%,unapproved-%}') AND status = 'AWAITING_APPROVAL')
		GROUP BY 1`
	harness.Eventually(t, "all to stand in their places", func(ctx context.Context) error {
		rows, err := r.pool.Query(ctx, query, voidingAt)
		if err != nil {
			return err
		}
		defer rows.Close()
		stand := map[place]int{}
		for rows.Next() {
			var p place
			var n int
			if err := rows.Scan(&p, &n); err != nil {
				return err
			}
			stand[p] = n
		}
		if !maps.Equal(stand, want) {
			return fmt.Errorf("they stand so: %v", stand)
		}
		return rows.Err()
	})
}

// where tells where the open checkouts stand.
func (r rows) where(t *testing.T) (line string) {
	t.Helper()
	err := r.pool.QueryRow(t.Context(), `
		SELECT coalesce(string_agg(format('%s %s at %s', n, status, at_step), ', ' ORDER BY n DESC), 'none')
		FROM (SELECT count(*) AS n, status, at_step FROM checkouts WHERE phase <> 'final' GROUP BY status, at_step) places`).Scan(&line)
	require.NoError(t, err)
	return line
}

// settled says who has neither ended nor needs attention.
func (r rows) settled(ctx context.Context) error {
	var n int
	var some string
	err := r.pool.QueryRow(ctx, `
		SELECT count(*), coalesce(string_agg(format('%s (%s at %s, run %s, pokes %s)', order_id, status, at_step, run, pokes), ', '), '')
		FROM checkouts WHERE phase <> 'final' AND status <> 'NEEDS_ATTENTION'`).Scan(&n, &some)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d are open: %s", n, some)
	}
	return err
}

// figures tells how orders ended, and how long after a moment.
func (r rows) figures(t *testing.T, orders []string, since time.Time) string {
	t.Helper()
	rows, err := r.pool.Query(t.Context(), `
		SELECT format('%s %s %s (run %s): median %s s, last %s s', count(*), split_part(order_id, '-', 1), status, run,
		    round(extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY updated_at) - $2), 1),
		    round(extract(epoch FROM max(updated_at) - $2), 1))
		FROM checkouts WHERE order_id = ANY($1) GROUP BY split_part(order_id, '-', 1), status, run ORDER BY 1`, orders, since)
	require.NoError(t, err)
	var lines []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		lines = append(lines, line)
	}
	require.NoError(t, rows.Err())
	return "\n  " + strings.Join(lines, "\n  ")
}
