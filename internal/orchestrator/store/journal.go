package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Fence is activities.Journal's: may this attempt call its participant?
func (s *Store) Fence(ctx context.Context, a journal.Attempt) (checkout.Pass, error) {
	var pass checkout.Pass
	if !a.Claims && a.HeldBack == "" {
		// Most attempts claim nothing, so a look without a lock answers them; what changes right after it is caught by
		// Record and by the next fence.
		r, err := s.read(ctx, a.Key)
		if err != nil {
			return checkout.Pass{}, fmt.Errorf("fence %s of %s: %w", a.Step, a.Key, err)
		}
		var claimed bool
		if pass, claimed = r.fence(a); !claimed {
			return pass, nil
		}
	}
	if _, err := s.change(ctx, a.Key, func(r *row) (changed bool) {
		pass, changed = r.fence(a)
		return changed
	}); err != nil {
		return checkout.Pass{}, fmt.Errorf("claim %s of %s: %w", a.Step, a.Key, err)
	}
	return pass, nil
}

// Record is activities.Journal's: writes what an attempt taught.
func (s *Store) Record(ctx context.Context, a journal.Attempt, l journal.Learned) (journal.Standing, error) {
	var standing journal.Standing
	if _, err := s.change(ctx, a.Key, func(r *row) bool {
		before := r.Phase
		standing = r.Record(a, l)
		return standing != journal.Over || r.Phase != before
	}); err != nil {
		return "", fmt.Errorf("record %s of %s: %w", a.Step, a.Key, err)
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
	for _, c := range r.Commands {
		end.Queue(insertCommand, c.ID, orderID, c.Kind, c.Step, c.Actor, c.Reason, c.Outcome, c.WithoutProof)
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
	if r.Ended {
		s.outbox.Committed()
	}
	return r.checkout(), nil
}

// kindOf is the kind of a change to a status.
func kindOf(status journal.Status) Interest {
	if status.IsFinal() || status == journal.NeedsAttention {
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

// row is one checkout as a transaction sees it. Which way it can go is for the rules of package journal to say.
type row struct {
	journal.Row
	coordination  string
	customerID    string
	items         []checkout.Item
	amount        checkout.Money
	paymentMethod string
	trace         string // W3C trace context of the start
}

// checkout is what readers see of the row.
func (r *row) checkout() Checkout {
	return Checkout{
		Saga: r.Saga, Coordination: r.coordination, CustomerID: r.customerID, Items: r.items, Amount: r.amount, PaymentMethod: r.paymentMethod,
	}
}

// fence is the rule, with the order for whoever may go ahead.
func (r *row) fence(a journal.Attempt) (pass checkout.Pass, claimed bool) {
	pass.Pass, claimed = r.Fence(a)
	if pass.Leave == journal.Go {
		pass.Order = r.order()
	}
	return pass, claimed
}

// order is what participants are asked for.
func (r *row) order() checkout.Order {
	return checkout.Order{
		ID: r.Key, CustomerID: r.customerID, Items: r.items, Amount: r.amount, PaymentMethod: r.paymentMethod, TraceParent: r.trace,
	}
}

func scanCheckout(from pgx.Row) (*row, error) {
	r := &row{}
	var items []pricedItem
	var steps []storedStep
	if err := from.Scan(&r.Key, &r.coordination, &r.Engine, &r.Run, &r.StartedRun, &r.Phase, &r.Status, &r.Verdict, &r.Reason, &r.ReasonCode,
		&r.customerID, &r.amount.Currency, &r.amount.MinorUnits, &r.paymentMethod, &items,
		&r.Touched, &r.Cancelled, &r.CancelReason, &r.Deadline, &r.PastDeadline, &r.Now,
		&r.ApprovalWait, &r.ApprovalDeadline, &r.PastApproval,
		&r.CheckAt, &r.Pokes, &r.FruitlessRuns, &r.Attention, &steps, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.trace, &r.Plan); err != nil {
		return nil, err
	}
	r.Elsewhere = r.coordination == event.Choreographed
	for _, item := range items {
		r.items = append(r.items, checkout.Item{SKU: item.SKU, Quantity: item.Quantity})
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
func progressOf(plan saga.Plan, stored []storedStep) []journal.Step {
	steps := make([]journal.Step, len(plan.Steps))
	for i, s := range stored {
		steps[i] = journal.Step{
			Step: plan.Steps[i], State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, CompensationState: s.Compensation, CompensationTries: s.Tries,
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
	if r.Phase != journal.Final {
		checkAt = &r.CheckAt
	}
	progress, err := storedSteps(r.Steps)
	if err != nil {
		return fmt.Errorf("write steps of %s: %w", r.Key, err)
	}
	batch.Queue(updateCheckout, r.Key, r.Run, r.StartedRun, r.Phase, r.Status, string(r.Verdict), r.Reason,
		r.Touched, r.Cancelled, r.CancelReason, checkAt, r.Pokes, r.FruitlessRuns, r.Attention, progress, r.EndedAt,
		r.ReasonCode, r.AtStep(), r.Deadline, r.ApprovalDeadline, r.Engine)
	for _, e := range r.Entries {
		batch.Queue(insertEntry, r.Key, e.Kind, e.Step, e.Attempt, e.Actor, e.Reason, e.Duration.Milliseconds(), e.Outcome, e.Error)
	}
	if r.Ended {
		return s.queueEnded(ctx, batch, r.checkout())
	}
	return nil
}

func storedSteps(steps []journal.Step) ([]byte, error) {
	stored := make([]storedStep, len(steps))
	for i, s := range steps {
		stored[i] = storedStep{
			Name: s.Name, State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, Compensation: s.CompensationState, Tries: s.CompensationTries,
		}
	}
	return json.Marshal(stored)
}
