package orders

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

var errNoOrder = errors.New("no such order is known here")

// change is what became of one event.
type change struct {
	// before is the status before it; empty for a new order.
	before status
	// late says that a newer event came first, so that the status stays.
	late bool
}

// eachRow is the rows of orders that rowsOf lists as a statement's parameters.
const eachRow = `
	SELECT order_id, customer_id, status, reason, currency, minor_units, ($1::text[])[first:last] AS skus, ($2::integer[])[first:last] AS quantities,
	       seq, placed_at, updated_at
	FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::integer[], $10::integer[], $11::bigint[],
	            $12::timestamptz[], $13::timestamptz[])
	     AS told (order_id, customer_id, status, reason, currency, minor_units, first, last, seq, placed_at, updated_at)`

// rowsOf lists orders for eachRow. The lines of all stand one after the other.
func rowsOf(all []order) []any {
	n := len(all)
	var skus []string
	var quantities []int32
	ids, customers, statuses, reasons, currencies := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	amounts, first, last, seqs := make([]int64, n), make([]int32, n), make([]int32, n), make([]int64, n)
	placed, updated := make([]time.Time, n), make([]time.Time, n)
	for i, o := range all {
		first[i] = int32(len(skus) + 1)
		for _, l := range o.lines {
			skus, quantities = append(skus, l.sku), append(quantities, l.quantity)
		}
		last[i] = int32(len(skus))
		ids[i], customers[i], statuses[i], reasons[i], currencies[i] = o.id, o.customerID, string(o.status), o.reason, o.currency
		amounts[i], seqs[i], placed[i], updated[i] = o.minorUnits, o.seq, o.placedAt, o.updatedAt
	}
	return []any{skus, quantities, ids, customers, statuses, reasons, currencies, amounts, first, last, seqs, placed, updated}
}

// keep takes in what events tell of orders, one after the other, and returns what became of each. What it has not written yet it adds to
// writes. The events of one order take turns at its row; rows are locked in one order.
func keep(ctx context.Context, tx pgx.Tx, writes *pgx.Batch, told []order) ([]change, error) {
	const (
		insert = `
			INSERT INTO orders (order_id, customer_id, status, reason, currency, minor_units, skus, quantities, seq, placed_at, updated_at)
			` + eachRow + ` ORDER BY order_id
			ON CONFLICT (order_id) DO NOTHING
			RETURNING order_id`
		lock   = `SELECT order_id, status, seq FROM orders WHERE order_id = ANY($1) ORDER BY order_id FOR UPDATE`
		update = `
			UPDATE orders AS o
			SET customer_id = t.customer_id, status = t.status, reason = t.reason, currency = t.currency, minor_units = t.minor_units,
			    skus = t.skus, quantities = t.quantities, seq = t.seq, placed_at = least(o.placed_at, t.placed_at), updated_at = t.updated_at
			FROM (` + eachRow + `) AS t WHERE o.order_id = t.order_id`
		// Only when it was placed does an older event know better.
		date = `
			UPDATE orders AS o SET placed_at = least(o.placed_at, t.placed_at)
			FROM (SELECT order_id, min(placed_at) AS placed_at FROM unnest($1::text[], $2::timestamptz[]) AS t (order_id, placed_at) GROUP BY order_id) AS t
			WHERE o.order_id = t.order_id`
	)
	var firsts []order // Of each order the first event.
	var ids []string
	known := make(map[string]order, len(told))
	for _, o := range told {
		if _, seen := known[o.id]; !seen {
			firsts, ids = append(firsts, o), append(ids, o.id)
			known[o.id] = order{}
		}
	}
	isNew := make(map[string]bool)
	reads := &pgx.Batch{}
	reads.Queue(insert, rowsOf(firsts)...).Query(func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { isNew[id] = true; return nil })
		return err
	})
	reads.Queue(lock, ids).Query(func(rows pgx.Rows) error {
		var o order
		_, err := pgx.ForEachRow(rows, []any{&o.id, &o.status, &o.seq}, func() error { known[o.id] = o; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, reads).Close(); err != nil {
		return nil, fmt.Errorf("insert and lock orders: %w", err)
	}

	changes := make([]change, len(told))
	newer := make(map[string]order)
	var dated []string
	var dates []time.Time
	for i, o := range told {
		now := known[o.id]
		if isNew[o.id] {
			delete(isNew, o.id) // It was inserted by this event; the next of the batch finds it.
			continue
		}
		changes[i] = change{before: now.status, late: now.seq >= o.seq}
		dated, dates = append(dated, o.id), append(dates, o.placedAt)
		if !changes[i].late {
			known[o.id], newer[o.id] = o, o
		}
	}
	if len(newer) > 0 {
		writes.Queue(update, rowsOf(slices.Collect(maps.Values(newer)))...)
	}
	if len(dated) > len(newer) { // Some were late, or there were several of an order.
		writes.Queue(date, dated, dates)
	}
	return changes, nil
}

// store answers questions about orders.
type store struct{ pool *pgxpool.Pool }

const selectOrders = `
	SELECT order_id, customer_id, status, reason, currency, minor_units, skus, quantities, seq, placed_at, updated_at FROM orders`

func (s *store) get(ctx context.Context, orderID string) (order, error) {
	found, err := s.query(ctx, selectOrders+` WHERE order_id = $1`, orderID)
	if err != nil {
		return order{}, err
	}
	if len(found) == 0 {
		return order{}, errNoOrder
	}
	return found[0], nil
}

// place is where a page ends in the list of a customer's orders.
type place struct {
	placedAt time.Time
	orderID  string
}

// list returns a customer's orders after a place, newest first. An order whose date changes meanwhile moves on in the list, so a
// reader of all pages may see it twice but misses none.
func (s *store) list(ctx context.Context, customerID string, after place, limit int) ([]order, error) {
	const behind = `
		WHERE customer_id = $1 AND (placed_at, order_id) < ($2, $3)
		ORDER BY placed_at DESC, order_id DESC LIMIT $4`
	return s.query(ctx, selectOrders+behind, customerID, after.placedAt, after.orderID, limit)
}

func (s *store) query(ctx context.Context, query string, args ...any) ([]order, error) {
	return pg.Rows(ctx, s.pool, "read orders", scanOrder, query, args...)
}

func scanOrder(row pgx.CollectableRow) (o order, err error) {
	var skus []string
	var quantities []int32
	err = row.Scan(&o.id, &o.customerID, &o.status, &o.reason, &o.currency, &o.minorUnits, &skus, &quantities, &o.seq, &o.placedAt, &o.updatedAt)
	for i := range skus {
		o.lines = append(o.lines, line{sku: skus[i], quantity: quantities[i]})
	}
	return o, err
}
