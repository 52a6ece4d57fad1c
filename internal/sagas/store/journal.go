package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Fence tells whether an attempt may call its participant now, and claims what the step claims.
func (s *Store) Fence(ctx context.Context, a journal.Attempt) (journal.Pass, error) {
	var pass journal.Pass
	if !a.Claims && a.HeldBack == "" {
		// Most attempts claim nothing, so a look without a lock answers them. Record and the next fence catch what changes right
		// after it.
		r, err := s.read(ctx, a.Saga())
		if err != nil {
			return journal.Pass{}, fmt.Errorf("fence %s of %s: %w", a.Step, a.Saga(), err)
		}
		var claimed bool
		if pass, claimed = r.fence(a); !claimed {
			return pass, nil
		}
	}
	if _, err := s.change(ctx, a.Saga(), func(r *row) (changed bool) {
		pass, changed = r.fence(a)
		return changed
	}); err != nil {
		return journal.Pass{}, fmt.Errorf("claim %s of %s: %w", a.Step, a.Saga(), err)
	}
	return pass, nil
}

// Record writes the outcome of an attempt, and all that follows from it.
func (s *Store) Record(ctx context.Context, a journal.Attempt, l journal.Learned) (journal.Standing, error) {
	var standing journal.Standing
	if _, err := s.change(ctx, a.Saga(), func(r *row) bool {
		before := r.Phase
		standing = r.Record(a, l)
		return standing != journal.Over || r.Phase != before
	}); err != nil {
		return "", fmt.Errorf("record %s of %s: %w", a.Step, a.Saga(), err)
	}
	return standing, nil
}

// Observe lets decide look at a saga of which something was heard, under the saga's lock and in the caller's transaction. If decide
// says that this was news, the row is written. It returns ErrNotFound if there is no such saga. The caller calls observed once the
// transaction has committed: it tells watchers, the meter and the guest. It is nil if there was no news.
func (s *Store) Observe(ctx context.Context, tx pgx.Tx, id saga.ID, decide func(*journal.Row) (news bool)) (observed func(), err error) {
	r, err := scanSaga(tx.QueryRow(ctx, selectSaga+" FOR UPDATE", id.Definition, id.Key))
	if err != nil {
		return nil, notFound(err, id)
	}
	was := pastOf(r)
	if news := decide(&r.Row); !news {
		return nil, nil
	}
	writes := &pgx.Batch{}
	if err := s.queueSave(ctx, writes, r); err != nil {
		return nil, err
	}
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return nil, fmt.Errorf("write %s: %w", id, err)
	}
	return func() { s.committed(was, r) }, nil
}

// change lets decide look at a saga under its lock, and writes the row if decide says that it changed. It is a transaction of two
// round trips: begin with the read, and commit with the writes.
func (s *Store) change(ctx context.Context, id saga.ID, decide func(*row) (changed bool)) (Saga, error) {
	// If it is released in the middle of a transaction, the pool closes the connection, and PostgreSQL rolls back.
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return Saga{}, fmt.Errorf("change %s: %w", id, err)
	}
	defer conn.Release()

	begin := &pgx.Batch{}
	begin.Queue("BEGIN")
	begin.Queue(selectSaga+" FOR UPDATE", id.Definition, id.Key)
	results := conn.SendBatch(ctx, begin)
	_, err = results.Exec()
	if err != nil {
		return Saga{}, errors.Join(fmt.Errorf("change %s: %w", id, err), results.Close())
	}
	r, err := scanSaga(results.QueryRow())
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_, _ = conn.Exec(ctx, "ROLLBACK") // Spares the connection if there is merely no such row.
		return Saga{}, notFound(err, id)
	}

	end := &pgx.Batch{}
	was := pastOf(r)
	changed := decide(r)
	// Before what follows from them, so that a history has them in this order.
	for _, c := range r.Commands {
		end.Queue(insertCommand, c.ID, id.Definition, id.Key, c.Kind, c.Step, c.Actor, c.Reason, c.Outcome, c.WithoutProof)
	}
	if changed {
		if err := s.queueSave(ctx, end, r); err != nil {
			return Saga{}, err
		}
	}
	end.Queue("COMMIT")
	if err := conn.SendBatch(ctx, end).Close(); err != nil {
		return Saga{}, fmt.Errorf("write %s: %w", id, err)
	}
	if changed {
		s.committed(was, r)
	}
	return r.saga(), nil
}

// committed tells of a changed row whose transaction has committed.
func (s *Store) committed(was past, r *row) {
	s.meter.committed(was, r)
	s.watchers.changed(r.ID(), kindOf(r.Status))
	if r.Ended {
		s.guest(r.Plan.Definition).Committed()
	}
}

// kindOf is the kind of a change to this status.
func kindOf(status journal.Status) Interest {
	if status.IsFinal() || status == journal.NeedsAttention {
		return Settled
	}
	return AnyChange
}

// read reads a saga, or returns ErrNotFound.
func (s *Store) read(ctx context.Context, id saga.ID) (*row, error) {
	r, err := scanSaga(s.pool.QueryRow(ctx, selectSaga, id.Definition, id.Key))
	if err != nil {
		return nil, notFound(err, id)
	}
	return r, nil
}

func notFound(err error, id saga.ID) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return fmt.Errorf("read %s: %w", id, err)
}

const selectSagas = `
	SELECT key, elsewhere, engine, run, started_run, phase, status, coalesce(verdict, ''), reason, reason_code,
	       about, currency, amount, input, requests,
	       touched_at IS NOT NULL, cancelled_at IS NOT NULL, cancel_reason,
	       deadline, deadline <= clock_timestamp(), clock_timestamp(),
	       coalesce(approval_wait, '0'), approval_deadline, coalesce(approval_deadline <= clock_timestamp(), false),
	       coalesce(check_at, 'epoch'), pokes, fruitless_runs, attention, progress, started_at, updated_at, ended_at,
	       traceparent, plan
	FROM sagas`

const selectSaga = selectSagas + ` WHERE definition = $1 AND key = $2`

// row is one saga as a transaction sees it. Only the rules of package journal change its state.
type row struct {
	journal.Row
	about    saga.About
	input    json.RawMessage
	requests map[string]json.RawMessage
	trace    string // W3C trace context of the start
}

// saga is what readers see of the row.
func (r *row) saga() Saga {
	return Saga{Saga: r.Saga, Elsewhere: r.Elsewhere, About: r.about, Input: r.input}
}

// fence is the rule's answer; with Go it has the participant's request.
func (r *row) fence(a journal.Attempt) (pass journal.Pass, claimed bool) {
	pass, claimed = r.Fence(a)
	if pass.Leave == journal.Go {
		pass.Input, pass.TraceParent = r.input, r.trace
		if request, has := r.requests[a.Step]; has {
			pass.Input = request
		}
	}
	return pass, claimed
}

func scanSaga(from pgx.Row) (*row, error) {
	r := &row{}
	var steps []storedStep
	if err := from.Scan(&r.Key, &r.Elsewhere, &r.Engine, &r.Run, &r.StartedRun, &r.Phase, &r.Status, &r.Verdict, &r.Reason, &r.ReasonCode,
		&r.about.Whom, &r.about.Money.Currency, &r.about.Money.MinorUnits, &r.input, &r.requests,
		&r.Touched, &r.Cancelled, &r.CancelReason, &r.Deadline, &r.PastDeadline, &r.Now,
		&r.ApprovalWait, &r.ApprovalDeadline, &r.PastApproval,
		&r.CheckAt, &r.Pokes, &r.FruitlessRuns, &r.Attention, &steps, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.trace, &r.Plan); err != nil {
		return nil, err
	}
	r.Steps = progressOf(r.Plan, steps)
	return r, nil
}

// storedStep is the progress of a step as the row keeps it. There are as many as the plan has steps, in its order.
type storedStep struct {
	Name         string          `json:"name"`
	State        string          `json:"state"`
	Attempts     int             `json:"attempts"`
	StartedAt    *time.Time      `json:"started_at,omitempty"`
	EndedAt      *time.Time      `json:"ended_at,omitempty"`
	Error        string          `json:"error"`
	Reference    string          `json:"reference"`
	ValidUntil   *time.Time      `json:"valid_until,omitempty"`
	Output       json.RawMessage `json:"output,omitempty"`
	Compensation string          `json:"compensation"`
	Tries        int             `json:"compensation_tries"`
}

// progressOf is the progress of each step of a plan.
func progressOf(plan saga.Plan, stored []storedStep) []journal.Step {
	steps := make([]journal.Step, len(plan.Steps))
	for i, s := range stored {
		steps[i] = journal.Step{
			Step: plan.Steps[i], State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, Output: s.Output, CompensationState: s.Compensation, CompensationTries: s.Tries,
		}
	}
	return steps
}

const (
	updateSaga = `
	UPDATE sagas SET
	    run = $2, started_run = $3, phase = $4, status = $5, verdict = nullif($6, ''), reason = $7,
	    touched_at   = CASE WHEN $8 THEN coalesce(touched_at, clock_timestamp()) END,
	    cancelled_at = CASE WHEN $9 THEN coalesce(cancelled_at, clock_timestamp()) END, cancel_reason = $10,
	    check_at = $11, pokes = $12, fruitless_runs = $13, attention = $14, progress = $15, ended_at = $16,
	    reason_code = $17, at_step = $18, deadline = $19, approval_deadline = $20, engine = $21,
	    updated_at = clock_timestamp()
	WHERE definition = $22 AND key = $1`

	insertEntry = `
	INSERT INTO entries (definition, key, kind, step, attempt, actor, reason, duration_ms, outcome, error)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

	insertCommand = `
	INSERT INTO commands (id, definition, key, kind, step, actor, reason, outcome, without_proof) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
)

// queueSave queues the writes of a changed row.
func (s *Store) queueSave(ctx context.Context, batch *pgx.Batch, r *row) error {
	var checkAt *time.Time
	if r.Phase != journal.Final {
		checkAt = &r.CheckAt
	}
	progress, err := storedSteps(r.Steps)
	if err != nil {
		return fmt.Errorf("write steps of %s: %w", r.Key, err)
	}
	batch.Queue(updateSaga, r.Key, r.Run, r.StartedRun, r.Phase, r.Status, string(r.Verdict), r.Reason,
		r.Touched, r.Cancelled, r.CancelReason, checkAt, r.Pokes, r.FruitlessRuns, r.Attention, progress, r.EndedAt,
		r.ReasonCode, r.AtStep(), r.Deadline, r.ApprovalDeadline, r.Engine, r.Plan.Definition)
	for _, e := range r.Entries {
		batch.Queue(insertEntry, r.Plan.Definition, r.Key, e.Kind, e.Step, e.Attempt, e.Actor, e.Reason, e.Duration.Milliseconds(), e.Outcome, e.Error)
	}
	if r.Ended {
		return s.guest(r.Plan.Definition).Ended(ctx, batch, r.saga())
	}
	return nil
}

func storedSteps(steps []journal.Step) ([]byte, error) {
	stored := make([]storedStep, len(steps))
	for i, s := range steps {
		stored[i] = storedStep{
			Name: s.Name, State: s.State, Attempts: s.Attempts, StartedAt: s.StartedAt, EndedAt: s.EndedAt, Error: s.Error,
			Reference: s.Reference, ValidUntil: s.ValidUntil, Output: s.Output, Compensation: s.CompensationState, Tries: s.CompensationTries,
		}
	}
	return json.Marshal(stored)
}
