package orders

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/testing/eventtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// takeAll hands events over together.
func (f *fixture) takeAll(t *testing.T, events []event.Message) {
	t.Helper()
	var deliveries []bus.Delivery
	for _, m := range events {
		deliveries = append(deliveries, bus.Delivery{Topic: m.GetHeader().Topic, ID: m.GetHeader().EventId, Data: encode(t, m)})
	}
	require.True(t, f.service.inbox.TakeAll(t.Context(), deliveries))
}

// everything is all that it has stored, but for the times at which it did so.
func (f *fixture) everything(t *testing.T) (all []string) {
	t.Helper()
	for _, query := range []string{
		`SELECT to_jsonb(orders)::text FROM orders ORDER BY order_id`,
		`SELECT (to_jsonb(inbox) - 'received_at')::text FROM inbox ORDER BY event_id`,
		`SELECT (to_jsonb(outbox) - 'occurred_at' - 'position')::text FROM outbox ORDER BY key, position`,
	} {
		rows, err := f.service.store.pool.Query(t.Context(), query)
		require.NoError(t, err)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		all = append(all, found...)
	}
	return all
}

func TestI6EventsTogetherComeToTheSameAsOneByOneInAnyOrderAndTwice(t *testing.T) {
	t.Parallel()
	single, batched := start(t), start(t)
	var events []event.Message
	for i := range 12 {
		order := fmt.Sprint("ord-", i)
		cancelled := &checkoutv1.OrderCancelled{Header: header(order, "checkout.order.cancelled", 3), Order: content(), Status: "EXPIRED"}
		cancelled.Order.Items = cancelled.Order.Items[i%2:]
		for _, m := range []event.Message{created(order, 1), ended(order, 2), cancelled} {
			events = append(events, m, m)
		}
	}
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	for _, m := range events {
		require.Equal(t, bus.Success, single.deliver(t, m))
	}
	for some := range slices.Chunk(events, 7) {
		batched.takeAll(t, some)
	}
	require.Equal(t, single.everything(t), batched.everything(t))
	require.Greater(t, len(single.everything(t)), 12+3*12, "orders, receipts, and events of its own")
}

func TestAnOrderThatIsPlacedAndConfirmedTogetherIsToldOfTwice(t *testing.T) {
	t.Parallel()
	o := start(t)
	o.takeAll(t, []event.Message{created("ord-1", 1), created("ord-2", 1), ended("ord-1", 2)})
	require.Equal(t, []string{"→ placed", "placed → confirmed"}, o.told(t, "ord-1"))
	require.Equal(t, []string{"→ placed"}, o.told(t, "ord-2"))
	require.Equal(t, "applied applied", o.received(t, "ord-1"))
	require.Equal(t, "confirmed", o.get(t, "ord-1").Status)
}

// BenchmarkOrders takes in two events about each order.
func BenchmarkOrders(b *testing.B) {
	for _, together := range []int{1, 20} {
		b.Run(fmt.Sprintf("%d at once", together), func(b *testing.B) {
			service, err := open(b.Context(), pgtest.URL(b), slog.New(slog.DiscardHandler))
			require.NoError(b, err)
			defer service.Close()
			subscriptions, err := service.inbox.Subscriptions()
			require.NoError(b, err)
			carrier, n := embedded.New(), 0
			carrier.Subscribe(subscriptions...)
			report := eventtest.Cost(b, service.store.pool)
			for b.Loop() {
				var events []bus.Event
				for range together {
					order := fmt.Sprint("ord-", n/2)
					var m event.Message = created(order, 1)
					if n%2 == 1 {
						m = ended(order, 2)
					}
					h := m.GetHeader()
					events = append(events, bus.Event{
						ID: h.EventId, Topic: h.Topic, Source: h.Producer, Key: order, Coordination: h.Coordination, Data: encode(b, m)})
					n++
				}
				require.NoError(b, errors.Join(carrier.Publish(b.Context(), events)...))
			}
			report(n)
		})
	}
}
