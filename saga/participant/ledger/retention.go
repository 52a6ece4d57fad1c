package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// orderLocks is the class of the advisory locks of orders: shared by every transaction that begins an operation of an order, and
// held alone by the one that forgets the order. A row would not do: the operation that comes late may be the first of its step.
const orderLocks = 0x6f726472

// Kept is an order that is not forgotten.
type Kept struct {
	OrderID string
	// Why is a sentence for people.
	Why string
}

// Forget removes the operations of those of the orders that are settled and keeps their ids: from then on every request for one
// of them ends with ErrForgotten. An order that was never heard of here is remembered as forgotten too: whoever asks knows that it
// is over, and what comes late for it must not be taken for new. Asked again for an order it answers the same.
//
// When an order is old enough is for the caller to know, who sees the whole of it. Whether it is settled is judged here: nothing of
// it is under way, and openWhy, an SQL expression about orders.order_id by the participant's own tables, is NULL; otherwise it is
// a sentence about what is open. The ledger cannot tell: it does not know which step is the last.
//
// Only operations are removed. What the participant's books add up from (reservations, payments and their movements) stays for
// ever: a sum that lost some of its rows could prove nothing any more.
//
// It is one transaction, so the caller bounds the ids. It may be called by several at once; an order that somebody is at work on
// is kept, and may be asked for again.
func Forget(ctx context.Context, pool *pgxpool.Pool, openWhy string, ids []string) (forgotten []string, kept []Kept, err error) {
	// The locks are taken by a statement of their own, so that the next one sees all that whoever had them before has committed.
	// What goes on without beginning an operation, such as the recording of an outer system's answer, does so about one that is
	// started; that is seen here until it has committed all that came of it.
	const lock = `
		SELECT order_id, pg_try_advisory_xact_lock($2, hashtext(order_id))
		FROM unnest($1::text[]) AS orders (order_id)`
	forget := `
		WITH asked AS (
			SELECT order_id,
			       CASE WHEN EXISTS (SELECT FROM operations AS o WHERE o.order_id = orders.order_id
			                           AND ('started' IN (o.do_state, o.undo_state) OR o.undo_state = 'wanted'))
			            THEN 'an operation of it is under way'
			            ELSE (` + openWhy + `) END AS why
			FROM unnest($1::text[]) AS orders (order_id)
		), removed AS (
			DELETE FROM operations WHERE order_id IN (SELECT order_id FROM asked WHERE why IS NULL)
		), remembered AS (
			INSERT INTO forgotten_orders (order_id) SELECT order_id FROM asked WHERE why IS NULL ON CONFLICT DO NOTHING
		)
		SELECT order_id, coalesce(why, '') FROM asked`
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		forgotten, kept = nil, nil
		rows, err := tx.Query(ctx, lock, ids, orderLocks)
		if err != nil {
			return fmt.Errorf("lock orders: %w", err)
		}
		var id, why string
		var isFree bool
		var free []string
		if _, err := pgx.ForEachRow(rows, []any{&id, &isFree}, func() error {
			if isFree {
				free = append(free, id)
			} else {
				kept = append(kept, Kept{OrderID: id, Why: "a request about it is under way"})
			}
			return nil
		}); err != nil {
			return fmt.Errorf("lock orders: %w", err)
		}
		rows, err = tx.Query(ctx, forget, free)
		if err != nil {
			return fmt.Errorf("forget orders: %w", err)
		}
		if _, err := pgx.ForEachRow(rows, []any{&id, &why}, func() error {
			if why == "" {
				forgotten = append(forgotten, id)
			} else {
				kept = append(kept, Kept{OrderID: id, Why: why})
			}
			return nil
		}); err != nil {
			return fmt.Errorf("forget orders: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return forgotten, kept, nil
}
