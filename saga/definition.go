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
	// accept makes of an input what is kept; nil where any input is taken as it is.
	accept func(json.RawMessage) (Accepted, error)
}

// Step is one step as it was declared: what is done at which participant, and what undoes it. It is made by Do, Pivot or
// Decision, and is part of a stored format: fields are only added, and the zero value of a new one means what was meant before it was
// there.
type Step struct {
	// Name is the step's name and that of the activity that does it. It stands in histories and rows.
	Name string `json:"name"`
	// Participant is who does and undoes it; Operator for a decision.
	Participant string `json:"participant,omitempty"`
	// Compensation names what makes the step's effect be gone; empty where there is nothing to undo. The pivot's is called in the
	// phase Reversing only.
	Compensation string `json:"compensation,omitempty"`
	// Pivot marks the step that ends every way back but its own refusal.
	Pivot bool `json:"pivot,omitempty"`
	// Decision marks what is no step at a participant but a person's word, for which the step behind it waits.
	Decision bool `json:"decision,omitempty"`
	// TooLate is the reason of a refusal to undo the step that says that the pivot was applied meanwhile; see TooLateBy.
	TooLate string `json:"too_late,omitempty"`
	// Denials are the reasons of refusals that deny an earlier step, by reason; see Denies.
	Denials map[string]string `json:"denials,omitempty"`

	// nothingToUndo was said, so that Define can tell it from what was forgotten.
	nothingToUndo bool
	// request is what the step is asked with; nil for the saga's input.
	request *Request
}

// Do declares a step, which must say At which participant it is done and what undoes it.
func Do(name string) Step { return Step{Name: name} }

// Pivot declares the step after which there is no way back. With UndoneBy its effect can be taken back all the same, if somebody
// decides so: by a run in the phase Reversing, and by nothing else.
func Pivot(name string) Step { return Step{Name: name, Pivot: true, nothingToUndo: true} }

// Decision declares that somebody may have to decide before the saga goes on. Whether that is so is not the saga's to know: the
// step behind it answers Held until it is decided, Applied or TurnedBack after that. So it has no activity, and costs nothing where
// nobody has to decide.
func Decision(name string) Step {
	return Step{Name: name, Participant: Operator, Decision: true, nothingToUndo: true}
}

// Operator stands for a person where the others are participants.
const Operator = "operator"

// At says which participant does the step.
func (s Step) At(participant string) Step {
	s.Participant = participant
	return s
}

// UndoneBy names the activity that undoes the step. It is called until it answers Applied, and it must also answer so for a
// step that never arrived: the saga calls it when it does not know.
func (s Step) UndoneBy(compensation string) Step {
	s.Compensation, s.nothingToUndo = compensation, false
	return s
}

// NothingToUndo declares that the step leaves nothing that would have to go.
func (s Step) NothingToUndo() Step {
	s.Compensation, s.nothingToUndo = "", true
	return s
}

// TooLateBy says by which reason the step's participant refuses to undo it once the saga has gone on without us: at the pivot's own
// participant that the pivot was applied, at another that what stands behind the pivot was.
func (s Step) TooLateBy(reason string) Step {
	s.TooLate = reason
	return s
}

// Denies says that a refusal of the step for this reason denies an earlier step of the same participant. Where that step was
// confirmed, the participant no longer knows what it did, as one that was restored from a backup: that is for a person to look at,
// and nothing is undone.
func (s Step) Denies(reason, earlier string) Step {
	s.Denials = maps.Clone(s.Denials)
	if s.Denials == nil {
		s.Denials = make(map[string]string)
	}
	s.Denials[reason] = earlier
	return s
}

// Define checks a saga's name, its version (from 1, one more for each change of the list) and its list, first step first. The error
// tells all that is wrong with it.
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
		planned[i].nothingToUndo, planned[i].request = false, nil // Said once; a plan is nothing but its data.
		switch {
		case step.Name == "" || step.Decision:
		case step.Participant == "":
			say("step %q does not say which participant does it: use At", step.Name)
		case step.Compensation == "" && !step.nothingToUndo:
			say("step %q does not say what undoes it: use UndoneBy with a name, or NothingToUndo", step.Name)
		}
		// Not among the plan's own faults: a plan that was accepted once is carried out, whatever is asked of new ones.
		for _, name := range []string{step.Name, step.Compensation, step.Participant} {
			if !isName(name) {
				say("%q is no name: at most 64 bytes are taken, without spaces or control characters", name)
			}
		}
	}
	plan := Plan{Definition: name, Version: version, Steps: planned}
	return &Definition{plan: plan, deadline: DefaultDeadline}, append(wrong, plan.faults()...)
}

// isName tells what names a step, a compensation or a participant on every way that it goes: participants refuse others, and no list
// could be asked for them.
func isName(name string) bool {
	return len(name) <= 64 && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) })
}

var definitionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// Name is the definition's name.
func (d *Definition) Name() string { return d.plan.Definition }

// Deadline is how long a saga may take until it is undone, where its start does not say.
func (d *Definition) Deadline() time.Duration { return d.deadline }

// Plan is the definition's list as a saga that is accepted now gets it.
func (d *Definition) Plan() Plan {
	plan := d.plan
	plan.Steps = slices.Clone(plan.Steps)
	return plan
}
