package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
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
	WITH accepted AS (
	    INSERT INTO checkouts (order_id, idempotency_key, digest, request, engine, customer_id, currency, amount,
	                           payment_method, items, progress, deadline, check_at)
	    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now() + $12, now() + $13)
	    ON CONFLICT DO NOTHING
	    RETURNING order_id
	)
	INSERT INTO entries (order_id, kind, outcome) SELECT order_id, 'status', 'RUNNING' FROM accepted`

// Accept takes a checkout in, or finds the one that was taken in before: the same order under the same id and key.
// ErrConflict says that the id or the key was used with another order; nothing is written then.
func (s *Store) Accept(ctx context.Context, n NewCheckout) (c Checkout, created bool, err error) {
	items, err := json.Marshal(pricedItems(n))
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	progress, err := storedSteps(firstSteps())
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	tag, err := s.pool.Exec(ctx, insertCheckout, n.OrderID, n.IdempotencyKey, n.Digest, n.Request, n.Engine, n.CustomerID,
		n.Amount.Currency, n.Amount.MinorUnits, n.PaymentMethod, items, progress, n.Deadline, startPatience)
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	if created = tag.RowsAffected() == 1; created {
		s.watchers.changed(n.OrderID, AnyChange)
	} else if err := s.sameOrder(ctx, n); err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	c, err = s.Checkout(ctx, n.OrderID)
	return c, created, err
}

// firstSteps are the steps of a checkout that was just accepted: the first is the next to be tried.
func firstSteps() []Step {
	var steps []Step
	for _, declared := range checkout.Steps() {
		steps = append(steps, Step{Name: declared.Name, State: StatePending, CompensationState: CompensationNotNeeded})
	}
	steps[0].State = StateRunning
	return steps
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
func (s *Store) sameOrder(ctx context.Context, n NewCheckout) error {
	var orderID, key, digest string
	err := s.pool.QueryRow(ctx, `SELECT order_id, idempotency_key, digest FROM checkouts WHERE order_id = $1`, n.OrderID).
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

// Prices tells what the articles cost, in minor units by currency. An article that is not there is unknown.
func (s *Store) Prices(ctx context.Context, skus []string) (map[string]map[string]int64, error) {
	rows, err := s.pool.Query(ctx, `SELECT sku, currency, minor_units FROM prices WHERE sku = ANY($1)`, skus)
	if err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	prices := make(map[string]map[string]int64)
	var sku, currency string
	var minorUnits int64
	if _, err := pgx.ForEachRow(rows, []any{&sku, &currency, &minorUnits}, func() error {
		if prices[sku] == nil {
			prices[sku] = make(map[string]int64)
		}
		prices[sku][currency] = minorUnits
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
