package enginetest

import (
	"context"
	"fmt"
	"runtime"
	"sort"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
)

// Activities is how many a benchmark's workflow has, one after the other: as many as a confirmed checkout.
const Activities = 4

// Bench measures workflows of empty activities, at 1, 16 and 64 in flight.
func Bench(b *testing.B, open func(b *testing.B, registry *task.TaskRegistry) engine.Engine) {
	ended := &sync.Map{} // instance id → channel that is closed when its last activity has run
	r := task.NewTaskRegistry()
	require.NoError(b, r.AddWorkflowN("bench", func(ctx *task.WorkflowContext) (any, error) {
		for n := range Activities {
			last := ""
			if n == Activities-1 {
				last = string(ctx.ID)
			}
			if err := ctx.CallActivity("bench", task.WithActivityInput(last)).Await(nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}))
	require.NoError(b, r.AddActivityN("bench", func(ctx task.ActivityContext) (any, error) {
		var last string
		if err := ctx.GetInput(&last); err != nil || last == "" {
			return nil, err
		}
		if c, ok := ended.LoadAndDelete(last); ok {
			close(c.(chan struct{}))
		}
		return nil, nil
	}))
	e := open(b, r)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- e.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(b, <-stopped)
	}()

	one := func(b *testing.B) time.Duration {
		id, c, began := newID(), make(chan struct{}), time.Now()
		ended.Store(id, c)
		if err := e.Start(ctx, "bench", id, nil); err != nil {
			b.Error(err)
			return 0
		}
		<-c
		return time.Since(began)
	}
	one(b) // The worker is connected.
	for _, inFlight := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("%d in flight", inFlight), func(b *testing.B) {
			var mu sync.Mutex
			var took []time.Duration
			began, cpu := time.Now(), CPUTime()
			b.SetParallelism((inFlight + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			b.ResetTimer()
			if inFlight == 1 {
				for b.Loop() {
					took = append(took, one(b))
				}
			} else {
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						d := one(b)
						mu.Lock()
						took = append(took, d)
						mu.Unlock()
					}
				})
			}
			b.StopTimer()
			n := float64(len(took))
			sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
			b.ReportMetric(n/time.Since(began).Seconds(), "workflows/s")
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
			b.ReportMetric((CPUTime()-cpu).Seconds()*1000/n, "own-cpu-ms/workflow")
		})
	}
}

// CPUTime is the processor time that this process has used.
func CPUTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
