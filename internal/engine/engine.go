// Package engine is the seam between sagas and what runs their workflows durably: Dapr Workflow (engine/dapr) or durabletask-go in
// this process (engine/embedded). Workflow functions and activities are registered in one task.TaskRegistry that runs on both. It
// knows no saga.
package engine

import (
	"context"
	"errors"

	"github.com/dapr/durabletask-go/api/protos"
)

// What an engine can answer. Any other error means "not known": the caller looks again.
var (
	// ErrExists: an instance with this id was started before, whatever became of it.
	ErrExists = errors.New("a workflow instance with this id exists")
	// ErrGone: the engine knows no such instance.
	ErrGone = errors.New("no such workflow instance")
)

// State is what an engine says of an instance.
type State string

// The states.
const (
	// Running: started, or waiting to be.
	Running State = "running"
	// Completed: its function returned without an error.
	Completed State = "completed"
	// Failed: its function returned an error, or it was terminated.
	Failed State = "failed"
	// Stalled: the engine cannot go on with it, as when its code is of another version.
	Stalled State = "stalled"
)

// Instance is what an engine knows of an instance.
type Instance struct {
	State State
	// Failure is the error of a failed instance.
	Failure string
}

// Engine runs workflows durably. All methods may be called from many goroutines.
type Engine interface {
	// Name is "dapr" or "embedded"; it is kept in each saga's row.
	Name() string

	// Run executes workflows and activities until ctx ends, then finishes the activities in hand (at most 10 s) and
	// returns. It returns an error if it could not begin, if it lost the right to go on, or if an activity ignored that it was
	// cancelled. The other methods work while Run does. Run may be called again when it has returned, not before.
	Run(ctx context.Context) error

	// Start begins an instance of the named workflow; input is marshalled as JSON. ErrExists where the id was used. After
	// any other error the instance may or may not have been started.
	Start(ctx context.Context, workflow, id string, input any) error

	// Raise delivers an event to an instance; it may arrive twice, and is dropped by one that has ended. ErrGone where
	// there is none.
	Raise(ctx context.Context, id, event string, payload any) error

	// Inspect tells the state of an instance. ErrGone where there is none.
	Inspect(ctx context.Context, id string) (Instance, error)

	// History returns the committed events of an instance, oldest first. ErrGone where there is none.
	History(ctx context.Context, id string) ([]*protos.HistoryEvent, error)

	// Purge forgets an instance that has ended; one that has not is left alone with an error. One that the engine does not
	// know is forgotten already.
	Purge(ctx context.Context, id string) error

	// Check tells what is wrong with the engine in a sentence, or nil.
	Check(ctx context.Context) error
}
