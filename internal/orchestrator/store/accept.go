package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// NewCheckout is an accepted order that has been priced.
type NewCheckout struct {
	OrderID string
	// IdempotencyKey is unique, as the order id is; they are the same where the client gave no key.
	IdempotencyKey string
	// Digest is a version and a hash of the client's order; the same id with another digest is another order.
	Digest string
	// Request is the client's request, for people.
	Request []byte
	Engine  string
	// Coordination is event.Orchestrated or event.Choreographed.
	Coordination  string
	CustomerID    string
	Items         []checkout.Item
	Prices        []Price
	Amount        checkout.Money
	PaymentMethod string
	// Deadline is how long it may take until it is undone.
	Deadline time.Duration
	// Plan is the list of its steps.
	Plan saga.Plan
	// Approval is how long it may await approval; zero where its plan has no decision.
	Approval time.Duration
}

// Order is what participants are asked and told of it.
func (n NewCheckout) Order() checkout.Order {
	return checkout.Order{ID: n.OrderID, CustomerID: n.CustomerID, Items: n.Items, Amount: n.Amount, PaymentMethod: n.PaymentMethod}
}

const insertCheckout = `
	WITH accepted AS (
	    INSERT INTO checkouts (order_id, idempotency_key, digest, request, engine, customer_id, currency, amount,
	                           payment_method, items, progress, coordination, traceparent, deadline, approval_wait, at_step, plan, check_at, touched_at)
	    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + $14::interval, nullif($16::interval, '0'), $17, $18,
	            -- Nobody starts a choreographed one, so it is looked at when its deadline has passed; and as soon as its event is
	            -- out participants may act.
	            now() + CASE $12 WHEN 'choreographed' THEN $14::interval ELSE $15::interval END,
	            CASE $12 WHEN 'choreographed' THEN now() END)
	    ON CONFLICT DO NOTHING
	    RETURNING order_id, deadline
	), told AS (
	    INSERT INTO entries (order_id, kind, outcome) SELECT order_id, 'status', 'RUNNING' FROM accepted
	)
	SELECT deadline FROM accepted`

// isForgotten is asked after the checkout was inserted, never within the same statement: an insert that waited for Forget to remove
// the checkout of the same id or key goes on with the snapshot from before, in which nothing was forgotten; the next statement sees it.
const isForgotten = `SELECT EXISTS (SELECT FROM forgotten_checkouts WHERE order_id = $1 OR idempotency_key = $2)`

// Accept takes a checkout in, or finds the one that was taken in before: the same order under the same id and key.
// ErrConflict says that the id or the key was used with another order; nothing is written then.
func (s *Store) Accept(ctx context.Context, n NewCheckout) (c Checkout, created bool, err error) {
	items, err := json.Marshal(pricedItems(n))
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	steps := journal.FirstSteps(n.Plan)
	progress, err := storedSteps(steps)
	if err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	if err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var deadline time.Time
		err := tx.QueryRow(ctx, insertCheckout, n.OrderID, n.IdempotencyKey, n.Digest, n.Request, n.Engine, n.CustomerID,
			n.Amount.Currency, n.Amount.MinorUnits, n.PaymentMethod, items, progress, n.Coordination, event.TraceOf(ctx),
			n.Deadline, journal.StartPatience, n.Approval, steps[0].Name, n.Plan).Scan(&deadline)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		told := &pgx.Batch{}
		told.Queue(isForgotten, n.OrderID, n.IdempotencyKey).QueryRow(func(row pgx.Row) error {
			var forgotten bool
			if err := row.Scan(&forgotten); err != nil {
				return err
			}
			if forgotten {
				return fmt.Errorf("%w: the order id or the idempotency key is that of a checkout that ended long ago and is no longer kept", ErrConflict)
			}
			return nil
		})
		if err := s.queueCreated(ctx, told, n, timestamppb.New(deadline)); err != nil {
			return err
		}
		created = true
		return tx.SendBatch(ctx, told).Close()
	}); err != nil {
		return Checkout{}, false, fmt.Errorf("accept %s: %w", n.OrderID, err)
	}
	if created {
		s.watchers.changed(n.OrderID, AnyChange)
		s.outbox.Committed()
	} else if err := s.sameOrder(ctx, n); err != nil {
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
