package saga

import (
	"errors"
	"fmt"

	"github.com/dapr/durabletask-go/task"
)

// Saga is a checked list of steps. It is made by New and does not change.
type Saga struct {
	steps []Declared
}

// Declared is a step as it was declared by Step or Pivot.
type Declared struct {
	// Name is the step's name and that of the activity that does it. It stands in histories: renaming it is a migration.
	Name string
	// UndoneBy names the activity that makes the step's effect be gone; empty where there is nothing to undo. The pivot's is
	// called in the phase Reversing only.
	UndoneBy string
	// Pivot marks the step that ends every way back but its own refusal.
	Pivot bool
	// Decision marks what is no step at a participant but a person's word, for which the step behind it waits.
	Decision bool

	// undo is what was said about undoing, kept apart so that New can tell "nothing" from "not said".
	undo Undo
}

// Undo says what becomes of a step when the saga turns back; see UndoneBy and NothingToUndo.
type Undo struct {
	activity string
	nothing  bool
}

// UndoneBy names the activity that undoes a step. It is called until it answers Applied, and it must also answer so for a
// step that never arrived: the saga calls it when it does not know.
func UndoneBy(activity string) Undo { return Undo{activity: activity} }

// NothingToUndo declares that a step leaves nothing that would have to go.
func NothingToUndo() Undo { return Undo{nothing: true} }

// Step declares a step with what undoes it.
func Step(name string, undo Undo) Declared {
	return Declared{Name: name, UndoneBy: undo.activity, undo: undo}
}

// Pivot declares the step after which there is no way back.
func Pivot(name string) Declared {
	return Declared{Name: name, Pivot: true, undo: NothingToUndo()}
}

// PivotUndoneBy declares a pivot whose effect can be taken back all the same, if somebody decides so: by a run in the phase
// Reversing, and by nothing else.
func PivotUndoneBy(name, activity string) Declared {
	return Declared{Name: name, Pivot: true, UndoneBy: activity, undo: UndoneBy(activity)}
}

// Decision declares that somebody may have to decide before the saga goes on. Whether that is so is not the saga's to know: the
// step behind it answers Held until it is decided, Applied or TurnedBack after that. So it has no activity, and costs nothing where
// nobody has to decide.
func Decision(name string) Declared {
	return Declared{Name: name, Decision: true, undo: NothingToUndo()}
}

// New checks a list of steps, first step first. The error tells all that is wrong with it.
func New(steps ...Declared) (*Saga, error) {
	var wrong []error
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if len(steps) == 0 {
		say("no steps")
	}
	pivot := ""
	names := make(map[string]bool)
	claim := func(name string) {
		if names[name] {
			say("name %q is used twice: the activities of a saga are told apart by name", name)
		}
		names[name] = true
	}
	for i, step := range steps {
		if step.Name == "" {
			say("step %d has no name", i+1)
			continue
		}
		claim(step.Name)
		switch {
		case step.undo == Undo{} && step.Pivot:
			say("pivot %q does not say what undoes it: use Pivot, or PivotUndoneBy with a name", step.Name)
		case step.undo == Undo{}:
			say("step %q does not say what undoes it: use UndoneBy with a name, or NothingToUndo", step.Name)
		case step.Decision && i == len(steps)-1:
			say("decision %q has no step behind it that could wait for it", step.Name)
		case step.Pivot && pivot != "":
			say("pivot %q: the saga has a pivot already, %q", step.Name, pivot)
		case step.Pivot:
			pivot = step.Name
		case step.UndoneBy != "" && pivot != "":
			say("step %q is undone by %q, but stands after the pivot %q, where nothing is undone: use NothingToUndo",
				step.Name, step.UndoneBy, pivot)
		}
		if step.UndoneBy != "" {
			claim(step.UndoneBy)
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("declare saga: %w", errors.Join(wrong...))
	}
	return &Saga{steps: append([]Declared(nil), steps...)}, nil
}

// Steps lists the steps as they were declared.
func (s *Saga) Steps() []Declared { return append([]Declared(nil), s.steps...) }

// Activities lists the names of all activities that the saga calls: each step's, followed by what undoes it.
func (s *Saga) Activities() []string {
	var names []string
	for _, step := range s.steps {
		if step.Decision {
			continue
		}
		names = append(names, step.Name)
		if step.UndoneBy != "" {
			names = append(names, step.UndoneBy)
		}
	}
	return names
}

// Workflow returns the saga as a workflow function, to be registered under a name of its own. Zero fields of the policy
// take their defaults.
func (s *Saga) Workflow(policy Policy) (task.Workflow, error) {
	policy = policy.withDefaults()
	if err := policy.validate(); err != nil {
		return nil, err
	}
	if n := s.longestRun(); policy.MaxAttemptsPerRun <= n {
		return nil, fmt.Errorf("policy: MaxAttemptsPerRun is %d, but a run without any trouble may need %d", policy.MaxAttemptsPerRun, n)
	}
	return guard(func(ctx *task.WorkflowContext) (any, error) {
		r, err := begin(ctx, policy)
		if err != nil {
			return nil, err
		}
		end, err := r.drive(s)
		if err != nil {
			return nil, err
		}
		return Result{End: end}, nil
	}), nil
}

// longestRun is how many activities a run may call that meets no trouble: all, but what undoes the pivot, which belongs to runs
// of its own.
func (s *Saga) longestRun() int {
	n := len(s.Activities())
	for _, step := range s.steps {
		if step.Pivot && step.UndoneBy != "" {
			n--
		}
	}
	return n
}

// split returns the steps that a run beginning in the phase takes as done, and those it has to try.
func (s *Saga) split(phase Phase) (done, todo []Declared, err error) {
	if phase == Forward || phase == "" {
		return nil, s.steps, nil
	}
	pivot := len(s.steps)
	for i, step := range s.steps {
		if step.Pivot {
			pivot = i
		}
	}
	switch {
	case phase == Undoing:
		return s.steps[:pivot], nil, nil
	case phase == Reversing && pivot < len(s.steps) && s.steps[pivot].UndoneBy != "":
		// The pivot's effect goes last: what stands before it may be what somebody gets for it, and must be gone for good first.
		return append([]Declared{s.steps[pivot]}, s.steps[:pivot]...), nil, nil
	case phase == Reversing:
		return nil, nil, stop(ErrInput, "phase is reversing, but the saga has no pivot that could be undone")
	case phase == Pivoted && pivot < len(s.steps):
		return s.steps[:pivot], s.steps[pivot:], nil
	case phase == Pivoted:
		return nil, nil, stop(ErrInput, "phase is pivoted, but the saga has no pivot")
	default:
		return nil, nil, stop(ErrInput, fmt.Sprintf("unknown phase %q", phase))
	}
}
