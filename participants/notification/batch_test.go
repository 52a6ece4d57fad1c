package notification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/testing/eventtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// outgoing is a sender that takes every message at once and counts how often it got each.
type outgoing struct {
	mu    sync.Mutex
	times map[string]int
}

func (o *outgoing) Send(_ context.Context, m Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.times == nil {
		o.times = make(map[string]int)
	}
	o.times[m.EventID]++
	return nil
}

// count is how many messages it got, and how many different ones.
func (o *outgoing) count() (all, different int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, times := range o.times {
		all += times
	}
	return all, len(o.times)
}

// publish hands over events about orders at once, so that they are one transaction.
func (f *fixture) publish(t testing.TB, events ...bus.Event) {
	t.Helper()
	subscriptions, err := f.service.inbox.Subscriptions()
	require.NoError(t, err)
	carrier := embedded.New()
	carrier.Subscribe(subscriptions...)
	require.NoError(t, errors.Join(carrier.Publish(t.Context(), events)...))
}

func placed(t testing.TB, orders int) (events []bus.Event) {
	for i := range orders {
		events = append(events, statusEvent(t, fmt.Sprint("ord-", i), 1, "placed"))
	}
	return events
}

func statusEvent(t testing.TB, order string, seq int64, status string) bus.Event {
	m := changed(order, seq, status)
	return bus.Event{ID: m.Header.EventId, Topic: m.Header.Topic, Source: "orders", Key: order, Coordination: event.Orchestrated, Data: encode(t, m)}
}

func TestI8ACrashBetweenSendingAndStoringItRepeatsNoMoreThanWasInHandAndLosesNothing(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	const orders = 30
	var sender outgoing
	f := start(t, url, &sender, pace{})
	f.publish(t, placed(t, orders)...)

	// From here on nothing can be stored as sent: whoever tries waits.
	pool := f.service.store.pool
	_, err := pool.Exec(t.Context(), `
		CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
		CREATE TRIGGER waits BEFORE UPDATE ON notifications FOR EACH ROW WHEN (NEW.state = 'sent') EXECUTE FUNCTION wait_for_test()`)
	require.NoError(t, err)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `SELECT pg_advisory_lock(42)`)
	require.NoError(t, err)

	short := brisk
	short.lease = time.Second
	victim := start(t, url, &sender, short)
	const waits = `FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	waiting := func() (count int) {
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) `+waits).Scan(&count))
		return count
	}
	require.Eventually(t, func() bool { return waiting() > 0 }, 10*time.Second, 5*time.Millisecond, "it has sent and wants to store that")
	victim.stop()
	// Its sessions end before they can: what it leaves, at once and while it stops, is never stored.
	hasEnded := func() bool {
		_, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) `+waits)
		require.NoError(t, err)
		return len(victim.ran) > 0 && waiting() == 0
	}
	require.Eventually(t, hasEnded, 20*time.Second, 5*time.Millisecond)
	all, _ := sender.count()
	require.Positive(t, all)
	require.LessOrEqual(t, all, atOnce, "no more is sent than was in hand")

	_, err = conn.Exec(t.Context(), `SELECT pg_advisory_unlock(42)`)
	require.NoError(t, err)
	next := start(t, url, &sender, short)
	for i := range orders {
		next.requireStates(t, fmt.Sprint("ord-", i), "sent")
	}
	repeated, different := sender.count()
	require.Equal(t, orders, different, "nobody is left out")
	require.Equal(t, orders+all, repeated, "only what was in hand is repeated")
}

func TestI6OfEventsThatComeTogetherTheNewestOfEachOrderIsTold(t *testing.T) {
	t.Parallel()
	var sender outgoing
	f := start(t, pgtest.URL(t), &sender, pace{})
	f.publish(t, statusEvent(t, "ord-1", 1, "placed"), statusEvent(t, "ord-2", 1, "placed"))
	f.publish(t,
		statusEvent(t, "ord-2", 2, "confirmed"), statusEvent(t, "ord-3", 1, "placed"), statusEvent(t, "ord-3", 2, "cancelled"), statusEvent(t, "ord-1", 1, "placed"))
	require.Equal(t, []string{"waiting"}, f.states(t, "ord-1"))
	require.Equal(t, []string{"superseded", "waiting"}, f.states(t, "ord-2"))
	require.Equal(t, []string{"superseded", "waiting"}, f.states(t, "ord-3"))
}

func TestManyWhoRecordAndStoreTheSameOrdersAtOnceDoNotWaitForEachOtherInACircle(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	var sender outgoing
	processes := []*fixture{start(t, url, &sender, brisk), start(t, url, &sender, brisk)}
	const orders, statuses, writers = 60, 8, 4
	var all sync.WaitGroup
	for n := range writers {
		f := processes[n%2]
		all.Go(func() {
			for round := range statuses {
				statuses := make([]told, orders)
				for i := range statuses {
					seq, order := int64(writers*round+n+1), i
					if n%2 == 1 {
						order = orders - 1 - i // The other way round.
					}
					statuses[i] = told{Message{EventID: fmt.Sprint(order, ":", seq), OrderID: fmt.Sprint("ord-", order)}, seq}
				}
				// Not by pg.InTx, which repeats what PostgreSQL ended because of a deadlock.
				if err := pgx.BeginFunc(t.Context(), f.service.store.pool, func(tx pgx.Tx) error {
					_, err := record(t.Context(), tx, statuses)
					return err
				}); err != nil {
					t.Error(err)
				}
				f.service.wake()
			}
		})
	}
	all.Wait()
	for i := range orders {
		processes[0].requireSettled(t, fmt.Sprint("ord-", i), writers*statuses)
	}
}

// BenchmarkNotification takes in events and sends what they tell, by a sender that takes no time.
func BenchmarkNotification(b *testing.B) {
	for _, together := range []int{1, 20} {
		b.Run(fmt.Sprintf("%d at once", together), func(b *testing.B) {
			sender := &outgoing{}
			service, err := open(b.Context(), pgtest.URL(b), sender, slog.New(slog.DiscardHandler))
			require.NoError(b, err)
			defer service.Close()
			ctx, stop := context.WithCancel(b.Context())
			ran := make(chan error, 1)
			go func() { ran <- service.Run(ctx) }()
			subscriptions, err := service.inbox.Subscriptions()
			require.NoError(b, err)
			carrier, n := embedded.New(), 0
			carrier.Subscribe(subscriptions...)
			report := eventtest.Cost(b, service.store.pool)
			for b.Loop() {
				var events []bus.Event
				for range together {
					events = append(events, statusEvent(b, fmt.Sprint("ord-", n), 1, "placed"))
					n++
				}
				require.NoError(b, errors.Join(carrier.Publish(b.Context(), events)...))
			}
			require.Eventually(b, func() bool { _, different := sender.count(); return different == n }, time.Minute, time.Millisecond)
			report(n)
			stop()
			require.NoError(b, <-ran)
		})
	}
}
