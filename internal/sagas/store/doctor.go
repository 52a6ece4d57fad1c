package store

import (
	"context"
	"fmt"

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

// OpenVersion counts the open sagas of one version of a definition.
type OpenVersion struct {
	Definition string
	Version    int
	Sagas      int64
}

// OpenVersions counts the open sagas by the version of the definition that they were accepted with.
func (s *Store) OpenVersions(ctx context.Context) ([]OpenVersion, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT definition, coalesce((plan ->> 'version')::integer, 0) AS version, count(*) FROM sagas WHERE ended_at IS NULL
		GROUP BY 1, 2 ORDER BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("count open sagas by version: %w", err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenVersion])
	if err != nil {
		return nil, fmt.Errorf("count open sagas by version: %w", err)
	}
	return versions, nil
}
