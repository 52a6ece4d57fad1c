package embedded_test

import (
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestEngine(t *testing.T) {
	url := pgtest.URL(t)
	enginetest.Run(t, func(t *testing.T, registry *task.TaskRegistry) enginetest.Opened {
		e, err := embedded.Open(t.Context(), embedded.Config{DatabaseURL: url, Registry: registry, Log: enginetest.Log()})
		require.NoError(t, err)
		return enginetest.Opened{Engine: e, Cut: e.Close}
	})
}
