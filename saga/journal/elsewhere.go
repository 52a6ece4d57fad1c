package journal

import (
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// A saga that is Elsewhere is driven by its participants, by events; a run drives it only once its time is up. Whoever hears the
// events notes here what they tell. They come in any order; what a later one tells includes what an earlier one would have told.

// elsewherePatience is how long to wait for the events that must follow one that was heard, before a run takes over. Too short
// takes over what is only slow, which does no harm; too long leaves a saga waiting for a lost event.
const elsewherePatience = 2 * time.Minute

// Stands tells the state of every step and the phase, to compare: hearing the same event again does not change it.
func (r *Row) Stands() string {
	stands := string(r.Phase)
	for _, s := range r.Steps {
		stands += " " + s.State + "/" + s.CompensationState
	}
	return stands
}

// HeardDone notes that steps are done, and that the next one is under way.
func (r *Row) HeardDone(steps ...string) {
	for _, name := range steps {
		s := &r.Steps[r.Plan.Index(name)]
		if s.IsDone() || s.State == StateRejected {
			continue
		}
		s.State, s.Error, s.Attempts = StateDone, "", max(s.Attempts, 1)
		if s.StartedAt == nil {
			s.StartedAt = r.moment()
		}
		s.EndedAt = r.moment()
	}
	if i := r.Plan.Index(steps[len(steps)-1]) + 1; i < len(r.Steps) && r.Steps[i].State == StatePending && r.Phase != saga.Undoing {
		r.Steps[i].State, r.Steps[i].StartedAt = StateRunning, r.moment()
	}
}

// HeardRefused notes that a step was refused, which turns the saga back if it still goes forward.
func (r *Row) HeardRefused(step, reason string) {
	i := r.Plan.Index(step)
	if s := &r.Steps[i]; !s.IsDone() {
		s.State, s.Error, s.EndedAt, s.Attempts = StateRejected, reason, r.moment(), max(s.Attempts, 1)
	}
	if r.Phase != saga.Forward {
		return // It is being undone already.
	}
	because := bar{Rejected, Word(reason, "rejected"), step + ": " + reason}
	if i == 0 {
		r.finish(because.verdict, because.code, because.reason) // Nothing was done.
		return
	}
	r.turnBack(because)
	r.CheckAt = r.Now.Add(elsewherePatience)
}

// HeardPivot notes that the pivot was applied. From here on the saga goes forward, even if it was being undone: the pivot came
// before anybody could say no.
func (r *Row) HeardPivot() {
	if r.refunding() {
		return // An operator knew that, and decided to take it back.
	}
	if r.Phase != saga.Pivoted {
		r.Verdict, r.Reason, r.ReasonCode, r.Attention = "", "", "", nil
		for i := range r.Steps {
			r.Steps[i].CompensationState = CompensationNotNeeded
			if r.Steps[i].State == StateSkipped {
				r.Steps[i].State = StatePending
			}
		}
		r.setPhase(saga.Pivoted)
		r.CheckAt = r.Now.Add(elsewherePatience)
	}
	var done []string
	for _, s := range r.Steps {
		done = append(done, s.Name)
		if s.Pivot {
			break
		}
	}
	r.HeardDone(done...)
}

// HeardUndone notes that what was done is gone, except what an operator has refunded: of that only its own participant tells.
func (r *Row) HeardUndone() {
	refunding := r.refunding()
	for i := range r.Steps {
		if s := &r.Steps[i]; s.CompensationState != CompensationNotNeeded && !(s.Pivot && refunding) {
			s.CompensationState = CompensationDone
		}
	}
	r.nextCompensation()
}

// HeardCompleted notes that the last step is done.
func (r *Row) HeardCompleted() {
	if r.refunding() {
		r.completedAfterAll()
		return
	}
	r.HeardPivot()
	r.HeardDone(r.Steps[len(r.Steps)-1].Name)
	r.finish(Confirmed, "", "")
}

// TakeOver tells whether a run must drive the saga from now on. It turns the saga back if it must not go forward.
func (r *Row) TakeOver() bool {
	if r.Phase != saga.Forward {
		r.LookAgain()
		return true
	}
	because := r.wayBarred()
	if because == nil {
		r.CheckAt = r.Deadline
		return false
	}
	// More may have been done than was heard.
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Pivot {
			break
		}
		if !s.Decision && !s.IsDone() && s.State != StateRejected {
			s.State = StateUnknown
		}
	}
	r.turnBack(*because)
	r.LookAgain()
	return true
}
