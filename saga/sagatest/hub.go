package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/backend/sqlite"
	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/saga"
)

const (
	eventName = saga.CommandEvent
	// patience is how long a run on a hub may take; the policy's waits are real there.
	patience = 30 * time.Second
)

// Running is a run on an in-process task hub.
type Running struct {
	t       testing.TB
	id      api.InstanceID
	backend backend.Backend
	client  backend.TaskHubClient
}

// Start runs the scenario with the real client and an in-process task hub (SQLite in memory). Time is real, so give it a policy
// with short waits. The hub stops when the test ends. One goroutine stays: that of the library's database handle, which it never
// closes (database/sql.(*DB).connectionOpener).
func (s Scenario) Start(t testing.TB) *Running {
	t.Helper()
	run, err := s.prepare()
	require.NoError(t, err)
	logger := quiet{t}
	be := sqlite.NewSqliteBackend(sqlite.NewSqliteOptions(""), logger)
	r := &Running{t: t, id: run.id, backend: be, client: backend.NewTaskHubClient(be)}

	script := &scripted{running: r, scenario: s, asked: make(map[string]int)}
	for _, name := range s.Saga.Plan().Activities() {
		require.NoError(t, run.registry.AddActivityN(name, script.activity(name)))
	}
	executor := task.NewTaskExecutor(run.registry)
	hub := backend.NewTaskHubWorker(be,
		backend.NewWorkflowWorker(backend.WorkflowWorkerOptions{Backend: be, Executor: executor, Logger: logger}),
		backend.NewActivityTaskWorker(be, executor, logger),
		logger)
	require.NoError(t, hub.Start(context.Background()))
	t.Cleanup(func() { require.NoError(t, hub.Shutdown(context.Background())) })

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = r.client.ScheduleNewWorkflow(ctx, saga.WorkflowName, api.WithInstanceID(run.id), api.WithInput(run.input))
	require.NoError(t, err)
	return r
}

// Raise sends a payload to the saga's mailbox.
func (r *Running) Raise(payload any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.client.RaiseEvent(ctx, r.id, eventName, api.WithRawEventData(wrapperspb.String(encode(payload)))); err != nil {
		return fmt.Errorf("raise command: %w", err)
	}
	return nil
}

// Wait returns when the run has ended.
func (r *Running) Wait() Played {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := r.client.WaitForWorkflowCompletion(ctx, r.id)
	require.NoError(r.t, err, "run %s did not end", r.id)
	response, err := r.backend.GetInstanceHistory(ctx, &protos.GetInstanceHistoryRequest{InstanceId: string(r.id)})
	require.NoError(r.t, err)
	return ended(response.GetEvents())
}

// scripted gives the script's answers on a hub, whose activities may run in several goroutines.
type scripted struct {
	running  *Running
	scenario Scenario

	mu    sync.Mutex
	asked map[string]int
}

func (s *scripted) activity(name string) task.Activity {
	return func(ctx task.ActivityContext) (any, error) {
		var call saga.Call
		if err := ctx.GetInput(&call); err != nil {
			return nil, fmt.Errorf("read call: %w", err)
		}
		s.mu.Lock()
		a := s.scenario.Script.answer(name, s.asked[name], call)
		s.asked[name]++
		s.mu.Unlock()
		// An event raised before the answer may still come after it, and the other way round. Play is for tests that mind.
		for _, payload := range append(append([]any(nil), a.Meanwhile...), a.Then...) {
			if err := s.running.Raise(payload); err != nil {
				return nil, err
			}
		}
		s.scenario.answered(name, call, a)
		if a.Err != "" {
			return nil, errors.New(a.Err)
		}
		return a.Reply, nil
	}
}

// Raw is a payload that is sent as it is, so that it need not be JSON.
type Raw string

// encode panics if a payload cannot be JSON: that is a mistake in the test.
func encode(v any) string {
	if raw, ok := v.(Raw); ok {
		return string(raw)
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode payload: %v", err))
	}
	return string(text)
}

// quiet passes on what the hub warns of.
type quiet struct{ t testing.TB }

func (quiet) Debug(...any)                     {}
func (quiet) Debugf(string, ...any)            {}
func (quiet) Info(...any)                      {}
func (quiet) Infof(string, ...any)             {}
func (q quiet) Warn(v ...any)                  { q.t.Log(v...) }
func (q quiet) Warnf(format string, v ...any)  { q.t.Logf(format, v...) }
func (q quiet) Error(v ...any)                 { q.t.Log(v...) }
func (q quiet) Errorf(format string, v ...any) { q.t.Logf(format, v...) }
