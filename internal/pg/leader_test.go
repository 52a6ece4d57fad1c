package pg_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestOneLeadsAndAnotherTakesOverWhenItsSessionEnds(t *testing.T) {
	t.Parallel()
	const lock = 7
	pool := pgtest.Pool(t)
	leads := make(chan uint32, 2)
	lead := func(ctx context.Context) chan error {
		ended := make(chan error, 1)
		go func() {
			ended <- pg.Lead(ctx, pool, lock, func(ctx context.Context, session *pgx.Conn) error {
				leads <- session.PgConn().PID()
				_, err := session.WaitForNotification(ctx)
				return err
			})
		}()
		return ended
	}
	first := lead(t.Context())
	pid := <-leads
	ctx, stop := context.WithCancel(t.Context())
	second := lead(ctx)
	third := lead(ctx)
	select {
	case <-leads:
		t.Fatal("two lead")
	case <-time.After(100 * time.Millisecond):
	}

	_, err := pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, pid)
	require.NoError(t, err)
	require.Error(t, <-first)
	<-leads
	stop()
	results := []error{<-second, <-third}
	require.Contains(t, results, nil, "who only stood by has nothing to complain of")
	require.ErrorIs(t, firstError(results), context.Canceled, "what the leader's work returned")
	require.Eventually(t, func() bool {
		var isFree bool
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE locktype = 'advisory' AND datname = current_database())`).Scan(&isFree))
		return isFree
	}, 5*time.Second, 10*time.Millisecond, "the lock ends with the session")
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestLeadingWithoutADatabaseIsAnErrorUnlessItWasStopped(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	pool.Close()
	work := func(context.Context, *pgx.Conn) error { t.Error("it leads"); return nil }
	require.ErrorContains(t, pg.Lead(t.Context(), pool, 7, work), "connect to become leader")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, pg.Lead(ctx, pool, 7, work))
}
