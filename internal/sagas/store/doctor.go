package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
)

// OpenRun is the run that drives an open saga.
type OpenRun struct {
	saga.ID
	Run int
	// Step is the step or compensation that the saga is at.
	Step string
}

// OpenRuns are the runs by which an engine drives open sagas, by id, after one. The engine may not know a run yet, or no longer. A
// saga that is driven elsewhere and that no run has taken over has none.
func (s *Store) OpenRuns(ctx context.Context, engine string, after saga.ID, limit int) ([]OpenRun, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT definition, key, run, at_step FROM sagas
		WHERE check_at IS NOT NULL AND engine = $1 AND (NOT elsewhere OR started_run >= run) AND (definition, key) > ($2, $3)
		ORDER BY definition, key LIMIT $4`, engine, after.Definition, after.Key, limit)
	if err != nil {
		return nil, fmt.Errorf("read open runs: %w", err)
	}
	runs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenRun])
	if err != nil {
		return nil, fmt.Errorf("read open runs: %w", err)
	}
	return runs, nil
}

// NeedAttention counts the sagas that need attention, and tells since when the first of them does.
func (s *Store) NeedAttention(ctx context.Context) (count int, oldest time.Time, err error) {
	var since *time.Time
	err = s.pool.QueryRow(ctx, `
		SELECT count(*), min((attention ->> 'since')::timestamptz) FROM sagas WHERE status = 'NEEDS_ATTENTION'`).Scan(&count, &since)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("count sagas that need attention: %w", err)
	}
	if since != nil {
		oldest = *since
	}
	return count, oldest, nil
}
