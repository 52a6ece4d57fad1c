// Package embedded runs workflows in this process. What happens to an instance is added to a log in PostgreSQL, in the schema "engine" of a
// database that it shares, in transactions that it shares (internal/commit); its state is kept in memory. durabletask-go carries out the
// workflows' code. One process at a time runs instances. The other methods work in any process: what they bring lies in an inbox
// until the process that runs the engine takes it.
package embedded

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

//go:embed migrations
var files embed.FS

// Migrations make the engine's tables.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(files, "engine_migrations") }

// ErrLost means that another process runs the engine now, so that nothing was written.
var ErrLost = errors.New("another process has taken over the embedded engine")

// Config says where and how an engine works.
type Config struct {
	// Pool is the database with the engine's tables.
	Pool *pgxpool.Pool
	// Committer commits for Pool.
	Committer *commit.Committer
	// Registry holds the workflows and activities. An engine only reads it.
	Registry *task.TaskRegistry
	Log      *slog.Logger
	// Activities bounds how many activities run at once; zero means 64. Too few let participants that are slow hold up all others, too
	// many only wait for each other.
	Activities int
}

// Engine is engine.Engine in this process.
type Engine struct {
	config Config
	table  *table

	// running is what this process runs; nil while it does not. Whoever puts something into the inbox for want of it holds the lock for
	// reading, so that nothing that comes later overtakes it.
	mu      sync.RWMutex
	running *runner
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine on a database that has its tables.
func New(config Config) *Engine {
	if config.Activities == 0 {
		config.Activities = 64
	}
	return &Engine{config: config, table: &table{}}
}

// Name implements engine.Engine.
func (e *Engine) Name() string { return "embedded" }

// Run implements engine.Engine. While another process runs the engine it stands by. It returns an error too when it loses the
// database session that says that only this process runs the engine, or finds that another one does: what is in hand is abandoned
// then, and nothing of it counts that was not committed before.
func (e *Engine) Run(ctx context.Context) error { return pg.Lead(ctx, e.config.Pool, runLock, e.work) }

// Start implements engine.Engine. Of two processes that start the same id in the same instant both may be told that they did; one
// instance comes of it.
func (e *Engine) Start(ctx context.Context, workflow, id string, input any) error {
	var request protos.CreateInstanceRequest
	if err := api.WithInput(input)(&request); err != nil {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	event := newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_ExecutionStarted{ExecutionStarted: &protos.ExecutionStartedEvent{
		Name: workflow, Input: request.Input,
		WorkflowInstance: &protos.WorkflowInstance{InstanceId: id, ExecutionId: wrapperspb.String(uuid.NewString())},
	}}})
	err := e.bring(ctx, (*runner).start, sqlPostStart, id, event)
	if err != nil {
		return fmt.Errorf("start workflow %s: %w", id, err)
	}
	return nil
}

// Raise implements engine.Engine.
func (e *Engine) Raise(ctx context.Context, id, event string, payload any) error {
	var request protos.RaiseEventRequest
	if err := api.WithEventPayload(payload)(&request); err != nil {
		return fmt.Errorf("raise %s to workflow %s: %w", event, id, err)
	}
	raised := newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_EventRaised{EventRaised: &protos.EventRaisedEvent{
		Name: event, Input: request.Input,
	}}})
	err := e.bring(ctx, (*runner).raise, sqlPostEvent, id, raised)
	if err != nil && !errors.Is(err, errEnded) {
		return fmt.Errorf("raise %s to workflow %s: %w", event, id, err)
	}
	return nil
}

// bring brings an event to an instance here, or puts it into the inbox where another process runs the engine.
func (e *Engine) bring(ctx context.Context, here bringing, post, id string, event *protos.HistoryEvent) error {
	for {
		e.mu.RLock()
		r := e.running
		if r == nil {
			defer e.mu.RUnlock()
			return e.post(ctx, post, id, event)
		}
		e.mu.RUnlock()
		if err := r.bring(ctx, here, id, event); !errors.Is(err, ErrLost) {
			return err
		}
		e.stop(r)
	}
}

// begin takes note that this process runs the engine, stop that it does no longer.
func (e *Engine) begin(r *runner) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = r
}

func (e *Engine) stop(r *runner) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == r {
		e.running = nil
	}
}

// newEvent dates an event from outside of a workflow.
func newEvent(e *protos.HistoryEvent) *protos.HistoryEvent {
	e.EventId, e.Timestamp = -1, timestamppb.Now()
	return e
}

// Check implements engine.Engine.
func (e *Engine) Check(ctx context.Context) error {
	var running bool
	if err := e.config.Pool.QueryRow(ctx, sqlIsRun, runLock).Scan(&running); err != nil {
		return fmt.Errorf("the embedded engine cannot reach its database: %w", err)
	}
	if !running {
		return errors.New("no process runs the embedded engine on this database")
	}
	return nil
}

// runLock is the PostgreSQL advisory lock of the process that runs the engine.
const runLock int64 = 0x6368656b6f757401

const sqlIsRun = `
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = $1)`
