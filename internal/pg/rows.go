package pg

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Querier is a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Rows runs a query and returns what read makes of each row. An error says what it could not do, such as "read orders".
func Rows[T any](ctx context.Context, q Querier, what string, read pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	all, err := pgx.CollectRows(rows, read)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return all, nil
}

// pruneBatch is how many rows Prune removes at a time. More keep the locks of a statement for longer.
const pruneBatch = 1000

// Prune removes what is older than keep, batch by batch. The query is a DELETE of at most $2 rows that are older than $1.
func Prune(ctx context.Context, pool *pgxpool.Pool, query string, keep time.Duration) error {
	for {
		tag, err := pool.Exec(ctx, query, keep, pruneBatch)
		if err != nil || tag.RowsAffected() < pruneBatch {
			return err
		}
	}
}

// Text is the beginning of a text as PostgreSQL stores it: at most most bytes of UTF-8 without zeros.
func Text(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// Column is one value of each, as a statement over arrays takes it.
func Column[E, T any](of []E, value func(E) T) []T {
	values := make([]T, len(of))
	for i, e := range of {
		values[i] = value(e)
	}
	return values
}
