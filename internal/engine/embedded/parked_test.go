package embedded_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// waiting is a workflow that waits for an event, as long as its input says in seconds.
func waiting() *task.TaskRegistry {
	r := task.NewTaskRegistry()
	_ = r.AddWorkflowN("waits", func(ctx *task.WorkflowContext) (any, error) {
		var seconds int
		if err := ctx.GetInput(&seconds); err != nil {
			return nil, err
		}
		err := ctx.WaitForSingleEvent("go", time.Duration(seconds)*time.Second).Await(nil)
		if errors.Is(err, task.ErrTaskCanceled) {
			return "in vain", nil
		}
		return "done", err
	})
	return r
}

func TestAHundredThousandParkedInstancesAreTakenOverInSeconds(t *testing.T) {
	const parked = 100_000
	url := pgtest.URL(t)
	first := open(t, url, waiting())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	require.NoError(t, first.Start(t.Context(), "waits", "long", 3600))
	require.NoError(t, first.Start(t.Context(), "waits", "short", 1))
	await(t, first, "short", engine.Completed)
	// Copies of "long", of which 100 have a timer that is overdue: they are woken, find nothing to do, and wait on.
	_, err := first.pool.Exec(t.Context(), `
		INSERT INTO engine.log (key, seq, id, status, events)
		SELECT 1000 + n, 0, 'parked-' || n, 0, events FROM engine.log, generate_series(1, $1) n WHERE id = 'long'`, parked)
	require.NoError(t, err)
	_, err = first.pool.Exec(t.Context(), `
		INSERT INTO engine.lasting (id, key, busy, wake)
		SELECT 'parked-' || n, 1000 + n, false, CASE WHEN n <= 100 THEN now() ELSE now() + interval '1 hour' END FROM generate_series(1, $1) n`, parked)
	require.NoError(t, err)
	_, err = first.pool.Exec(t.Context(), `UPDATE engine.low_water SET key = 1001 + $1`, parked)
	require.NoError(t, err)

	second := open(t, url, waiting())
	before := heap()
	cutLock(t, url)
	began := time.Now()
	require.Error(t, <-ended)
	run(t, second)
	require.NoError(t, second.Start(t.Context(), "waits", "new", 3600))
	require.NoError(t, second.Raise(t.Context(), "new", "go", nil))
	await(t, second, "new", engine.Completed)
	took, grown := time.Since(began), heap()-before
	t.Logf("taken over %s after the loss, with %d MB more memory", took.Round(time.Millisecond), grown>>20)
	require.Less(t, took, 10*time.Second)
	require.Less(t, grown, int64(64<<20))

	for _, id := range []string{"parked-1", fmt.Sprintf("parked-%d", parked)} {
		require.NoError(t, second.Raise(t.Context(), id, "go", nil))
		await(t, second, id, engine.Completed)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
