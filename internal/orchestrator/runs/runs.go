// Package runs starts the workflow instances that drive a checkout: its runs.
package runs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
)

// startBudget bounds one start. What it cuts off may have started all the same; the sweeper starts it again, and the engine
// says that it exists.
const startBudget = 3 * time.Second

// ID is the id of a run's workflow instance; it is never used twice.
func ID(orderID string, run int) string {
	return fmt.Sprintf("%s-%d", orderID, run)
}

// input is the input of the checkout workflow: what saga reads as its Input.
type input struct {
	Key   string         `json:"key"`
	Run   int            `json:"run"`
	Phase checkout.Phase `json:"phase,omitempty"`
}

// Start starts a run of a checkout. An instance that exists already is the same run, started by somebody whose answer was
// lost.
func Start(ctx context.Context, e engine.Engine, orderID string, run int, phase checkout.Phase) error {
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	if phase == checkout.Forward {
		phase = ""
	}
	err := e.Start(ctx, checkout.Workflow, ID(orderID, run), input{Key: orderID, Run: run, Phase: phase})
	if err != nil && !errors.Is(err, engine.ErrExists) {
		return fmt.Errorf("start run %d of %s: %w", run, orderID, err)
	}
	return nil
}
