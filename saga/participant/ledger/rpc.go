package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// The reason and sentence of outcomes that have none in the row.
const (
	started            = "started"
	undoneBefore       = "undone_before"
	undoneBeforeDetail = "the step was undone before it arrived"
)

// outcomes are the words of typed services for those of the contract; what was not asked for has none.
var outcomes = map[participant.Outcome]operationv1.Outcome{
	participant.Applied:      operationv1.Outcome_OUTCOME_APPLIED,
	participant.Rejected:     operationv1.Outcome_OUTCOME_REJECTED,
	participant.NotKnown:     operationv1.Outcome_OUTCOME_UNKNOWN,
	participant.UndoneBefore: operationv1.Outcome_OUTCOME_UNDONE_BEFORE,
}

// Message is an answer in the words of a typed service.
func Message(r participant.Result) *operationv1.Result {
	m := &operationv1.Result{Outcome: outcomes[r.Outcome], Reason: r.Reason, Detail: r.Detail, Reference: r.Reference}
	if !r.ValidUntil.IsZero() {
		m.ValidUntil = timestamppb.New(r.ValidUntil)
	}
	return m
}

func (o Operation) message() *operationv1.Operation {
	m := &operationv1.Operation{
		OrderId: o.Key, Step: o.Step, Do: outcomes[o.Do.answered()], Undo: outcomes[o.Undo.answered()],
		Reason: o.Do.Reason, Reference: o.Do.Reference,
		CreatedAt: timestamppb.New(o.CreatedAt), UpdatedAt: timestamppb.New(o.UpdatedAt),
	}
	if m.Reason == "" {
		m.Reason = o.Undo.Reason
	}
	if o.Amount != (Amount{}) {
		m.Amount = &operationv1.Money{Currency: o.Amount.Currency, MinorUnits: o.Amount.MinorUnits}
	}
	return m
}

// Error gives the ledger's errors their Connect codes; others it returns as they are.
func Error(err error) error {
	switch {
	case errors.Is(err, ErrConflict):
		return connect.NewError(connect.CodeAlreadyExists, err)
	case errors.Is(err, ErrNotFound):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, ErrForgotten):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, participant.ErrBadRequest):
		return connect.NewError(connect.CodeInvalidArgument, err)
	default:
		return err
	}
}

// Records are the methods of every participant about what it has recorded: those of the contract about sagas of any definition, and
// those of a typed service about the one whose sagas it calls orders.
type Records struct {
	keeper
	definition string
}

// NewRecords serves what the ledger in the database of pool has. For openWhy see Forget.
func NewRecords(pool *pgxpool.Pool, definition, openWhy string) *Records {
	return &Records{keeper: keeper{pool, openWhy}, definition: definition}
}

// BadInput is what is wrong with the input of a request, by the rules of the message that says the same; nil where nothing is.
func BadInput(same proto.Message) error {
	if bad := contract.Check(same); len(bad) > 0 {
		return fmt.Errorf("%w: input.%s", participant.ErrBadRequest, contract.Sentence(bad))
	}
	return nil
}

// GetOperation tells what is known of one step of one order. It is not_found if it was never asked for in either direction, and
// failed_precondition if the order was forgotten and nobody can tell any more.
func (r *Records) GetOperation(ctx context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	op, err := Get(ctx, r.pool, participant.ID{Definition: r.definition, Key: req.Msg.OrderId, Step: req.Msg.Step})
	if err != nil {
		return nil, Error(fmt.Errorf("get %s of %s: %w", req.Msg.Step, req.Msg.OrderId, err))
	}
	return connect.NewResponse(&operationv1.GetOperationResponse{Operation: op.message()}), nil
}

// ListOperations lists the operations of the named orders by order id and step, or all by when they last changed.
func (r *Records) ListOperations(ctx context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	since := time.Time{}
	if req.Msg.Since != nil {
		since = req.Msg.Since.AsTime()
	}
	ops, next, err := page(ctx, r.pool, participant.Query{
		Definition: r.definition, Keys: req.Msg.OrderIds, Since: since, PageSize: int(req.Msg.PageSize), PageToken: req.Msg.PageToken,
	})
	if errors.Is(err, errNoPlace) {
		return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
	}
	if err != nil {
		return nil, err
	}
	res := &operationv1.ListOperationsResponse{NextPageToken: next}
	for _, op := range ops {
		res.Operations = append(res.Operations, op.message())
	}
	return connect.NewResponse(res), nil
}

// ForgetOperations forgets settled orders, and says why it keeps the others.
func (r *Records) ForgetOperations(ctx context.Context, req *connect.Request[operationv1.ForgetOperationsRequest]) (*connect.Response[operationv1.ForgetOperationsResponse], error) {
	done, err := Forget(ctx, r.pool, r.definition, r.openWhy, req.Msg.OrderIds)
	if err != nil {
		return nil, err
	}
	res := &operationv1.ForgetOperationsResponse{ForgottenOrderIds: done.Keys}
	for _, k := range done.Kept {
		res.Kept = append(res.Kept, &operationv1.Kept{OrderId: k.Key, Why: k.Why})
	}
	return connect.NewResponse(res), nil
}
