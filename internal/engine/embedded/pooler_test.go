package embedded_test

import (
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAPoolerThatIgnoresTheSchemaIsRefused(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]string{
		"pool_mode = session\nignore_startup_parameters = search_path,synchronous_commit": "begin in schema engine (they begin in",
		"pool_mode = session": "unsupported startup parameter",
	} {
		_, err := embedded.Open(t.Context(), embedded.Config{DatabaseURL: pgtest.PgBouncer(t, settings), Registry: task.NewTaskRegistry()})
		require.ErrorContains(t, err, want)
	}
}
