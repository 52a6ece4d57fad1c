package operator

import (
	"context"
	"sync"

	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Record is what a participant has on record of a step.
type Record struct {
	Participant, Step string
	Operation         participant.Operation
	// Err says why the participant could not be asked.
	Err error
}

// Records asks each participant of a saga what it has on record of each step, all at once, and returns what there is in the order of the
// plan. One that does not answer costs its own lines only.
func (d Desk) Records(ctx context.Context, s store.Saga) []Record {
	all := make([]Record, len(s.Plan.Steps))
	var asking sync.WaitGroup
	for i, step := range s.Plan.Steps {
		if step.Decision {
			continue
		}
		asking.Go(func() {
			all[i] = Record{Participant: step.Participant, Step: step.Name}
			all[i].Operation, all[i].Err = d.recorded(ctx, participant.ID{Definition: s.Plan.Definition, Key: s.Key, Step: step.Name}, step.Participant)
		})
	}
	asking.Wait()
	var known []Record
	for _, r := range all {
		if r.Err != nil || r.Operation.Do != "" || r.Operation.Undo != "" {
			known = append(known, r)
		}
	}
	return known
}
