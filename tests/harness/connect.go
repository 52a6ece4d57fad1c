package harness

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// Connect is a system that runs already, without proxies, at the addresses of its three processes.
func Connect(t testing.TB, orchestrator, warehouse, payment string, d judge.Databases) *System {
	t.Helper()
	s := &System{Databases: d}
	s.connect(t, orchestrator, warehouse, payment)
	return s
}
