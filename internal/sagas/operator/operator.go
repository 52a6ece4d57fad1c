// Package operator is what a person can do about a saga: each verb has the row decide, asks participants for their records where those
// count, and tells the run that must hear of it. It knows no wire format.
package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Desk is where an operator sits. Its methods may be called from many goroutines. Each verb returns store.ErrNotFound where there is no
// such saga, and a *journal.Refusal where its state does not allow what is asked; the wish is kept all the same.
type Desk struct {
	Store *store.Store
	Runs  runs.Runs
	// Participants are by name.
	Participants map[string]participant.Participant
}

// Approve lets a saga that awaits approval go on.
func (d Desk) Approve(ctx context.Context, w store.Wish) (store.Steered, error) {
	return d.steer(ctx, journal.CommandApprove, func() (store.Steered, error) { return d.Store.Approve(ctx, w) })
}

// Reject turns back a saga that awaits approval.
func (d Desk) Reject(ctx context.Context, w store.Wish) (store.Steered, error) {
	return d.steer(ctx, journal.CommandReject, func() (store.Steered, error) { return d.Store.Reject(ctx, w) })
}

// Retry has the step or compensation that a saga is at tried at once.
func (d Desk) Retry(ctx context.Context, w store.Wish, step string) (store.Steered, error) {
	return d.steer(ctx, journal.CommandRetry, func() (store.Steered, error) { return d.Store.Retry(ctx, w, step) })
}

// Settle takes the step or compensation that a saga is at as done: because its participant's record says so, or, without proof, because
// the operator does. *UnreachableError where the participant cannot be asked.
func (d Desk) Settle(ctx context.Context, w store.Wish, step string, withoutProof bool) (store.Steered, error) {
	return d.steer(ctx, journal.CommandRetry, func() (store.Steered, error) {
		if withoutProof {
			return d.Store.Settle(ctx, w, step, journal.ProofWord)
		}
		// Nobody is asked for a record of what the state refuses anyway.
		look := w
		look.DryRun = true
		if allowed, err := d.Store.Settle(ctx, look, step, journal.ProofRecord); err == nil {
			against, err := d.recordAgainst(ctx, allowed.Saga, step)
			if err != nil {
				return store.Steered{}, err
			}
			if against != "" {
				return d.Store.Contradict(ctx, w, step, against)
			}
		}
		return d.Store.Settle(ctx, w, step, journal.ProofRecord)
	})
}

// Refund turns a saga back whose pivot was applied: a new run undoes what stands before the pivot and then the pivot.
func (d Desk) Refund(ctx context.Context, w store.Wish, step string) (store.Steered, error) {
	return d.begin(ctx, w, func() (store.Steered, error) { return d.Store.Refund(ctx, w, step) })
}

// Redrive hands an open saga to a new run, on another engine if one is named.
func (d Desk) Redrive(ctx context.Context, w store.Wish, engine string) (store.Steered, error) {
	return d.begin(ctx, w, func() (store.Steered, error) { return d.Store.Redrive(ctx, w, engine) })
}

// Cancel asks that a saga be undone. One that is being undone, or ended cancelled, is fine.
func (d Desk) Cancel(ctx context.Context, w store.Wish) (store.CancelAnswer, error) {
	if w.DryRun {
		return d.Store.WouldCancel(ctx, w.Saga)
	}
	answer, err := d.Store.Cancel(ctx, w.Saga, w.Reason, w.Actor)
	if err == nil && answer.Outcome == journal.CancelAccepted && !answer.Saga.Elsewhere {
		d.Runs.Wake(ctx, store.Steered{Saga: answer.Saga, CommandID: answer.CommandID}, journal.CommandCancel)
	}
	return answer, err
}

// steer has a wish fulfilled and wakes the run that waits for it.
func (d Desk) steer(ctx context.Context, kind string, fulfil func() (store.Steered, error)) (store.Steered, error) {
	steered, err := fulfil()
	if err == nil {
		d.Runs.Wake(ctx, steered, kind)
	}
	return steered, err
}

// begin has a wish fulfilled that needs a new run, and begins that.
func (d Desk) begin(ctx context.Context, w store.Wish, fulfil func() (store.Steered, error)) (store.Steered, error) {
	steered, err := fulfil()
	if err == nil && !w.DryRun {
		d.Runs.Begin(ctx, steered.Saga)
	}
	return steered, err
}

// UnreachableError says that a participant cannot be asked.
type UnreachableError struct {
	Participant string
	Err         error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s cannot be asked for its record: %v", e.Participant, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// askTimeout bounds a question to a participant that a person waits for.
const askTimeout = 2 * time.Second

// recordAgainst asks the participant whether its record says that a step, or its undoing, is done; where it does not, it returns
// what the record says.
func (d Desk) recordAgainst(ctx context.Context, s store.Saga, name string) (against string, err error) {
	const orYourWord = "`--without-proof` takes your word, which is kept for ever"
	step, undo, known := s.Plan.Named(name)
	if !known {
		return "", fmt.Errorf("look for the record of %s: the plan of %s has no such step", name, s.Key)
	}
	if a := s.Attention; a != nil && a.Step == name && a.Code == journal.AttentionForgotten {
		return fmt.Sprintf("%s, so its record proves nothing; %s", a.Cause, orYourWord), nil
	}
	op, err := d.recorded(ctx, participant.ID{Definition: s.Plan.Definition, Key: s.Key, Step: step.Name}, step.Participant)
	if err != nil {
		return "", &UnreachableError{step.Participant, err}
	}
	agrees := op.InPlace()
	if undo {
		agrees = op.Undo == participant.Applied || op.Do == participant.Rejected
	}
	if agrees {
		return "", nil
	}
	return fmt.Sprintf("the record of %s says of %s: %s; `--as retry` tries it again, and %s",
		step.Participant, step.Name, Describe(op), orYourWord), nil
}

func (d Desk) recorded(ctx context.Context, id participant.ID, name string) (participant.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	p, has := d.Participants[name]
	if !has {
		return participant.Operation{}, fmt.Errorf("this process has no participant %q", name)
	}
	return p.Get(ctx, id)
}

// Describe is an operation in words.
func Describe(op participant.Operation) string {
	switch {
	case op.Do == "" && op.Undo == "":
		return "not on record"
	case op.Undo == "":
		return word(op.Do)
	case op.Do == "":
		return "undo " + word(op.Undo)
	}
	return word(op.Do) + ", undo " + word(op.Undo)
}

func word(o participant.Outcome) string {
	if o == participant.NotKnown {
		return "unknown"
	}
	return string(o)
}
