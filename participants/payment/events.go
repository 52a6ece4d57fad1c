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
// makes it begin what comes next (payment.captureOrVoid), in the transaction that records the answer. So whatever a crash cuts off is
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
	now, known, err := s.store.beginAuthorizeIn(ctx, tx, r)
	switch {
	case errors.Is(err, ledger.ErrConflict), errors.Is(err, ledger.ErrForgotten):
		return inbox.Result{}, fmt.Errorf("%w: %w", event.ErrBad, err)
	case err != nil:
		return inbox.Result{}, err
	case now.op.Do.State == ledger.UndoneBefore:
		return inbox.Late, nil
	case known:
		return inbox.Applied, nil // Whoever began it asks the network.
	}
	return inbox.Result{Then: func(ctx context.Context) {
		if _, err := s.advance(ctx, now); err != nil {
			s.log.WarnContext(ctx, "a payment was left for recovery to finish", "order_id", r.payer.key, "error", err)
		}
	}}, nil
}
