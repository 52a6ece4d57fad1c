// Package dapr tests the whole system on real Dapr: daprd, placement, scheduler, PostgreSQL and our own programs, all of them
// processes that can be killed. All tests share one stack; the tests that break it run one after another.
package dapr

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

func TestMain(m *testing.M) {
	status := m.Run()
	if running != nil {
		if err := running.stop(status != 0); err != nil {
			fmt.Fprintln(os.Stderr, "stop the stack:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// shared is the stack that all tests of the package use.
type shared struct {
	*stack.Stack
	plane       *localstack.ControlPlane
	dir         string
	postgres    *localstack.Postgres
	postgresDir string
	run         string // begins the names of this run's databases
}

// running is set while there is something to stop.
var running *shared

// startOnce starts the stack for the first test that asks for it, so that listing the tests, or -short, starts nothing.
var startOnce = sync.OnceValues(func() (*shared, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return nil, err
	}
	programs, err := localstack.FindDapr(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "checkoutsaga-dapr-")
	if err != nil {
		return nil, err
	}
	running = &shared{dir: dir, run: fmt.Sprintf("run_%06x_", rand.Uint32N(1<<24))}
	bin := filepath.Join(dir, "bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "./cmd/...")
	build.Dir = root
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w: %s", err, text)
	}
	// A server of its own: these tests are the heaviest, and others measure on the shared one.
	running.postgresDir = filepath.Join(root, ".local", "test-dapr-postgres")
	running.postgres, err = localstack.StartPostgres(ctx, running.postgresDir, localstack.PostgresOptions{Throwaway: true})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{stack.Orchestrator, stack.Warehouse, stack.Payment, "dapr"} {
		if err := running.postgres.EnsureDatabase(ctx, running.run+name); err != nil {
			return nil, err
		}
	}
	if running.plane, err = localstack.StartControlPlane(ctx, programs, filepath.Join(dir, "plane"), true); err != nil {
		return nil, err
	}
	running.Stack, err = stack.Start(ctx, stack.Config{
		Components: filepath.Join(root, "components"), Bin: bin, Dir: filepath.Join(dir, "stack"),
		Dapr: programs, Plane: running.plane, DatabaseURL: running.url,
	})
	return running, err
})

func (s *shared) url(name string) string { return s.postgres.URL(s.run + name) }

// stop ends all processes; after a failure logs and rows stay, and it says where.
func (s *shared) stop(failed bool) error {
	if s.Stack != nil {
		s.Stack.Kill()
	}
	if s.plane != nil {
		s.plane.KillScheduler()
		s.plane.KillPlacement()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if s.postgresDir != "" {
		err = localstack.StopPostgres(ctx, s.postgresDir)
	}
	if failed {
		fmt.Fprintf(os.Stderr, "the logs of the stack are in %s, its rows in databases %s... of %s\n", s.dir, s.run, s.postgresDir)
		return err
	}
	return errors.Join(err, localstack.RemovePostgres(s.postgresDir), os.RemoveAll(s.dir))
}

// system is the shared stack with clients of the test's own. Each test that calls it audits everything at its end.
type system struct {
	*harness.System
	*shared
}

func open(t *testing.T) system {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	s, err := startOnce()
	if err != nil {
		t.Fatalf("start the stack: %v", err)
	}
	return system{
		System: harness.Connect(t, s.Stack.Orchestrator.URL, s.Stack.Warehouse.URL, s.Stack.Payment.URL, judge.Databases{
			Orchestrator: s.url(stack.Orchestrator), Warehouse: s.url(stack.Warehouse), Payment: s.url(stack.Payment),
		}),
		shared: s,
	}
}

// newID is an order id of this test's own.
func newID(name string) string { return fmt.Sprintf("%s-%08x", name, rand.Uint32()) }
