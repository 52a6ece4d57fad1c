package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Cancel asks that a checkout be undone. The row decides whether that is still possible; a checkout that is being undone,
// or ended cancelled, is fine.
func (s *Service) Cancel(ctx context.Context, req *connect.Request[checkoutv1.CancelRequest]) (*connect.Response[checkoutv1.CancelResponse], error) {
	answer, err := s.desk.Cancel(ctx, wish(req.Msg))
	if errors.Is(err, store.ErrNotFound) {
		return nil, noSuchCheckout(req.Msg.OrderId)
	}
	if err != nil {
		return nil, err
	}
	c, err := orders.Of(answer.Saga)
	if err != nil {
		return nil, err
	}
	if answer.Outcome == journal.CancelTooLate {
		return nil, tooLate(c)
	}
	return connect.NewResponse(whatBecomes(c)), nil
}

// tooLate says why a checkout cannot be cancelled, and what is so instead.
func tooLate(c orders.Checkout) error {
	amount := inWords(c.Amount)
	var why string
	switch {
	case c.Status == journal.Confirmed:
		why = "it is CONFIRMED: " + amount + " was captured and the stock is shipped"
	case c.Phase == journal.Final:
		why = fmt.Sprintf("it ended %s (%s): nothing is held and nothing is charged", c.Status, c.Reason)
	case inPlace(c, checkout.CapturePayment):
		why = amount + " was captured, so it goes forward; while the stock is not shipped, " +
			"`checkout resolve --step " + c.AtStep() + " --as refund` releases it and gives the money back"
	default:
		why = "the capture of " + amount + " is under way, so it goes forward unless the payment refuses"
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("too late to cancel %s: %s", c.Key, why))
}

// whatBecomes sorts the steps by what undoing means to each.
func whatBecomes(c orders.Checkout) *checkoutv1.CancelResponse {
	u := operator.UndoingOf(c.Saga, func(s journal.Step) bool {
		return s.Name == checkout.AuthorizePayment && captured(c) // The capture has used it up.
	})
	return &checkoutv1.CancelResponse{Checkout: toWire(c), Undone: u.Undone, ToUndo: u.ToUndo, CannotUndo: u.CannotUndo}
}
