package warehouse

import (
	"context"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// openWhy is why a saga must not be forgotten yet (package ledger): what it holds must be released or shipped, and its events
// must be out, or the operations that they tell of would be gone before anybody heard of them.
const openWhy = `
	CASE WHEN EXISTS (SELECT FROM reservations AS r WHERE r.state = 'reserved' AND
	                    r.order_id = CASE sagas.definition WHEN 'checkout' THEN sagas.key ELSE sagas.definition || '/' || sagas.key END)
	     THEN 'its reservation is open'
	     WHEN EXISTS (SELECT FROM outbox AS e
	                  WHERE sagas.definition = 'checkout' AND e.about = 'order' AND e.key = sagas.key AND e.published_at IS NULL)
	     THEN 'an event about it is not published yet' END`

// checkBooks compares what each article's row counts with the sums over its reservations. It is one statement and so sees one
// moment, in which every transaction is either whole or not there. It reads each line of each reservation once, locks nothing and
// waits for nobody.
func (s *store) checkBooks(ctx context.Context) ([]*operationv1.Discrepancy, error) {
	const query = `
		WITH counted AS (
			SELECT sku,
			       sum(quantity) FILTER (WHERE state = 'reserved')  AS reserved,
			       sum(quantity) FILTER (WHERE state = 'committed') AS committed
			FROM reservation_lines JOIN reservations USING (order_id)
			GROUP BY sku
		)
		SELECT sku, figure, stated, counted
		FROM stock LEFT JOIN counted USING (sku),
		     LATERAL (VALUES ('reserved', stock.reserved, coalesce(counted.reserved, 0)),
		                     ('committed', stock.committed, coalesce(counted.committed, 0))) AS figures (figure, stated, counted)
		WHERE stated <> counted
		ORDER BY sku, figure
		LIMIT $1`
	return ledger.Discrepancies(ctx, s.pool, query)
}
