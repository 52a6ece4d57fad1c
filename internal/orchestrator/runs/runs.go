// Package runs starts the workflow instances that drive a checkout: its runs.
package runs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/saga"
)

// startBudget bounds one start. What it cuts off may have started all the same; the sweeper starts it again, and the engine
// says that it exists.
const startBudget = 3 * time.Second

// ID is the id of a run's workflow instance; it is never used twice.
func ID(orderID string, run int) string {
	return fmt.Sprintf("%s-%d", orderID, run)
}

// Start starts a run of a checkout, which carries out its plan from a phase on. An instance that exists already is the same run, started by somebody whose answer was
// lost.
func Start(ctx context.Context, e engine.Engine, orderID string, run int, phase saga.Phase, plan saga.Plan) error {
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	if phase == saga.Forward {
		phase = ""
	}
	input := saga.Input{Key: orderID, Run: run, Phase: saga.Phase(phase), Plan: plan}
	err := e.Start(ctx, saga.WorkflowName, ID(orderID, run), input)
	if err != nil && !errors.Is(err, engine.ErrExists) {
		return fmt.Errorf("start run %d of %s: %w", run, orderID, err)
	}
	return nil
}
