package inbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

const topic = "orders.order.status_changed"

// carried is a notification to which an embedded bus hands over, and which counts the transactions of its handler.
type carried struct {
	*notification
	bus *embedded.Bus

	mu          sync.Mutex
	deadLetters []string
}

func carry(t *testing.T) *carried {
	t.Helper()
	c := &carried{notification: setup(t, nil), bus: embedded.New()}
	subscriptions, err := c.in.Subscriptions()
	require.NoError(t, err)
	c.bus.Subscribe(subscriptions...)
	c.bus.Subscribe(bus.Subscription{Topic: bus.DeadLettersOf(topic), Handle: func(_ context.Context, d bus.Delivery) bus.Answer {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deadLetters = append(c.deadLetters, bus.Open(topic, d.Data).ID)
		return bus.Success
	}})
	return c
}

// about are events about orders, one after the other of each.
func about(t testing.TB, orders, each int) (events []bus.Event) {
	for seq := range each {
		for n := range orders {
			m := changed(int64(seq + 1))
			m.Header.OrderId = fmt.Sprint("ord-", n)
			m.Header.EventId = fmt.Sprintf("orders:order:ord-%d:%d", n, seq+1)
			events = append(events, bus.Event{
				ID: m.Header.EventId, Topic: topic, Source: "orders", Key: m.Header.OrderId, Coordination: event.Orchestrated, Data: encode(t, m),
			})
		}
	}
	return events
}

func TestI5OneEventOfManyThatFailsFailsAloneAndBecomesADeadLetterAfterAsManyTriesAsEver(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(context.Context, pgx.Tx) error{
		"an error":      func(context.Context, pgx.Tx) error { return errors.New("no such customer") },
		"a panic":       func(context.Context, pgx.Tx) error { panic("no such customer") },
		"a broken rule": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, `SELECT 1/0`); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := carry(t)
			var followed atomic.Int32
			c.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
				if err := effect(ctx, tx, m); err != nil {
					return Result{}, err
				}
				if m.Header.OrderId == "ord-7" {
					return Result{}, fail(ctx, tx)
				}
				return Result{Then: func(context.Context) { followed.Add(1) }}, nil
			}
			for range 2 { // The relay may bring all of them again.
				for _, err := range c.bus.Publish(t.Context(), about(t, 20, 1)) {
					require.NoError(t, err)
				}
			}
			var effects, orders int
			require.NoError(t, c.pool.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT order_id) FROM effects WHERE order_id <> 'ord-7'`).Scan(&effects, &orders))
			require.Equal(t, 19, effects, "each took effect once")
			require.Equal(t, 19, orders)
			require.Equal(t, 19, c.effects(t), "the one that fails has none")
			require.EqualValues(t, 19, followed.Load())
			require.Equal(t, []string{"orders:order:ord-7:1", "orders:order:ord-7:1"}, c.deadLetters)
			failures, err := c.in.Failures(t.Context(), []string{"orders:order:ord-7:1"})
			require.NoError(t, err)
			require.EqualValues(t, 2*5, failures[0].Attempts, "five tries each time")
		})
	}
}

func TestI6EventsOfAKeyKeepTheirOrderTogetherAndOneByOne(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]int32{"together": 0, "one by one": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := carry(t)
			_, err := c.pool.Exec(t.Context(), `CREATE TABLE taken (n bigint GENERATED ALWAYS AS IDENTITY, order_id text, seq bigint)`)
			require.NoError(t, err)
			var left atomic.Int32
			left.Store(failing)
			c.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
				if m.Header.OrderId == "ord-3" && left.Add(-1) >= 0 {
					return Result{}, errors.New("not yet")
				}
				_, err := tx.Exec(ctx, `INSERT INTO taken (order_id, seq) VALUES ($1, $2)`, m.Header.OrderId, m.Header.Seq)
				return Applied, err
			}
			const orders, each = 5, 4
			for _, err := range c.bus.Publish(t.Context(), about(t, orders, each)) {
				require.NoError(t, err)
			}
			rows, err := c.pool.Query(t.Context(), `SELECT order_id, seq FROM taken ORDER BY n`)
			require.NoError(t, err)
			last, count := map[string]int64{}, 0
			var order string
			var seq int64
			_, err = pgx.ForEachRow(rows, []any{&order, &seq}, func() error {
				require.Equal(t, last[order]+1, seq, "of %s", order)
				last[order], count = seq, count+1
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, orders*each, count)
		})
	}
}

func TestI2EventsThatTwoPublishersHandOverAtOnceHaveOneEffectEach(t *testing.T) {
	t.Parallel()
	c := carry(t)
	c.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Applied, effect(ctx, tx, m)
	}
	events := about(t, 50, 2)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := errors.Join(c.bus.Publish(t.Context(), events)...); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 100, c.effects(t))
	require.Empty(t, c.deadLetters)
}

func TestOneEventThatHasToWaitForALockDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	c := carry(t)
	_, err := c.pool.Exec(t.Context(), `CREATE TABLE locks (order_id text PRIMARY KEY); INSERT INTO locks VALUES ('ord-7')`)
	require.NoError(t, err)
	c.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		if _, err := tx.Exec(ctx, `SELECT FROM locks WHERE order_id = $1 FOR UPDATE`, m.Header.OrderId); err != nil {
			return Result{}, err
		}
		return Applied, effect(ctx, tx, m)
	}
	holds, err := c.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holds.Rollback(t.Context()) }()
	_, err = holds.Exec(t.Context(), `SELECT FROM locks FOR UPDATE`)
	require.NoError(t, err)
	published := make(chan error, 1)
	go func() { published <- errors.Join(c.bus.Publish(t.Context(), about(t, 20, 1))...) }()
	require.Eventually(t, func() bool { return c.effects(t) == 19 }, 4*time.Second, 5*time.Millisecond, "the others are done while the one waits")
	require.NoError(t, holds.Rollback(t.Context()))
	require.NoError(t, <-published)
	require.Equal(t, 20, c.effects(t))
}

func TestManyEventsOfWhichNoneFailsAreOneTransaction(t *testing.T) {
	t.Parallel()
	c := carry(t)
	transactions := make(map[string]bool)
	c.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		var id string
		if err := tx.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&id); err != nil {
			return Result{}, err
		}
		transactions[id] = true
		return Result{Late: m.Header.OrderId == "ord-1"}, nil
	}
	for _, err := range c.bus.Publish(t.Context(), about(t, 20, 1)) {
		require.NoError(t, err)
	}
	require.Len(t, transactions, 1)
	receipts, err := c.in.Received(t.Context(), []string{"orders:order:ord-0:1", "orders:order:ord-1:1"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"applied", "late"}, []string{receipts[0].Outcome, receipts[1].Outcome})
}
