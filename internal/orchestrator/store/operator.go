package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
)

// ErrState: the state of the checkout does not allow what was asked for. The text around it says what is so.
var ErrState = errors.New("the state of the checkout does not allow it")

// Wish is what an operator asks of a checkout. Every wish is kept with who had it, why, and what became of it.
type Wish struct {
	OrderID, Actor, Reason string
	// DryRun only tells what would become of it.
	DryRun bool
}

// Steered is what became of a wish.
type Steered struct {
	// Checkout is how it stands now; of a dry run, as it stood.
	Checkout Checkout
	// What was done, or would be, in a sentence.
	What string
	// CommandID is what wakes the run; empty for a dry run.
	CommandID string
}

// Approve lets a checkout that awaits approval go on. ErrState, ErrNotFound.
func (s *Store) Approve(ctx context.Context, w Wish) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandApprove}, func(r *row) (string, error) {
		return r.approve(w.Actor)
	})
}

// Reject turns back a checkout that awaits approval. ErrState, ErrNotFound.
func (s *Store) Reject(ctx context.Context, w Wish) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandReject}, func(r *row) (string, error) {
		return r.reject(w.Actor, w.Reason)
	})
}

// Proof says why a step is taken as done.
type Proof string

// The proofs.
const (
	// ProofRecord: the participant's record says that it is done.
	ProofRecord Proof = "record"
	// ProofWord: an operator says so. That is kept for ever.
	ProofWord Proof = "word"
)

// Retry has the step or compensation that the checkout is at tried at once. ErrState, ErrNotFound.
func (s *Store) Retry(ctx context.Context, w Wish, step string) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandResolve + " retry", step: step}, func(r *row) (string, error) {
		return r.retry(step)
	})
}

// Settle takes the step or compensation that the checkout is at as done. ErrState, ErrNotFound.
func (s *Store) Settle(ctx context.Context, w Wish, step string, proof Proof) (Steered, error) {
	wish := command{kind: checkout.CommandResolve + " done", step: step, withoutProof: proof == ProofWord}
	return s.steer(ctx, w, wish, func(r *row) (string, error) { return r.settle(step, proof) })
}

// Contradict refuses to take a step as done because the participant's record does not say so, and keeps the wish. ErrState,
// ErrNotFound.
func (s *Store) Contradict(ctx context.Context, w Wish, step, record string) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandResolve + " done", step: step}, func(r *row) (string, error) {
		return refuse("%s", record)
	})
}

// Refund turns a checkout back whose money was captured: a new run, which the caller starts, releases what else is held and then
// refunds. ErrState, ErrNotFound.
func (s *Store) Refund(ctx context.Context, w Wish, step string) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandResolve + " refund", step: step}, func(r *row) (string, error) {
		return r.refund(step, w.Actor, w.Reason)
	})
}

// Redrive hands an open checkout to a new run, on another engine if one is named. The caller starts it where the engine is its
// own; otherwise that engine's sweeper does. ErrState, ErrNotFound.
func (s *Store) Redrive(ctx context.Context, w Wish, engine string) (Steered, error) {
	return s.steer(ctx, w, command{kind: checkout.CommandRedrive}, func(r *row) (string, error) {
		return r.redrive(engine, w.Actor, w.Reason)
	})
}

// steer lets a rule decide about a wish. A rule that refuses has changed nothing.
func (s *Store) steer(ctx context.Context, w Wish, c command, rule func(*row) (what string, refused error)) (Steered, error) {
	if w.DryRun {
		r, err := s.read(ctx, w.OrderID)
		if err != nil {
			return Steered{}, err
		}
		before := r.Checkout
		before.Steps = append([]Step(nil), r.Steps...)
		what, refused := rule(r)
		return Steered{Checkout: before, What: what}, refused
	}
	c.id, c.actor, c.reason = uuid.NewString(), w.Actor, w.Reason
	steered := Steered{CommandID: c.id}
	var refused error
	var err error
	steered.Checkout, err = s.change(ctx, w.OrderID, func(r *row) bool {
		steered.What, refused = rule(r)
		c.outcome = "done"
		if refused != nil {
			_, why, _ := strings.Cut(refused.Error(), ErrState.Error()+": ")
			c.outcome, c.withoutProof = "refused: "+why, false
		}
		if d := r.decision(); d != nil && (c.kind == checkout.CommandApprove || c.kind == checkout.CommandReject) {
			c.step = d.Name
		}
		r.commands = append(r.commands, c)
		return refused == nil
	})
	if err != nil {
		return Steered{}, fmt.Errorf("%s %s: %w", c.kind, w.OrderID, err)
	}
	return steered, refused
}

func refuse(format string, args ...any) (string, error) {
	return "", fmt.Errorf("%w: %s", ErrState, fmt.Sprintf(format, args...))
}

// standsAs is how a checkout stands, for a sentence.
func (r *row) standsAs() string {
	text := "it is " + string(r.Status)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}

func (r *row) approve(actor string) (what string, refused error) {
	s, refused := r.openApproval()
	switch {
	case s != nil && s.done():
		return "it was approved before", nil
	case refused != nil:
		return "", refused
	}
	s.State, s.Reference, s.EndedAt = StateDone, actor, &r.now
	// Its deadline rested.
	r.Deadline = r.Deadline.Add(r.now.Sub(*s.StartedAt))
	r.pastDeadline = !r.Deadline.After(r.now)
	next := &r.Steps[r.index(s.Name)+1]
	next.State, next.StartedAt = StateRunning, &r.now
	r.setStatus(r.statusOfPhase())
	r.expectNews(0)
	return "it is approved and goes on with " + next.Name, nil
}

func (r *row) reject(actor, reason string) (what string, refused error) {
	s, refused := r.openApproval()
	switch {
	case s != nil && s.State == StateRejected:
		return "it was rejected before", nil
	case s != nil && s.done():
		return refuse("it was approved before, and %s", r.standsAs())
	case refused != nil:
		return "", refused
	}
	s.State, s.Error, s.Reference, s.EndedAt = StateRejected, reason, actor, &r.now
	r.turnBack(bar{checkout.Rejected, codeApprovalRejected, s.Name + ": " + reason})
	r.expectNews(0)
	return "it is rejected, and what it holds is given back", nil
}

// openApproval returns the approval, if there is one, and why nobody can decide it now.
func (r *row) openApproval() (*Step, error) {
	s := r.decision()
	if s == nil {
		_, refused := refuse("it needs no approval, and %s", r.standsAs())
		return nil, refused
	}
	var refused error
	switch {
	case r.Phase != checkout.Forward:
		_, refused = refuse("%s", r.standsAs())
	case r.cancelled:
		_, refused = refuse("it was cancelled (%s)", r.cancelReason)
	case s.State == StatePending:
		_, refused = refuse("it does not await approval yet: it is at %s", r.AtStep())
	case r.pastApproval:
		_, refused = refuse("the time to decide ended at %s, so it is being undone", r.ApprovalDeadline.UTC().Format(time.RFC3339))
	}
	return s, refused
}

// at resolves the name of the step or compensation that the checkout is at, or says why it cannot be settled.
func (r *row) at(name string) (s *Step, undo bool, refused error) {
	switch current := r.AtStep(); {
	case r.Phase == checkout.Final:
		_, refused = refuse("%s, and nothing of it is open", r.standsAs())
	case r.decision() != nil && name == r.decision().Name:
		_, refused = refuse("an approval is decided by `checkout approve` or `checkout reject`")
	case name != current:
		_, refused = refuse("it is at %s, not at %s", current, name)
	case !r.driven() && r.Phase == checkout.Forward:
		_, refused = refuse("it goes by its participants' events; cancel it, or look for lost ones by `event list`")
	}
	if refused != nil {
		return nil, false, refused
	}
	step, undo, _ := r.Plan.Named(name)
	return &r.Steps[r.index(step.Name)], undo, nil
}

// driven tells whether a run drives the checkout; a choreographed one is driven by events until its time is up.
func (r *row) driven() bool { return r.Coordination != event.Choreographed || r.startedRun > 0 }

func (r *row) retry(step string) (what string, refused error) {
	if _, _, refused := r.at(step); refused != nil {
		return "", refused
	}
	if a := r.Attention; a != nil && a.Step == "" {
		return refuse("%s: `checkout redrive` starts another run", a.Cause)
	}
	// The run is woken right after this. If it does not follow, the sweeper finds out why.
	r.pokes, r.checkAt = 0, r.now.Add(retryAgain)
	return step + " is tried at once", nil
}

func (r *row) settle(step string, proof Proof) (what string, refused error) {
	s, undo, refused := r.at(step)
	switch {
	case refused != nil:
		return "", refused
	case proof != ProofRecord && r.Phase == checkout.Forward:
		return refuse("nothing has been captured yet, so nobody needs to vouch for %s: cancel the checkout, or have it tried again", step)
	}
	r.pokes = 0
	r.expectNews(0)
	if undo {
		s.CompensationState, s.Error = CompensationResolved, ""
		r.progress()
		r.nextCompensation()
	} else {
		if s.Pivot {
			r.setPhase(checkout.Pivoted)
		}
		s.State, s.Error = StateResolved, ""
		r.stepEnded(r.index(s.Name))
	}
	by := "as its participant's record says"
	if proof != ProofRecord {
		by = "without proof"
	}
	return fmt.Sprintf("%s is taken as done, %s; the checkout is %s", step, by, r.Status), nil
}

func (r *row) refund(step, actor, reason string) (what string, refused error) {
	if _, _, refused := r.at(step); refused != nil {
		return "", refused
	}
	pivot := r.pivot()
	switch {
	case r.Phase == checkout.Undoing:
		return refuse("it is being undone already (%s)", r.Reason)
	case r.Phase != checkout.Pivoted:
		return refuse("nothing has been captured yet: cancel it instead")
	case !pivot.done():
		return refuse("whether the money was captured is not known yet, so there is nothing to refund: `--as retry` asks again")
	}
	r.verdict, r.Reason, r.ReasonCode = checkout.Cancelled, "refunded: "+reason, codeRefunded
	r.Attention = nil
	before := true
	for i := range r.Steps {
		s := &r.Steps[i]
		switch {
		case s.Pivot:
			s.CompensationState, before = CompensationPending, false
		case !before:
			s.State = StateSkipped
		case s.done() && s.Compensation != "" && s.Participant != pivot.Participant:
			// What the pivot's participant held before was used up by the pivot.
			s.CompensationState = CompensationPending
		}
	}
	r.setPhase(checkout.Undoing)
	r.nextCompensation()
	r.fruitlessRuns = 0
	r.newRun(actor, "refund: "+reason)
	return "its stock is released, and then its money refunded", nil
}

func (r *row) redrive(engine, actor, reason string) (what string, refused error) {
	switch {
	case r.Phase == checkout.Final:
		return refuse("%s, and nothing of it is open", r.standsAs())
	case !r.driven() && r.Phase == checkout.Forward:
		return refuse("it goes by its participants' events; cancel it, or look for lost ones by `event list`")
	}
	r.Attention = nil
	r.setStatus(r.statusOfPhase())
	r.fruitlessRuns = 0
	r.newRun(actor, reason)
	what = fmt.Sprintf("run %d goes on in phase %s", r.Run, r.Phase)
	if engine != "" && engine != r.Engine {
		what += fmt.Sprintf(", on engine %s instead of %s", engine, r.Engine)
		r.Engine = engine
		r.checkAt = r.now // Its sweeper starts the run.
	}
	return what, nil
}

// RunPhase is the phase that a run of the checkout begins in.
func (c *Checkout) RunPhase() checkout.Phase {
	for i := range c.Steps {
		if s := &c.Steps[i]; s.Pivot && c.Phase == checkout.Undoing && s.CompensationState != CompensationNotNeeded {
			return checkout.Reversing
		}
	}
	return c.Phase
}
