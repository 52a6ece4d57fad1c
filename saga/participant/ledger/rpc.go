package ledger

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
)

// maxPage is how many operations a page has that does not say, which is the most.
const maxPage = 1000

// endOfTime is after every time that a page can have ended with.
var endOfTime = time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)

// Result is what a caller is told of one direction.
func (s Side) Result() *operationv1.Result {
	r := &operationv1.Result{Outcome: s.outcome(), Reason: s.Reason, Detail: s.Detail, Reference: s.Reference}
	switch s.State {
	case Started, Wanted:
		r.Reason = "started"
	case UndoneBefore:
		r.Reason, r.Detail = "undone_before", "the step was undone before it arrived"
	}
	return r
}

func (s Side) outcome() operationv1.Outcome {
	switch s.State {
	case Applied:
		return operationv1.Outcome_OUTCOME_APPLIED
	case Rejected:
		return operationv1.Outcome_OUTCOME_REJECTED
	case Started, Wanted:
		return operationv1.Outcome_OUTCOME_UNKNOWN
	case UndoneBefore:
		return operationv1.Outcome_OUTCOME_UNDONE_BEFORE
	default:
		return operationv1.Outcome_OUTCOME_UNSPECIFIED
	}
}

func (o Operation) message() *operationv1.Operation {
	m := &operationv1.Operation{
		OrderId: o.OrderID, Step: o.Step, Do: o.Do.outcome(), Undo: o.Undo.outcome(),
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
	default:
		return err
	}
}

// Records are the methods of every participant about what it has recorded.
type Records struct {
	pool    *pgxpool.Pool
	openWhy string
}

// NewRecords serves the ledger in the database of pool. By openWhy the participant says why an order is still open; see Forget.
func NewRecords(pool *pgxpool.Pool, openWhy string) *Records {
	return &Records{pool: pool, openWhy: openWhy}
}

// GetOperation tells what is known of one step of one order; code not_found if it was never asked for in either direction,
// failed_precondition if the order was forgotten and nobody can tell any more.
func (r *Records) GetOperation(ctx context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	op, err := Get(ctx, r.pool, req.Msg.OrderId, req.Msg.Step)
	if err != nil {
		return nil, Error(fmt.Errorf("get %s of %s: %w", req.Msg.Step, req.Msg.OrderId, err))
	}
	return connect.NewResponse(&operationv1.GetOperationResponse{Operation: op.message()}), nil
}

// ListOperations lists those of the named orders by order id and step, or all by when they last changed.
func (r *Records) ListOperations(ctx context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	msg := req.Msg
	after, err := parsePlace(msg.PageToken)
	if err != nil {
		return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
	}
	size := int(msg.PageSize)
	if size == 0 {
		size = maxPage
	}
	since := time.Unix(0, 0)
	if msg.Since != nil {
		since = msg.Since.AsTime()
	}

	// One more than the page, to know whether there is a next.
	var ops []Operation
	if len(msg.OrderIds) > 0 {
		ops, err = ListByOrders(ctx, r.pool, msg.OrderIds, since, after, size+1)
	} else {
		ops, err = ListSince(ctx, r.pool, since, after, size+1)
	}
	if err != nil {
		return nil, err
	}
	res := &operationv1.ListOperationsResponse{}
	if len(ops) > size {
		ops = ops[:size]
		last := ops[size-1]
		res.NextPageToken = Place{UpdatedAt: last.UpdatedAt, OrderID: last.OrderID, Step: last.Step}.token()
	}
	for _, op := range ops {
		res.Operations = append(res.Operations, op.message())
	}
	return connect.NewResponse(res), nil
}

// ForgetOperations forgets settled orders, and tells why it keeps the others.
func (r *Records) ForgetOperations(ctx context.Context, req *connect.Request[operationv1.ForgetOperationsRequest]) (*connect.Response[operationv1.ForgetOperationsResponse], error) {
	forgotten, kept, err := Forget(ctx, r.pool, r.openWhy, req.Msg.OrderIds)
	if err != nil {
		return nil, err
	}
	res := &operationv1.ForgetOperationsResponse{ForgottenOrderIds: forgotten}
	for _, k := range kept {
		res.Kept = append(res.Kept, &operationv1.Kept{OrderId: k.OrderID, Why: k.Why})
	}
	return connect.NewResponse(res), nil
}

// token is a place as text; PostgreSQL's clock counts microseconds.
func (p Place) token() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s %s", p.UpdatedAt.UnixMicro(), p.OrderID, p.Step))
}

func parsePlace(token string) (Place, error) {
	if token == "" {
		return Place{}, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return Place{}, err
	}
	parts := strings.Split(string(text), " ")
	if len(parts) != 3 {
		return Place{}, errors.New("not a place")
	}
	micro, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || micro < 0 || micro > endOfTime.UnixMicro() || len(contract.Check(&operationv1.GetOperationRequest{OrderId: parts[1], Step: parts[2]})) > 0 {
		return Place{}, errors.New("not a place")
	}
	return Place{UpdatedAt: time.UnixMicro(micro), OrderID: parts[1], Step: parts[2]}, nil
}
