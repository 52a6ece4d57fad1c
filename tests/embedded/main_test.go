// Package embedded_test attacks the whole system on the embedded engine: every step failing in every way, cancels and
// deadlines at every point, races, killed processes and load. Who says whether it held is package judge.
package embedded_test

import (
	"testing"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
