// Package orders is what a checkout has beside its saga: the events that tell of the order, what is heard of a choreographed one, and
// the price list.
package orders

import (
	"embed"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make what orders have beside the tables of sagas, which come first.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(migrations, "orders_migrations") }

// Orders is the store's guest for checkouts. Its methods may be called from many goroutines.
type Orders struct {
	pool   *pgxpool.Pool
	outbox *outbox.Outbox
}

var _ store.Guest = (*Orders)(nil)

// New returns the orders of a migrated database, whose events go to the outbox. The pool stays the caller's.
func New(pool *pgxpool.Pool, events *outbox.Outbox) *Orders {
	return &Orders{pool: pool, outbox: events}
}

// Write queues the events that tell of accepted orders and of checkouts' ends.
func (o *Orders) Write(batch *pgx.Batch, accepted, ended []store.Told) error {
	var events []outbox.Told
	for _, s := range accepted {
		order, err := checkout.OrderOf(s.Key, s.Input)
		if err != nil {
			return err
		}
		events = append(events, about(s, &checkoutv1.OrderCreated{Order: Told(order), Deadline: timestamppb.New(s.Deadline)}))
	}
	for _, s := range ended {
		order, err := checkout.OrderOf(s.Key, s.Input)
		if err != nil {
			return err
		}
		if s.Status == journal.Confirmed {
			events = append(events, about(s, &checkoutv1.OrderConfirmed{Order: Told(order)}))
		} else {
			events = append(events, about(s, &checkoutv1.OrderCancelled{Order: Told(order), Status: string(s.Status), Reason: s.Reason}))
		}
	}
	return o.outbox.QueueAll(batch, events)
}

func about(s store.Told, m event.Message) outbox.Told {
	return outbox.Told{Subject: outbox.Order(s.Key, Coordination(s.Saga)), Message: m, Trace: event.TraceOf(s.Context)}
}

// Committed has the events relayed.
func (o *Orders) Committed() { o.outbox.Committed() }

// Coordination is event.Orchestrated or event.Choreographed.
func Coordination(s store.Saga) string {
	if s.Elsewhere {
		return event.Choreographed
	}
	return event.Orchestrated
}

// Told is an order as events tell it.
func Told(o checkout.Order) *checkoutv1.Order {
	told := &checkoutv1.Order{
		CustomerId: o.CustomerID, PaymentMethod: o.PaymentMethod,
		Amount: &operationv1.Money{Currency: o.Amount.Currency, MinorUnits: o.Amount.MinorUnits},
	}
	for _, item := range o.Items {
		told.Items = append(told.Items, &checkoutv1.Item{Sku: item.SKU, Quantity: item.Quantity})
	}
	return told
}
