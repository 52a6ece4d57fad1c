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

// Fence is activities.Journal's: may this attempt call its participant?
func (s *Store) Fence(ctx context.Context, a checkout.Attempt) (checkout.Pass, error) {
	// Most attempts claim nothing, so a look without a lock answers them; what changes right after it is caught by Record
	// and by the next fence. An attempt that would claim something is decided again under the lock.
	r, err := load(ctx, s.pool, a.OrderID, unlocked)
	if err != nil {
		return checkout.Pass{}, fmt.Errorf("fence %s of %s: %w", a.Step, a.OrderID, err)
	}
	pass, claims := r.fence(a)
	if !claims {
		return pass, nil
	}
	_, err = s.change(ctx, a.OrderID, func(r *row) (changed bool) {
		pass, changed = r.fence(a)
		return changed
	})
	if err != nil {
		return checkout.Pass{}, fmt.Errorf("claim %s of %s: %w", a.Step, a.OrderID, err)
	}
	return pass, nil
}

// Record is activities.Journal's: writes what an attempt taught.
func (s *Store) Record(ctx context.Context, a checkout.Attempt, l checkout.Learned) (checkout.Standing, error) {
	var standing checkout.Standing
	_, err := s.change(ctx, a.OrderID, func(r *row) bool {
		standing = r.record(a, l)
		return standing != checkout.Over
	})
	if err != nil {
		return "", fmt.Errorf("record %s of %s: %w", a.Step, a.OrderID, err)
	}
	return standing, nil
}

// change lets decide look at a checkout under its lock; if decide says that it changed the row, the row is written.
func (s *Store) change(ctx context.Context, orderID string, decide func(*row) (changed bool)) (Checkout, error) {
	var result Checkout
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		r, err := load(ctx, tx, orderID, forUpdate)
		if err != nil {
			return err
		}
		before := len(r.entries)
		if decide(r) {
			if err := save(ctx, tx, r, r.entries[before:]); err != nil {
				return err
			}
		}
		result = r.Checkout
		return nil
	})
	return result, err
}

type queryer interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// How a row is read.
const (
	unlocked  = false
	forUpdate = true
)

// selectCheckouts reads checkouts with their steps in one statement, so that both are of one moment. The statement that
// takes a lock stands before it on its own: what it waits for must be seen by this one.
const selectCheckouts = `
	SELECT order_id, engine, run, started_run, phase, status, coalesce(verdict, ''), reason,
	       customer_id, currency, amount, payment_method, items,
	       touched_at IS NOT NULL, cancelled_at IS NOT NULL, cancel_reason,
	       deadline, deadline <= clock_timestamp(), clock_timestamp(),
	       coalesce(check_at, 'epoch'), pokes, fruitless_runs, attention, started_at, updated_at, ended_at,
	       (SELECT json_agg(steps ORDER BY position) FROM steps WHERE steps.order_id = checkouts.order_id)
	FROM checkouts WHERE order_id = ANY($1)`

// load reads a checkout with its steps, in one round trip. ErrNotFound.
func load(ctx context.Context, q queryer, orderID string, lock bool) (*row, error) {
	batch := &pgx.Batch{}
	if lock {
		batch.Queue(`SELECT FROM checkouts WHERE order_id = $1 FOR UPDATE`, orderID)
	}
	batch.Queue(selectCheckouts, []string{orderID})
	results := q.SendBatch(ctx, batch)
	defer results.Close()

	if lock {
		if _, err := results.Exec(); err != nil {
			return nil, fmt.Errorf("lock checkout %s: %w", orderID, err)
		}
	}
	r, err := scanCheckout(results.QueryRow())
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, orderID)
	}
	if err != nil {
		return nil, fmt.Errorf("read checkout %s: %w", orderID, err)
	}
	return r, results.Close()
}

func scanCheckout(from pgx.Row) (*row, error) {
	r := &row{}
	var items []pricedItem
	var steps []storedStep
	if err := from.Scan(&r.OrderID, &r.Engine, &r.Run, &r.startedRun, &r.Phase, &r.Status, &r.verdict, &r.Reason,
		&r.CustomerID, &r.Amount.Currency, &r.Amount.MinorUnits, &r.PaymentMethod, &items,
		&r.touched, &r.cancelled, &r.cancelReason, &r.Deadline, &r.pastDeadline, &r.now,
		&r.checkAt, &r.pokes, &r.fruitlessRuns, &r.Attention, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &steps); err != nil {
		return nil, err
	}
	for _, item := range items {
		r.Items = append(r.Items, checkout.Item{SKU: item.SKU, Quantity: item.Quantity})
	}
	for _, s := range steps {
		r.Steps = append(r.Steps, s.step())
	}
	return r, nil
}

// storedStep is a row of table steps.
type storedStep struct {
	Name         string     `json:"name"`
	State        string     `json:"state"`
	Attempts     int        `json:"attempts"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
	Error        string     `json:"error"`
	Reference    string     `json:"reference"`
	Compensation string     `json:"compensation"`
	Tries        int        `json:"compensation_tries"`
}

func (s storedStep) step() Step {
	step := Step{
		Name: s.Name, State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
		Reference: s.Reference, CompensationState: s.Compensation, compensationTries: s.Tries,
	}
	for _, declared := range checkout.Steps() {
		if declared.Name == s.Name {
			step.Participant, step.Compensation = declared.Participant, declared.Compensation
		}
	}
	return step
}

// pricedItem is a line of an order as the row keeps it.
type pricedItem struct {
	SKU       string `json:"sku"`
	Quantity  int32  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

const updateCheckout = `
	UPDATE checkouts SET
	    run = $2, started_run = $3, phase = $4, status = $5, verdict = nullif($6, ''), reason = $7,
	    touched_at   = CASE WHEN $8 THEN coalesce(touched_at, clock_timestamp()) END,
	    cancelled_at = CASE WHEN $9 THEN coalesce(cancelled_at, clock_timestamp()) END, cancel_reason = $10,
	    check_at = $11, pokes = $12, fruitless_runs = $13, attention = $14, ended_at = $15,
	    updated_at = clock_timestamp()
	WHERE order_id = $1`

const updateSteps = `
	UPDATE steps SET
	    state = new.state, attempts = new.attempts, started_at = new.started_at, ended_at = new.ended_at,
	    error = new.error, reference = new.reference, compensation = new.compensation,
	    compensation_tries = new.compensation_tries
	FROM unnest($2::smallint[], $3::text[], $4::int[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::text[],
	            $9::text[], $10::int[])
	     AS new (position, state, attempts, started_at, ended_at, error, reference, compensation, compensation_tries)
	WHERE steps.order_id = $1 AND steps.position = new.position
	  AND (steps.state, steps.attempts, steps.error, steps.compensation, steps.compensation_tries)
	      IS DISTINCT FROM (new.state, new.attempts, new.error, new.compensation, new.compensation_tries)`

const insertEntry = `
	INSERT INTO entries (order_id, kind, step, attempt, actor, reason, duration_ms, outcome, error)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

// save writes a changed row with its steps and what is told about it, in one round trip, and wakes those who watch it.
func save(ctx context.Context, tx pgx.Tx, r *row, entries []Entry) error {
	var checkAt *time.Time
	if !r.checkAt.IsZero() && r.Phase != checkout.Final {
		checkAt = &r.checkAt
	}
	var attention []byte
	if r.Attention != nil {
		var err error
		if attention, err = json.Marshal(r.Attention); err != nil {
			return fmt.Errorf("write attention of %s: %w", r.OrderID, err)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(updateCheckout, r.OrderID, r.Run, r.startedRun, r.Phase, r.Status, string(r.verdict), r.Reason,
		r.touched, r.cancelled, r.cancelReason, checkAt, r.pokes, r.fruitlessRuns, attention, r.EndedAt)
	queueSteps(batch, r)
	for _, e := range entries {
		batch.Queue(insertEntry, r.OrderID, e.Kind, e.Step, e.Attempt, e.Actor, e.Reason, e.Duration.Milliseconds(), e.Outcome, e.Error)
	}
	queueNotify(batch, r.OrderID)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write checkout %s: %w", r.OrderID, err)
	}
	return nil
}

func queueSteps(batch *pgx.Batch, r *row) {
	n := len(r.Steps)
	position, attempts, tries := make([]int16, n), make([]int, n), make([]int, n)
	state, errorText, reference, compensation := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	startedAt, endedAt := make([]*time.Time, n), make([]*time.Time, n)
	for i, s := range r.Steps {
		position[i], state[i], attempts[i], startedAt[i], endedAt[i] = int16(i), s.State, s.Attempts, s.StartedAt, s.EndedAt
		errorText[i], reference[i], compensation[i], tries[i] = s.Error, s.Reference, s.CompensationState, s.compensationTries
	}
	batch.Queue(updateSteps, r.OrderID, position, state, attempts, startedAt, endedAt, errorText, reference, compensation, tries)
}

// learned is what an attempt taught, with a way to tell it.
type learned checkout.Learned

// errorText tells people what went wrong: the participant's word, its sentence, or both.
func (l learned) errorText() string {
	switch {
	case l.Outcome == checkout.Applied:
		return ""
	case l.Reason == "":
		return l.Detail
	case l.Detail == "":
		return l.Reason
	}
	return l.Reason + ": " + l.Detail
}
