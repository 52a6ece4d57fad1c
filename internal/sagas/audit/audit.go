// Package audit compares sagas with what their participants have on record, by each saga's own plan. What a definition promises beside
// (amounts, goods, events) is for its own audit to compare.
package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const (
	// page is how many sagas are compared by one round of questions to the participants.
	page = 200
	// askTimeout bounds one question to a participant.
	askTimeout = 10 * time.Second
	// again is how long after a first look the second one is: records of several databases are no snapshot.
	again = 500 * time.Millisecond
)

// invariantAgrees: a final saga agrees with its participants' records.
const invariantAgrees = "I1"

// Audit compares the sagas of a store.
type Audit struct {
	Store *store.Store
	// Participants are by name.
	Participants map[string]participant.Participant
}

// Violation is something that is wrong with a saga.
type Violation struct {
	Saga saga.ID
	// Invariant is its number in docs/design.md.
	Invariant string
	// What is one sentence with what both sides say.
	What string
}

// UnreachableError says that a participant cannot be asked.
type UnreachableError struct {
	Participant string
	Err         error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("ask %s: %v", e.Participant, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Report takes what one round found: how many sagas were compared, and what is wrong with them.
type Report func(compared int, found []Violation) error

// All compares a definition's sagas that ended at a time or later; what ends meanwhile is left to the next audit.
func (a Audit) All(ctx context.Context, definition string, since time.Time, report Report) error {
	for place := (store.Ended{At: since}); ; {
		ended, err := a.Store.Finals(ctx, definition, place, page)
		if err != nil || len(ended) == 0 {
			return err
		}
		if err := a.compare(ctx, ended, report); err != nil {
			return err
		}
		if len(ended) < page {
			return nil
		}
		last := ended[len(ended)-1]
		place = store.Ended{At: *last.EndedAt, Key: last.Key}
	}
}

// One compares one saga. An open one has not promised anything yet, so it counts as none. store.ErrNotFound.
func (a Audit) One(ctx context.Context, id saga.ID, report Report) error {
	found, err := a.Store.Saga(ctx, id)
	if err != nil {
		return err
	}
	if !found.Status.IsFinal() {
		return report(0, nil)
	}
	return a.compare(ctx, []store.Saga{found}, report)
}

func (a Audit) compare(ctx context.Context, ended []store.Saga, report Report) error {
	suspects, err := a.look(ctx, ended)
	if err != nil {
		return err
	}
	if len(suspects) > 0 {
		if !pause.For(ctx, again) {
			return ctx.Err()
		}
		var doubtful []store.Saga
		for _, s := range ended {
			if slices.ContainsFunc(suspects, func(v Violation) bool { return v.Saga == s.ID() }) {
				doubtful = append(doubtful, s)
			}
		}
		if suspects, err = a.look(ctx, doubtful); err != nil {
			return err
		}
	}
	return report(len(ended), suspects)
}

// look tells what is wrong with final sagas of one definition at this moment. What an operator took as done without proof is not held
// against a saga.
func (a Audit) look(ctx context.Context, ended []store.Saga) ([]Violation, error) {
	definition, keys := ended[0].Plan.Definition, make([]string, len(ended))
	for i, s := range ended {
		keys[i] = s.Key
	}
	acts, err := a.Store.ActsOn(ctx, definition, keys)
	if err != nil {
		return nil, err
	}
	records := make(map[participant.ID]participant.Operation)
	for _, name := range participantsOf(ended) {
		if err := a.ask(ctx, name, ended, records); err != nil {
			return nil, err
		}
	}
	var found []Violation
	for _, s := range ended {
		word := func(step journal.Step) bool {
			return slices.ContainsFunc(acts, func(act store.Act) bool {
				return act.Saga == s.ID() && (act.Step == step.Name || act.Step == step.Compensation)
			})
		}
		var differs []string
		for _, step := range s.Steps {
			op := records[participant.ID{Definition: definition, Key: s.Key, Step: step.Name}]
			if what := disagreement(s, step, op); what != "" && !word(step) {
				differs = append(differs, what)
			}
		}
		if len(differs) > 0 {
			found = append(found, Violation{s.ID(), invariantAgrees, string(s.Status) + ", but " + strings.Join(differs, "; ")})
		}
	}
	return found, nil
}

// disagreement says how a participant's record of a step differs from what the saga's end promises; empty where it agrees. A confirmed
// saga has every step in place, any other has none.
func disagreement(s store.Saga, step journal.Step, op participant.Operation) string {
	switch confirmed := s.Status == journal.Confirmed; {
	case step.Decision:
		return ""
	case confirmed && !op.InPlace():
		return fmt.Sprintf("%s has %s not in place (%s)", step.Participant, step.Name, operator.Describe(op))
	case !confirmed && (usedUp(s, step) || mayStay(s, step)):
		return ""
	case !confirmed && op.InPlace() && step.Compensation != "":
		return fmt.Sprintf("%s still has %s in place (%s)", step.Participant, step.Name, operator.Describe(op))
	case !confirmed && op.InPlace():
		return fmt.Sprintf("%s has %s in place, which nothing undoes (%s)", step.Participant, step.Name, operator.Describe(op))
	case !confirmed && op.Do == participant.NotKnown && op.Undo != participant.Applied:
		return fmt.Sprintf("%s does not know yet whether %s was done", step.Participant, step.Name)
	}
	return ""
}

// usedUp tells whether a step was left as it is by a refund, because its participant used up by the pivot what it held before.
func usedUp(s store.Saga, step journal.Step) bool {
	pivot := s.Plan.Pivot()
	return pivot >= 0 && s.Steps[pivot].IsUndone() && s.Plan.Index(step.Name) < pivot &&
		step.Participant == s.Steps[pivot].Participant && step.CompensationState == journal.CompensationNotNeeded
}

// mayStay tells whether a step may be in place at any end. Its author declared that there is nothing to undo; but behind the pivot
// every step is so, and there only those may stay that a refund left because it saw them done.
func mayStay(s store.Saga, step journal.Step) bool {
	pivot := s.Plan.Pivot()
	return step.Compensation == "" && (step.IsDone() || pivot < 0 || s.Plan.Index(step.Name) < pivot)
}

// participantsOf are those that the plans of some sagas name.
func participantsOf(sagas []store.Saga) (names []string) {
	for _, s := range sagas {
		names = append(names, s.Plan.Participants()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ask reads what a participant has on record of sagas: in pages from one that keeps records, one by one from any other.
func (a Audit) ask(ctx context.Context, name string, sagas []store.Saga, into map[participant.ID]participant.Operation) error {
	p, has := a.Participants[name]
	if !has {
		return &UnreachableError{name, fmt.Errorf("this process has no participant %q", name)}
	}
	if keeper, keeps := p.(participant.Keeper); keeps {
		err := a.list(ctx, name, keeper, sagas, into)
		if !errors.Is(err, errors.ErrUnsupported) { // One that is far away says only when it is asked whether it keeps records.
			return err
		}
	}
	for _, s := range sagas {
		for _, step := range s.Steps {
			if step.Participant != name || step.Decision {
				continue
			}
			id := participant.ID{Definition: s.Plan.Definition, Key: s.Key, Step: step.Name}
			op, err := within(ctx, func(ctx context.Context) (participant.Operation, error) { return p.Get(ctx, id) })
			if err != nil {
				return &UnreachableError{name, err}
			}
			into[id] = op
		}
	}
	return nil
}

func (a Audit) list(ctx context.Context, name string, keeper participant.Keeper, sagas []store.Saga, into map[participant.ID]participant.Operation) error {
	q := participant.Query{Definition: sagas[0].Plan.Definition}
	for _, s := range sagas {
		q.Keys = append(q.Keys, s.Key)
	}
	for {
		found, err := within(ctx, func(ctx context.Context) (participant.Page, error) { return keeper.List(ctx, q) })
		if err != nil {
			return &UnreachableError{name, err}
		}
		for _, op := range found.Operations {
			into[participant.ID{Definition: op.Definition, Key: op.Key, Step: op.Step}] = op
		}
		if q.PageToken = found.NextPageToken; q.PageToken == "" {
			return nil
		}
	}
}

func within[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return ask(ctx)
}
