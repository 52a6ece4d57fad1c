package embedded

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAnInstanceThatOnlyWaitsLeavesMemoryAndComesBack(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, Migrations()))
	registry := task.NewTaskRegistry()
	require.NoError(t, registry.AddWorkflowN("waits", func(ctx *task.WorkflowContext) (any, error) {
		err := ctx.WaitForSingleEvent("go", 4*time.Second).Await(nil)
		if errors.Is(err, task.ErrTaskCanceled) {
			return nil, nil
		}
		return nil, ctx.WaitForSingleEvent("go", -1).Await(nil)
	}))
	config := Config{Pool: pool, Committer: commit.New(pool), Registry: registry, Log: enginetest.Log()}
	e := New(config)
	runs := func() (r *runner, stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		require.Eventually(t, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			r = e.running
			return r != nil
		}, 10*time.Second, time.Millisecond)
		return r, func() { cancel(); require.NoError(t, <-ended) }
	}
	r, stop := runs()
	for _, id := range []string{"by a timer", "by an event"} {
		require.NoError(t, e.Start(t.Context(), "waits", id, nil))
	}
	grow := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, i := range r.instances {
			require.NoError(t, i.hold(t.Context()))
			i.came, i.used = i.came.Add(-lastingAfter), i.used.Add(-parkAfter)
			<-i.held
		}
	}
	count := func(query string) (n int) {
		require.NoError(t, pool.QueryRow(t.Context(), query).Scan(&n))
		return n
	}
	inMemory := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.instances)
	}
	grow()
	require.Eventually(t, func() bool { return inMemory() == 0 }, 3*time.Second, 10*time.Millisecond)
	require.Equal(t, 2, count(`SELECT count(*) FROM engine.lasting WHERE NOT busy AND wake IS NOT NULL`))
	require.Equal(t, 3, count(`SELECT key FROM engine.low_water`), "both are below it")

	require.NoError(t, e.Raise(t.Context(), "by an event", "go", nil))
	require.Equal(t, 1, inMemory())
	stop()
	r, stop = runs()
	defer stop()
	require.Zero(t, inMemory(), "what only waits is not read when somebody takes over")
	completed := func(id string) func() bool {
		return func() bool {
			i, err := e.Inspect(t.Context(), id)
			return err == nil && i.State == engine.Completed
		}
	}
	require.Eventually(t, completed("by a timer"), 10*time.Second, 10*time.Millisecond)
	require.False(t, completed("by an event")(), "the timer lost against its event")
	require.NoError(t, e.Raise(t.Context(), "by an event", "go", nil))
	require.True(t, completed("by an event")())
	require.Zero(t, count(`SELECT count(*) FROM engine.lasting`))
}
