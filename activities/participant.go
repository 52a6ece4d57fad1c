// Package activities makes the shop's services participants of checkouts: each step and each compensation is one call of their own
// contract, with what the order says.
package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Participant is one of the shop's services as any saga knows a participant. Its methods may be called from many goroutines.
type Participant struct {
	records  records
	do, undo map[string]call
}

var (
	_ participant.Participant = Participant{}
	_ participant.Keeper      = Participant{}
	_ participant.Bound       = Participant{}
)

// call asks for a step of an order, or for its undoing.
type call func(ctx context.Context, order checkout.Order) (resulting, error)

// records is what each of the services tells and forgets of its operations.
type records interface {
	GetOperation(context.Context, *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error)
	ListOperations(context.Context, *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error)
	ForgetOperations(context.Context, *connect.Request[operationv1.ForgetOperationsRequest]) (*connect.Response[operationv1.ForgetOperationsResponse], error)
}

// Does is participant.Bound's.
func (p Participant) Does(definition, step string) (does, undoes bool) {
	return isOurs(definition) && p.do[step] != nil, isOurs(definition) && p.undo[step] != nil
}

// Do is participant.Participant's.
func (p Participant) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	return ask(ctx, p.do, r)
}

// Undo is participant.Participant's.
func (p Participant) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return ask(ctx, p.undo, r)
}

// The services have records of checkouts alone. What has another definition is none of theirs, whatever its key.
func isOurs(definition string) bool { return definition == checkout.Definition }

func ask(ctx context.Context, calls map[string]call, r participant.Request) (participant.Result, error) {
	call, has := calls[r.Step]
	if !isOurs(r.Definition) || !has {
		return participant.Result{}, fmt.Errorf("%w: there is no step %q of a %s", participant.ErrBadRequest, r.Step, r.Definition)
	}
	order, err := checkout.OrderOf(r.Key, r.Input)
	if err != nil {
		return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
	}
	answer, err := call(ctx, order)
	if err != nil {
		return participant.Result{}, meant(err)
	}
	result := answer.GetResult()
	return participant.Result{
		Outcome: outcomes[result.GetOutcome()], Reason: result.GetReason(), Detail: result.GetDetail(), Reference: result.GetReference(),
		ValidUntil: timeOf(result.GetValidUntil()),
	}, nil
}

// outcomes are our words for those on the wire; what is not asked for has none.
var outcomes = map[operationv1.Outcome]participant.Outcome{
	operationv1.Outcome_OUTCOME_APPLIED:       participant.Applied,
	operationv1.Outcome_OUTCOME_REJECTED:      participant.Rejected,
	operationv1.Outcome_OUTCOME_UNKNOWN:       participant.NotKnown,
	operationv1.Outcome_OUTCOME_UNDONE_BEFORE: participant.UndoneBefore,
}

// Get is participant.Participant's.
func (p Participant) Get(ctx context.Context, id participant.ID) (participant.Operation, error) {
	if !isOurs(id.Definition) {
		return participant.Operation{}, nil
	}
	answer, err := p.records.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: id.Key, Step: id.Step}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return participant.Operation{}, nil
	case err != nil:
		return participant.Operation{}, meant(err)
	}
	return operation(answer.Msg.Operation), nil
}

// List is participant.Keeper's.
func (p Participant) List(ctx context.Context, q participant.Query) (participant.Page, error) {
	if q.Definition != "" && !isOurs(q.Definition) {
		return participant.Page{}, nil
	}
	request := &operationv1.ListOperationsRequest{OrderIds: q.Keys, PageSize: int32(q.PageSize), PageToken: q.PageToken}
	if !q.Since.IsZero() {
		request.Since = timestamppb.New(q.Since)
	}
	answer, err := p.records.ListOperations(ctx, connect.NewRequest(request))
	if err != nil {
		return participant.Page{}, meant(err)
	}
	page := participant.Page{NextPageToken: answer.Msg.NextPageToken}
	for _, op := range answer.Msg.Operations {
		page.Operations = append(page.Operations, operation(op))
	}
	return page, nil
}

// Forget is participant.Keeper's.
func (p Participant) Forget(ctx context.Context, definition string, keys []string) (participant.Forgotten, error) {
	if !isOurs(definition) {
		return participant.Forgotten{Keys: keys}, nil
	}
	answer, err := p.records.ForgetOperations(ctx, connect.NewRequest(&operationv1.ForgetOperationsRequest{OrderIds: keys}))
	if err != nil {
		return participant.Forgotten{}, meant(err)
	}
	forgotten := participant.Forgotten{Keys: answer.Msg.ForgottenOrderIds}
	for _, kept := range answer.Msg.Kept {
		forgotten.Kept = append(forgotten.Kept, participant.Kept{Key: kept.OrderId, Why: kept.Why})
	}
	return forgotten, nil
}

func operation(op *operationv1.Operation) participant.Operation {
	return participant.Operation{
		Definition: checkout.Definition, Key: op.OrderId, Step: op.Step, Do: outcomes[op.Do], Undo: outcomes[op.Undo],
		Reason: op.Reason, Reference: op.Reference, CreatedAt: timeOf(op.CreatedAt), UpdatedAt: timeOf(op.UpdatedAt),
	}
}

func timeOf(wire *timestamppb.Timestamp) time.Time {
	if wire == nil {
		return time.Time{}
	}
	return wire.AsTime()
}

// meanings are what the codes of a service's errors mean. The others say nothing of what became of the operation.
var meanings = map[connect.Code]error{
	connect.CodeAlreadyExists:      participant.ErrConflict,
	connect.CodeInvalidArgument:    participant.ErrBadRequest,
	connect.CodeFailedPrecondition: participant.ErrForgotten,
}

// meant gives an error of the service its meaning. One that our own side made has none.
func meant(err error) error {
	connectErr := new(connect.Error)
	if !errors.As(err, &connectErr) || !connect.IsWireError(connectErr) {
		return err
	}
	if meaning, has := meanings[connectErr.Code()]; has {
		return &understood{err, meaning}
	}
	return err
}

// understood is an error of a service in its own words, which are the only ones that it shows.
type understood struct {
	error
	meaning error
}

func (u *understood) Unwrap() []error { return []error{u.error, u.meaning} }
