package sagatest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Memory is a participant in memory that keeps every promise and refuses nothing. An Exploration without participants uses it. A
// test that wants to know what an exploration finds embeds it and gets one method wrong.
//
// It is for one saga at a time and one goroutine.
type Memory struct {
	// Effects counts what is in place, by step, whatever is recorded: a participant that applies a step twice has 2 there.
	Effects    map[string]int
	operations map[participant.ID]participant.Operation
}

var (
	_ participant.Participant = (*Memory)(nil)
	_ Counter                 = (*Memory)(nil)
)

// NewMemory makes a participant that has done nothing yet.
func NewMemory() *Memory {
	return &Memory{Effects: make(map[string]int), operations: make(map[participant.ID]participant.Operation)}
}

// memories makes a Memory for each participant of the plan.
func memories(plan saga.Plan) map[string]participant.Participant {
	made := make(map[string]participant.Participant)
	for _, name := range plan.Participants() {
		made[name] = NewMemory()
	}
	return made
}

// Do implements participant.Participant.
func (m *Memory) Do(_ context.Context, r participant.Request) (participant.Result, error) {
	op := m.operations[r.ID()]
	switch {
	case op.Do != "":
	case op.Undo != "":
		op.Do = participant.UndoneBefore
	default:
		op.Do = participant.Applied
		m.Effects[r.Step]++
	}
	m.Record(r, op)
	return participant.Result{Outcome: op.Do}, nil
}

// Undo implements participant.Participant.
func (m *Memory) Undo(_ context.Context, r participant.Request) (participant.Result, error) {
	op := m.operations[r.ID()]
	if op.Undo == "" && op.Do == participant.Applied {
		m.Effects[r.Step]--
	}
	op.Undo = participant.Applied
	m.Record(r, op)
	return participant.Result{Outcome: op.Undo}, nil
}

// Get implements participant.Participant.
func (m *Memory) Get(_ context.Context, id participant.ID) (participant.Operation, error) {
	return m.operations[id], nil
}

// Record replaces what is recorded of a request's operation.
func (m *Memory) Record(r participant.Request, op participant.Operation) { m.operations[r.ID()] = op }

// InPlace implements Counter.
func (m *Memory) InPlace(step string) int { return m.Effects[step] }

// Counter is a test's participant that counts its effects. A record says only what a participant believes.
type Counter interface {
	// InPlace is how often a step's effect is in place.
	InPlace(step string) int
}

// OnceOrNothing is an Audit for participants that are Counters, as all are that embed a Memory. In a saga that is CONFIRMED the
// effect of each step is in place once. In any other there is none, not even of a step that has nothing to undo.
func OnceOrNothing(d *saga.Definition) func(map[string]participant.Participant, journal.Status) error {
	return func(participants map[string]participant.Participant, ended journal.Status) error {
		want := 0
		if ended == journal.Confirmed {
			want = 1
		}
		var wrong []string
		for _, step := range d.Plan().Steps {
			if step.Decision {
				continue
			}
			counter, counts := participants[step.Participant].(Counter)
			if !counts {
				return fmt.Errorf("%s counts no effects: it is no sagatest.Counter", step.Participant)
			}
			if n := counter.InPlace(step.Name); n != want {
				wrong = append(wrong, fmt.Sprintf("%s is in place %d times at %s, not %d", step.Name, n, step.Participant, want))
			}
		}
		if len(wrong) > 0 {
			return errors.New(strings.Join(wrong, ", "))
		}
		return nil
	}
}
