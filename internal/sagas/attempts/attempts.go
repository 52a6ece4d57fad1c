// Package attempts makes the attempts at steps and compensations: fence, call, record. It knows the journal's contract, the gate's and
// the participants'; it knows neither SQL nor workflow code, of which it uses the payloads alone.
package attempts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/task"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Journal is what an attempt needs of the orchestrator's database. The row of the saga is the arbiter of every race about it.
type Journal interface {
	// Fence tells whether an attempt may call its participant now, and claims what the step claims: the pivot turns the
	// phase to pivoted where no cancel stands and the deadline has not passed by the database's clock; a forward step that
	// finds a cancel, or the deadline passed, turns the phase to undoing. An attempt whose participant is held back sees
	// cancels and deadlines all the same, but claims nothing and calls nobody. An error means that nothing is known: call
	// nobody, try again later.
	Fence(ctx context.Context, a journal.Attempt) (journal.Pass, error)

	// Record writes what an attempt taught and all that follows from it in one transaction: the step, the next step, the
	// phase, attention, and with the last one the final status. Recording the same outcome again changes nothing. The reply is
	// what the run is told. Where mayCall says that the participant of the next step may be called, the transaction fences the
	// first attempt at that too, which costs the fence no visit of its own.
	Record(ctx context.Context, a journal.Attempt, l journal.Learned, mayCall func(participant string) bool) (saga.Reply, error)
}

// Gate keeps attempts away from a participant that answers nobody. Its methods may be called from many goroutines.
type Gate interface {
	// HeldBack says why a participant is not to be called now, in a sentence that stays the same while that is so; empty if it may
	// be called. It is asked before each call.
	HeldBack(participant string) string

	// Answered and Unanswered take note of how a call ended. An answer is whatever shows that the participant understood, a refusal
	// and some errors included. A call that ended because this process stops is not told of.
	Answered(participant string)
	Unanswered(participant, key string, err error)
}

// Register adds the activity of every step and compensation of every saga to a registry. Participants are by name.
func Register(registry *task.TaskRegistry, journal Journal, participants map[string]participant.Participant, gate Gate) error {
	// Whatever name a run asks for: it is that of the step or compensation, and what is to be done stands in the input.
	if err := registry.AddActivityN("*", (&attempts{journal, gate, participants}).run); err != nil {
		return fmt.Errorf("register activities: %w", err)
	}
	return nil
}

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

type attempts struct {
	journal      Journal
	gate         Gate
	participants map[string]participant.Participant
}

// run is the activity of every step and compensation. An error from it means "not known": the saga tries again.
func (a *attempts) run(ctx task.ActivityContext) (any, error) {
	var in saga.Call
	if err := ctx.GetInput(&in); err != nil {
		return nil, fmt.Errorf("read activity input: %w", err)
	}
	return a.attempt(ctx.Context(), journal.Attempt{Call: in})
}

func (a *attempts) attempt(ctx context.Context, at journal.Attempt) (saga.Reply, error) {
	at.HeldBack = a.gate.HeldBack(at.Participant)
	pass, err := a.fence(ctx, at)
	if err == nil && pass.Leave == journal.Hold && at.HeldBack != "" && a.gate.HeldBack(at.Participant) == "" {
		// The participant came back meanwhile. Whoever woke those that wait may not have found this one among them.
		at.HeldBack = ""
		pass, err = a.fence(ctx, at)
	}
	if err != nil {
		return saga.Reply{}, err
	}
	if reply, mayGo := pass.Reply(at); !mayGo {
		return reply, nil
	}

	// The trace is that of the saga's start, whoever has this run done, and however much later.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": pass.TraceParent})
	ctx, span := otel.Tracer("attempts").Start(ctx, name(at), trace.WithAttributes(
		attribute.String("saga", at.Definition), attribute.String("key", at.Key), attribute.Int("run", at.Run), attribute.Int("attempt", at.Round)))
	defer span.End()
	learned := a.ask(ctx, at, pass)
	span.SetAttributes(attribute.String("outcome", string(learned.Outcome)), attribute.String("reason", learned.Reason))
	return a.record(ctx, at, learned)
}

// name is what an attempt is called in traces.
func name(at journal.Attempt) string {
	if at.Undo {
		return "undo " + at.Step
	}
	return at.Step
}

func (a *attempts) fence(ctx context.Context, at journal.Attempt) (journal.Pass, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Fence(ctx, at)
}

func (a *attempts) record(ctx context.Context, at journal.Attempt, l journal.Learned) (saga.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, journalBudget)
	defer cancel()
	return a.journal.Record(ctx, at, l, func(participant string) bool { return a.gate.HeldBack(participant) == "" })
}

// ask calls the participant, up to three times while it gets no answer and the participant is not held back.
func (a *attempts) ask(ctx context.Context, at journal.Attempt, pass journal.Pass) journal.Learned {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	learned := a.try(ctx, at, pass)
	for _, between := range quickPauses {
		if learned.Outcome != saga.Unknown || learned.Attention != "" || !pause.For(ctx, between) || a.gate.HeldBack(at.Participant) != "" {
			break
		}
		learned = a.try(ctx, at, pass)
	}
	learned.Took = time.Since(began)
	return learned
}

func (a *attempts) try(ctx context.Context, at journal.Attempt, pass journal.Pass) journal.Learned {
	result, err := a.callOnce(ctx, at, pass)
	if err != nil {
		attention, _ := understood(err)
		return journal.Learned{Outcome: saga.Unknown, Detail: journal.Cut(err.Error()), Attention: attention}
	}
	learned := journal.Learned{
		Reason: journal.Cut(result.Reason), Detail: journal.Cut(result.Detail), Reference: journal.Cut(result.Reference), ValidUntil: result.ValidUntil,
		Output: result.Output,
	}
	switch result.Outcome {
	case participant.Applied:
		learned.Outcome = saga.Applied
	case participant.Rejected:
		learned.Outcome = saga.Rejected
	case participant.UndoneBefore:
		learned.Outcome, learned.Reason = saga.Rejected, "undone_before"
	default:
		learned.Outcome = saga.Unknown
	}
	return learned
}

// callOnce calls the participant and tells the gate how that ended.
func (a *attempts) callOnce(ctx context.Context, at journal.Attempt, pass journal.Pass) (participant.Result, error) {
	to, has := a.participants[at.Participant]
	if !has {
		return participant.Result{}, fmt.Errorf("%w: this process has no participant %q", participant.ErrBadRequest, at.Participant)
	}
	bounded, cancel := context.WithTimeout(ctx, tryBudget)
	defer cancel()
	ask, direction := to.Do, participant.Doing
	if at.Undo {
		ask, direction = to.Undo, participant.Undoing
	}
	id := participant.ID{Definition: at.Definition, Key: at.Key, Step: at.Step}
	result, err := caught(ask)(bounded, participant.Request{
		Definition: id.Definition, Key: id.Key, Step: id.Step, Attempt: at.Round, Input: pass.Input, IdempotencyKey: id.IdempotencyKey(direction),
	})
	if err == nil {
		// Over the wire it was checked on the way; one in this process comes as it is.
		err = result.Check(direction)
	}
	_, answered := understood(err)
	switch {
	case err == nil, answered:
		a.gate.Answered(at.Participant)
	case errors.Is(ctx.Err(), context.Canceled):
		// This process stops: that is no fault of the participant.
	default:
		a.gate.Unanswered(at.Participant, at.Key, err)
	}
	return result, err
}

// caught makes of a participant's panic an error, as it would be over the wire. The engine would survive it too, but the attempt would
// leave no trace, and nobody would be called.
func caught(ask asking) asking {
	return func(ctx context.Context, r participant.Request) (result participant.Result, err error) {
		defer func() {
			if p := recover(); p != nil {
				result, err = participant.Result{}, fmt.Errorf("the participant panicked: %v", p)
			}
		}()
		return ask(ctx, r)
	}
}

type asking func(context.Context, participant.Request) (participant.Result, error)

// understood tells whether an error came from a participant that understood what it was asked, and why a person must look, where asking
// again is no use; empty if nobody must. What became of the operation is not known by any of them.
func understood(err error) (attention journal.AttentionCode, ok bool) {
	switch connectErr := new(connect.Error); {
	case errors.Is(err, participant.ErrConflict):
		return journal.AttentionConflict, true
	case errors.Is(err, participant.ErrBadRequest):
		return journal.AttentionBadRequest, true
	case errors.Is(err, participant.ErrForgotten):
		return journal.AttentionForgotten, true
	case errors.Is(err, participant.ErrBadAnswer):
		return journal.AttentionBadAnswer, true
	case errors.As(err, &connectErr) && connect.IsWireError(connectErr):
		return "", connectErr.Code() == connect.CodeNotFound
	}
	return "", false
}
