package saga

import (
	"fmt"
	"maps"
	"slices"
)

// Plan is the list of one saga, fixed when the saga was accepted. It stands in the saga's row and in the input of each run, so a
// changed definition changes no saga under way. It is a stored format, as Step is.
type Plan struct {
	// Definition and Version tell whose list it is.
	Definition string `json:"definition"`
	Version    int    `json:"version"`
	// Steps are done in this order.
	Steps []Step `json:"steps"`
}

// WithoutDecision is the plan if nobody has to decide.
func (p Plan) WithoutDecision() Plan {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Decision })
	return p
}

// Index is the place of the step with this name; -1 if there is none.
func (p Plan) Index(name string) int {
	return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Name == name })
}

// Pivot is the place of the pivot; -1 if there is none.
func (p Plan) Pivot() int { return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Pivot }) }

// Participants are those that do the steps, each once, in the order of their first step.
func (p Plan) Participants() (names []string) {
	for _, step := range p.Steps {
		if !step.Decision && !slices.Contains(names, step.Participant) {
			names = append(names, step.Participant)
		}
	}
	return names
}

// Names are the names of all places of the plan: each step's, followed by its compensation's.
func (p Plan) Names() (names []string) {
	for _, step := range p.Steps {
		names = append(names, step.Name)
		if step.Compensation != "" {
			names = append(names, step.Compensation)
		}
	}
	return names
}

// Named is the step that has this name, or whose compensation has it; undo tells which.
func (p Plan) Named(name string) (step Step, undo, ok bool) {
	for _, s := range p.Steps {
		if s.Name == name || s.Compensation == name && name != "" {
			return s, s.Name != name, true
		}
	}
	return Step{}, false, false
}

// Activities are the names of all activities that runs of the plan call: each step's, followed by what undoes it.
func (p Plan) Activities() (names []string) {
	for _, step := range p.Steps {
		if !step.Decision {
			names = append(names, step.Name)
		}
		if step.Compensation != "" {
			names = append(names, step.Compensation)
		}
	}
	return names
}

// longestRun is how many activities a run without trouble calls at most: all but the pivot's compensation, which runs of its own
// call.
func (p Plan) longestRun() int {
	n := len(p.Activities())
	if i := p.Pivot(); i >= 0 && p.Steps[i].Compensation != "" {
		n--
	}
	return n
}

// faults are all reasons why no run could carry out the plan.
func (p Plan) faults() (wrong []error) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if len(p.Steps) == 0 {
		say("no steps")
	}
	pivot, decision := "", ""
	names := make(map[string]bool)
	claim := func(name string) {
		if names[name] {
			say("name %q is used twice: the activities of a saga are told apart by name", name)
		}
		names[name] = true
	}
	for i, step := range p.Steps {
		if step.Name == "" {
			say("step %d has no name", i+1)
			continue
		}
		claim(step.Name)
		switch {
		case step.Decision && i == len(p.Steps)-1:
			say("decision %q has no step behind it that could wait for it", step.Name)
		case step.Decision && i == 0:
			say("decision %q stands first, where nothing is held that it could be about", step.Name)
		case step.Decision && pivot != "":
			say("decision %q stands after the pivot %q, where there is no way back", step.Name, pivot)
		case step.Decision && decision != "":
			say("decision %q: the saga has a decision already, %q", step.Name, decision)
		case step.Decision && step.Compensation != "":
			say("decision %q is undone by %q, but nothing is done by it", step.Name, step.Compensation)
		case step.Pivot && pivot != "":
			say("pivot %q: the saga has a pivot already, %q", step.Name, pivot)
		case step.Pivot:
			pivot = step.Name
		case step.Compensation != "" && pivot != "":
			say("step %q is undone by %q, but stands after the pivot %q, where nothing is undone: use NothingToUndo",
				step.Name, step.Compensation, pivot)
		}
		if step.Decision {
			decision = step.Name
		}
		if step.Compensation != "" {
			claim(step.Compensation)
		}
		for _, reason := range slices.Sorted(maps.Keys(step.Denials)) {
			if earlier := p.Index(step.Denials[reason]); earlier < 0 || earlier >= i {
				say("step %q denies %q by reason %q, but no earlier step has that name", step.Name, step.Denials[reason], reason)
			}
		}
	}
	return wrong
}

// from returns the steps that a run beginning in the phase takes as done, and those it has to try.
func (p Plan) from(phase Phase) (done, todo []Step, err error) {
	if phase == Forward || phase == "" {
		return nil, p.Steps, nil
	}
	pivot := p.Pivot()
	if phase == Undoing {
		if pivot < 0 {
			pivot = len(p.Steps)
		}
		return p.Steps[:pivot], nil, nil
	}
	switch {
	case phase != Reversing && phase != Pivoted:
		return nil, nil, stop(ErrInput, fmt.Sprintf("unknown phase %q", phase))
	case pivot < 0:
		return nil, nil, stop(ErrInput, fmt.Sprintf("phase is %s, but the saga has no pivot", phase))
	case phase == Pivoted:
		return p.Steps[:pivot], p.Steps[pivot:], nil
	case p.Steps[pivot].Compensation == "":
		return nil, nil, stop(ErrInput, fmt.Sprintf("phase is %s, but the saga has no pivot that could be undone", phase))
	}
	// The pivot's effect goes last: a step before it may be what somebody gets for the pivot, and must be gone for good first.
	return append([]Step{p.Steps[pivot]}, p.Steps[:pivot]...), nil, nil
}
