// Package store keeps the orchestrator's checkouts in PostgreSQL. The row of a checkout is the arbiter of every race about
// it: each method that changes one takes its lock, lets the rules (package journal) decide, and writes what they say in the same
// transaction. It knows no engine, no participant and no wire format.
package store

import (
	"embed"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/inbox"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/journal"
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

// Checkout is what readers see of a checkout; its key is the order id.
type Checkout struct {
	journal.Saga
	// Coordination is event.Orchestrated or event.Choreographed.
	Coordination  string
	CustomerID    string
	Items         []checkout.Item
	Amount        checkout.Money
	PaymentMethod string
}
