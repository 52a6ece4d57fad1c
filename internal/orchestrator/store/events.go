package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
	"github.com/checkoutsaga/orchestrator/internal/requests"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// queueCreated queues the event that tells of an accepted order.
func (s *Store) queueCreated(ctx context.Context, batch *pgx.Batch, n NewCheckout, deadline *timestamppb.Timestamp) error {
	return s.outbox.Queue(ctx, batch, outbox.Order(n.OrderID, n.Coordination), &checkoutv1.OrderCreated{
		Order: requests.Told(n.Order()), Deadline: deadline,
	})
}

// queueEnded queues the event that tells of a checkout's end.
func (s *Store) queueEnded(ctx context.Context, batch *pgx.Batch, c Checkout) error {
	order := requests.Told(checkout.Order{ID: c.Key, CustomerID: c.CustomerID, Items: c.Items, Amount: c.Amount, PaymentMethod: c.PaymentMethod})
	var ended event.Message = &checkoutv1.OrderConfirmed{Order: order}
	if c.Status != journal.Confirmed {
		ended = &checkoutv1.OrderCancelled{Order: order, Status: string(c.Status), Reason: c.Reason}
	}
	return s.outbox.Queue(ctx, batch, outbox.Order(c.Key, c.Coordination), ended)
}
