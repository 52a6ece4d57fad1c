package store

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAScrapeReadsTheOpenCheckoutsAndNoneOfThoseThatEnded(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, Migrations()))
	const seed = `
		INSERT INTO sagas (definition, key, idempotency_key, digest, request, engine, about, currency, amount, input,
		                   plan, progress, deadline, phase, status, check_at, ended_at)
		SELECT 'checkout', 'ord-' || n, 'ord-' || n, 'v1:x', '', 'embedded', 'cus-1', 'EUR', 100,
		       '{"items": [{"sku": "CHAIR-OAK", "quantity": 2, "unit_price": 50}]}',
		       '{"steps": [{"name": "reserve-stock"}]}', '[{"name": "reserve-stock", "state": "done", "compensation": "not-needed"}]', now(),
		       CASE WHEN open THEN 'forward' ELSE 'final' END, CASE WHEN open THEN 'RUNNING' ELSE 'CONFIRMED' END,
		       CASE WHEN open THEN now() END, CASE WHEN NOT open THEN now() END
		FROM (SELECT n, n % 200 = 0 AS open FROM generate_series(1, 20000) AS n) AS seeds`
	for _, sql := range []string{seed, `ANALYZE sagas`} {
		_, err := pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	rows, err := pool.Query(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) `+selectOpen)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	plan := strings.Join(lines, "\n")
	t.Logf("a scrape of 100 open checkouts among 20,000:\n%s", plan)
	require.NotContains(t, plan, "Seq Scan")
	require.Contains(t, plan, "sagas_check_at")
	require.NotContains(t, plan, "Rows Removed by Filter: 1", "nothing that ended is looked at")

	groups, err := New(pool, commit.New(pool), nil).OpenGroups(t.Context())
	require.NoError(t, err)
	require.Len(t, groups, 1)
	require.EqualValues(t, 100, groups[0].Sagas)
	require.EqualValues(t, 10_000, groups[0].Money)
}
