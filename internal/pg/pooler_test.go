package pg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAPoolerThatSharesSessionsIsRefused(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{
		"transaction mode":                      "pool_mode = transaction",
		"transaction mode and one session":      "pool_mode = transaction\ndefault_pool_size = 1",
		"transaction mode, sessions in turn":    "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 5",
		"transaction mode, sessions kept ready": "pool_mode = transaction\nmin_pool_size = 10",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.PgBouncer(t, more)
			for range 5 {
				_, err := pg.Open(t.Context(), url, 2)
				require.ErrorIs(t, err, pg.ErrShared)
			}
			require.False(t, pg.Away(pg.ErrShared), "no waiting mends it")

			pool, err := pgxpool.New(t.Context(), url+"&default_query_exec_mode=simple_protocol")
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			err = pg.Lead(t.Context(), pool, 7, func(context.Context, *pgx.Conn) error {
				t.Error("it leads")
				return nil
			})
			require.ErrorIs(t, err, pg.ErrShared)
		})
	}
}

func TestAPoolerInSessionModeIsFine(t *testing.T) {
	t.Parallel()
	pool, err := pg.Open(t.Context(), pgtest.PgBouncer(t, "pool_mode = session"), 3)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	led := false
	require.NoError(t, pg.Lead(t.Context(), pool, 7, func(context.Context, *pgx.Conn) error {
		led = true
		return nil
	}))
	require.True(t, led)
}
