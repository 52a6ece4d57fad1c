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

// sagaLocks is the class of the advisory locks of sagas: shared by every transaction that begins an operation of a saga, and held
// alone by the one that forgets the saga. A row would not do: the operation that comes late may be the first of its step.
const sagaLocks = 0x73616761

// lockName is what is hashed for the lock of a saga. Two sagas may share a lock by chance: one of them waits then, or is kept.
func lockName(definition, key string) string { return definition + "/" + key }

// Forget removes the operations of those of a definition's sagas that are settled and keeps their keys: from then on every request
// for one of them ends with ErrForgotten. A saga that was never heard of here is remembered as forgotten too: whoever asks knows that
// it is over, and what comes late for it must not be taken for new. Asked again for a saga it answers the same.
//
// When a saga is old enough is for the caller to know, who sees the whole of it. Whether it is settled is judged here: nothing of it
// is under way, and openWhy, an SQL expression about sagas.definition and sagas.key by the participant's own tables, is NULL; otherwise it is a sentence
// about what is open. The ledger cannot tell: it does not know which step is the last. An empty openWhy has nothing open.
//
// Only operations are removed. What the participant's books add up from (reservations, payments and their movements) stays for
// ever: a sum that lost some of its rows could prove nothing any more.
//
// It is one transaction, so the caller bounds the keys. It may be called by several at once; a saga that somebody is at work on is
// kept, and may be asked for again.
func Forget(ctx context.Context, pool *pgxpool.Pool, definition, openWhy string, keys []string) (done participant.Forgotten, err error) {
	if openWhy == "" {
		openWhy = "NULL"
	}
	// The locks are taken by a statement of their own, so that the next one sees all that whoever had them before has committed.
	// What goes on without beginning an operation, such as the recording of an outer system's answer, does so about one that is
	// started; that is seen here until it has committed all that came of it.
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
