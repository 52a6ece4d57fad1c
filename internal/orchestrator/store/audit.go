package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// What only the audit reads: checkouts by their ids, open ones, those that are no longer kept, and what people did without proof.

// Kept reads those of some checkouts that are there, by order id. It leaves out those that are being forgotten, of which the
// participants may keep nothing any more.
func (s *Store) Kept(ctx context.Context, orderIDs []string) (map[string]Checkout, error) {
	page, err := s.readMany(ctx, `
		SELECT order_id FROM checkouts
		WHERE order_id = ANY($1) AND order_id NOT IN (SELECT order_id FROM forgotten_checkouts WHERE order_id = ANY($1))`, orderIDs)
	if err != nil {
		return nil, fmt.Errorf("read checkouts: %w", err)
	}
	kept := make(map[string]Checkout, len(page))
	for _, c := range page {
		kept[c.Key] = c
	}
	return kept, nil
}

// EverAccepted tells which of the order ids belong to a checkout that is there, or was.
func (s *Store) EverAccepted(ctx context.Context, orderIDs []string) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT order_id FROM checkouts WHERE order_id = ANY($1)
		UNION SELECT order_id FROM forgotten_checkouts WHERE order_id = ANY($1)`, orderIDs)
	if err != nil {
		return nil, fmt.Errorf("read order ids: %w", err)
	}
	accepted := make(map[string]bool)
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error {
		accepted[id] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read order ids: %w", err)
	}
	return accepted, nil
}

// Forgotten is what is left of a checkout that is no longer kept.
type Forgotten struct {
	OrderID string
	Status  journal.Status
	EndedAt time.Time
}

// ForgottenCheckout tells how a checkout that is no longer kept ended. ErrNotFound.
func (s *Store) ForgottenCheckout(ctx context.Context, orderID string) (Forgotten, error) {
	f := Forgotten{OrderID: orderID}
	err := s.pool.QueryRow(ctx, `SELECT status, ended_at FROM forgotten_checkouts WHERE order_id = $1`, orderID).Scan(&f.Status, &f.EndedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Forgotten{}, fmt.Errorf("%w: %s", ErrNotFound, orderID)
	}
	if err != nil {
		return Forgotten{}, fmt.Errorf("read what is left of %s: %w", orderID, err)
	}
	return f, nil
}

// Open is an open checkout, with what tells whether somebody is at work on it.
type Open struct {
	OrderID string
	Status  journal.Status
	Phase   saga.Phase
	// Coordination is event.Orchestrated or event.Choreographed.
	Coordination string
	Engine       string
	Run          int
	// StartedRun is the newest run that the engine is known to have started.
	StartedRun int
	Amount     checkout.Money
	StartedAt  time.Time
	UpdatedAt  time.Time
	// CheckAt is when the sweeper looks at it unless something happens before.
	CheckAt time.Time
	// ApprovalDeadline is until when it may await approval; nil unless it does or did.
	ApprovalDeadline *time.Time
	// Attention is the code of what an operator is called for; empty where nobody is.
	Attention journal.AttentionCode
	// Now is the database's clock.
	Now time.Time
}

const selectOpenRows = `
	SELECT order_id, status, phase, coordination, engine, run, started_run, currency, amount, started_at, updated_at, check_at,
	       approval_deadline, coalesce(attention ->> 'code', ''), clock_timestamp()
	FROM checkouts
	WHERE check_at IS NOT NULL AND `

// Open returns open checkouts of all engines by order id, beginning after one.
func (s *Store) Open(ctx context.Context, after string, limit int) ([]Open, error) {
	return s.open(ctx, selectOpenRows+`order_id > $1 ORDER BY order_id LIMIT $2`, after, limit)
}

// OpenOf returns those of some checkouts that are open.
func (s *Store) OpenOf(ctx context.Context, orderIDs []string) ([]Open, error) {
	return s.open(ctx, selectOpenRows+`order_id = ANY($1) ORDER BY order_id`, orderIDs)
}

func (s *Store) open(ctx context.Context, sql string, args ...any) ([]Open, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read open checkouts: %w", err)
	}
	open, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (o Open, err error) {
		err = from.Scan(&o.OrderID, &o.Status, &o.Phase, &o.Coordination, &o.Engine, &o.Run, &o.StartedRun, &o.Amount.Currency,
			&o.Amount.MinorUnits, &o.StartedAt, &o.UpdatedAt, &o.CheckAt, &o.ApprovalDeadline, &o.Attention, &o.Now)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("read open checkouts: %w", err)
	}
	return open, nil
}

// Act is what an operator took as done although no participant's record said so. It is kept for ever.
type Act struct {
	ID      string
	OrderID string
	At      time.Time
	// Step is the step or the compensation.
	Step   string
	Actor  string
	Reason string
}

const selectActs = `
	SELECT id::text, order_id, at, step, actor, reason FROM commands
	WHERE without_proof AND `

// ActsOn returns the acts without proof on some checkouts, oldest first.
func (s *Store) ActsOn(ctx context.Context, orderIDs []string) ([]Act, error) {
	return s.acts(ctx, selectActs+`order_id = ANY($1) ORDER BY at, id`, orderIDs)
}

// ActsSince returns the acts without proof since a time, oldest first, beginning after one; the zero Act is before all.
func (s *Store) ActsSince(ctx context.Context, since time.Time, after Act, limit int) ([]Act, error) {
	if after.ID == "" {
		after.ID = "00000000-0000-0000-0000-000000000000"
	}
	return s.acts(ctx, selectActs+`at >= $1 AND (at, id) > ($2, $3::uuid) ORDER BY at, id LIMIT $4`, since, after.At, after.ID, limit)
}

func (s *Store) acts(ctx context.Context, sql string, args ...any) ([]Act, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read acts without proof: %w", err)
	}
	acts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Act])
	if err != nil {
		return nil, fmt.Errorf("read acts without proof: %w", err)
	}
	return acts, nil
}
