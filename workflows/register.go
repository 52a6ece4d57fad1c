package workflows

import (
	"fmt"

	"github.com/dapr/durabletask-go/task"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Register adds the checkout saga to a registry that runs on either engine. The zero policy takes saga's defaults.
func Register(registry *task.TaskRegistry, policy saga.Policy) error {
	declared, err := Checkout()
	if err != nil {
		return fmt.Errorf("register %s: %w", checkout.Workflow, err)
	}
	workflow, err := declared.Workflow(policy)
	if err != nil {
		return fmt.Errorf("register %s: %w", checkout.Workflow, err)
	}
	if err := registry.AddWorkflowN(checkout.Workflow, workflow); err != nil {
		return fmt.Errorf("register %s: %w", checkout.Workflow, err)
	}
	return nil
}
