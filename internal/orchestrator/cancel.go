package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/runs"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
)

const (
	// maxReason bounds what a person gives as a reason.
	maxReason = 500
	// wakeTimeout bounds the word to the engine while a caller waits. The row has been written by then.
	wakeTimeout = 3 * time.Second
)

// Cancel asks that a checkout be undone. The row decides whether that is still possible; a checkout that is being undone,
// or ended cancelled, is fine.
func (s *Service) Cancel(ctx context.Context, req *connect.Request[checkoutv1.CancelRequest]) (*connect.Response[checkoutv1.CancelResponse], error) {
	if bad := validateCancel(req.Msg); len(bad) > 0 {
		return nil, badInput(bad)
	}
	answer, err := s.cancel(ctx, req.Msg)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noSuchCheckout(req.Msg.OrderId)
	}
	if err != nil {
		return nil, failure(err)
	}
	if answer.Outcome == store.CancelTooLate {
		return nil, tooLate(answer.Checkout)
	}
	if answer.Outcome == store.CancelAccepted && !req.Msg.DryRun && answer.Checkout.Coordination == event.Orchestrated {
		s.wake(ctx, answer.Checkout, answer.CommandID)
	}
	return connect.NewResponse(whatBecomes(answer.Checkout)), nil
}

func (s *Service) cancel(ctx context.Context, req *checkoutv1.CancelRequest) (store.CancelAnswer, error) {
	if req.DryRun {
		return s.store.WouldCancel(ctx, req.OrderId)
	}
	actor := req.Actor
	if actor == "" {
		actor = "api"
	}
	return s.store.Cancel(ctx, req.OrderId, req.Reason, actor)
}

// wake tells a run that waits for a participant that there is a cancel to be read from the row. A word that is lost costs
// time only: the run's next attempt reads the row all the same.
func (s *Service) wake(ctx context.Context, c store.Checkout, commandID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wakeTimeout)
	defer cancel()
	id := runs.ID(c.OrderID, c.Run)
	err := s.engine.Raise(ctx, id, checkout.CommandEvent, checkout.Command{ID: commandID, Kind: checkout.CommandCancel})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		s.log.Warn("the run was not woken; its next attempt sees the cancel", "order_id", c.OrderID, "workflow_id", id, "error", err)
	}
}

func validateCancel(req *checkoutv1.CancelRequest) []*checkoutv1.BadField {
	var bad []*checkoutv1.BadField
	switch {
	case req.Reason == "":
		bad = append(bad, badField("reason", "is missing"))
	case !printable(req.Reason, maxReason):
		bad = append(bad, badField("reason", "must be at most %d printable characters", maxReason))
	}
	if req.Actor != "" && !printable(req.Actor, maxToken) {
		bad = append(bad, badField("actor", "must be at most %d printable characters", maxToken))
	}
	return bad
}

// tooLate says why a checkout cannot be cancelled, and what is so instead.
func tooLate(c store.Checkout) error {
	money := fmt.Sprintf("%s %d (minor units)", c.Amount.Currency, c.Amount.MinorUnits)
	var why string
	switch {
	case c.Status == checkout.Confirmed:
		why = "it is CONFIRMED: " + money + " was captured and the stock is shipped"
	case c.Phase == checkout.Final:
		why = fmt.Sprintf("it ended %s (%s): nothing is held and nothing is charged", c.Status, c.Reason)
	case inPlace(c, checkout.CapturePayment):
		why = money + " was captured, so it goes forward"
	default:
		why = "the capture of " + money + " is under way, so it goes forward unless the payment refuses"
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("too late to cancel %s: %s", c.OrderID, why))
}

// whatBecomes sorts the steps by what undoing means to each.
func whatBecomes(c store.Checkout) *checkoutv1.CancelResponse {
	answer := &checkoutv1.CancelResponse{Checkout: toWire(c)}
	for _, s := range c.Steps {
		tried := s.State == store.StateDone || s.State == store.StateFailing || s.State == store.StateUnknown ||
			s.State == store.StateRunning
		switch {
		case s.CompensationState == store.CompensationDone:
			answer.Undone = append(answer.Undone, s.Name)
		case s.CompensationState != store.CompensationNotNeeded,
			tried && s.Compensation != "" && c.Phase != checkout.Final:
			answer.ToUndo = append(answer.ToUndo, s.Name)
		case s.State == store.StateDone && s.Compensation == "":
			answer.CannotUndo = append(answer.CannotUndo, s.Name)
		}
	}
	return answer
}
