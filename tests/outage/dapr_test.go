package outage_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// goesOnWithinOnDapr is I8's bound on Dapr.
const goesOnWithinOnDapr = time.Minute

// TestI8DaprWhatAStackDependsOnIsAway takes the database and the broker from six applications and their sidecars, in one way after the
// other. The sidecars and the control plane themselves are killed in tests/dapr.
func TestI8DaprWhatAStackDependsOnIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	disk, isSmall := diskForDapr(t)
	whole, err := stack.StartWhole(root, localstack.Redis, filepath.Join(disk, "postgres"), func(o *localstack.PostgresOptions) {
		o.Throwaway, o.Connections = false, 300
	})
	t.Cleanup(func() {
		if err := whole.Stop(t.Failed(), os.Stderr); err != nil {
			t.Error(err)
		}
	})
	require.NoError(t, err)

	for _, outage := range []struct {
		name string
		// hold does it, under load, and returns when what was away is back.
		hold func(t *testing.T, s *harness.System, load *load)
	}{
		{"the database is restarted again and again", func(t *testing.T, s *harness.System, load *load) {
			for range restarts {
				load.awaitEnds(t, 3)
				require.NoError(t, whole.Postgres.Restart(t.Context()))
			}
		}},
		{"the database is stopped for a minute", func(t *testing.T, s *harness.System, load *load) {
			require.NoError(t, whole.Postgres.Halt(t.Context()))
			for _, url := range whole.URLs() {
				awaitSaying(t, url, "database: missing since ")
			}
			awaitUnavailable(t, s)
			time.Sleep(stopped) // It is the outage itself.
			require.NoError(t, whole.Postgres.Restart(t.Context()))
		}},
		{"each connection is cut in turn", func(t *testing.T, s *harness.System, load *load) {
			t.Logf("%d connections were cut, one after the other", cutEachInTurn(t, whole.Postgres.SuperuserURL("postgres")))
		}},
		{"others take all connections", func(t *testing.T, s *harness.System, load *load) {
			release := takeAllConnections(t, whole.Postgres.SuperuserURL("postgres"))
			awaitUnavailable(t, s)
			time.Sleep(crowded) // It is the outage itself.
			release()
		}},
		{"the database's disk is full", func(t *testing.T, s *harness.System, load *load) {
			if !isSmall {
				t.Skip("this machine, or this user, does not let a small file system be mounted")
			}
			release := fill(t, disk)
			awaitFullDisk(t, s)
			time.Sleep(full) // It is the outage itself.
			release()
			require.NoError(t, whole.Postgres.Restart(t.Context()))
		}},
		{"the broker is stopped for a while", func(t *testing.T, s *harness.System, load *load) {
			whole.Broker.Kill()
			load.awaitEnds(t, 20) // Nobody waits for who only listens.
			require.NoError(t, whole.Broker.Start(t.Context()))
		}},
	} {
		t.Run(outage.name, func(t *testing.T) {
			s := harness.Connect(t, whole.URLs(), whole.Databases())
			s.WatchSums(t)
			before := pids(whole)
			load := startLoad(t, s)
			load.awaitEnds(t, 20)
			outage.hold(t, s, load)
			back := time.Now()
			first := requireProgress(t, s, back, goesOnWithinOnDapr)
			accepted := load.stop(t)
			s.AwaitAllEnded(t, 2*time.Minute)
			t.Logf("I8: it went on %s after the return; %d orders were accepted, and %d calls answered unavailable; all had ended after %s",
				first.Round(time.Millisecond), accepted, load.unavailable.Load(), time.Since(back).Round(time.Millisecond))
			require.Equal(t, before, pids(whole), "the processes stay")
			for name, url := range whole.URLs() {
				awaitReady(t, name, url)
			}
			s.Audit(t)
		})
	}
}

// diskForDapr is a small disk where that can be had, else any folder.
func diskForDapr(t *testing.T) (dir string, isSmall bool) {
	dir = folder(t)
	if err := mountSmall(t, dir); err != nil {
		t.Logf("no small file system can be mounted here: %v", err)
		return dir, false
	}
	return dir, true
}

// pids are the applications' process ids.
func pids(whole *stack.Whole) map[string]int {
	all := make(map[string]int)
	for name, service := range whole.Services {
		all[name] = service.App.PID()
	}
	return all
}

func awaitReady(t *testing.T, name, url string) {
	t.Helper()
	harness.Eventually(t, name+" to be ready", func(ctx context.Context) error { return harness.Ready(ctx, url) })
}
