// Package dapr tests the whole system on real Dapr: daprd, placement, scheduler, Redis, PostgreSQL and our own programs, all of
// them processes that can be killed. All tests share one stack; the tests that break it run one after another.
package dapr

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestMain(m *testing.M) {
	status := m.Run()
	if running != nil {
		if err := running.Stop(status != 0, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "stop the stack:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// running is the stack that all tests of the package use, while there is something to stop.
var running *stack.Whole

// startOnce starts the stack for the first test that asks for it, so that listing the tests, or -short, starts nothing.
var startOnce = sync.OnceValue(func() (err error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return err
	}
	running, err = stack.StartWhole(root, localstack.Redis, "test-dapr-postgres")
	return err
})

// system is the shared stack with clients of the test's own. Each test that calls it audits everything at its end.
type system struct {
	*harness.System
	*stack.Whole
}

func open(t *testing.T) system {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	if err := startOnce(); err != nil {
		t.Fatalf("start the stack: %v", err)
	}
	return system{System: harness.Connect(t, running.URLs(), running.Databases()), Whole: running}
}

// newID is an order id of this test's own.
func newID(name string) string { return fmt.Sprintf("%s-%08x", name, rand.Uint32()) }
