package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Definition is a named saga as its author declared it: a checked list of steps. It is made by Define and does not change.
type Definition struct {
	plan     Plan
	deadline time.Duration
	// accept makes what is kept of an input; nil keeps any input as it is.
	accept func(json.RawMessage) (Accepted, error)
}

// Step is a declared step: what is done at which participant, and what undoes it. Do, Pivot and Decision make one. It is part of a
// stored format: fields are only added, and the zero value of a new one means what was meant before.
type Step struct {
	// Name is the step's name and that of its activity. It stands in histories and rows.
	Name string `json:"name"`
	// Participant is who does and undoes it; Operator for a decision.
	Participant string `json:"participant,omitempty"`
	// Compensation names what makes the step's effect be gone; empty where there is nothing to undo. The pivot's is called only in
	// the phase Reversing.
	Compensation string `json:"compensation,omitempty"`
	// Pivot marks the step that ends every way back but its own refusal.
	Pivot bool `json:"pivot,omitempty"`
	// Decision marks a person's decision, for which the next step waits. It has no participant.
	Decision bool `json:"decision,omitempty"`
	// TooLate is the reason of a refusal to undo which says that the pivot was applied meanwhile; see TooLateBy.
	TooLate string `json:"too_late,omitempty"`
	// Denials are the reasons of refusals that deny an earlier step, by reason; see Denies.
	Denials map[string]string `json:"denials,omitempty"`

	// nothingToUndo was said. By it Define tells "nothing" from "forgotten".
	nothingToUndo bool
	// request makes the step's request; nil for the saga's input.
	request *Request
}

// Do declares a step. It must also say At which participant it is done, and what undoes it.
func Do(name string) Step { return Step{Name: name} }

// Pivot declares the step after which there is no way back. With UndoneBy a person can still have its effect undone: by a run in
// the phase Reversing, and by nothing else.
func Pivot(name string) Step { return Step{Name: name, Pivot: true, nothingToUndo: true} }

// Decision declares that a person may have to decide before the saga goes on. The saga does not know whether that is so: the next
// step answers Held until it is decided, then Applied or TurnedBack. So a decision has no activity, and costs nothing where nobody
// must decide.
func Decision(name string) Step {
	return Step{Name: name, Participant: Operator, Decision: true, nothingToUndo: true}
}

// Operator is the participant of a decision: a person.
const Operator = "operator"

// At says which participant does the step.
func (s Step) At(participant string) Step {
	s.Participant = participant
	return s
}

// UndoneBy names the activity that undoes the step. It is called until it answers Applied. It must answer so for a step that never
// arrived, too: the saga calls it when it does not know.
func (s Step) UndoneBy(compensation string) Step {
	s.Compensation, s.nothingToUndo = compensation, false
	return s
}

// NothingToUndo declares that the step leaves no effect that must go.
func (s Step) NothingToUndo() Step {
	s.Compensation, s.nothingToUndo = "", true
	return s
}

// TooLateBy names the reason by which the step's participant refuses to undo it because the saga has gone on without us. At the
// pivot's participant it means that the pivot was applied, at another that a step after the pivot was.
func (s Step) TooLateBy(reason string) Step {
	s.TooLate = reason
	return s
}

// Denies says that a refusal for this reason denies an earlier step of the same participant. If that step was confirmed, the
// participant has forgotten it, as after a restore from a backup: a person must look, and nothing is undone.
func (s Step) Denies(reason, earlier string) Step {
	s.Denials = maps.Clone(s.Denials)
	if s.Denials == nil {
		s.Denials = make(map[string]string)
	}
	s.Denials[reason] = earlier
	return s
}

// Define checks a saga's name, its version (from 1, one more for each change of the list) and its list, first step first. The error
// tells all that is wrong.
func Define(name string, version int, steps ...Step) (*Definition, error) {
	d, wrong := define(name, version, steps)
	for _, step := range steps {
		if step.request != nil {
			wrong = append(wrong, fmt.Errorf("step %q is asked with what is made from a %s: declare the saga by For, which knows its input", step.Name, step.request.from))
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("define saga %q: %w", name, errors.Join(wrong...))
	}
	return d, nil
}

// define makes a definition and tells all that is wrong with it.
func define(name string, version int, steps []Step) (d *Definition, wrong []error) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if !definitionName.MatchString(name) {
		say("the name must begin with a letter and hold at most 40 of a-z, 0-9 and -")
	}
	if version < 1 {
		say("version is %d, the first is 1", version)
	}
	planned := slices.Clone(steps)
	for i, step := range steps {
		planned[i].nothingToUndo, planned[i].request = false, nil // Only Define needs them; a plan is data.
		switch {
		case step.Name == "" || step.Decision:
		case step.Participant == "":
			say("step %q does not say which participant does it: use At", step.Name)
		case step.Compensation == "" && !step.nothingToUndo:
			say("step %q does not say what undoes it: use UndoneBy with a name, or NothingToUndo", step.Name)
		}
		// These are no faults of a plan: what was accepted once is carried out, whatever new ones must keep to.
		for _, name := range []string{step.Name, step.Compensation, step.Participant} {
			if !isName(name) {
				say("%q is no name: at most 64 bytes are taken, without spaces or control characters", name)
			}
		}
	}
	plan := Plan{Definition: name, Version: version, Steps: planned}
	return &Definition{plan: plan, deadline: DefaultDeadline}, append(wrong, plan.faults()...)
}

// isName tells whether a text can name a step, a compensation or a participant everywhere: participants refuse others, and no list
// could be asked for them.
func isName(name string) bool {
	return len(name) <= 64 && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) })
}

var definitionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// Name is the definition's name.
func (d *Definition) Name() string { return d.plan.Definition }

// Deadline is how long a saga may take until it is undone, unless its start says.
func (d *Definition) Deadline() time.Duration { return d.deadline }

// Plan is the list that a saga accepted now gets.
func (d *Definition) Plan() Plan {
	plan := d.plan
	plan.Steps = slices.Clone(plan.Steps)
	return plan
}
