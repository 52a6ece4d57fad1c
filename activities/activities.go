// Package activities does the steps of a checkout at the participants: fence, call, record. It knows the participants'
// contracts, the journal's and the gate's; it knows neither SQL nor workflow code, of which it uses the payloads alone.
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
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Journal is what an activity needs of the orchestrator's database. The row of the checkout is the arbiter of every
// race about it.
type Journal interface {
	// Fence tells whether an attempt may call its participant now, and claims what the step claims: the pivot turns the
	// phase to pivoted where no cancel stands and the deadline has not passed by the database's clock; a forward step that
	// finds a cancel, or the deadline passed, turns the phase to undoing. An attempt whose participant is held back sees
	// cancels and deadlines all the same, but claims nothing and calls nobody. An error means that nothing is known: call
	// nobody, try again later.
	Fence(ctx context.Context, a journal.Attempt) (checkout.Pass, error)

	// Record writes what an attempt taught and all that follows from it in one transaction: the step, the next step, the
	// phase, attention, and with the last one the final status. Recording the same outcome again changes nothing.
	Record(ctx context.Context, a journal.Attempt, l journal.Learned) (journal.Standing, error)
}

// Gate keeps the activities away from a participant that answers nobody. Its methods may be called from many goroutines.
type Gate interface {
	// HeldBack says why a participant is not to be called now, in a sentence that stays the same while that is so; empty if it may
	// be called. It is asked before each call.
	HeldBack(participant string) string

	// Answered and Unanswered take note of how a call ended. An answer is whatever shows that the participant understood, a refusal
	// and some errors included. A call that ended because this process stops is not told of.
	Answered(participant string)
	Unanswered(participant, orderID string, err error)
}

// Participants are the clients that the activities call.
type Participants struct {
	Warehouse warehousev1connect.WarehouseServiceClient
	Payment   paymentv1connect.PaymentServiceClient
}

// Register adds the activities of the checkout to a registry, under the names of their steps and compensations.
func Register(registry *task.TaskRegistry, journal Journal, to Participants, gate Gate) error {
	calls := map[string]map[string]call{
		checkout.Warehouse: {
			checkout.ReserveStock: reserveStock(to.Warehouse),
			checkout.ReleaseStock: releaseStock(to.Warehouse),
			checkout.CommitStock:  commitStock(to.Warehouse),
		},
		checkout.Payment: {
			checkout.AuthorizePayment:  authorizePayment(to.Payment),
			checkout.VoidAuthorization: voidAuthorization(to.Payment),
			checkout.CapturePayment:    capturePayment(to.Payment),
			checkout.RefundPayment:     refundPayment(to.Payment),
		},
	}
	for participant, calls := range calls {
		for name, call := range calls {
			if err := registry.AddActivityN(name, activity{journal, gate, participant, call}.run); err != nil {
				return fmt.Errorf("register activity %s: %w", name, err)
			}
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
	journal     Journal
	gate        Gate
	participant string
	call        call
}

// run is the activity of every step and compensation. An error from it means "not known": the saga tries again.
func (a activity) run(ctx task.ActivityContext) (any, error) {
	var in saga.Call
	if err := ctx.GetInput(&in); err != nil {
		return nil, fmt.Errorf("read activity input: %w", err)
	}
	reply, err := a.attempt(ctx.Context(), journal.Attempt{Call: in})
	reply.Step = in.Step
	reply.Reason = cut(reply.Reason)
	return reply, err
}

func (a activity) attempt(ctx context.Context, at journal.Attempt) (saga.Reply, error) {
	at.HeldBack = a.gate.HeldBack(a.participant)
	pass, err := a.fence(ctx, at)
	if err == nil && pass.Leave == journal.Hold && at.HeldBack != "" && a.gate.HeldBack(a.participant) == "" {
		// The participant came back meanwhile. Whoever woke those that wait may not have found this one among them.
		at.HeldBack = ""
		pass, err = a.fence(ctx, at)
	}
	if err != nil {
		return saga.Reply{}, err
	}
	if reply, mayGo := pass.Reply(); !mayGo {
		return reply, nil
	}

	// The trace is that of the checkout's start, whoever has this run done, and however much later.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": pass.Order.TraceParent})
	ctx, span := otel.Tracer("activities").Start(ctx, name(at), trace.WithAttributes(
		attribute.String("order_id", at.Key), attribute.Int("run", at.Run), attribute.Int("attempt", at.Round)))
	defer span.End()
	learned := a.ask(ctx, pass.Order)
	span.SetAttributes(attribute.String("outcome", string(learned.Outcome)), attribute.String("reason", learned.Reason))
	standing, err := a.record(ctx, at, learned)
	if err != nil {
		return saga.Reply{}, err
	}
	return standing.Reply(learned), nil
}

// name is what an attempt is called in traces.
func name(at journal.Attempt) string {
	if at.Undo {
		return "undo " + at.Step
	}
	return at.Step
}

func (a activity) fence(ctx context.Context, at journal.Attempt) (checkout.Pass, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Fence(ctx, at)
}

func (a activity) record(ctx context.Context, at journal.Attempt, l journal.Learned) (journal.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Record(ctx, at, l)
}

// ask calls the participant, up to three times while it gets no answer and the participant is not held back.
func (a activity) ask(ctx context.Context, order checkout.Order) journal.Learned {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	learned := a.try(ctx, order)
	for _, between := range quickPauses {
		if learned.Outcome != saga.Unknown || learned.Attention != "" || !pause.For(ctx, between) || a.gate.HeldBack(a.participant) != "" {
			break
		}
		learned = a.try(ctx, order)
	}
	learned.Took = time.Since(began)
	return learned
}

func (a activity) try(ctx context.Context, order checkout.Order) journal.Learned {
	result, err := a.callOnce(ctx, order)
	if err != nil {
		attention, _ := understood(err)
		return journal.Learned{Outcome: saga.Unknown, Detail: cut(err.Error()), Attention: attention}
	}
	learned := journal.Learned{Reason: cut(result.GetReason()), Detail: cut(result.GetDetail()), Reference: cut(result.GetReference())}
	if until := result.GetValidUntil(); until != nil {
		learned.ValidUntil = until.AsTime()
	}
	switch result.GetOutcome() {
	case operationv1.Outcome_OUTCOME_APPLIED:
		learned.Outcome = saga.Applied
	case operationv1.Outcome_OUTCOME_REJECTED:
		learned.Outcome = saga.Rejected
	case operationv1.Outcome_OUTCOME_UNDONE_BEFORE:
		learned.Outcome, learned.Reason = saga.Rejected, "undone_before"
	default:
		learned.Outcome = saga.Unknown
	}
	return learned
}

// callOnce calls the participant and tells the gate how that ended.
func (a activity) callOnce(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
	bounded, cancel := context.WithTimeout(ctx, tryBudget)
	defer cancel()
	result, err := a.call(bounded, order)
	_, answered := understood(err)
	switch {
	case err == nil, answered:
		a.gate.Answered(a.participant)
	case errors.Is(ctx.Err(), context.Canceled):
		// This process stops: that is no fault of the participant.
	default:
		a.gate.Unanswered(a.participant, order.ID, err)
	}
	return result, err
}

// comprehending are the errors of a participant that understood what it was asked, each with why a person must look, where asking
// again is no use. What became of the operation is not known by any of them.
var comprehending = map[connect.Code]journal.AttentionCode{
	connect.CodeAlreadyExists:      journal.AttentionConflict,
	connect.CodeInvalidArgument:    journal.AttentionBadRequest,
	connect.CodeFailedPrecondition: journal.AttentionForgotten,
	connect.CodeNotFound:           "",
}

// understood tells whether an error came from a participant that understood, and why a person must look; empty if nobody must.
func understood(err error) (attention journal.AttentionCode, ok bool) {
	connectErr := new(connect.Error)
	if !errors.As(err, &connectErr) || !connect.IsWireError(connectErr) {
		return "", false
	}
	attention, ok = comprehending[connectErr.Code()]
	return attention, ok
}

// cut shortens a text to journal.MaxDetail bytes of valid UTF-8, so that histories and rows stay small and storable.
func cut(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
	if len(text) <= journal.MaxDetail {
		return text
	}
	text = text[:journal.MaxDetail]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}
