package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

func TestI7AStartWithTheIDOrKeyOfAForgottenCheckoutIsRefusedAlsoWhileItIsForgotten(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	st := newStore(pool)
	first := order("ord-1")
	first.IdempotencyKey = "key-1"
	_, _, err := st.Accept(t.Context(), first)
	require.NoError(t, err)
	finish(t, pool, "ord-1")
	_, err = pool.Exec(t.Context(), `UPDATE checkouts SET purged_runs = run; UPDATE outbox SET published_at = now()`)
	require.NoError(t, err)

	sameKey, sameID := order("ord-2"), order("ord-1")
	sameKey.IdempotencyKey, sameID.IdempotencyKey = "key-1", "key-2"
	starts := []store.NewSaga{first, sameKey, sameID}

	// A start that came while another transaction had removed the row, and not committed yet, waits for it.
	forgetting, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = forgetting.Rollback(context.Background()) }()
	for _, query := range []string{
		`DELETE FROM entries`, `DELETE FROM checkouts`,
		`INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) VALUES ('checkout', 'ord-1', 'key-1', 'CANCELLED', now())`,
	} {
		_, err := forgetting.Exec(t.Context(), query)
		require.NoError(t, err)
	}
	answers := make(chan error, len(starts))
	for _, n := range starts {
		go func() {
			_, _, err := st.Accept(t.Context(), n)
			answers <- err
		}()
	}
	// Within a transaction PostgreSQL shows the same activity again and again unless it is told to look anew.
	const lookAnew = `SELECT pg_stat_clear_snapshot()`
	const waiting = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	require.Eventually(t, func() bool {
		if _, err := forgetting.Exec(t.Context(), lookAnew); err != nil {
			return false
		}
		var n int
		return forgetting.QueryRow(t.Context(), waiting).Scan(&n) == nil && n == len(starts)
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, forgetting.Commit(t.Context()))
	for range starts {
		requireConflict(t, store.WasForgotten, <-answers)
	}

	for _, n := range starts {
		_, _, err := st.Accept(t.Context(), n)
		requireConflict(t, store.WasForgotten, err)
	}
	_, created, err := st.Accept(t.Context(), order("ord-3"))
	require.NoError(t, err)
	require.True(t, created)
}
