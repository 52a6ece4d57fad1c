package store

import (
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// sagaColumns are what scanSaga reads; fixedColumns follow them.
const (
	sagaColumns = `
	s.key, s.elsewhere, s.engine, s.run, s.started_run, s.phase, s.status, coalesce(s.verdict, ''), s.reason, s.reason_code,
	s.about, s.currency, s.amount,
	s.touched_at IS NOT NULL, s.cancelled_at IS NOT NULL, s.cancel_reason,
	s.deadline, s.deadline <= clock_timestamp(), clock_timestamp(),
	coalesce(s.approval_wait, '0'), s.approval_deadline, coalesce(s.approval_deadline <= clock_timestamp(), false),
	coalesce(s.check_at, 'epoch'), s.pokes, s.fruitless_runs, s.attention, s.progress, s.started_at, s.updated_at, s.ended_at,
	s.traceparent, `

	fixedColumns = `s.input, s.requests, s.plan`

	selectSagas = `SELECT ` + sagaColumns + fixedColumns + ` FROM sagas s`

	selectSaga = selectSagas + ` WHERE s.definition = $1 AND s.key = $2`
)

// row is one saga as a transaction sees it. Which way it can go is for the rules of package journal to say.
type row struct {
	journal.Row
	about saga.About
	fixed
	trace string // W3C trace context of the start
}

// fixed is what of a row never changes and is large.
type fixed struct {
	input    json.RawMessage
	requests map[string]json.RawMessage
	plan     *saga.Plan
}

// saga is what readers see of the row.
func (r *row) saga() Saga {
	return Saga{Saga: r.Saga, Elsewhere: r.Elsewhere, About: r.about, Input: r.input}
}

// ended is the saga where it has ended, after which nothing of it changes; else nil.
func (r *row) ended() *Saga {
	if r.Phase != journal.Final {
		return nil
	}
	return new(r.saga())
}

// fence is the rule, with what the participant is asked with for whoever may go ahead.
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

// scanSaga reads a row of sagaColumns and fixedColumns.
func scanSaga(from pgx.Row) (*row, error) { return scanKnown(from, nil) }

// scanKnown reads a row whose fixedColumns are NULL where known has them, which is asked when all columns are read; others may follow.
func scanKnown(from pgx.Row, known func() *fixed, also ...any) (*row, error) {
	r := &row{}
	var steps []storedStep
	columns := []any{
		&r.Key, &r.Elsewhere, &r.Engine, &r.Run, &r.StartedRun, &r.Phase, &r.Status, &r.Verdict, &r.Reason, &r.ReasonCode,
		&r.about.Whom, &r.about.Money.Currency, &r.about.Money.MinorUnits,
		&r.Touched, &r.Cancelled, &r.CancelReason, &r.Deadline, &r.PastDeadline, &r.Now,
		&r.ApprovalWait, &r.ApprovalDeadline, &r.PastApproval,
		&r.CheckAt, &r.Pokes, &r.FruitlessRuns, &r.Attention, &steps, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.trace,
		&r.input, &r.requests, &r.plan,
	}
	if err := from.Scan(append(columns, also...)...); err != nil {
		return nil, err
	}
	if r.plan == nil {
		r.fixed = *known()
	}
	r.Plan = *r.plan
	r.Steps = progressOf(r.Plan, steps)
	return r, nil
}

// storedStep is how far a step is, as the row keeps it: as many as the plan has, in its order.
type storedStep struct {
	Name         string          `json:"name"`
	State        string          `json:"state"`
	Attempts     int             `json:"attempts,omitempty"`
	StartedAt    *time.Time      `json:"started_at,omitempty"`
	EndedAt      *time.Time      `json:"ended_at,omitempty"`
	Error        string          `json:"error,omitempty"`
	Reference    string          `json:"reference,omitempty"`
	ValidUntil   *time.Time      `json:"valid_until,omitempty"`
	Output       json.RawMessage `json:"output,omitempty"`
	Compensation string          `json:"compensation"`
	Tries        int             `json:"compensation_tries,omitempty"`
}

// progressOf is how far each step of a plan is.
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
