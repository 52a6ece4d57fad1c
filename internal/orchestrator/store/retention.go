package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Finished is a checkout that is final, as retention looks at it.
type Finished struct {
	OrderID string
	EndedAt time.Time
	Run     int
	// PurgedRuns is the newest run that the engine was told to forget, with all before it.
	PurgedRuns int
}

// Unpurged lists final checkouts of an engine that ended longer ago than a time and whose runs the engine still keeps, in the
// order of their ends, behind one of them; the zero value is the beginning.
func (s *Store) Unpurged(ctx context.Context, engine string, olderThan time.Duration, after Finished, limit int) ([]Finished, error) {
	const query = `
		SELECT order_id, ended_at, run, purged_runs
		FROM checkouts
		WHERE phase = 'final' AND purged_runs < run AND engine = $1
		  AND ended_at < now() - $2::interval AND (ended_at, order_id) > ($3, $4)
		ORDER BY ended_at, order_id
		LIMIT $5`
	return s.listFinished(ctx, query, engine, olderThan, after.EndedAt, after.OrderID, limit)
}

// MarkPurged notes that the engine has forgotten a run of a final checkout, and all before it.
func (s *Store) MarkPurged(ctx context.Context, orderID string, run int) error {
	const query = `UPDATE checkouts SET purged_runs = $2 WHERE order_id = $1 AND phase = 'final' AND purged_runs < $2`
	if _, err := s.pool.Exec(ctx, query, orderID, run); err != nil {
		return fmt.Errorf("mark run %d of %s as purged: %w", run, orderID, err)
	}
	return nil
}

// isForgettable: nothing that this process keeps or was told of can still bring anything for the checkout.
const isForgettable = `
	phase = 'final' AND purged_runs >= run
	AND NOT EXISTS (SELECT FROM outbox WHERE about = 'order' AND key = order_id AND published_at IS NULL)`

// Forgettable lists final checkouts of an engine that ended longer ago than a time, whose runs are purged and whose events are
// published, in the order of their ends, behind one of them; the zero value is the beginning.
func (s *Store) Forgettable(ctx context.Context, engine string, olderThan time.Duration, after Finished, limit int) ([]Finished, error) {
	const query = `
		SELECT order_id, ended_at, run, purged_runs
		FROM checkouts
		WHERE ` + isForgettable + ` AND engine = $1
		  AND ended_at < now() - $2::interval AND (ended_at, order_id) > ($3, $4)
		ORDER BY ended_at, order_id
		LIMIT $5`
	return s.listFinished(ctx, query, engine, olderThan, after.EndedAt, after.OrderID, limit)
}

func (s *Store) listFinished(ctx context.Context, query string, args ...any) ([]Finished, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read finished checkouts: %w", err)
	}
	finished, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Finished])
	if err != nil {
		return nil, fmt.Errorf("read finished checkouts: %w", err)
	}
	return finished, nil
}

// Forget removes those of the checkouts that are forgettable, with their history, and keeps their ids and keys, so that neither is
// ever accepted again. What people commanded stays. It returns how many it forgot, in one transaction; asked again it forgets none.
func (s *Store) Forget(ctx context.Context, orderIDs []string) (forgotten int, err error) {
	const (
		// The locks are taken by a statement of their own, so that the next one sees all that whoever had them before has committed.
		lock   = `SELECT FROM checkouts WHERE order_id = ANY($1) ORDER BY order_id FOR UPDATE`
		forget = `
			WITH settled AS (
				SELECT order_id FROM checkouts WHERE order_id = ANY($1) AND ` + isForgettable + `
			), history AS (
				DELETE FROM entries WHERE order_id IN (SELECT order_id FROM settled)
			), removed AS (
				DELETE FROM checkouts WHERE order_id IN (SELECT order_id FROM settled)
				RETURNING order_id, idempotency_key, status, ended_at
			)
			INSERT INTO forgotten_checkouts (order_id, idempotency_key, status, ended_at) SELECT * FROM removed`
	)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lock, orderIDs); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, forget, orderIDs)
		forgotten = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("forget checkouts: %w", err)
	}
	return forgotten, nil
}
