package orders

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
)

func (s *Service) onCreated(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCreated) (inbox.Result, error) {
	return s.learn(ctx, tx, m.Header, m.Order, placed, "")
}

func (s *Service) onConfirmed(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderConfirmed) (inbox.Result, error) {
	return s.learn(ctx, tx, m.Header, m.Order, confirmed, "")
}

func (s *Service) onCancelled(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCancelled) (inbox.Result, error) {
	return s.learn(ctx, tx, m.Header, m.Order, cancelled, whyCancelled(m))
}

// learn stores what an event tells of an order and, if that changes the status, writes an event of its own in the same transaction.
func (s *Service) learn(ctx context.Context, tx pgx.Tx, h *eventv1.Header, o *checkoutv1.Order, now status, reason string) (inbox.Result, error) {
	told := toldBy(h, o, now, reason)
	before, late, err := keep(ctx, tx, told)
	switch {
	case err != nil:
		return inbox.Result{}, fmt.Errorf("keep order %s: %w", told.id, err)
	case late:
		return inbox.Late, nil
	case before == now:
		return inbox.Applied, nil
	}
	err = s.outbox.Write(ctx, tx, outbox.Order(told.id, h.Coordination), &ordersv1.OrderStatusChanged{
		CustomerId: told.customerID, Status: string(now), PreviousStatus: string(before), Reason: reason,
		Amount: &operationv1.Money{Currency: told.currency, MinorUnits: told.minorUnits},
	})
	return inbox.Result{Then: func(context.Context) { s.outbox.Committed() }}, err
}
