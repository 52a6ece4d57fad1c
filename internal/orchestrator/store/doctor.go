package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// OpenRun is the run that drives an open checkout.
type OpenRun struct {
	OrderID string
	Run     int
	// Step is the step or compensation that the checkout is at.
	Step string
}

// OpenRuns are the runs by which an engine drives open checkouts, by order id, beginning after one. The engine may not know a run
// yet, or no longer. A choreographed checkout that no run has taken over has none.
func (s *Store) OpenRuns(ctx context.Context, engine, after string, limit int) ([]OpenRun, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT order_id, run, at_step FROM checkouts
		WHERE check_at IS NOT NULL AND engine = $1 AND (coordination = 'orchestrated' OR started_run >= run) AND order_id > $2
		ORDER BY order_id LIMIT $3`, engine, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read open runs: %w", err)
	}
	runs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenRun])
	if err != nil {
		return nil, fmt.Errorf("read open runs: %w", err)
	}
	return runs, nil
}

// NeedAttention counts the checkouts that need attention, and tells since when the first of them does.
func (s *Store) NeedAttention(ctx context.Context) (count int, oldest time.Time, err error) {
	var since *time.Time
	err = s.pool.QueryRow(ctx, `
		SELECT count(*), min((attention ->> 'since')::timestamptz) FROM checkouts WHERE status = 'NEEDS_ATTENTION'`).Scan(&count, &since)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("count checkouts that need attention: %w", err)
	}
	if since != nil {
		oldest = *since
	}
	return count, oldest, nil
}
