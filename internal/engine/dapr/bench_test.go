package dapr_test

import (
	"fmt"
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
)

func BenchmarkEngine(b *testing.B) {
	sidecar := daprtest.Start(b, daprtest.App{Name: "engine"}).Sidecar("engine")
	enginetest.Bench(b, func(b *testing.B, registry *task.TaskRegistry) engine.Engine {
		e, err := dapr.New(dapr.Config{Address: fmt.Sprintf("127.0.0.1:%d", sidecar.GRPCPort), Registry: registry, Log: enginetest.Log()})
		require.NoError(b, err)
		b.Cleanup(e.Close)
		return e
	})
}
