package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// maxDiscrepancies bounds the answer of CheckBooks: books that are further off than that need no list.
const maxDiscrepancies = 1000

// Discrepancies runs a participant's comparison of its own books: a query of one statement, and so of one moment, whose rows say
// what each discrepancy is about, which figure, what is stated and what was counted. Its one parameter is how many rows it returns.
func Discrepancies(ctx context.Context, pool *pgxpool.Pool, query string) ([]*operationv1.Discrepancy, error) {
	rows, err := pool.Query(ctx, query, maxDiscrepancies)
	if err != nil {
		return nil, fmt.Errorf("check books: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*operationv1.Discrepancy, error) {
		d := &operationv1.Discrepancy{}
		err := row.Scan(&d.About, &d.Figure, &d.Stated, &d.Counted)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("check books: %w", err)
	}
	return found, nil
}
