package warehouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// In a choreographed checkout nobody calls the warehouse: these events do. Each leads to one operation, in the transaction that
// records the event; the operations themselves absorb what comes twice or before its cause.
func (s *Service) subscribe() {
	inbox.On(s.inbox, s.onOrderCreated)
	inbox.On(s.inbox, s.onPaymentCompleted)
	inbox.On(s.inbox, s.onPaymentFailed)
}

// onOrderCreated reserves the order's lines, and hands on what is to be paid.
func (s *Service) onOrderCreated(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCreated) (inbox.Result, error) {
	asked := m.GetOrder()
	w := wanted{
		owner: order(m.Header.OrderId), coordination: m.Header.Coordination,
		payment: &warehousev1.PaymentRequest{CustomerId: asked.GetCustomerId(), Amount: asked.GetAmount(), PaymentMethod: asked.GetPaymentMethod()},
	}
	for _, item := range asked.GetItems() {
		w.lines = append(w.lines, line{sku: item.GetSku(), quantity: item.GetQuantity()})
	}
	w.lines = inOrder(w.lines)
	op, err := doIn(ctx, tx, s.store.reserving(ctx, w))
	if err != nil {
		return inbox.Result{}, final(err)
	}
	if op.Do.State == ledger.UndoneBefore {
		return inbox.Late, nil
	}
	return s.written(), nil
}

// onPaymentCompleted ships what is paid. That there is nothing to ship is no outcome to record: the reservation may be on its
// way, and if it is not, the money was taken for nothing and a person has to know.
func (s *Service) onPaymentCompleted(ctx context.Context, tx pgx.Tx, m *paymentv1.PaymentCompleted) (inbox.Result, error) {
	op, err := doIn(ctx, tx, s.store.committing(ctx, order(m.Header.OrderId), ""))
	if err != nil {
		return inbox.Result{}, final(err)
	}
	if op.Do.State == ledger.Rejected {
		return inbox.Result{}, fmt.Errorf("%s is paid and cannot be shipped: %s: %s", m.Header.OrderId, op.Do.Reason, op.Do.Detail)
	}
	return s.written(), nil
}

// onPaymentFailed gives up what will not be paid. A person has to know if it was shipped already.
func (s *Service) onPaymentFailed(ctx context.Context, tx pgx.Tx, m *paymentv1.PaymentFailed) (inbox.Result, error) {
	op, err := doIn(ctx, tx, s.store.releasing(ctx, order(m.Header.OrderId), m.GetReason()))
	if err != nil {
		return inbox.Result{}, final(err)
	}
	if op.Undo.State == ledger.Rejected {
		return inbox.Result{}, fmt.Errorf("%s is not paid and cannot be released: %s: %s", m.Header.OrderId, op.Undo.Reason, op.Undo.Detail)
	}
	return s.written(), nil
}

// written is the result of a handler that may have written an event.
func (s *Service) written() inbox.Result {
	return inbox.Result{Then: func(context.Context) { s.store.outbox.Committed() }}
}

// final marks the errors of an operation that no repetition of the event cures.
func final(err error) error {
	if errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrForgotten) {
		return fmt.Errorf("%w: %w", event.ErrBad, err)
	}
	return err
}

// messages are lines as events tell them.
func messages(lines []line) []*warehousev1.Line {
	var all []*warehousev1.Line
	for _, l := range lines {
		all = append(all, &warehousev1.Line{Sku: l.sku, Quantity: l.quantity})
	}
	return all
}
