package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/runs"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Approve lets a checkout that awaits approval go on.
func (s *Service) Approve(ctx context.Context, req *connect.Request[checkoutv1.ApproveRequest]) (*connect.Response[checkoutv1.ApproveResponse], error) {
	steered, err := s.steer(ctx, req.Msg, s.store.Approve)
	if err != nil {
		return nil, err
	}
	s.wake(ctx, steered, journal.CommandApprove)
	return connect.NewResponse(&checkoutv1.ApproveResponse{Checkout: toWire(steered.Checkout)}), nil
}

// Reject turns back a checkout that awaits approval.
func (s *Service) Reject(ctx context.Context, req *connect.Request[checkoutv1.RejectRequest]) (*connect.Response[checkoutv1.RejectResponse], error) {
	steered, err := s.steer(ctx, req.Msg, s.store.Reject)
	if err != nil {
		return nil, err
	}
	s.wake(ctx, steered, journal.CommandReject)
	return connect.NewResponse(&checkoutv1.RejectResponse{Checkout: toWire(steered.Checkout)}), nil
}

// Resolve settles what a checkout cannot settle by itself.
func (s *Service) Resolve(ctx context.Context, req *connect.Request[checkoutv1.ResolveRequest]) (*connect.Response[checkoutv1.ResolveResponse], error) {
	if err := s.validateResolve(ctx, req.Msg); err != nil {
		return nil, err
	}
	steered, err := s.steer(ctx, req.Msg, func(ctx context.Context, w store.Wish) (store.Steered, error) {
		switch req.Msg.As {
		case checkoutv1.Resolution_RESOLUTION_RETRY:
			return s.store.Retry(ctx, w, req.Msg.Step)
		case checkoutv1.Resolution_RESOLUTION_REFUND:
			return s.store.Refund(ctx, w, req.Msg.Step)
		}
		if req.Msg.WithoutProof {
			return s.store.Settle(ctx, w, req.Msg.Step, journal.ProofWord)
		}
		// Nobody is asked for a record of what the state refuses anyway.
		look := w
		look.DryRun = true
		if allowed, err := s.store.Settle(ctx, look, req.Msg.Step, journal.ProofRecord); err == nil {
			against, err := s.recordAgainst(ctx, allowed.Checkout, req.Msg.Step)
			if err != nil {
				return store.Steered{}, err
			}
			if against != "" {
				return s.store.Contradict(ctx, w, req.Msg.Step, against)
			}
		}
		return s.store.Settle(ctx, w, req.Msg.Step, journal.ProofRecord)
	})
	if err != nil {
		return nil, err
	}
	if req.Msg.As == checkoutv1.Resolution_RESOLUTION_REFUND && !req.Msg.DryRun {
		s.begin(ctx, steered.Checkout)
	} else {
		s.wake(ctx, steered, journal.CommandRetry)
	}
	return connect.NewResponse(&checkoutv1.ResolveResponse{Checkout: toWire(steered.Checkout), What: steered.What}), nil
}

// Redrive hands a checkout to a new run.
func (s *Service) Redrive(ctx context.Context, req *connect.Request[checkoutv1.RedriveRequest]) (*connect.Response[checkoutv1.RedriveResponse], error) {
	steered, err := s.steer(ctx, req.Msg, func(ctx context.Context, w store.Wish) (store.Steered, error) {
		return s.store.Redrive(ctx, w, req.Msg.Engine)
	})
	if err != nil {
		return nil, err
	}
	if !req.Msg.DryRun {
		s.begin(ctx, steered.Checkout)
	}
	return connect.NewResponse(&checkoutv1.RedriveResponse{Checkout: toWire(steered.Checkout), What: steered.What}), nil
}

// steering is what the requests of operators have in common.
type steering interface {
	GetOrderId() string
	GetReason() string
	GetActor() string
	GetDryRun() bool
}

// steer has a wish fulfilled, and gives its errors their codes.
func (s *Service) steer(ctx context.Context, req steering, fulfil func(context.Context, store.Wish) (store.Steered, error)) (store.Steered, error) {
	steered, err := fulfil(ctx, store.Wish{OrderID: req.GetOrderId(), Actor: actorOf(req), Reason: req.GetReason(), DryRun: req.GetDryRun()})
	refusal := new(journal.Refusal)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return steered, noSuchCheckout(req.GetOrderId())
	case errors.As(err, &refusal):
		return steered, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s: %s", req.GetOrderId(), refusal.Why))
	case err != nil:
		return steered, err
	}
	return steered, nil
}

// recordAgainst asks the participant whether its record says that a step, or its undoing, is done; where it does not, it returns
// what the record says.
func (s *Service) recordAgainst(ctx context.Context, c store.Checkout, name string) (against string, err error) {
	const orYourWord = "`--without-proof` takes your word, which is kept for ever"
	step, undo, known := c.Plan.Named(name)
	if !known {
		return "", fmt.Errorf("look for the record of %s: the plan of %s has no such step", name, c.Key)
	}
	if a := c.Attention; a != nil && a.Step == name && a.Code == journal.AttentionForgotten {
		return fmt.Sprintf("%s, so its record proves nothing; %s", a.Cause, orYourWord), nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	op, err := s.recorded(ctx, c.Key, step)
	if err != nil {
		return "", connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s cannot be asked for its record: %w", step.Participant, err))
	}
	agrees := op.GetDo() == operationv1.Outcome_OUTCOME_APPLIED && op.GetUndo() != operationv1.Outcome_OUTCOME_APPLIED
	if undo {
		agrees = op.GetUndo() == operationv1.Outcome_OUTCOME_APPLIED || op.GetDo() == operationv1.Outcome_OUTCOME_REJECTED
	}
	if agrees {
		return "", nil
	}
	return fmt.Sprintf("the record of %s says of %s: %s; `--as retry` tries it again, and %s",
		step.Participant, step.Name, describe(op), orYourWord), nil
}

func (s *Service) validateResolve(ctx context.Context, req *checkoutv1.ResolveRequest) error {
	var bad []*contract.Problem
	known, err := s.hasStep(ctx, req.OrderId, req.Step)
	if err != nil {
		return err
	}
	if !known {
		bad = append(bad, contract.BadField("step", "is neither a step nor a compensation: %q", req.Step))
	}
	if req.WithoutProof && req.As != checkoutv1.Resolution_RESOLUTION_DONE {
		bad = append(bad, contract.BadField("without_proof", "goes with RESOLUTION_DONE only"))
	}
	return contract.BadInput(bad...)
}

// hasStep tells whether a name is that of a step or compensation of today's plan, or of the one that the checkout was accepted with.
func (s *Service) hasStep(ctx context.Context, orderID, name string) (bool, error) {
	if _, _, known := s.plan.Named(name); known {
		return true, nil
	}
	c, err := s.store.Checkout(ctx, orderID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	_, _, known := c.Plan.Named(name)
	return known, nil
}

// actorOf is who asks.
func actorOf(req steering) string {
	if actor := req.GetActor(); actor != "" {
		return actor
	}
	return "api"
}

// wake tells a run that waits that there is something to be read from the row. A word that is lost costs time only: the run's next
// attempt reads the row all the same, and the sweeper sees to it that there is one.
func (s *Service) wake(ctx context.Context, steered store.Steered, kind string) {
	c := steered.Checkout
	if steered.CommandID == "" || c.Engine != s.engine.Name() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wakeTimeout)
	defer cancel()
	id := runs.ID(c.Key, c.Run)
	err := s.engine.Raise(ctx, id, saga.CommandEvent, saga.Command{ID: steered.CommandID, Kind: kind})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		s.log.Warn("the run was not woken; its next attempt sees what is asked", "order_id", c.Key, "workflow_id", id, "error", err)
	}
}
