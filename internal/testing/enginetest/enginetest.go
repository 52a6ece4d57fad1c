// Package enginetest holds the suite that every engine passes, on the real thing.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
)

// Opened is an engine under test.
type Opened struct {
	engine.Engine
	// Cut ends all its connections at once, as the end of its process would. It may be called twice.
	Cut func()
}

// Open opens an engine. All engines that one Open opens share their state, like processes one after the other.
type Open func(t *testing.T, registry *task.TaskRegistry) Opened

// recovery is how soon work must go on after an engine was cut off. I8 allows 10 s embedded and more on Dapr.
const recovery = 10 * time.Second

// Run runs the suite.
func Run(t *testing.T, open Open) {
	t.Run("an instance runs to its end and tells its history in order", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "double", id, 21))
		e.await(t, id, engine.Completed)

		history, err := e.History(t.Context(), id)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff([]string{"started", "scheduled", "completed task", "completed"}, kinds(history)))
		require.Equal(t, "42", result(history))
	})

	t.Run("an id that was started is refused, running or ended", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "wait", id, nil))
		require.ErrorIs(t, e.Start(t.Context(), "wait", id, nil), engine.ErrExists)
		e.await(t, id, engine.Running)
		require.ErrorIs(t, e.Start(t.Context(), "wait", id, nil), engine.ErrExists)
		require.NoError(t, e.Raise(t.Context(), id, "go", "on"))
		e.await(t, id, engine.Completed)
		require.ErrorIs(t, e.Start(t.Context(), "wait", id, nil), engine.ErrExists)
		e.await(t, id, engine.Completed)
	})

	t.Run("an event reaches its instance, and nobody after its end", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "wait", id, nil))
		require.NoError(t, e.Raise(t.Context(), id, "go", "on"))
		e.await(t, id, engine.Completed)
		history, err := e.History(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, `"on"`, result(history))
		require.NoError(t, e.Raise(t.Context(), id, "go", "again"))
	})

	t.Run("events arrive in the order in which they were raised", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "collect", id, 20))
		for n := range 20 {
			require.NoError(t, e.Raise(t.Context(), id, "n", n))
		}
		e.await(t, id, engine.Completed)
		history, err := e.History(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]", result(history))
	})

	t.Run("an event that comes before it is waited for is kept, each name for itself", func(t *testing.T) {
		s := newScript()
		e := start(t, open, s)
		id := newID()
		require.NoError(t, e.Start(t.Context(), "hold and wait", id, nil))
		<-s.holding
		for _, event := range []string{"second", "first", "second"} {
			require.NoError(t, e.Raise(t.Context(), id, event, event))
		}
		close(s.release)
		e.await(t, id, engine.Completed)
		require.Equal(t, `["first","second","second"]`, e.result(t, id))
	})

	t.Run("a timer that lost against its event disturbs no later wait", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "two waits", id, nil))
		// An event that comes before the first turn is not waited for, so that no timer is made.
		e.awaitTimer(t, id)
		require.NoError(t, e.Raise(t.Context(), id, "go", "on"))
		require.NoError(t, e.Raise(t.Context(), id, "go", "further"))
		e.await(t, id, engine.Completed)
		require.Equal(t, `["on","further"]`, e.result(t, id))
	})

	t.Run("timers fire in their order, whatever that of their creation", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "three timers", id, nil))
		e.await(t, id, engine.Completed)
		var fired []int32
		history, err := e.History(t.Context(), id)
		require.NoError(t, err)
		for _, event := range history {
			if f := event.GetTimerFired(); f != nil {
				fired = append(fired, f.GetTimerId())
			}
		}
		require.Equal(t, []int32{2, 1, 0}, fired)
	})

	t.Run("activities run side by side and their outcomes reach who called them", func(t *testing.T) {
		s := newScript()
		e := start(t, open, s)
		id := newID()
		require.NoError(t, e.Start(t.Context(), "fan out", id, 5))
		for range 5 {
			<-s.holding // All before any of them may end.
		}
		close(s.release)
		e.await(t, id, engine.Completed)
		require.Equal(t, "[0,2,4,6,8]", e.result(t, id))
	})

	t.Run("the workflow learns why an activity failed, though it panicked or nobody knows it", func(t *testing.T) {
		e := start(t, open, newScript())
		for activity, want := range map[string]string{"refuse": "not today", "panic": "out of its mind", "unheard of": "unheard of"} {
			id := newID()
			require.NoError(t, e.Start(t.Context(), "try", id, activity))
			require.Contains(t, e.await(t, id, engine.Failed).Failure, want)
		}
	})

	t.Run("an unknown instance is gone", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.ErrorIs(t, e.Raise(t.Context(), id, "go", nil), engine.ErrGone)
		_, err := e.Inspect(t.Context(), id)
		require.ErrorIs(t, err, engine.ErrGone)
		_, err = e.History(t.Context(), id)
		require.ErrorIs(t, err, engine.ErrGone)
		require.NoError(t, e.Purge(t.Context(), id))
	})

	t.Run("a failed instance tells why", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "fail", id, nil))
		require.Contains(t, e.await(t, id, engine.Failed).Failure, "it was not to be")
	})

	t.Run("a timer fires on time", func(t *testing.T) {
		e := start(t, open, newScript())
		warm := newID() // A worker that has just connected to Dapr waits 2 s for its first turn.
		require.NoError(t, e.Start(t.Context(), "double", warm, 1))
		e.await(t, warm, engine.Completed)

		id := newID()
		began := time.Now()
		require.NoError(t, e.Start(t.Context(), "timeout", id, nil))
		e.await(t, id, engine.Completed)
		require.Greater(t, time.Since(began), timeout)
		require.Less(t, time.Since(began), timeout+time.Second)
	})

	t.Run("purge forgets an instance that has ended and leaves one that has not", func(t *testing.T) {
		e := start(t, open, newScript())
		id := newID()
		require.NoError(t, e.Start(t.Context(), "wait", id, nil))
		e.await(t, id, engine.Running)
		require.Error(t, e.Purge(t.Context(), id))
		require.NoError(t, e.Raise(t.Context(), id, "go", "on"))
		e.await(t, id, engine.Completed)
		require.NoError(t, e.Purge(t.Context(), id))
		_, err := e.Inspect(t.Context(), id)
		require.ErrorIs(t, err, engine.ErrGone)
		require.NoError(t, e.Purge(t.Context(), id))
	})

	t.Run("check tells that no work is done, and is content while it is", func(t *testing.T) {
		s := newScript()
		idle := open(t, s.registry(t))
		defer idle.Cut()
		eventually(t, 5*time.Second, func() error { // The engine of the test before has just ended.
			if idle.Check(t.Context()) == nil {
				return errors.New("check is content")
			}
			return nil
		})
		start(t, open, s) // Waits for a content check.
	})

	t.Run("a graceful stop finishes the activity in hand, which is not run again", func(t *testing.T) {
		s := newScript()
		e := start(t, open, s)
		id := newID()
		require.NoError(t, e.Start(t.Context(), "hold", id, nil))
		<-s.holding
		stopped := e.stop()
		select {
		case err := <-stopped:
			t.Fatalf("stopped with an activity in hand: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		close(s.release)
		require.NoError(t, receive(t, stopped, 5*time.Second))
		e.Cut()

		next := start(t, open, s)
		next.await(t, id, engine.Completed)
		require.EqualValues(t, 1, s.held.Load())
	})

	t.Run("I8 a stop under load loses no instance", func(t *testing.T) {
		const instances = 100
		s := newScript()
		e := start(t, open, s)
		ids := make([]string, instances)
		for n := range ids {
			ids[n] = newID()
			require.NoError(t, e.Start(t.Context(), "count", ids[n], nil))
		}
		eventually(t, 10*time.Second, func() error {
			if s.counted.Load() < instances {
				return errors.New("too little is done")
			}
			return nil
		})
		require.NoError(t, receive(t, e.stop(), 12*time.Second))
		e.Cut()
		before := s.counted.Load()
		require.Less(t, before, int64(instances*Activities), "all was done before the stop")

		e = start(t, open, s)
		for _, id := range ids {
			e.await(t, id, engine.Completed)
		}
		t.Logf("%d activities before the stop, %d in all ran more than once", before, s.counted.Load()-instances*Activities)
		require.GreaterOrEqual(t, s.counted.Load(), int64(instances*Activities))
	})

	t.Run("I8 an activity that was cut off runs again", func(t *testing.T) {
		s := newScript()
		e := start(t, open, s)
		id := newID()
		require.NoError(t, e.Start(t.Context(), "hold", id, nil))
		<-s.holding
		e.Cut()
		cut := time.Now()

		next := newScript()
		close(next.release)
		e = start(t, open, next)
		e.await(t, id, engine.Completed)
		require.Less(t, time.Since(cut), recovery)
		require.EqualValues(t, 1, next.held.Load())
		close(s.release)
	})

	t.Run("I8 a result that a cut-off worker reports is not taken for a second one", func(t *testing.T) {
		s := newScript()
		e := start(t, open, s)
		id := newID()
		require.NoError(t, e.Start(t.Context(), "hold", id, nil))
		<-s.holding
		e.Cut()
		close(s.release)

		next := newScript()
		close(next.release)
		e = start(t, open, next)
		e.await(t, id, engine.Completed)
		history, err := e.History(t.Context(), id)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff([]string{"started", "scheduled", "completed task", "completed"}, kinds(history)))
	})
}

// script is what the suite's workflows and activities do.
type script struct {
	holding chan struct{} // an activity "hold" has begun
	release chan struct{} // closed: they go on
	held    atomic.Int64  // how often "hold" has begun
	counted atomic.Int64  // how often "count" has run
}

func newScript() *script {
	return &script{holding: make(chan struct{}, 100), release: make(chan struct{})}
}

// timeout is how long the workflow "timeout" waits for an event that never comes.
const timeout = 700 * time.Millisecond

func (s *script) registry(t *testing.T) *task.TaskRegistry {
	t.Helper()
	r := task.NewTaskRegistry()
	workflow := func(name string, w task.Workflow) { require.NoError(t, r.AddWorkflowN(name, w)) }
	workflow("double", func(ctx *task.WorkflowContext) (any, error) {
		var n, doubled int
		if err := ctx.GetInput(&n); err != nil {
			return nil, err
		}
		err := ctx.CallActivity("double", task.WithActivityInput(n)).Await(&doubled)
		return doubled, err
	})
	workflow("wait", func(ctx *task.WorkflowContext) (any, error) {
		var payload string
		err := ctx.WaitForSingleEvent("go", -1).Await(&payload)
		return payload, err
	})
	workflow("collect", func(ctx *task.WorkflowContext) (any, error) {
		var n int
		if err := ctx.GetInput(&n); err != nil {
			return nil, err
		}
		got := make([]int, n)
		for i := range got {
			if err := ctx.WaitForSingleEvent("n", -1).Await(&got[i]); err != nil {
				return nil, err
			}
		}
		return got, nil
	})
	workflow("hold and wait", func(ctx *task.WorkflowContext) (any, error) {
		if err := ctx.CallActivity("hold").Await(nil); err != nil {
			return nil, err
		}
		return waits(ctx, -1, "first", "second", "second")
	})
	workflow("two waits", func(ctx *task.WorkflowContext) (any, error) {
		first, err := waits(ctx, timeout, "go")
		if err != nil {
			return nil, err
		}
		// Dapr takes back the timer that lost, the embedded engine lets it fire: in this time.
		if err := ctx.CreateTimer(2 * timeout).Await(nil); err != nil {
			return nil, err
		}
		second, err := waits(ctx, time.Minute, "go")
		return append(first, second...), err
	})
	workflow("three timers", func(ctx *task.WorkflowContext) (any, error) {
		timers := []task.Task{ctx.CreateTimer(900 * time.Millisecond), ctx.CreateTimer(600 * time.Millisecond), ctx.CreateTimer(300 * time.Millisecond)}
		for _, timer := range timers {
			if err := timer.Await(nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	workflow("fan out", func(ctx *task.WorkflowContext) (any, error) {
		var n int
		if err := ctx.GetInput(&n); err != nil {
			return nil, err
		}
		calls, got := make([]task.Task, n), make([]int, n)
		for i := range calls {
			calls[i] = ctx.CallActivity("hold and double", task.WithActivityInput(i))
		}
		for i := range calls {
			if err := calls[i].Await(&got[i]); err != nil {
				return nil, err
			}
		}
		return got, nil
	})
	workflow("try", func(ctx *task.WorkflowContext) (any, error) {
		var activity string
		if err := ctx.GetInput(&activity); err != nil {
			return nil, err
		}
		return nil, ctx.CallActivity(activity).Await(nil)
	})
	workflow("timeout", func(ctx *task.WorkflowContext) (any, error) {
		err := ctx.WaitForSingleEvent("never", timeout).Await(nil)
		if errors.Is(err, task.ErrTaskCanceled) {
			return nil, nil
		}
		return nil, fmt.Errorf("the wait ended with %v", err)
	})
	workflow("fail", func(*task.WorkflowContext) (any, error) { return nil, errors.New("it was not to be") })
	workflow("hold", func(ctx *task.WorkflowContext) (any, error) {
		return nil, ctx.CallActivity("hold").Await(nil)
	})
	workflow("count", func(ctx *task.WorkflowContext) (any, error) {
		for range Activities {
			if err := ctx.CallActivity("count").Await(nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	require.NoError(t, r.AddActivityN("count", func(task.ActivityContext) (any, error) { return s.counted.Add(1), nil }))
	require.NoError(t, r.AddActivityN("double", func(ctx task.ActivityContext) (any, error) {
		var n int
		err := ctx.GetInput(&n)
		return 2 * n, err
	}))
	require.NoError(t, r.AddActivityN("hold", func(ctx task.ActivityContext) (any, error) { return nil, s.hold(ctx) }))
	require.NoError(t, r.AddActivityN("hold and double", func(ctx task.ActivityContext) (any, error) {
		var n int
		err := errors.Join(ctx.GetInput(&n), s.hold(ctx))
		return 2 * n, err
	}))
	require.NoError(t, r.AddActivityN("refuse", func(task.ActivityContext) (any, error) { return nil, errors.New("not today") }))
	require.NoError(t, r.AddActivityN("panic", func(task.ActivityContext) (any, error) { panic("out of its mind") }))
	return r
}

// hold holds an activity until it is released.
func (s *script) hold(ctx task.ActivityContext) error {
	s.held.Add(1)
	s.holding <- struct{}{}
	select {
	case <-s.release:
		return nil
	case <-ctx.Context().Done():
		return ctx.Context().Err()
	}
}

// waits waits for events one after the other and returns their payloads.
func waits(ctx *task.WorkflowContext, timeout time.Duration, events ...string) ([]string, error) {
	got := make([]string, len(events))
	for i, event := range events {
		if err := ctx.WaitForSingleEvent(event, timeout).Await(&got[i]); err != nil {
			return nil, err
		}
	}
	return got, nil
}

// running is an engine whose Run goes on.
type running struct {
	Opened
	cancel context.CancelFunc
	ended  chan error
}

// start opens an engine and runs it until the test ends. It returns when work is done.
func start(t *testing.T, open Open, s *script) *running {
	t.Helper()
	e := &running{Opened: open(t, s.registry(t)), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	go func() { e.ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-e.ended:
		case <-time.After(15 * time.Second):
			t.Error("the engine did not stop")
		}
		e.Cut()
	})
	eventually(t, 10*time.Second, func() error { return e.Check(t.Context()) })
	return e
}

// stop asks the engine to end; the channel gives what Run returns.
func (e *running) stop() <-chan error {
	e.cancel()
	told := make(chan error, 1)
	go func() {
		err := <-e.ended
		e.ended <- err // For the end of the test.
		told <- err
	}()
	return told
}

// await waits until an instance is in state.
func (e *running) await(t *testing.T, id string, state engine.State) engine.Instance {
	t.Helper()
	var last engine.Instance
	eventually(t, 20*time.Second, func() error {
		var err error
		last, err = e.Inspect(t.Context(), id)
		if err == nil && last.State != state {
			err = fmt.Errorf("instance %s is %s", id, last.State)
		}
		return err
	})
	return last
}

// awaitTimer waits until an instance has made a timer.
func (e *running) awaitTimer(t *testing.T, id string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		history, err := e.History(t.Context(), id)
		made := func(event *protos.HistoryEvent) bool { return event.GetTimerCreated() != nil }
		if err == nil && !slices.ContainsFunc(history, made) {
			err = fmt.Errorf("%s has made no timer", id)
		}
		return err
	})
}

// result is what a completed instance returned, as JSON.
func (e *running) result(t *testing.T, id string) string {
	t.Helper()
	history, err := e.History(t.Context(), id)
	require.NoError(t, err)
	return result(history)
}

func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not within %s: %v", limit, err)
		case <-tick.C:
		}
	}
}

func receive(t *testing.T, c <-chan error, limit time.Duration) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(limit):
		t.Fatalf("nothing within %s", limit)
		return nil
	}
}

// kinds names the events of a history that the engines agree on.
func kinds(history []*protos.HistoryEvent) []string {
	var names []string
	for _, e := range history {
		switch {
		case e.GetExecutionStarted() != nil:
			names = append(names, "started")
		case e.GetTaskScheduled() != nil:
			names = append(names, "scheduled")
		case e.GetTaskCompleted() != nil:
			names = append(names, "completed task")
		case e.GetTaskFailed() != nil:
			names = append(names, "failed task")
		case e.GetExecutionCompleted() != nil:
			names = append(names, "completed")
		}
	}
	return names
}

// result is what a completed instance returned, as JSON.
func result(history []*protos.HistoryEvent) string {
	for _, e := range history {
		if c := e.GetExecutionCompleted(); c != nil {
			return c.GetResult().GetValue()
		}
	}
	return ""
}

func newID() string { return fmt.Sprintf("ord-%016x-1", rand.Uint64()) }

// Log is the logger for an engine under test: silent, or on stderr if ENGINETEST_LOG is set.
func Log() *slog.Logger {
	if os.Getenv("ENGINETEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}
