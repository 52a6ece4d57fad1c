package operator

import (
	"context"

	"github.com/checkoutsaga/orchestrator/internal/sagas/history"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Record is what a participant has on record of a step.
type Record struct {
	Participant, Step string
	Operation         participant.Operation
	// Err says why the participant could not be asked.
	Err error
}

// Records asks each participant of a saga what it has on record of each step, and returns what there is in the order of the plan. One that
// does not answer costs its own lines only.
func (d Desk) Records(ctx context.Context, s store.Saga) []*Record {
	return history.OfSteps(s.Plan, func(step saga.Step) *Record {
		r := &Record{Participant: step.Participant, Step: step.Name}
		r.Operation, r.Err = d.recorded(ctx, participant.ID{Definition: s.Plan.Definition, Key: s.Key, Step: step.Name}, step.Participant)
		if r.Err == nil && r.Operation.Do == "" && r.Operation.Undo == "" {
			return nil
		}
		return r
	})
}
