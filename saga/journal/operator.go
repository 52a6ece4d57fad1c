package journal

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// ErrState: the saga's state does not allow what was asked. The error that wraps it is a Refusal.
var ErrState = errors.New("the state of the saga does not allow it")

// Refusal is ErrState and, in a sentence, what is so instead.
type Refusal struct{ Why string }

// Error is ErrState's text and the sentence.
func (r *Refusal) Error() string { return ErrState.Error() + ": " + r.Why }

// Unwrap is ErrState.
func (r *Refusal) Unwrap() error { return ErrState }

// CancelOutcome says what became of a request to cancel.
type CancelOutcome string

// The outcomes.
const (
	// CancelAccepted: the next fence turns the saga back.
	CancelAccepted CancelOutcome = "accepted"
	// CancelUnderWay: it is being undone, or a cancel stands already.
	CancelUnderWay CancelOutcome = "under-way"
	// CancelDone: it is cancelled, nothing is held.
	CancelDone CancelOutcome = "done"
	// CancelTooLate: the pivot is claimed, or the saga ended otherwise.
	CancelTooLate CancelOutcome = "too-late"
)

// Proof says why a step is taken as done.
type Proof string

// The proofs.
const (
	// ProofRecord: the participant's record says that it is done.
	ProofRecord Proof = "record"
	// ProofWord: an operator says so. That is kept for ever.
	ProofWord Proof = "word"
)

// Cancel asks for the saga to be undone.
func (r *Row) Cancel(reason string) CancelOutcome {
	switch {
	case r.Status == Cancelled:
		return CancelDone
	case r.Phase == saga.Undoing:
		return CancelUnderWay
	case r.Phase != saga.Forward:
		return CancelTooLate
	case r.Cancelled:
		return CancelUnderWay
	}
	r.Cancelled, r.CancelReason = true, reason
	if !r.Touched {
		r.finish(Cancelled, codeCancelled, reason)
		return CancelDone
	}
	r.expectNews(0)
	if r.Elsewhere {
		r.CheckAt = r.Now // No run would see the cancel: the orchestrator takes over.
	}
	return CancelAccepted
}

// Approve lets a saga that awaits a decision go on. what says in a sentence what was done; refused is a Refusal. The methods below
// answer alike.
func (r *Row) Approve(actor string) (what string, refused error) {
	s, refused := r.openApproval()
	switch {
	case s != nil && s.IsDone():
		return "it was approved before", nil
	case refused != nil:
		return "", refused
	}
	s.State, s.Reference, s.EndedAt = StateDone, actor, r.moment()
	// The deadline did not run meanwhile.
	r.Deadline = r.Deadline.Add(r.Now.Sub(*s.StartedAt))
	r.PastDeadline = !r.Deadline.After(r.Now)
	next := &r.Steps[r.Plan.Index(s.Name)+1]
	next.State, next.StartedAt = StateRunning, r.moment()
	r.setStatus(r.statusOfPhase())
	r.expectNews(0)
	return "it is approved and goes on with " + next.Name, nil
}

// Reject turns back a saga that awaits a decision.
func (r *Row) Reject(actor, reason string) (what string, refused error) {
	s, refused := r.openApproval()
	switch {
	case s != nil && s.State == StateRejected:
		return "it was rejected before", nil
	case s != nil && s.IsDone():
		return refuse("it was approved before, and %s", r.standsAs())
	case refused != nil:
		return "", refused
	}
	s.State, s.Error, s.Reference, s.EndedAt = StateRejected, reason, actor, r.moment()
	r.turnBack(bar{Rejected, codeApprovalRejected, s.Name + ": " + reason})
	r.expectNews(0)
	return "it is rejected, and what it holds is given back", nil
}

// openApproval returns the approval, or why nobody can decide it now.
func (r *Row) openApproval() (*Step, error) {
	s := r.Decision()
	if s == nil {
		_, refused := refuse("it needs no approval, and %s", r.standsAs())
		return nil, refused
	}
	var refused error
	switch {
	case r.Phase != saga.Forward:
		_, refused = refuse("%s", r.standsAs())
	case r.Cancelled:
		_, refused = refuse("it was cancelled (%s)", r.CancelReason)
	case s.State == StatePending:
		_, refused = refuse("it does not await approval yet: it is at %s", r.AtStep())
	case r.PastApproval:
		_, refused = refuse("the time to decide ended at %s, so it is being undone", r.ApprovalDeadline.UTC().Format(time.RFC3339))
	}
	return s, refused
}

// at finds the step or compensation that the saga is at, by name, or says why it cannot be settled.
func (r *Row) at(name string) (s *Step, undo bool, refused error) {
	switch current := r.AtStep(); {
	case r.Phase == Final:
		_, refused = refuse("%s, and nothing of it is open", r.standsAs())
	case r.Decision() != nil && name == r.Decision().Name:
		_, refused = refuse("an approval is decided by `approve` or `reject`")
	case name != current:
		_, refused = refuse("it is at %s, not at %s", current, name)
	case !r.Driven() && r.Phase == saga.Forward:
		_, refused = refuse("it goes by its participants' events; cancel it, or look for lost ones by `event list`")
	}
	if refused != nil {
		return nil, false, refused
	}
	step, undo, known := r.Plan.Named(name)
	if !known {
		_, refused = refuse("it is at no step")
		return nil, false, refused
	}
	return &r.Steps[r.Plan.Index(step.Name)], undo, nil
}

// Retry has the step or compensation that the saga is at tried at once.
func (r *Row) Retry(step string) (what string, refused error) {
	if _, _, refused := r.at(step); refused != nil {
		return "", refused
	}
	if a := r.Attention; a != nil && a.Step == "" {
		return refuse("%s: `redrive` starts another run", a.Cause)
	}
	// The caller wakes the run right after this. If the run does not follow, the sweeper finds out why.
	r.Pokes, r.CheckAt = 0, r.Now.Add(retryAgain)
	return step + " is tried at once", nil
}

// retryAgain is when the sweeper looks whether a run has followed a Retry. If not, it takes over.
const retryAgain = 3 * time.Second

// Settle counts the step or compensation that the saga is at as done.
func (r *Row) Settle(step string, proof Proof) (what string, refused error) {
	s, undo, refused := r.at(step)
	switch {
	case refused != nil:
		return "", refused
	case proof != ProofRecord && r.Phase == saga.Forward:
		return refuse("there is still a way back, so nobody needs to vouch for %s: cancel it, or have it tried again", step)
	}
	r.Pokes = 0
	r.expectNews(0)
	if undo {
		s.CompensationState, s.Error = CompensationResolved, ""
		r.progress()
		r.nextCompensation()
	} else {
		if s.Pivot {
			r.setPhase(saga.Pivoted)
		}
		s.State, s.Error = StateResolved, ""
		r.stepEnded(r.Plan.Index(s.Name))
	}
	by := "as its participant's record says"
	if proof != ProofRecord {
		by = "without proof"
	}
	return fmt.Sprintf("%s is taken as done, %s; it is %s", step, by, r.Status), nil
}

// Refund turns back a saga whose pivot was applied: a new run undoes what comes before the pivot, and then the pivot. What is done
// behind the pivot stays, since nothing undoes it, and the sentence names it.
func (r *Row) Refund(step, actor, reason string) (what string, refused error) {
	if _, _, refused := r.at(step); refused != nil {
		return "", refused
	}
	pivot := r.pivot()
	switch {
	case r.Phase == saga.Undoing:
		return refuse("it is being undone already (%s)", r.Reason)
	case pivot != nil && pivot.Compensation == "":
		return refuse("nothing undoes %s", pivot.Name)
	case r.Phase != saga.Pivoted:
		return refuse("there is still a way back: cancel it instead")
	case !pivot.IsDone():
		return refuse("whether %s is done is not known yet, so there is nothing to refund: `--as retry` asks again", pivot.Name)
	}
	r.Verdict, r.Reason, r.ReasonCode = Cancelled, "refunded: "+reason, codeRefunded
	r.Attention = nil
	before, undoing, stays := true, []string(nil), ""
	for i := range r.Steps {
		s := &r.Steps[i]
		switch {
		case s.Pivot:
			s.CompensationState, before = CompensationPending, false
		case !before && s.IsDone():
			stays += "; " + s.Name + " is done, and nothing undoes it"
		case !before:
			s.State = StateSkipped
		case s.IsDone() && s.Compensation != "" && s.Participant != pivot.Participant:
			// The pivot used up what its participant held before.
			s.CompensationState = CompensationPending
			undoing = append(undoing, s.Compensation)
		}
	}
	r.setPhase(saga.Undoing)
	r.nextCompensation()
	r.FruitlessRuns = 0
	r.newRun(actor, "refund: "+reason)
	return "it is undone by " + strings.Join(append(undoing, "and then by "+pivot.Compensation), ", ") + stays, nil
}

// Redrive gives an open saga a new run, on another engine if one is named.
func (r *Row) Redrive(engine, actor, reason string) (what string, refused error) {
	switch {
	case r.Phase == Final:
		return refuse("%s, and nothing of it is open", r.standsAs())
	case !r.Driven() && r.Phase == saga.Forward:
		return refuse("it goes by its participants' events; cancel it, or look for lost ones by `event list`")
	}
	r.Attention = nil
	r.setStatus(r.statusOfPhase())
	r.FruitlessRuns = 0
	r.newRun(actor, reason)
	what = fmt.Sprintf("run %d goes on in phase %s", r.Run, r.Phase)
	if engine != "" && engine != r.Engine {
		what += fmt.Sprintf(", on engine %s instead of %s", engine, r.Engine)
		r.Engine = engine
		r.CheckAt = r.Now // That engine's sweeper starts the run.
	}
	return what, nil
}

func refuse(format string, args ...any) (string, error) {
	return "", &Refusal{Why: fmt.Sprintf(format, args...)}
}

// standsAs is the state of the saga in a sentence.
func (r *Row) standsAs() string {
	text := "it is " + string(r.Status)
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}
