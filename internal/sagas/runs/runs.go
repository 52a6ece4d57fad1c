// Package runs starts and wakes the workflow instances that drive a saga: its runs.
package runs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// budget bounds one start, and one word to a run. What it cuts off may have been done all the same; the sweeper starts again what
// does not go on, and the engine says that it exists.
const budget = 3 * time.Second

// ID is the id of a run's workflow instance; it is never used twice. No definition's name has a dot, so no two sagas share one.
func ID(id saga.ID, run int) string {
	return fmt.Sprintf("%s.%s-%d", id.Definition, id.Key, run)
}

// Start starts a run of a saga, which carries out its plan from a phase on. An instance that exists already is the same run, started by
// somebody whose answer was lost.
func Start(ctx context.Context, e engine.Engine, id saga.ID, run int, phase saga.Phase, plan saga.Plan) error {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	if phase == saga.Forward {
		phase = ""
	}
	err := e.Start(ctx, saga.WorkflowName, ID(id, run), saga.Input{Key: id.Key, Run: run, Phase: phase, Plan: plan})
	if err != nil && !errors.Is(err, engine.ErrExists) {
		return fmt.Errorf("start run %d of %s: %w", run, id, err)
	}
	return nil
}

// Runs are those that somebody who has written a row wants started or woken. That it fails costs time only: the sweeper starts what
// was not started, and a run's next attempt reads the row all the same.
type Runs struct {
	Engine engine.Engine
	Log    *slog.Logger
}

// Begin asks the engine for the saga's run.
func (r Runs) Begin(ctx context.Context, s store.Saga) {
	if s.Engine != r.Engine.Name() {
		return // That one's sweeper starts it.
	}
	// Not the caller's cancellation: that they hang up is no reason not to start what was accepted.
	if err := Start(context.WithoutCancel(ctx), r.Engine, s.ID(), s.Run, s.RunPhase(), s.Plan); err != nil {
		r.Log.Warn("the run was not started; the sweeper starts it",
			"saga", s.Plan.Definition, "key", s.Key, "workflow_id", ID(s.ID(), s.Run), "error", err)
	}
}

// Wake tells a run that waits that there is something to be read from the row: what an operator asked for, which is of a kind.
func (r Runs) Wake(ctx context.Context, steered store.Steered, kind string) {
	s := steered.Saga
	if steered.CommandID == "" || s.Engine != r.Engine.Name() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
	defer cancel()
	id := ID(s.ID(), s.Run)
	err := r.Engine.Raise(ctx, id, saga.CommandEvent, saga.Command{ID: steered.CommandID, Kind: kind})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		r.Log.Warn("the run was not woken; its next attempt sees what is asked",
			"saga", s.Plan.Definition, "key", s.Key, "workflow_id", id, "error", err)
	}
}
