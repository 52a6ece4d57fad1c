package embedded_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// A pooler that lends sessions for a transaction only is refused when the pool is opened (internal/pg).
func TestTheEngineNeedsNothingOfAPoolerButSessions(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.PgBouncer(t, "pool_mode = session\nignore_startup_parameters = search_path,synchronous_commit"))
	run(t, o)
	require.NoError(t, o.Start(t.Context(), "steps", "i", 2))
	await(t, o, "i", engine.Completed)
}
