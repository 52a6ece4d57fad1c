package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// sagaLocks is the class of the sagas' advisory locks. A transaction that locks rows of operations shares their sagas' locks. One that
// decides about operations whose rows it does not lock (Table) holds them alone, and so does the one that forgets sagas. Rows would not
// do: a late operation may be the first of its step.
const sagaLocks = 0x73616761

// lockName is what is hashed for the lock of a saga. Two sagas may share a lock by chance: one of them waits then, or is kept.
func lockName(definition, key string) string { return definition + "/" + key }

// Forget removes the operations of those sagas of a definition that are settled, and keeps their keys: from then on every request
// for one of them ends with ErrForgotten. A saga that this participant has never heard of is remembered as forgotten too: the
// caller knows that it is over, and a late request for it must not pass for a new one. Repeats give the same answer.
//
// The caller sees the whole of a saga, so it decides when one is old enough. Whether it is settled is judged here: nothing of it is
// under way, and openWhy is NULL. openWhy is an SQL expression about sagas.definition and sagas.key over the participant's own tables, and tells in a
// sentence what is still open. The ledger cannot tell: it does not know which step is the last. With an empty openWhy nothing is
// open.
//
// Only operations are removed. What the participant's books add up (reservations, payments and their movements) stays for ever: a
// sum that lost some of its rows would prove nothing.
//
// It is one transaction, so the caller bounds the keys. Several may call it at once. A saga that is being worked on is kept, and
// may be asked for again.
func Forget(ctx context.Context, pool *pgxpool.Pool, definition, openWhy string, keys []string) (done participant.Forgotten, err error) {
	if openWhy == "" {
		openWhy = "NULL"
	}
	// One statement takes the locks, so that the next one sees all that their earlier holders committed. What goes on without
	// beginning an operation, such as recording an outer system's answer, is about an operation that is started; here that is seen
	// as started until all that came of it is committed.
	const lock = `
		SELECT key, pg_try_advisory_xact_lock($3, hashtext(name))
		FROM unnest($1::text[], $2::text[]) AS sagas (key, name)`
	forget := `
		WITH judged AS (
			SELECT key,
			       CASE WHEN EXISTS (SELECT FROM operations AS o WHERE o.definition = $1 AND o.key = sagas.key
			                           AND ('started' IN (o.do_state, o.undo_state) OR o.undo_state = 'wanted'))
			            THEN 'an operation of it is under way'
			            ELSE (` + openWhy + `) END AS why
			FROM (SELECT $1::text AS definition, key FROM unnest($2::text[]) AS keys (key)) AS sagas
		), removed AS (
			DELETE FROM operations WHERE definition = $1 AND key IN (SELECT key FROM judged WHERE why IS NULL)
		), remembered AS (
			INSERT INTO forgotten_sagas (definition, key) SELECT $1, key FROM judged WHERE why IS NULL ON CONFLICT DO NOTHING
		)
		SELECT key, coalesce(why, '') FROM judged`
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = lockName(definition, key)
	}
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		done = participant.Forgotten{}
		rows, err := tx.Query(ctx, lock, keys, names, sagaLocks)
		if err != nil {
			return fmt.Errorf("lock sagas: %w", err)
		}
		var key, why string
		var isFree bool
		var free []string
		if _, err := pgx.ForEachRow(rows, []any{&key, &isFree}, func() error {
			if isFree {
				free = append(free, key)
			} else {
				done.Kept = append(done.Kept, participant.Kept{Key: key, Why: "a request about it is under way"})
			}
			return nil
		}); err != nil {
			return fmt.Errorf("lock sagas: %w", err)
		}
		rows, err = tx.Query(ctx, forget, definition, free)
		if err != nil {
			return fmt.Errorf("forget sagas: %w", err)
		}
		if _, err := pgx.ForEachRow(rows, []any{&key, &why}, func() error {
			if why == "" {
				done.Keys = append(done.Keys, key)
			} else {
				done.Kept = append(done.Kept, participant.Kept{Key: key, Why: why})
			}
			return nil
		}); err != nil {
			return fmt.Errorf("forget sagas: %w", err)
		}
		return nil
	})
	if err != nil {
		return participant.Forgotten{}, err
	}
	return done, nil
}
