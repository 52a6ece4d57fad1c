// Package activities does the steps of a checkout at the participants: fence, call, record. It knows the participants'
// contracts and the journal's; it knows neither SQL nor workflow code, of which it uses the payloads alone.
package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/task"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/workflows/saga"
)

// Journal is what an activity needs of the orchestrator's database. The row of the checkout is the arbiter of every
// race about it.
type Journal interface {
	// Fence tells whether an attempt may call its participant now, and claims what the step claims: the pivot turns the
	// phase to pivoted where no cancel stands and the deadline has not passed by the database's clock; a forward step that
	// finds a cancel, or the deadline passed, turns the phase to undoing. An error means that nothing is known: call
	// nobody, try again later.
	Fence(ctx context.Context, a checkout.Attempt) (checkout.Pass, error)

	// Record writes what an attempt taught and all that follows from it in one transaction: the step, the next step, the
	// phase, attention, and with the last one the final status. Recording the same outcome again changes nothing.
	Record(ctx context.Context, a checkout.Attempt, l checkout.Learned) (checkout.Standing, error)
}

// Participants are the clients that the activities call.
type Participants struct {
	Warehouse warehousev1connect.WarehouseServiceClient
	Payment   paymentv1connect.PaymentServiceClient
}

// Register adds the activities of the checkout to a registry, under the names of their steps and compensations.
func Register(registry *task.TaskRegistry, journal Journal, to Participants) error {
	calls := map[string]call{
		checkout.ReserveStock:      reserveStock(to.Warehouse),
		checkout.ReleaseStock:      releaseStock(to.Warehouse),
		checkout.CommitStock:       commitStock(to.Warehouse),
		checkout.AuthorizePayment:  authorizePayment(to.Payment),
		checkout.VoidAuthorization: voidAuthorization(to.Payment),
		checkout.CapturePayment:    capturePayment(to.Payment),
	}
	for name, call := range calls {
		if err := registry.AddActivityN(name, activity{journal, call}.run); err != nil {
			return fmt.Errorf("register activity %s: %w", name, err)
		}
	}
	return nil
}

// call asks a participant to do or undo a step of an order.
type call func(ctx context.Context, order checkout.Order) (*operationv1.Result, error)

// Bounds of one attempt. Together they stay well below the time for which an engine lends an activity to a worker (15 s),
// so that no attempt is given to a second worker while the first is still at it.
const (
	// callBudget bounds the quick tries of one attempt together, tryBudget each of them.
	callBudget = 5 * time.Second
	tryBudget  = 2 * time.Second
	// journalBudget bounds each visit to the journal.
	journalBudget = 2 * time.Second
)

// quickPauses are the pauses between the tries of one attempt. They bridge a lost packet or a restart of a sidecar; what
// lasts longer is the saga's to wait for, because the saga hears commands meanwhile.
var quickPauses = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond}

type activity struct {
	journal Journal
	call    call
}

// run is the activity of every step and compensation. An error from it means "not known": the saga tries again.
func (a activity) run(ctx task.ActivityContext) (any, error) {
	var in saga.Call
	if err := ctx.GetInput(&in); err != nil {
		return nil, fmt.Errorf("read activity input: %w", err)
	}
	attempt := checkout.Attempt{
		OrderID: in.Key, Run: in.Run, Step: in.Step, Undo: in.Undo, Round: in.Round,
		Wait: time.Duration(in.WaitMS) * time.Millisecond, Stuck: in.Stuck,
	}
	reply, err := a.attempt(ctx.Context(), attempt)
	reply.Step = in.Step
	reply.Reason = cut(reply.Reason)
	return reply, err
}

func (a activity) attempt(ctx context.Context, at checkout.Attempt) (saga.Reply, error) {
	pass, err := a.fence(ctx, at)
	if err != nil {
		return saga.Reply{}, err
	}
	switch pass.Leave {
	case checkout.Superseded:
		return saga.Reply{Outcome: saga.Superseded, Reason: pass.Reason}, nil
	case checkout.TurnBack:
		return saga.Reply{Outcome: saga.TurnedBack, Reason: pass.Reason}, nil
	case checkout.Known:
		return reply(pass.Learned, checkout.GoOn), nil
	}

	// The trace is that of the checkout's start, whoever has this run done, and however much later.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": pass.Order.TraceParent})
	ctx, span := otel.Tracer("activities").Start(ctx, name(at), trace.WithAttributes(
		attribute.String("order_id", at.OrderID), attribute.Int("run", at.Run), attribute.Int("attempt", at.Round)))
	defer span.End()
	learned := a.ask(ctx, pass.Order)
	span.SetAttributes(attribute.String("outcome", string(learned.Outcome)), attribute.String("reason", learned.Reason))
	standing, err := a.record(ctx, at, learned)
	if err != nil {
		return saga.Reply{}, err
	}
	return reply(learned, standing), nil
}

// name is what an attempt is called in traces.
func name(at checkout.Attempt) string {
	if at.Undo {
		return "undo " + at.Step
	}
	return at.Step
}

func (a activity) fence(ctx context.Context, at checkout.Attempt) (checkout.Pass, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Fence(ctx, at)
}

func (a activity) record(ctx context.Context, at checkout.Attempt, l checkout.Learned) (checkout.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Record(ctx, at, l)
}

func reply(l checkout.Learned, standing checkout.Standing) saga.Reply {
	if standing == checkout.Over {
		return saga.Reply{Outcome: saga.Superseded}
	}
	r := saga.Reply{Reason: l.Reason, TurnBack: standing == checkout.GoBack}
	switch l.Outcome {
	case checkout.Applied:
		r.Outcome = saga.Applied
	case checkout.Refused:
		r.Outcome = saga.Rejected
	default:
		r.Outcome = saga.Unknown
	}
	if r.Outcome != saga.Applied {
		r.TurnBack = false
	}
	return r
}

// ask calls the participant, up to three times while it gets no answer.
func (a activity) ask(ctx context.Context, order checkout.Order) checkout.Learned {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	learned := a.try(ctx, order)
	for _, pause := range quickPauses {
		if learned.Outcome != checkout.Unknown || learned.Attention != "" || !sleep(ctx, pause) {
			break
		}
		learned = a.try(ctx, order)
	}
	learned.Took = time.Since(began)
	return learned
}

func (a activity) try(ctx context.Context, order checkout.Order) checkout.Learned {
	ctx, cancel := context.WithTimeout(ctx, tryBudget)
	defer cancel()
	result, err := a.call(ctx, order)
	if err != nil {
		return withoutAnswer(err)
	}
	learned := checkout.Learned{Reason: cut(result.GetReason()), Detail: cut(result.GetDetail()), Reference: cut(result.GetReference())}
	switch result.GetOutcome() {
	case operationv1.Outcome_OUTCOME_APPLIED:
		learned.Outcome = checkout.Applied
	case operationv1.Outcome_OUTCOME_REJECTED:
		learned.Outcome = checkout.Refused
	case operationv1.Outcome_OUTCOME_UNDONE_BEFORE:
		learned.Outcome, learned.Reason = checkout.Refused, "undone_before"
	default:
		learned.Outcome = checkout.Unknown
	}
	return learned
}

// withoutAnswer reads an error: nothing is known of the operation. Some errors say that asking again is no use.
func withoutAnswer(err error) checkout.Learned {
	learned := checkout.Learned{Outcome: checkout.Unknown, Detail: cut(err.Error())}
	if connectErr := new(connect.Error); errors.As(err, &connectErr) && connect.IsWireError(connectErr) {
		switch connectErr.Code() {
		case connect.CodeAlreadyExists:
			learned.Attention = "the participant knows this order with other contents"
		case connect.CodeInvalidArgument:
			learned.Attention = "the participant does not accept the request"
		case connect.CodeFailedPrecondition:
			learned.Attention = "the participant no longer keeps this order's operations"
		}
	}
	return learned
}

// sleep waits, and says whether it waited to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// cut shortens a text to checkout.MaxDetail bytes of valid UTF-8, so that histories and rows stay small and storable.
func cut(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
	if len(text) <= checkout.MaxDetail {
		return text
	}
	text = text[:checkout.MaxDetail]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}
