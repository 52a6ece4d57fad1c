// Package store keeps the orchestrator's checkouts in PostgreSQL. The row of a checkout is the arbiter of every race about
// it: each method that changes one takes its lock, lets the rules (rules.go) decide, and writes what they say in the same
// transaction. It knows no engine, no participant and no wire format.
package store

import (
	"embed"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/inbox"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga"
)

// What a caller can tell apart; each is wrapped with a sentence.
var (
	// ErrNotFound: no checkout has this order id.
	ErrNotFound = errors.New("no such checkout")
	// ErrConflict: the order id or the idempotency key was used with another order.
	ErrConflict = errors.New("conflict")
	// ErrBadPageToken: the page token is not one that List returned.
	ErrBadPageToken = errors.New("not a page token of this list")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are those of the orchestrator's database: its own, and those of the events that it writes and receives.
func Migrations() []pg.Migrations {
	return []pg.Migrations{pg.EmbeddedMigrations(migrations, ""), outbox.Migrations(), inbox.Migrations()}
}

// Store reads and changes checkouts. Its methods may be called from many goroutines.
type Store struct {
	pool     *pgxpool.Pool
	outbox   *outbox.Outbox
	watchers *watchers
	meter    *meter
}

// New returns a store on a migrated database, whose outbox takes the events that its changes cause. The pool stays the caller's.
func New(pool *pgxpool.Pool, events *outbox.Outbox) *Store {
	return &Store{pool: pool, outbox: events, watchers: newWatchers(), meter: newMeter(pool)}
}

// Price is what one article costs.
type Price struct {
	SKU  string
	Unit checkout.Money
}

// Checkout is what readers see of a checkout.
type Checkout struct {
	OrderID string
	Status  checkout.Status
	Phase   checkout.Phase
	// Coordination is event.Orchestrated or event.Choreographed.
	Coordination  string
	Engine        string
	Run           int
	CustomerID    string
	Items         []checkout.Item
	Amount        checkout.Money
	PaymentMethod string
	StartedAt     time.Time
	UpdatedAt     time.Time
	Deadline      time.Time
	// ApprovalDeadline is until when it may await approval; nil until it does.
	ApprovalDeadline *time.Time
	EndedAt          *time.Time
	// ReasonCode is the reason as a word.
	ReasonCode string
	// Reason says why it did not end confirmed, or is on its way not to.
	Reason    string
	Attention *Attention
	// Plan is the list with which it was accepted, Steps how far each of it is.
	Plan  saga.Plan
	Steps []Step
}

// Attention says why a checkout waits for an operator.
type Attention struct {
	// Step is the step or the compensation that is stuck; empty where it is the run itself.
	Step string `json:"step"`
	// Code is the cause as a word.
	Code  checkout.AttentionCode `json:"code"`
	Cause string                 `json:"cause"`
	// Run is the run that stopped; zero for other causes.
	Run       int       `json:"run,omitempty"`
	Since     time.Time `json:"since"`
	Attempts  int       `json:"attempts"`
	LastError string    `json:"last_error"`
	// Next is when it is tried again by itself.
	Next time.Time `json:"next"`
}

// Step is one step of a checkout's plan, and how far it is.
type Step struct {
	saga.Step
	// State is one of the State… constants.
	State     string
	Attempts  int
	StartedAt *time.Time
	EndedAt   *time.Time
	Error     string
	// Reference is the participant's own.
	Reference string
	// ValidUntil is until when the effect lasts by itself; nil where it has no such end.
	ValidUntil *time.Time
	// CompensationState is one of the Compensation… constants.
	CompensationState string

	compensationTries int
}

// done tells whether the step's effect is in place, as far as the row knows.
func (s *Step) done() bool { return s.State == StateDone || s.State == StateResolved }

// undone tells whether the step's effect is gone for good.
func (s *Step) undone() bool {
	return s.CompensationState == CompensationDone || s.CompensationState == CompensationResolved
}

// InPlace tells whether the participant holds or did something for the order by this step, as far as the row knows.
func (s *Step) InPlace() bool { return s.done() && !s.undone() }

// AtStep is the step or compensation that the checkout is at; empty once it is final.
func (c *Checkout) AtStep() string {
	if c.Phase == checkout.Final {
		return ""
	}
	for _, s := range c.Steps {
		if s.CompensationState == CompensationRunning || s.CompensationState == CompensationFailing {
			return s.Compensation
		}
	}
	for _, s := range c.Steps {
		if s.State == StateRunning || s.State == StateFailing || s.State == StateUnknown {
			return s.Name
		}
	}
	return ""
}

// States of a step.
const (
	StatePending  = "pending"
	StateRunning  = "running"
	StateDone     = "done"
	StateRejected = "rejected"
	// StateFailing: the participant gave no answer; it is tried again.
	StateFailing = "failing"
	// StateUnknown: the participant does not know yet, or it was given up before its outcome was known.
	StateUnknown = "unknown"
	StateSkipped = "skipped"
	// StateResolved: an operator took it as done.
	StateResolved = "resolved"
)

// States of a compensation.
const (
	CompensationNotNeeded = "not-needed"
	CompensationPending   = "pending"
	CompensationRunning   = "running"
	CompensationDone      = "done"
	CompensationFailing   = "failing"
	// CompensationResolved: an operator took it as done.
	CompensationResolved = "resolved"
)
