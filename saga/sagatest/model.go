package sagatest

import (
	"context"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// model is a participant in memory that keeps every promise and refuses nothing. An exploration has it where the author has no participants
// yet, so that the list alone is tried.
type model struct {
	operations map[operation]participant.Operation
}

type operation struct{ key, step string }

func models(plan saga.Plan) map[string]participant.Participant {
	made := make(map[string]participant.Participant)
	for _, name := range plan.Participants() {
		made[name] = &model{make(map[operation]participant.Operation)}
	}
	return made
}

// Do is participant.Participant's.
func (m *model) Do(_ context.Context, r participant.Request) (participant.Result, error) {
	op := m.operations[operation{r.Key, r.Step}]
	switch {
	case op.Do != "":
	case op.Undo != "":
		op.Do = participant.UndoneBefore
	default:
		op.Do = participant.Applied
	}
	m.operations[operation{r.Key, r.Step}] = op
	return participant.Result{Outcome: op.Do}, nil
}

// Undo is participant.Participant's.
func (m *model) Undo(_ context.Context, r participant.Request) (participant.Result, error) {
	op := m.operations[operation{r.Key, r.Step}]
	op.Undo = participant.Applied
	m.operations[operation{r.Key, r.Step}] = op
	return participant.Result{Outcome: op.Undo}, nil
}

// Get is participant.Participant's.
func (m *model) Get(_ context.Context, key, step string) (participant.Operation, error) {
	return m.operations[operation{key, step}], nil
}
