package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Fence is activities.Journal's: may this attempt call its participant?
func (s *Store) Fence(ctx context.Context, a checkout.Attempt) (checkout.Pass, error) {
	var pass checkout.Pass
	if !a.Claims && a.HeldBack == "" {
		// Most attempts claim nothing, so a look without a lock answers them; what changes right after it is caught by
		// Record and by the next fence.
		r, err := s.read(ctx, a.OrderID)
		if err != nil {
			return checkout.Pass{}, fmt.Errorf("fence %s of %s: %w", a.Step, a.OrderID, err)
		}
		var claimed bool
		if pass, claimed = r.fence(a); !claimed {
			return pass, nil
		}
	}
	if _, err := s.change(ctx, a.OrderID, func(r *row) (changed bool) {
		pass, changed = r.fence(a)
		return changed
	}); err != nil {
		return checkout.Pass{}, fmt.Errorf("claim %s of %s: %w", a.Step, a.OrderID, err)
	}
	return pass, nil
}

// Record is activities.Journal's: writes what an attempt taught.
func (s *Store) Record(ctx context.Context, a checkout.Attempt, l checkout.Learned) (checkout.Standing, error) {
	var standing checkout.Standing
	if _, err := s.change(ctx, a.OrderID, func(r *row) bool {
		before := r.Phase
		standing = r.record(a, l)
		return standing != checkout.Over || r.Phase != before
	}); err != nil {
		return "", fmt.Errorf("record %s of %s: %w", a.Step, a.OrderID, err)
	}
	return standing, nil
}

// change lets decide look at a checkout under its lock; if decide says that it changed the row, the row is written. It is a
// transaction of two round trips: begin with the read, and commit with the writes.
func (s *Store) change(ctx context.Context, orderID string, decide func(*row) (changed bool)) (Checkout, error) {
	// Released in the middle of a transaction, a connection is closed by the pool, and PostgreSQL rolls it back.
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return Checkout{}, fmt.Errorf("change checkout %s: %w", orderID, err)
	}
	defer conn.Release()

	begin := &pgx.Batch{}
	begin.Queue("BEGIN")
	begin.Queue(selectCheckout+" FOR UPDATE", orderID)
	results := conn.SendBatch(ctx, begin)
	_, err = results.Exec()
	if err != nil {
		return Checkout{}, errors.Join(fmt.Errorf("change checkout %s: %w", orderID, err), results.Close())
	}
	r, err := scanCheckout(results.QueryRow())
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_, _ = conn.Exec(ctx, "ROLLBACK") // Spares a connection where there is only no such row.
		return Checkout{}, notFound(err, orderID)
	}

	end := &pgx.Batch{}
	was := pastOf(r)
	changed := decide(r)
	// Before what follows from them, so that a history tells them in this order.
	for _, c := range r.commands {
		end.Queue(insertCommand, c.id, orderID, c.kind, c.step, c.actor, c.reason, c.outcome, c.withoutProof)
	}
	if changed {
		if err := s.queueSave(ctx, end, r); err != nil {
			return Checkout{}, err
		}
	}
	end.Queue("COMMIT")
	if err := conn.SendBatch(ctx, end).Close(); err != nil {
		return Checkout{}, fmt.Errorf("write checkout %s: %w", orderID, err)
	}
	if changed {
		s.meter.committed(was, r)
		s.watchers.changed(orderID, kindOf(r.Status))
	}
	if r.ended {
		s.outbox.Committed()
	}
	return r.Checkout, nil
}

// kindOf is the kind of a change to a status.
func kindOf(status checkout.Status) Interest {
	if status.IsFinal() || status == checkout.NeedsAttention {
		return Settled
	}
	return AnyChange
}

// read reads a checkout. ErrNotFound.
func (s *Store) read(ctx context.Context, orderID string) (*row, error) {
	r, err := scanCheckout(s.pool.QueryRow(ctx, selectCheckout, orderID))
	if err != nil {
		return nil, notFound(err, orderID)
	}
	return r, nil
}

func notFound(err error, orderID string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %s", ErrNotFound, orderID)
	}
	return fmt.Errorf("read checkout %s: %w", orderID, err)
}

const selectCheckouts = `
	SELECT order_id, coordination, engine, run, started_run, phase, status, coalesce(verdict, ''), reason, reason_code,
	       customer_id, currency, amount, payment_method, items,
	       touched_at IS NOT NULL, cancelled_at IS NOT NULL, cancel_reason,
	       deadline, deadline <= clock_timestamp(), clock_timestamp(),
	       coalesce(approval_wait, '0'), approval_deadline, coalesce(approval_deadline <= clock_timestamp(), false),
	       coalesce(check_at, 'epoch'), pokes, fruitless_runs, attention, progress, started_at, updated_at, ended_at,
	       traceparent, plan
	FROM checkouts`

const selectCheckout = selectCheckouts + ` WHERE order_id = $1`

func scanCheckout(from pgx.Row) (*row, error) {
	r := &row{}
	var items []pricedItem
	var steps []storedStep
	if err := from.Scan(&r.OrderID, &r.Coordination, &r.Engine, &r.Run, &r.startedRun, &r.Phase, &r.Status, &r.verdict, &r.Reason, &r.ReasonCode,
		&r.CustomerID, &r.Amount.Currency, &r.Amount.MinorUnits, &r.PaymentMethod, &items,
		&r.touched, &r.cancelled, &r.cancelReason, &r.Deadline, &r.pastDeadline, &r.now,
		&r.approvalWait, &r.ApprovalDeadline, &r.pastApproval,
		&r.checkAt, &r.pokes, &r.fruitlessRuns, &r.Attention, &steps, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.trace, &r.Plan); err != nil {
		return nil, err
	}
	for _, item := range items {
		r.Items = append(r.Items, checkout.Item{SKU: item.SKU, Quantity: item.Quantity})
	}
	r.Steps = progressOf(r.Plan, steps)
	return r, nil
}

// storedStep is how far a step is, as the row keeps it: as many as the plan has, in its order.
type storedStep struct {
	Name         string     `json:"name"`
	State        string     `json:"state"`
	Attempts     int        `json:"attempts"`
	StartedAt    *time.Time `json:"started_at,omitempty"`
	EndedAt      *time.Time `json:"ended_at,omitempty"`
	Error        string     `json:"error"`
	Reference    string     `json:"reference"`
	ValidUntil   *time.Time `json:"valid_until,omitempty"`
	Compensation string     `json:"compensation"`
	Tries        int        `json:"compensation_tries"`
}

// progressOf is how far each step of a plan is.
func progressOf(plan saga.Plan, stored []storedStep) []Step {
	steps := make([]Step, len(plan.Steps))
	for i, s := range stored {
		steps[i] = Step{
			Step: plan.Steps[i], State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, CompensationState: s.Compensation, compensationTries: s.Tries,
		}
	}
	return steps
}

// pricedItem is a line of an order as the row keeps it.
type pricedItem struct {
	SKU       string `json:"sku"`
	Quantity  int32  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

const (
	updateCheckout = `
	UPDATE checkouts SET
	    run = $2, started_run = $3, phase = $4, status = $5, verdict = nullif($6, ''), reason = $7,
	    touched_at   = CASE WHEN $8 THEN coalesce(touched_at, clock_timestamp()) END,
	    cancelled_at = CASE WHEN $9 THEN coalesce(cancelled_at, clock_timestamp()) END, cancel_reason = $10,
	    check_at = $11, pokes = $12, fruitless_runs = $13, attention = $14, progress = $15, ended_at = $16,
	    reason_code = $17, at_step = $18, deadline = $19, approval_deadline = $20, engine = $21,
	    updated_at = clock_timestamp()
	WHERE order_id = $1`

	insertEntry = `
	INSERT INTO entries (order_id, kind, step, attempt, actor, reason, duration_ms, outcome, error)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

	insertCommand = `
	INSERT INTO commands (id, order_id, kind, step, actor, reason, outcome, without_proof) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
)

// queueSave queues what writes a changed row, with what is told about it.
func (s *Store) queueSave(ctx context.Context, batch *pgx.Batch, r *row) error {
	var checkAt *time.Time
	if r.Phase != checkout.Final {
		checkAt = &r.checkAt
	}
	progress, err := storedSteps(r.Steps)
	if err != nil {
		return fmt.Errorf("write steps of %s: %w", r.OrderID, err)
	}
	batch.Queue(updateCheckout, r.OrderID, r.Run, r.startedRun, r.Phase, r.Status, string(r.verdict), r.Reason,
		r.touched, r.cancelled, r.cancelReason, checkAt, r.pokes, r.fruitlessRuns, r.Attention, progress, r.EndedAt,
		r.ReasonCode, r.AtStep(), r.Deadline, r.ApprovalDeadline, r.Engine)
	for _, e := range r.entries {
		batch.Queue(insertEntry, r.OrderID, e.Kind, e.Step, e.Attempt, e.Actor, e.Reason, e.Duration.Milliseconds(), e.Outcome, e.Error)
	}
	if r.ended {
		return s.queueEnded(ctx, batch, r.Checkout)
	}
	return nil
}

func storedSteps(steps []Step) ([]byte, error) {
	stored := make([]storedStep, len(steps))
	for i, s := range steps {
		stored[i] = storedStep{
			Name: s.Name, State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, Compensation: s.CompensationState, Tries: s.compensationTries,
		}
	}
	return json.Marshal(stored)
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
