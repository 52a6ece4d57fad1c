package store

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/pgtest"
)

func TestAScrapeReadsTheOpenCheckoutsAndNoneOfThoseThatEnded(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, Migrations()...))
	const seed = `
		INSERT INTO checkouts (order_id, idempotency_key, digest, request, engine, customer_id, currency, amount, payment_method, items,
		                       plan, progress, deadline, phase, status, check_at, ended_at)
		SELECT 'ord-' || n, 'ord-' || n, 'v1:x', '', 'embedded', 'cus-1', 'EUR', 100, 'tok_visa',
		       '[{"sku": "CHAIR-OAK", "quantity": 2, "unit_price": 50}]',
		       '{"steps": [{"name": "reserve-stock"}]}', '[{"name": "reserve-stock", "state": "done", "compensation": "not-needed"}]', now(),
		       CASE WHEN open THEN 'forward' ELSE 'final' END, CASE WHEN open THEN 'RUNNING' ELSE 'CONFIRMED' END,
		       CASE WHEN open THEN now() END, CASE WHEN NOT open THEN now() END
		FROM (SELECT n, n % 200 = 0 AS open FROM generate_series(1, 20000) AS n) AS seeds`
	for _, sql := range []string{seed, `ANALYZE checkouts`} {
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
	require.Contains(t, plan, "checkouts_check_at")
	require.NotContains(t, plan, "Rows Removed by Filter: 1", "nothing that ended is looked at")

	groups, err := newGauges(pool, newWords()).read()
	require.NoError(t, err)
	require.Len(t, groups, 1)
	require.EqualValues(t, 100, groups[0].Checkouts)
	require.EqualValues(t, 200, groups[0].Reserved)
}
