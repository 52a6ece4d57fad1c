package dapr_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
)

func TestEngine(t *testing.T) {
	sidecar := daprtest.Start(t, daprtest.App{Name: "engine"}).Sidecar("engine")
	enginetest.Run(t, func(t *testing.T, registry *task.TaskRegistry) enginetest.Opened {
		e, err := dapr.New(dapr.Config{Address: fmt.Sprintf("127.0.0.1:%d", sidecar.GRPCPort), Registry: registry, Log: enginetest.Log()})
		require.NoError(t, err)
		return enginetest.Opened{Engine: e, Cut: e.Close}
	})
}

func TestI8WorkGoesOnAfterTheSidecarOrTheSchedulerWasKilled(t *testing.T) {
	stack := daprtest.Start(t, daprtest.App{Name: "engine"})
	sidecar := stack.Sidecar("engine")
	for _, c := range []struct {
		name   string
		limit  time.Duration // of I8
		victim func(context.Context) error
	}{
		{"the sidecar", 60 * time.Second, func(ctx context.Context) error {
			sidecar.Kill()
			return sidecar.Restart(ctx)
		}},
		{"the scheduler", 120 * time.Second, func(ctx context.Context) error {
			stack.Plane.KillScheduler()
			return stack.Plane.StartScheduler(ctx)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const instances = 10
			var runs atomic.Int64
			holding, release := make(chan struct{}, 10*instances), make(chan struct{})
			r := task.NewTaskRegistry()
			require.NoError(t, r.AddWorkflowN("two", func(ctx *task.WorkflowContext) (any, error) {
				if err := ctx.CallActivity("hold").Await(nil); err != nil {
					return nil, err
				}
				return nil, ctx.CallActivity("pass").Await(nil)
			}))
			require.NoError(t, r.AddActivityN("hold", func(ctx task.ActivityContext) (any, error) {
				runs.Add(1)
				holding <- struct{}{}
				select {
				case <-release:
					return nil, nil
				case <-ctx.Context().Done():
					return nil, ctx.Context().Err()
				}
			}))
			require.NoError(t, r.AddActivityN("pass", func(task.ActivityContext) (any, error) { return nil, nil }))
			e, err := dapr.New(dapr.Config{Address: fmt.Sprintf("127.0.0.1:%d", sidecar.GRPCPort), Registry: r, Log: enginetest.Log()})
			require.NoError(t, err)
			defer e.Close()
			run, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- e.Run(run) }()
			defer func() {
				stop()
				require.NoError(t, <-ended)
			}()

			ids := make([]string, instances)
			for n := range ids {
				ids[n] = fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), n)
				require.NoError(t, e.Start(t.Context(), "two", ids[n], nil))
			}
			for range ids {
				<-holding
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			defer cancel()
			killed := time.Now()
			require.NoError(t, c.victim(ctx))
			up := time.Now()
			close(release)
			for _, id := range ids {
				require.NoError(t, localstack.WaitFor(ctx, id, func(ctx context.Context) error {
					i, err := e.Inspect(ctx, id)
					if err == nil && i.State != engine.Completed {
						err = fmt.Errorf("it is %s", i.State)
					}
					return err
				}))
			}
			t.Logf("up again %s after the kill, all completed after %s, %d activities ran for %d instances",
				up.Sub(killed), time.Since(killed), runs.Load(), instances)
		})
	}
}

func TestASidecarThatAsksForATokenGetsIt(t *testing.T) {
	sidecar := daprtest.Start(t, daprtest.App{Name: "guarded", Env: []string{"DAPR_API_TOKEN=secret"}}).Sidecar("guarded")
	registry := task.NewTaskRegistry()
	require.NoError(t, registry.AddWorkflowN("empty", func(*task.WorkflowContext) (any, error) { return nil, nil }))
	with := func(token string) *dapr.Engine {
		e, err := dapr.New(dapr.Config{Address: fmt.Sprintf("127.0.0.1:%d", sidecar.GRPCPort), Token: token, Registry: registry, Log: enginetest.Log()})
		require.NoError(t, err)
		t.Cleanup(e.Close)
		return e
	}
	require.ErrorContains(t, with("wrong").Run(t.Context()), "Unauthenticated")

	e := with("secret")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	require.NoError(t, localstack.WaitFor(ctx, "the engine", e.Check))
	require.NoError(t, e.Start(ctx, "empty", "ord-token-1", nil))
	require.NoError(t, localstack.WaitFor(ctx, "the instance", func(ctx context.Context) error {
		i, err := e.Inspect(ctx, "ord-token-1")
		if err == nil && i.State != engine.Completed {
			err = fmt.Errorf("it is %s", i.State)
		}
		return err
	}))
	s, err := e.Sidecar(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, s.Workers)
	t.Logf("%+v", s)
	stop()
	require.NoError(t, <-ended)
}
