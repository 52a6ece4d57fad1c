package payment

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// In a choreographed checkout nobody calls payment: reserved stock makes it authorize, and each of the card network's answers
// makes it begin what comes next (captureOrVoid), in the transaction that records the answer. So whatever a crash cuts off is
// started, and recovery takes it up like anything else.
func (s *Service) subscribe() {
	inbox.On(s.inbox, s.onInventoryReserved)
}

// onInventoryReserved begins the authorization of what is to be paid, and asks the card network once that is committed.
func (s *Service) onInventoryReserved(ctx context.Context, tx pgx.Tx, m *warehousev1.InventoryReserved) (inbox.Result, error) {
	r := request{
		payer: order(m.Header.OrderId), coordination: m.Header.Coordination,
		customerID: m.GetPayment().GetCustomerId(), method: m.GetPayment().GetPaymentMethod(), amount: amountOf(m.GetPayment().GetAmount()),
	}
	p, err := lockPayment(ctx, tx, r.payer)
	if err != nil {
		return inbox.Result{}, err
	}
	op, known, err := s.store.authorizeIn(ctx, tx, &p, r)
	switch {
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, ledger.ErrForgotten):
		return inbox.Result{}, fmt.Errorf("%w: %w", event.ErrBad, err)
	case err != nil:
		return inbox.Result{}, err
	case op.Do.State == ledger.UndoneBefore:
		return inbox.Late, nil
	case known:
		return inbox.Applied, nil // Whoever began it asks the network.
	}
	return inbox.Result{Then: func(ctx context.Context) {
		if _, err := s.advance(ctx, op); err != nil {
			s.log.WarnContext(ctx, "a payment was left for recovery to finish", "order_id", op.Key, "error", err)
		}
	}}, nil
}

// captureOrVoid begins what comes next for the authorization of a choreographed checkout that an answer about op has left
// standing: to capture it, or, where that was refused, to void it, because nobody else asks for either. It returns the
// operation that it began, or nil where that is op itself. The caller saves both.
func captureOrVoid(ctx context.Context, tx pgx.Tx, p *payment, op *ledger.Operation) (next *ledger.Operation, err error) {
	if op.Step == stepCapture {
		authorization, err := ledger.Lock(ctx, tx, p.payer.operation(stepAuthorize))
		if err != nil {
			return nil, err
		}
		authorization.Undo.Start(authorization.IdempotencyKey(ledger.Undoing))
		return &authorization, p.to(voiding)
	}
	capture, known, err := ledger.BeginDoing(ctx, tx, p.payer.operation(stepCapture), captureDigest(p.amount))
	switch {
	case err == nil && !known:
		capture.Amount = p.amount
		capture.Do.Start(capture.IdempotencyKey(ledger.Doing))
		return &capture, p.to(capturing)
	case err != nil && !errors.Is(err, ledger.ErrConflict):
		return nil, err
	}
	// Somebody asked to capture, or to refund, before there was anything to: that was answered, so it stays refused.
	p.refuse(stepCapture, noAuthorization)
	op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
	return nil, p.to(voiding)
}
