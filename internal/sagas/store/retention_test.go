package store_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

func TestOnlyWhatIsFinalAndPurgedAndToldIsForgotten(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	st := newStore(pool)
	all := []string{"open", "unpurged", "untold", "settled"}
	for _, id := range all {
		_, _, err := st.Accept(t.Context(), order(id))
		require.NoError(t, err)
	}
	finish(t, pool, "unpurged", "untold", "settled")
	_, err := pool.Exec(t.Context(), `UPDATE checkouts SET purged_runs = run WHERE order_id <> 'unpurged'`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `UPDATE outbox SET published_at = now() WHERE key <> 'untold'`)
	require.NoError(t, err)

	require.Equal(t, []string{"settled"}, names(st.Forgettable(t.Context(), "embedded", 0, store.Finished{}, 10)))
	forgotten, err := st.Forget(t.Context(), checkout.Definition, append(all, "never-heard-of"))
	require.NoError(t, err)
	require.Equal(t, 1, forgotten)
	_, err = st.Saga(t.Context(), checkout.Saga("settled"))
	require.ErrorIs(t, err, store.ErrNotFound)
	for _, id := range []string{"open", "unpurged", "untold"} {
		_, err = st.Saga(t.Context(), checkout.Saga(id))
		require.NoError(t, err, id)
	}
	var key, status string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT idempotency_key, status FROM forgotten_sagas WHERE key = 'settled'`).Scan(&key, &status))
	require.Equal(t, []string{order("settled").IdempotencyKey, "CANCELLED"}, []string{key, status})

	again, err := st.Forget(t.Context(), checkout.Definition, all)
	require.NoError(t, err)
	require.Zero(t, again)
}

func TestFinishedCheckoutsAreListedByTheirEndsPageByPage(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	st := newStore(pool)
	for _, id := range []string{"ord-3", "ord-1", "ord-2", "of-dapr", "young"} {
		_, _, err := st.Accept(t.Context(), order(id))
		require.NoError(t, err)
		finish(t, pool, id)
	}
	_, err := pool.Exec(t.Context(), `
		UPDATE checkouts SET ended_at = now() - interval '2 hours' WHERE order_id <> 'young';
		UPDATE checkouts SET engine = 'dapr' WHERE order_id = 'of-dapr';
		UPDATE checkouts SET ended_at = ended_at - interval '1 second' WHERE order_id = 'ord-3';
		UPDATE outbox SET published_at = now()`)
	require.NoError(t, err)

	// Two of them ended at the same moment: the page that ends with one must not leave the other out.
	after, pages := store.Finished{}, []string{}
	for range 3 {
		page, err := st.Unpurged(t.Context(), "embedded", time.Hour, after, 1)
		require.NoError(t, err)
		require.Len(t, page, 1)
		after = page[0]
		pages = append(pages, after.Key)
	}
	require.Equal(t, []string{"ord-3", "ord-1", "ord-2"}, pages)
	require.Empty(t, names(st.Unpurged(t.Context(), "embedded", time.Hour, after, 1)))

	for _, id := range pages {
		require.NoError(t, st.MarkPurged(t.Context(), checkout.Saga(id), 1))
	}
	require.Empty(t, names(st.Unpurged(t.Context(), "embedded", time.Hour, store.Finished{}, 10)))
	require.Equal(t, pages, names(st.Forgettable(t.Context(), "embedded", time.Hour, store.Finished{}, 10)))
	require.Equal(t, []string{"of-dapr"}, names(st.Unpurged(t.Context(), "dapr", time.Hour, store.Finished{}, 10)))
}

// finish ends checkouts that nobody was asked about.
func finish(t *testing.T, pool *pgxpool.Pool, ids ...string) {
	t.Helper()
	const query = `
		UPDATE checkouts SET phase = 'final', status = 'CANCELLED', verdict = 'CANCELLED', ended_at = now(), check_at = NULL, at_step = ''
		WHERE order_id = ANY($1)`
	_, err := pool.Exec(t.Context(), query, ids)
	require.NoError(t, err)
}

func names(finished []store.Finished, err error) (ids []string) {
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range finished {
		ids = append(ids, f.Key)
	}
	return ids
}
