package orders

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

var errNoOrder = errors.New("no such order is known here")

// keep writes what an event tells of an order, and returns the status before; empty for a new order. late says that a newer event
// came first, so that the status stays. The events of one order take turns at its row.
func keep(ctx context.Context, tx pgx.Tx, told order) (before status, late bool, err error) {
	const insert = `
		INSERT INTO orders (order_id, customer_id, status, reason, currency, minor_units, skus, quantities, seq, placed_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (order_id) DO NOTHING`
	skus, quantities := split(told.lines)
	tag, err := tx.Exec(ctx, insert, told.id, told.customerID, told.status, told.reason, told.currency, told.minorUnits, skus, quantities,
		told.seq, told.placedAt, told.updatedAt)
	if err != nil {
		return "", false, fmt.Errorf("insert order: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return "", false, nil
	}

	var newest int64
	const lock = `SELECT status, seq FROM orders WHERE order_id = $1 FOR UPDATE`
	if err := tx.QueryRow(ctx, lock, told.id).Scan(&before, &newest); err != nil {
		return "", false, fmt.Errorf("lock order: %w", err)
	}
	if newest >= told.seq {
		// Only when it was placed does an older event know better.
		const date = `UPDATE orders SET placed_at = least(placed_at, $2) WHERE order_id = $1`
		if _, err := tx.Exec(ctx, date, told.id, told.placedAt); err != nil {
			return "", false, fmt.Errorf("date order: %w", err)
		}
		return before, true, nil
	}
	const update = `
		UPDATE orders
		SET customer_id = $2, status = $3, reason = $4, currency = $5, minor_units = $6, skus = $7, quantities = $8, seq = $9,
		    placed_at = least(placed_at, $10), updated_at = $11
		WHERE order_id = $1`
	_, err = tx.Exec(ctx, update, told.id, told.customerID, told.status, told.reason, told.currency, told.minorUnits, skus, quantities,
		told.seq, told.placedAt, told.updatedAt)
	if err != nil {
		return "", false, fmt.Errorf("update order: %w", err)
	}
	return before, false, nil
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

func split(lines []line) (skus []string, quantities []int32) {
	for _, l := range lines {
		skus, quantities = append(skus, l.sku), append(quantities, l.quantity)
	}
	return skus, quantities
}
