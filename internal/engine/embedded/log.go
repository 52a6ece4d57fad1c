package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const sqlHistory = `
SELECT l.key, s.id, l.events
FROM engine.log s JOIN engine.log l ON l.key = s.key
WHERE s.id = $1
ORDER BY l.key, l.seq`

// read reads what has happened to an instance; one that is not in the log has no rows.
func read(ctx context.Context, from pg.Querier, id string) (history, error) {
	h := history{id: id}
	err := readAll(ctx, from, func(found history) { h = found }, sqlHistory, id)
	if err != nil {
		return history{}, fmt.Errorf("read history of workflow %s: %w", id, err)
	}
	return h, nil
}

// readAll reads histories by a query of keys, ids and events in the order of the log. The id may stand in the first row alone.
func readAll(ctx context.Context, from pg.Querier, each func(history), query string, args ...any) error {
	rows, err := from.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	var h history
	tell := func() {
		if h.start != nil && h.id != "" { // Of one that somebody deleted behind our back the rest means nothing.
			each(h)
		}
	}
	var key int64
	var id *string
	var row []byte
	_, err = pgx.ForEachRow(rows, []any{&key, &id, &row}, func() error {
		events, err := decode(row)
		if err != nil {
			return err
		}
		if key != h.key {
			tell()
			h = history{key: key}
		}
		if id != nil {
			h.id = *id
		}
		h = h.with(events)
		h.rows++
		return nil
	})
	if err != nil {
		return err
	}
	tell()
	return nil
}

// readAfterAll reads an instance once every transaction has ended that this process has begun: one whose answer got lost may still
// be under way. It waits for them by the lock that each of them holds: ErrLost.
func (r *runner) readAfterAll(ctx context.Context, id string) (h history, err error) {
	err = pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT FROM engine.owner WHERE epoch = $1 FOR UPDATE`, r.epoch).Scan()
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrLost
		}
		if err != nil {
			return err
		}
		h, err = read(ctx, tx, id)
		return err
	})
	return h, err
}

const sqlLast = `
SELECT last.status, last.events
FROM engine.log s
CROSS JOIN LATERAL (SELECT status, events FROM engine.log WHERE key = s.key ORDER BY seq DESC LIMIT 1) last
WHERE s.id = $1
UNION ALL
SELECT 0, NULL FROM engine.inbox WHERE starts AND id = $1`

// Inspect implements engine.Engine.
func (e *Engine) Inspect(ctx context.Context, id string) (engine.Instance, error) {
	var last status
	var row []byte
	err := e.config.Pool.QueryRow(ctx, sqlLast, id).Scan(&last, &row)
	if errors.Is(err, pgx.ErrNoRows) {
		return engine.Instance{}, engine.ErrGone
	}
	if err != nil {
		return engine.Instance{}, fmt.Errorf("inspect workflow %s: %w", id, err)
	}
	switch last {
	case goesOn:
		return engine.Instance{State: engine.Running}, nil
	case completed:
		return engine.Instance{State: engine.Completed}, nil
	}
	events, err := decode(row)
	if err != nil {
		return engine.Instance{}, fmt.Errorf("inspect workflow %s: %w", id, err)
	}
	return engine.Instance{State: engine.Failed, Failure: history{}.with(events).end.GetFailureDetails().GetErrorMessage()}, nil
}

// History implements engine.Engine.
func (e *Engine) History(ctx context.Context, id string) ([]*protos.HistoryEvent, error) {
	h, err := read(ctx, e.config.Pool, id)
	if err == nil && h.rows == 0 {
		_, err = e.Inspect(ctx, id) // It may still lie in the inbox.
	}
	return h.events, err
}

const sqlPurge = `
DELETE FROM engine.log
WHERE key = (SELECT key FROM engine.log WHERE id = $1)
  AND EXISTS (SELECT FROM engine.log e WHERE e.key = (SELECT key FROM engine.log WHERE id = $1) AND e.status <> 0)`

// Purge implements engine.Engine.
func (e *Engine) Purge(ctx context.Context, id string) error {
	purged, err := e.config.Pool.Exec(ctx, sqlPurge, id)
	if err != nil {
		return fmt.Errorf("purge workflow %s: %w", id, err)
	}
	if purged.RowsAffected() > 0 {
		return nil
	}
	if _, err = e.Inspect(ctx, id); errors.Is(err, engine.ErrGone) {
		return nil
	}
	if err == nil {
		err = errors.New("it has not ended")
	}
	return fmt.Errorf("purge workflow %s: %w", id, err)
}

const (
	sqlTakeOver = `UPDATE engine.owner SET epoch = epoch + 1 RETURNING epoch`
	sqlKeys     = `SELECT low.key, greatest(low.key, (SELECT coalesce(max(key), 0) + 1 FROM engine.log)) FROM engine.low_water low`
	// Both read what goes on and has been in memory: the newest instances, and those of the older ones that have an activity in hand.
	sqlRecent = `
		WITH recent AS MATERIALIZED (SELECT key, seq, id, status, events FROM engine.log WHERE key >= $1)
		SELECT key, id, events FROM recent
		WHERE key NOT IN (SELECT key FROM recent WHERE status <> 0)
		ORDER BY key, seq`
	sqlBusy = `
		SELECT l.key, l.id, l.events FROM engine.lasting JOIN engine.log l USING (key)
		WHERE busy AND lasting.key < $1
		ORDER BY l.key, l.seq`
	sqlLasting = `SELECT id, wake FROM engine.lasting`
)

// takeOver makes this process the only one that may write, and reads what there is to go on with.
func (r *runner) takeOver(ctx context.Context) error {
	// It waits for the transactions of who ran the engine before.
	if err := r.Pool.QueryRow(ctx, sqlTakeOver).Scan(&r.epoch); err != nil {
		return fmt.Errorf("take over embedded engine: %w", err)
	}
	if err := r.recover(ctx, r.Pool); err != nil {
		return fmt.Errorf("read where the embedded engine was: %w", err)
	}
	return nil
}

func (r *runner) recover(ctx context.Context, pool *pgxpool.Pool) error {
	if err := pool.QueryRow(ctx, sqlKeys).Scan(&r.lowWater, &r.nextKey); err != nil {
		return err
	}
	found := func(h history) {
		i := newInstance(h.id)
		i.history, i.key = h, h.key
		r.instances[h.id] = i
	}
	if err := readAll(ctx, pool, found, sqlRecent, r.lowWater); err != nil {
		return err
	}
	if err := readAll(ctx, pool, found, sqlBusy, r.lowWater); err != nil {
		return err
	}
	rows, err := pool.Query(ctx, sqlLasting)
	if err != nil {
		return err
	}
	var id string
	var wake *time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &wake}, func() error {
		if i, inMemory := r.instances[id]; inMemory {
			i.noted, i.kept = true, true
		} else if wake != nil {
			r.wakes.set(id, *wake)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range r.instances {
		r.workers.add(r.follow(i))
	}
	signal(r.posted)
	return nil
}
