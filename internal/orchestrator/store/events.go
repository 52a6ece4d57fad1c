package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
)

// queueCreated queues the event that tells of an accepted order.
func (s *Store) queueCreated(ctx context.Context, batch *pgx.Batch, n NewCheckout, deadline *timestamppb.Timestamp) error {
	return s.outbox.Queue(ctx, batch, outbox.Order(n.OrderID, n.Coordination), &checkoutv1.OrderCreated{
		Order: toldOrder(n.CustomerID, n.Items, n.Amount, n.PaymentMethod), Deadline: deadline,
	})
}

// queueEnded queues the event that tells of a checkout's end.
func (s *Store) queueEnded(ctx context.Context, batch *pgx.Batch, c Checkout) error {
	order := toldOrder(c.CustomerID, c.Items, c.Amount, c.PaymentMethod)
	var ended event.Message = &checkoutv1.OrderConfirmed{Order: order}
	if c.Status != checkout.Confirmed {
		ended = &checkoutv1.OrderCancelled{Order: order, Status: string(c.Status), Reason: c.Reason}
	}
	return s.outbox.Queue(ctx, batch, outbox.Order(c.OrderID, c.Coordination), ended)
}

func toldOrder(customerID string, items []checkout.Item, amount checkout.Money, paymentMethod string) *checkoutv1.Order {
	order := &checkoutv1.Order{
		CustomerId: customerID, PaymentMethod: paymentMethod,
		Amount: &operationv1.Money{Currency: amount.Currency, MinorUnits: amount.MinorUnits},
	}
	for _, item := range items {
		order.Items = append(order.Items, &checkoutv1.Item{Sku: item.SKU, Quantity: item.Quantity})
	}
	return order
}
