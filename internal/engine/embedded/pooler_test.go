package embedded_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestTheEngineRunsBehindAPoolerInSessionModeAlone(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.PgBouncer(t, "pool_mode = session\nignore_startup_parameters = search_path,synchronous_commit"))
	run(t, o)
	require.NoError(t, o.Start(t.Context(), "steps", "i", 2))
	await(t, o, "i", engine.Completed)

	shared, err := tryOpen(t.Context(), pgtest.PgBouncer(t, "pool_mode = transaction\nmax_prepared_statements = 100"), oneActivity(nil))
	if err == nil { // Else its migrations were refused.
		t.Cleanup(shared.cut)
		err = shared.Run(t.Context())
	}
	require.ErrorIs(t, err, pg.ErrShared)
}
