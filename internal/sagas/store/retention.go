package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Finished is a final saga as retention sees it.
type Finished struct {
	saga.ID
	EndedAt time.Time
	Run     int
	// PurgedRuns is the newest run that the engine was told to forget, with all before it.
	PurgedRuns int
	// Participants are those of its plan.
	Participants []string
}

const finishedColumns = `definition, key, ended_at, run, purged_runs,
		       ARRAY(SELECT DISTINCT step ->> 'participant' FROM jsonb_array_elements(plan -> 'steps') AS step ORDER BY 1)`

// Unpurged lists final sagas of an engine that ended longer ago than olderThan and whose runs the engine still keeps, in the order
// of their ends, after one of them; the zero value is the beginning.
func (s *Store) Unpurged(ctx context.Context, engine string, olderThan time.Duration, after Finished, limit int) ([]Finished, error) {
	const query = `
		SELECT ` + finishedColumns + `
		FROM sagas
		WHERE phase = 'final' AND purged_runs < run AND engine = $1
		  AND ended_at < now() - $2::interval AND (ended_at, key, definition) > ($3, $4, $5)
		ORDER BY ended_at, key, definition
		LIMIT $6`
	return s.listFinished(ctx, query, engine, olderThan, after.EndedAt, after.Key, after.Definition, limit)
}

// MarkPurged notes that the engine has forgotten a run of a final saga, and all before it.
func (s *Store) MarkPurged(ctx context.Context, id saga.ID, run int) error {
	const query = `
		UPDATE sagas SET purged_runs = $3 WHERE definition = $1 AND key = $2 AND phase = 'final' AND purged_runs < $3`
	if _, err := s.pool.Exec(ctx, query, id.Definition, id.Key, run); err != nil {
		return fmt.Errorf("mark run %d of %s as purged: %w", run, id, err)
	}
	return nil
}

// isForgettable: nothing that this process has or knows of can still bring anything for the saga.
const isForgettable = `
	phase = 'final' AND purged_runs >= run
	AND NOT EXISTS (SELECT FROM outbox WHERE outbox.key = sagas.key AND published_at IS NULL)`

// Forgettable lists final sagas of an engine that ended longer ago than olderThan, whose runs are purged and whose events are
// published, in the order of their ends, after one of them; the zero value is the beginning.
func (s *Store) Forgettable(ctx context.Context, engine string, olderThan time.Duration, after Finished, limit int) ([]Finished, error) {
	const query = `
		SELECT ` + finishedColumns + `
		FROM sagas
		WHERE ` + isForgettable + ` AND engine = $1
		  AND ended_at < now() - $2::interval AND (ended_at, key, definition) > ($3, $4, $5)
		ORDER BY ended_at, key, definition
		LIMIT $6`
	return s.listFinished(ctx, query, engine, olderThan, after.EndedAt, after.Key, after.Definition, limit)
}

func (s *Store) listFinished(ctx context.Context, query string, args ...any) ([]Finished, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read finished sagas: %w", err)
	}
	finished, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Finished])
	if err != nil {
		return nil, fmt.Errorf("read finished sagas: %w", err)
	}
	return finished, nil
}

// Forget removes those of a definition's sagas that are forgettable, with their history, and keeps their keys, so that none is ever
// accepted again. Operators' commands stay. It is one transaction and returns how many it forgot; asked again it forgets none.
func (s *Store) Forget(ctx context.Context, definition string, keys []string) (forgotten int, err error) {
	const (
		// One statement takes the locks, so that the next one sees all that their earlier holders committed.
		lock   = `SELECT FROM sagas WHERE definition = $1 AND key = ANY($2) ORDER BY key FOR UPDATE`
		forget = `
			WITH settled AS (
				SELECT key FROM sagas WHERE definition = $1 AND key = ANY($2) AND ` + isForgettable + `
			), history AS (
				DELETE FROM entries WHERE definition = $1 AND key IN (SELECT key FROM settled)
			), removed AS (
				DELETE FROM sagas WHERE definition = $1 AND key IN (SELECT key FROM settled)
				RETURNING definition, key, idempotency_key, status, ended_at
			)
			INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) SELECT * FROM removed`
	)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lock, definition, keys); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, forget, definition, keys)
		forgotten = int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("forget sagas: %w", err)
	}
	return forgotten, nil
}
