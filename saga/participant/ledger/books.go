package ledger

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// maxDiscrepancies bounds the answer of CheckBooks. Books with more need no list.
const maxDiscrepancies = 1000

// Discrepancies compares a participant's own books. The query is one statement, and so sees one moment. Its rows tell what each
// discrepancy is about, which figure, what is stated and what was counted. Its one parameter is how many rows to return.
func Discrepancies(ctx context.Context, pool *pgxpool.Pool, query string) ([]*operationv1.Discrepancy, error) {
	return pg.Rows(ctx, pool, "check books", func(row pgx.CollectableRow) (*operationv1.Discrepancy, error) {
		d := &operationv1.Discrepancy{}
		err := row.Scan(&d.About, &d.Figure, &d.Stated, &d.Counted)
		return d, err
	}, query, maxDiscrepancies)
}
