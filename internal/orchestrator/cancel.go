package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// wakeTimeout bounds the word to the engine while a caller waits. The row has been written by then.
const wakeTimeout = 3 * time.Second

// Cancel asks that a checkout be undone. The row decides whether that is still possible; a checkout that is being undone,
// or ended cancelled, is fine.
func (s *Service) Cancel(ctx context.Context, req *connect.Request[checkoutv1.CancelRequest]) (*connect.Response[checkoutv1.CancelResponse], error) {
	answer, err := s.cancel(ctx, req.Msg)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noSuchCheckout(req.Msg.OrderId)
	}
	if err != nil {
		return nil, err
	}
	if answer.Outcome == journal.CancelTooLate {
		return nil, tooLate(answer.Checkout)
	}
	if answer.Outcome == journal.CancelAccepted && !req.Msg.DryRun && answer.Checkout.Coordination == event.Orchestrated {
		s.wake(ctx, store.Steered{Checkout: answer.Checkout, CommandID: answer.CommandID}, journal.CommandCancel)
	}
	return connect.NewResponse(whatBecomes(answer.Checkout)), nil
}

func (s *Service) cancel(ctx context.Context, req *checkoutv1.CancelRequest) (store.CancelAnswer, error) {
	if req.DryRun {
		return s.store.WouldCancel(ctx, req.OrderId)
	}
	return s.store.Cancel(ctx, req.OrderId, req.Reason, actorOf(req))
}

// tooLate says why a checkout cannot be cancelled, and what is so instead.
func tooLate(c store.Checkout) error {
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
func whatBecomes(c store.Checkout) *checkoutv1.CancelResponse {
	answer := &checkoutv1.CancelResponse{Checkout: toWire(c)}
	for _, s := range c.Steps {
		if s.Decision || s.Name == checkout.AuthorizePayment && captured(c) {
			continue // Nobody did anything, or the capture has used it up.
		}
		tried := s.InPlace() || s.State == journal.StateFailing || s.State == journal.StateUnknown || s.State == journal.StateRunning
		switch {
		case s.CompensationState == journal.CompensationDone, s.CompensationState == journal.CompensationResolved:
			answer.Undone = append(answer.Undone, s.Name)
		case s.CompensationState != journal.CompensationNotNeeded,
			// Whoever is still in the phase forward has not tried to capture.
			tried && s.Compensation != "" && !s.Pivot && c.Phase == saga.Forward:
			answer.ToUndo = append(answer.ToUndo, s.Name)
		case s.InPlace():
			answer.CannotUndo = append(answer.CannotUndo, s.Name)
		}
	}
	return answer
}
