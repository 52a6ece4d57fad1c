package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Cancel asks that a saga be undone.
func (s *Service) Cancel(ctx context.Context, req *connect.Request[sagav1.CancelRequest]) (*connect.Response[sagav1.CancelResponse], error) {
	w := wish(req.Msg)
	answer, err := s.desk.Cancel(ctx, w)
	if errors.Is(err, store.ErrNotFound) {
		return nil, s.noSuch(w.Saga)
	}
	if err != nil {
		return nil, err
	}
	if answer.Outcome == journal.CancelTooLate {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("too late to cancel %s: %s", w.Saga, whyTooLate(answer.Saga)))
	}
	u := operator.UndoingOf(answer.Saga, func(journal.Step) bool { return false })
	return connect.NewResponse(&sagav1.CancelResponse{
		Saga: s.toWire(answer.Saga), Undone: u.Undone, ToUndo: u.ToUndo, CannotUndo: u.CannotUndo,
	}), nil
}

// whyTooLate says why a saga cannot be cancelled, and what is so instead.
func whyTooLate(s store.Saga) string {
	pivot := s.Plan.Pivot()
	switch {
	case s.Status == journal.Confirmed:
		return "it is CONFIRMED: every step is done"
	case s.Phase == journal.Final:
		return fmt.Sprintf("it ended %s (%s): nothing of it is in place", s.Status, s.Reason)
	case pivot >= 0 && s.Steps[pivot].InPlace():
		return fmt.Sprintf("its pivot %s is done, so it goes forward", s.Steps[pivot].Name)
	case pivot >= 0:
		return fmt.Sprintf("its pivot %s is under way, so it goes forward unless that is refused", s.Steps[pivot].Name)
	}
	return "it goes forward"
}

// Approve lets a saga that awaits approval go on.
func (s *Service) Approve(ctx context.Context, req *connect.Request[sagav1.ApproveRequest]) (*connect.Response[sagav1.ApproveResponse], error) {
	w := wish(req.Msg)
	steered, err := s.desk.Approve(ctx, w)
	if err != nil {
		return nil, s.refused(w.Saga, err)
	}
	return connect.NewResponse(&sagav1.ApproveResponse{Saga: s.toWire(steered.Saga)}), nil
}

// Reject turns back a saga that awaits approval.
func (s *Service) Reject(ctx context.Context, req *connect.Request[sagav1.RejectRequest]) (*connect.Response[sagav1.RejectResponse], error) {
	w := wish(req.Msg)
	steered, err := s.desk.Reject(ctx, w)
	if err != nil {
		return nil, s.refused(w.Saga, err)
	}
	return connect.NewResponse(&sagav1.RejectResponse{Saga: s.toWire(steered.Saga)}), nil
}

// Resolve settles what a saga cannot settle by itself.
func (s *Service) Resolve(ctx context.Context, req *connect.Request[sagav1.ResolveRequest]) (*connect.Response[sagav1.ResolveResponse], error) {
	w := wish(req.Msg)
	if err := s.validateResolve(ctx, w.Saga, req.Msg); err != nil {
		return nil, err
	}
	steered, err := Resolve(ctx, s.desk, w, req.Msg.As, req.Msg)
	if err != nil {
		return nil, s.refused(w.Saga, err)
	}
	return connect.NewResponse(&sagav1.ResolveResponse{Saga: s.toWire(steered.Saga), What: steered.What}), nil
}

// Resolve settles what a saga of any kind cannot settle by itself.
func Resolve(ctx context.Context, desk operator.Desk, w store.Wish, as fmt.Stringer, req interface {
	GetStep() string
	GetWithoutProof() bool
}) (store.Steered, error) {
	switch as.String() {
	case sagav1.Resolution_RESOLUTION_RETRY.String():
		return desk.Retry(ctx, w, req.GetStep())
	case sagav1.Resolution_RESOLUTION_REFUND.String():
		return desk.Refund(ctx, w, req.GetStep())
	}
	return desk.Settle(ctx, w, req.GetStep(), req.GetWithoutProof())
}

func (s *Service) validateResolve(ctx context.Context, id saga.ID, req *sagav1.ResolveRequest) error {
	found, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	var bad []*contract.Problem
	if _, _, known := found.Plan.Named(req.Step); !known {
		bad = append(bad, contract.BadField("step", "is neither a step nor a compensation of %s: %q", id, req.Step))
	}
	if req.WithoutProof && req.As != sagav1.Resolution_RESOLUTION_DONE {
		bad = append(bad, contract.BadField("without_proof", "goes with RESOLUTION_DONE only"))
	}
	return contract.BadInput(bad...)
}

// Redrive hands a saga to a new run.
func (s *Service) Redrive(ctx context.Context, req *connect.Request[sagav1.RedriveRequest]) (*connect.Response[sagav1.RedriveResponse], error) {
	w := wish(req.Msg)
	steered, err := s.desk.Redrive(ctx, w, req.Msg.Engine)
	if err != nil {
		return nil, s.refused(w.Saga, err)
	}
	return connect.NewResponse(&sagav1.RedriveResponse{Saga: s.toWire(steered.Saga), What: steered.What}), nil
}

// Steering is what the requests of operators have in common, whatever names the saga.
type Steering interface {
	GetReason() string
	GetActor() string
	GetDryRun() bool
}

// Wish is what an operator's request asks for.
func Wish(id saga.ID, req Steering) store.Wish {
	return store.Wish{Saga: id, Actor: cmp.Or(req.GetActor(), "api"), Reason: req.GetReason(), DryRun: req.GetDryRun()}
}

func wish(req interface {
	Steering
	GetDefinition() string
	GetKey() string
}) store.Wish {
	return Wish(saga.ID{Definition: req.GetDefinition(), Key: req.GetKey()}, req)
}

// refused gives the error of a wish its code.
func (s *Service) refused(id saga.ID, err error) error {
	return Refused(err, id.String(), s.noSuch(id))
}

// Refused gives the error of a wish about a saga its code.
func Refused(err error, name string, noSuch error) error {
	refusal, unreachable := new(journal.Refusal), new(operator.UnreachableError)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noSuch
	case errors.As(err, &refusal):
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s: %s", name, refusal.Why))
	case errors.As(err, &unreachable):
		return connect.NewError(connect.CodeUnavailable, unreachable)
	}
	return err
}
