package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// orderLocks is the class of the advisory locks of orders: shared by every transaction that begins an operation of an order, and
// held alone by the one that forgets the order. A row would not do: the operation that comes late may be the first of its step.
const orderLocks = 0x6f726472

// forgetBatch is how many operations are looked at in one round, and so how long a transaction of Forget can get.
const forgetBatch = 500

// Retention says which orders' operations may be forgotten.
type Retention struct {
	// Keep is how long operations are kept after the order's last one changed. Zero keeps them for ever. Too little makes an
	// order's late repeats, and the operator who looks for it, meet "no longer kept"; too much costs only room.
	Keep time.Duration
	// Settled is an SQL condition about orders.order_id, by the participant's own tables: nothing of the order is open, and
	// no event of it is still to be published. The ledger cannot tell: it does not know which step is the last.
	Settled string
	// InUse returns those of the orders that something outside of this participant can still bring: an open checkout, or a dead
	// letter that may be replayed. While it fails, nothing is forgotten.
	InUse func(ctx context.Context, orderIDs []string) ([]string, error)
}

// Forget removes the operations of every order that nothing is under way of, that changed last longer ago than r.Keep, that is
// settled and not in use, and keeps the order's id: from then on every request for the order ends with ErrForgotten. It works in
// bounded transactions and may be called at any time, by several processes at once; an order that somebody is at work on is left
// for the next time. It returns how many orders it forgot, also beside an error.
func Forget(ctx context.Context, pool *pgxpool.Pool, r Retention) (orders int, err error) {
	if r.Keep == 0 {
		return 0, nil
	}
	if r.Keep < 0 || r.Settled == "" || r.InUse == nil {
		return 0, errors.New("forget operations: a retention needs a positive time, a condition of being settled, and somebody who knows what is in use")
	}
	for place := (Place{}); ; {
		old, err := listOld(ctx, pool, r.Keep, place)
		if err != nil || len(old) == 0 {
			return orders, err
		}
		last := old[len(old)-1]
		place = Place{UpdatedAt: last.UpdatedAt, OrderID: last.OrderID, Step: last.Step}

		var ids []string
		for _, op := range old {
			ids = append(ids, op.OrderID)
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		inUse, err := r.InUse(ctx, ids)
		if err != nil {
			return orders, fmt.Errorf("ask which orders are in use: %w", err)
		}
		ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(inUse, id) })
		n, err := forgetOrders(ctx, pool, r, ids)
		orders += n
		if err != nil {
			return orders, err
		}
	}
}

// listOld returns the next operations that changed long enough ago, oldest first. It goes on behind a place, because what is
// old and must stay would otherwise be all that is ever looked at.
func listOld(ctx context.Context, pool *pgxpool.Pool, keep time.Duration, after Place) ([]Operation, error) {
	const query = `
		SELECT ` + columns + ` FROM operations
		WHERE updated_at < clock_timestamp() - $1::interval AND (updated_at, order_id, step) > ($2, $3, $4)
		ORDER BY updated_at, order_id, step
		LIMIT $5`
	return list(ctx, pool, query, keep, after.UpdatedAt, after.OrderID, after.Step, forgetBatch)
}

// forgetOrders forgets those of the orders that may be. The locks are taken by a statement of their own, so that the next one
// sees all that whoever had them before has committed.
func forgetOrders(ctx context.Context, pool *pgxpool.Pool, r Retention, ids []string) (orders int, err error) {
	const lock = `
		SELECT order_id FROM unnest($1::text[]) AS orders (order_id)
		WHERE pg_try_advisory_xact_lock($2, hashtext(order_id))`
	forget := `
		WITH settled AS (
			SELECT order_id FROM unnest($1::text[]) AS orders (order_id)
			WHERE NOT EXISTS (
				SELECT FROM operations AS o
				WHERE o.order_id = orders.order_id
				  AND (o.updated_at >= clock_timestamp() - $2::interval OR 'started' IN (o.do_state, o.undo_state)))
			  AND (` + r.Settled + `)
		), removed AS (
			DELETE FROM operations WHERE order_id IN (SELECT order_id FROM settled) RETURNING order_id
		)
		INSERT INTO forgotten_orders (order_id) SELECT DISTINCT order_id FROM removed`
	err = pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, lock, ids, orderLocks)
		if err != nil {
			return fmt.Errorf("lock old orders: %w", err)
		}
		free, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("lock old orders: %w", err)
		}
		tag, err := tx.Exec(ctx, forget, free, r.Keep)
		if err != nil {
			return fmt.Errorf("forget orders: %w", err)
		}
		orders = int(tag.RowsAffected())
		return nil
	})
	if err != nil {
		return 0, err
	}
	return orders, nil
}
