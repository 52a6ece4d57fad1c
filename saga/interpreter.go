package saga

import (
	"errors"
	"fmt"

	"github.com/dapr/durabletask-go/task"
)

// WorkflowName is the name under which Register adds the interpreter. It stands in histories.
const WorkflowName = "saga"

// Register adds the interpreter to a registry: the one workflow that carries out the plans of all sagas. Zero fields of the policy
// take their defaults.
func Register(registry *task.TaskRegistry, policy Policy) error {
	workflow, err := interpreter(policy)
	if err != nil {
		return fmt.Errorf("register workflow %s: %w", WorkflowName, err)
	}
	if err := registry.AddWorkflowN(WorkflowName, workflow); err != nil {
		return fmt.Errorf("register workflow %s: %w", WorkflowName, err)
	}
	return nil
}

func interpreter(policy Policy) (task.Workflow, error) {
	policy = policy.withDefaults()
	if err := policy.validate(); err != nil {
		return nil, err
	}
	return guard(func(ctx *task.WorkflowContext) (any, error) {
		r, err := begin(ctx, policy)
		if err != nil {
			return nil, err
		}
		end, err := r.drive()
		if err != nil {
			return nil, err
		}
		return Result{End: end}, nil
	}), nil
}

func begin(ctx *task.WorkflowContext, policy Policy) (*run, error) {
	r := &run{ctx: ctx, policy: policy, seen: make(map[string]bool)}
	if err := ctx.GetInput(&r.input); err != nil {
		return nil, stop(ErrInput, err.Error())
	}
	if r.input.Key == "" {
		return nil, stop(ErrInput, "no key")
	}
	if wrong := r.input.Plan.faults(); len(wrong) > 0 {
		return nil, stop(ErrInput, errors.Join(wrong...).Error())
	}
	r.attempts = max(policy.MaxAttemptsPerRun, r.input.Plan.longestRun()+1)
	return r, nil
}
