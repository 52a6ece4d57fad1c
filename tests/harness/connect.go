package harness

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// Connect is a system that already runs, without proxies, at the addresses of its processes, by name.
func Connect(t testing.TB, urls map[string]string, d judge.Databases) *System {
	t.Helper()
	s := &System{Databases: d}
	s.connect(t, urls)
	return s
}
