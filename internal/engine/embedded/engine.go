// Package embedded runs workflows in this process, with durabletask-go and its PostgreSQL backend in the schema "engine"
// of a database that it may share. One process at a time runs them; its other methods work in any process, but what another
// process starts or raises is noticed by polling, up to a second later.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// Config says where and how an engine works.
type Config struct {
	// DatabaseURL names the database whose schema "engine" holds the state.
	DatabaseURL string
	// Registry holds the workflows and activities. An engine only reads it.
	Registry *task.TaskRegistry
	// Log receives what durabletask-go says.
	Log *slog.Logger
	// Workflows and Activities bound how many turns and activities run at once; zero means 16 and 32. More activities
	// than their own database pool has connections only wait there.
	Workflows, Activities int
}

// Limits of a stop: how long activities in hand are waited for, and how long after being cancelled.
const (
	drainTimeout  = 10 * time.Second
	cancelTimeout = 2 * time.Second
)

// holdEvery is how often to check the session that lets only this process run the engine.
const holdEvery = time.Second

// Engine is engine.Engine in this process.
type Engine struct {
	config Config
	hub    *hub
	client backend.TaskHubClient
}

var _ engine.Engine = (*Engine)(nil)

// Open connects to the database and makes the schema. The caller closes the engine.
func Open(ctx context.Context, config Config) (*Engine, error) {
	if config.Workflows == 0 {
		config.Workflows = 16
	}
	if config.Activities == 0 {
		config.Activities = 32
	}
	h, err := openHub(ctx, config.DatabaseURL, engine.Logger(config.Log), config.Log)
	if err != nil {
		return nil, err
	}
	return &Engine{config: config, hub: h, client: backend.NewTaskHubClient(h)}, nil
}

// Close cuts all connections to the database; a Run that still goes on fails.
func (e *Engine) Close() { e.hub.close() }

// Name implements engine.Engine.
func (e *Engine) Name() string { return "embedded" }

// Run implements engine.Engine. While another process runs the engine it stands by. It also returns an error when it loses the
// database session that lets only this process run the engine. It abandons what is in hand then, because another process may run it
// now; only what was committed before counts.
func (e *Engine) Run(ctx context.Context) error { return pg.Lead(ctx, e.hub.own, runLock, e.work) }

// work runs the engine while session, which holds its lock, lives.
func (e *Engine) work(ctx context.Context, session *pgx.Conn) error {
	if err := e.hub.releaseLocks(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	executor := detached{task.NewTaskExecutor(e.config.Registry), work}
	bound := e.hub.during(work)
	logger := engine.Logger(e.config.Log)
	worker := backend.NewTaskHubWorker(bound,
		backend.NewWorkflowWorker(backend.WorkflowWorkerOptions{Backend: bound, Executor: executor, Logger: logger},
			backend.WithMaxParallelism(int32(e.config.Workflows))),
		backend.NewActivityTaskWorker(bound, executor, logger, backend.WithMaxParallelism(int32(e.config.Activities))),
		logger)
	if err := worker.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start embedded engine: %w", err)
	}
	lost := pg.Hold(ctx, session, holdEvery)
	if lost != nil {
		abandon()
	}

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_ = worker.Shutdown(context.Background())
	}()
	select {
	case <-drained:
		return lost
	case <-time.After(drainTimeout):
	}
	abandon()
	select {
	case <-drained:
		return lost
	case <-time.After(cancelTimeout):
		return errors.Join(lost, errors.New("stop embedded engine: an activity ignores that it is cancelled"))
	}
}

// Start implements engine.Engine.
func (e *Engine) Start(ctx context.Context, workflow, id string, input any) error {
	_, err := e.client.ScheduleNewWorkflow(ctx, workflow, api.WithInstanceID(api.InstanceID(id)), api.WithInput(input))
	if errors.Is(err, api.ErrDuplicateInstance) {
		return engine.ErrExists
	}
	if err != nil {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	return nil
}

// Raise implements engine.Engine.
func (e *Engine) Raise(ctx context.Context, id, event string, payload any) error {
	// The backend would keep an event for an instance that it does not know, for ever.
	instance, err := e.Inspect(ctx, id)
	if err != nil {
		return err
	}
	if instance.State != engine.Running {
		return nil
	}
	if err := e.client.RaiseEvent(ctx, api.InstanceID(id), event, api.WithEventPayload(payload)); err != nil {
		return fmt.Errorf("raise %s to workflow %s: %w", event, id, err)
	}
	return nil
}

// Inspect implements engine.Engine.
func (e *Engine) Inspect(ctx context.Context, id string) (engine.Instance, error) {
	metadata, err := e.client.FetchWorkflowMetadata(ctx, api.InstanceID(id))
	if errors.Is(err, api.ErrInstanceNotFound) {
		return engine.Instance{}, engine.ErrGone
	}
	if err != nil {
		return engine.Instance{}, fmt.Errorf("inspect workflow %s: %w", id, err)
	}
	return engine.InstanceOf(metadata), nil
}

// History implements engine.Engine.
func (e *Engine) History(ctx context.Context, id string) ([]*protos.HistoryEvent, error) {
	if _, err := e.Inspect(ctx, id); err != nil {
		return nil, err
	}
	history, err := e.hub.GetInstanceHistory(ctx, &protos.GetInstanceHistoryRequest{InstanceId: id})
	if err != nil {
		return nil, fmt.Errorf("read history of workflow %s: %w", id, err)
	}
	return history.GetEvents(), nil
}

// Purge implements engine.Engine.
func (e *Engine) Purge(ctx context.Context, id string) error {
	_, err := e.hub.PurgeWorkflowState(ctx, api.InstanceID(id), nil, false)
	if err != nil && !errors.Is(err, api.ErrInstanceNotFound) {
		return fmt.Errorf("purge workflow %s: %w", id, err)
	}
	return nil
}

// Check implements engine.Engine.
func (e *Engine) Check(ctx context.Context) error {
	var running bool
	if err := e.hub.own.QueryRow(ctx, sqlIsRun, runLock).Scan(&running); err != nil {
		return fmt.Errorf("the embedded engine cannot reach its database: %w", err)
	}
	if !running {
		return errors.New("no process runs the embedded engine on this database")
	}
	return nil
}

// detached executes activities and turns that live as long as work does, not as long as the caller's context: the workers
// cancel what they have in hand as soon as they are told to stop, and this lets it finish.
type detached struct {
	backend.Executor
	work context.Context
}

func (d detached) ExecuteActivity(ctx context.Context, id api.InstanceID, e *protos.HistoryEvent, opts backend.ExecuteOptions) (*protos.HistoryEvent, error) {
	ctx, cancel := detach(ctx, d.work)
	defer cancel()
	return d.Executor.ExecuteActivity(ctx, id, e, opts)
}

func (d detached) ExecuteWorkflow(ctx context.Context, id api.InstanceID, old, recent []*protos.HistoryEvent, opts backend.ExecuteOptions) (*protos.WorkflowResponse, error) {
	ctx, cancel := detach(ctx, d.work)
	defer cancel()
	return d.Executor.ExecuteWorkflow(ctx, id, old, recent, opts)
}

// detach returns a context with the values of ctx that ends with work.
func detach(ctx, work context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(work, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
