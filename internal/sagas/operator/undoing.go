package operator

import (
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Undoing sorts a saga's steps by what undoing it means to each: those whose effect is gone, those that are still to be undone, and
// those that cannot be.
type Undoing struct{ Undone, ToUndo, CannotUndo []string }

// UndoingOf sorts the steps of a saga but those that are to be left out.
func UndoingOf(s store.Saga, leaveOut func(journal.Step) bool) (u Undoing) {
	for _, step := range s.Steps {
		if step.Decision || leaveOut(step) {
			continue
		}
		tried := step.InPlace() || step.State == journal.StateFailing || step.State == journal.StateUnknown ||
			// The first step is running as soon as its saga is accepted, and begins when somebody is asked.
			step.State == journal.StateRunning && step.StartedAt != nil
		switch {
		case step.IsUndone():
			u.Undone = append(u.Undone, step.Name)
		case step.CompensationState != journal.CompensationNotNeeded,
			// Whoever is still in the phase forward has not tried the pivot.
			tried && step.Compensation != "" && !step.Pivot && s.Phase == saga.Forward:
			u.ToUndo = append(u.ToUndo, step.Name)
		case step.InPlace():
			u.CannotUndo = append(u.CannotUndo, step.Name)
		}
	}
	return u
}
