package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// NewCheckout is an accepted order that has been priced.
type NewCheckout struct {
	OrderID string
	// IdempotencyKey is unique, as the order id is; they are the same where the client gave no key.
	IdempotencyKey string
	// Digest is a version and a hash of the client's order; the same id with another digest is another order.
	Digest string
	// Request is the client's request, for people.
	Request       []byte
	Engine        string
	CustomerID    string
	Items         []checkout.Item
	Prices        []Price
	Amount        checkout.Money
	PaymentMethod string
	// Deadline is how long it may take until it is undone.
	Deadline time.Duration
}

const insertCheckout = `
	INSERT INTO checkouts (order_id, idempotency_key, digest, request, engine, customer_id, currency, amount,
	                       payment_method, items, deadline, check_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + $11, now() + $12)
	ON CONFLICT DO NOTHING`

const insertSteps = `
	INSERT INTO steps (order_id, position, name, state, started_at)
	SELECT $1, position - 1, name,
	       CASE WHEN position = 1 THEN 'running' ELSE 'pending' END,
	       CASE WHEN position = 1 THEN now() END
	FROM unnest($2::text[]) WITH ORDINALITY AS declared (name, position)`

// Accept takes a checkout in, or finds the one that was taken in before: the same order under the same id and key.
// ErrConflict says that the id or the key was used with another order; nothing is written then.
func (s *Store) Accept(ctx context.Context, n NewCheckout) (c Checkout, created bool, err error) {
	items, err := json.Marshal(pricedItems(n))
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	var steps []string
	for _, step := range checkout.Steps() {
		steps = append(steps, step.Name)
	}
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, insertCheckout, n.OrderID, n.IdempotencyKey, n.Digest, n.Request, n.Engine, n.CustomerID,
			n.Amount.Currency, n.Amount.MinorUnits, n.PaymentMethod, items, n.Deadline, patience)
		if err != nil {
			return fmt.Errorf("insert checkout: %w", err)
		}
		if tag.RowsAffected() == 0 {
			created = false
			return sameOrder(ctx, tx, n)
		}
		created = true
		batch := &pgx.Batch{}
		batch.Queue(insertSteps, n.OrderID, steps)
		batch.Queue(insertEntry, n.OrderID, "status", "", 0, "", "", 0, checkout.Running, "")
		queueNotify(batch, n.OrderID)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	c, err = s.Checkout(ctx, n.OrderID)
	return c, created, err
}

func pricedItems(n NewCheckout) []pricedItem {
	unit := make(map[string]int64, len(n.Prices))
	for _, p := range n.Prices {
		unit[p.SKU] = p.Unit.MinorUnits
	}
	items := make([]pricedItem, len(n.Items))
	for i, item := range n.Items {
		items[i] = pricedItem{SKU: item.SKU, Quantity: item.Quantity, UnitPrice: unit[item.SKU]}
	}
	return items
}

// sameOrder checks that what stands in the way of n is n itself.
func sameOrder(ctx context.Context, tx pgx.Tx, n NewCheckout) error {
	var orderID, key, digest string
	err := tx.QueryRow(ctx, `SELECT order_id, idempotency_key, digest FROM checkouts WHERE order_id = $1`, n.OrderID).
		Scan(&orderID, &key, &digest)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: idempotency key %q was used with another order id", ErrConflict, n.IdempotencyKey)
	case err != nil:
		return fmt.Errorf("read what was accepted: %w", err)
	case key != n.IdempotencyKey:
		return fmt.Errorf("%w: order id %s was accepted under another idempotency key", ErrConflict, n.OrderID)
	case digest != n.Digest:
		return fmt.Errorf("%w: order id %s was accepted with another order", ErrConflict, n.OrderID)
	}
	return nil
}

// Prices tells the unit prices, in minor units, of those articles that have one in the currency.
func (s *Store) Prices(ctx context.Context, currency string, skus []string) (map[string]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT sku, minor_units FROM prices WHERE currency = $1 AND sku = ANY($2)`, currency, skus)
	if err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	prices := make(map[string]int64)
	var sku string
	var minorUnits int64
	if _, err := pgx.ForEachRow(rows, []any{&sku, &minorUnits}, func() error {
		prices[sku] = minorUnits
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	return prices, nil
}

// Currencies lists the currencies in which anything has a price.
func (s *Store) Currencies(ctx context.Context) ([]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT currency FROM prices ORDER BY currency`)
	if err != nil {
		return nil, fmt.Errorf("read currencies: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// KnownSKUs tells which of the articles have a price in any currency.
func (s *Store) KnownSKUs(ctx context.Context, skus []string) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `SELECT DISTINCT sku FROM prices WHERE sku = ANY($1)`, skus)
	if err != nil {
		return nil, fmt.Errorf("read articles: %w", err)
	}
	known := make(map[string]bool)
	var sku string
	if _, err := pgx.ForEachRow(rows, []any{&sku}, func() error {
		known[sku] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read articles: %w", err)
	}
	return known, nil
}
