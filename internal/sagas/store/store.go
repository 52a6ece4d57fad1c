// Package store keeps sagas in PostgreSQL. The row of a saga is the arbiter of every race about it: each method that changes one takes
// its lock, lets the rules (package journal) decide, and writes what they say in the same transaction. It knows no engine, no
// participant, no wire format and no trade: what a definition keeps beside its sagas is its guest's.
package store

import (
	"context"
	"embed"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// What a caller can tell apart; each is wrapped with a sentence. See Conflict too.
var (
	// ErrNotFound: no saga has this id.
	ErrNotFound = errors.New("no such saga")
	// ErrBadPageToken: the page token is not one that List returned.
	ErrBadPageToken = errors.New("not a page token of this list")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are those of the tables of sagas.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(migrations, "") }

// Store reads and changes sagas. Its methods may be called from many goroutines.
type Store struct {
	pool      *pgxpool.Pool
	committer *commit.Committer
	rows      *rows
	passes    *passes
	guests    map[string]Guest
	watchers  *watchers
	meter     *meter
}

// Guest is what a definition keeps beside its sagas, written in the transactions that accept and end them.
type Guest interface {
	// Accepted queues what is written with a saga that is accepted, Ended with one that has come to its end.
	Accepted(ctx context.Context, batch *pgx.Batch, s Saga) error
	Ended(ctx context.Context, batch *pgx.Batch, s Saga) error
	// Committed is told that a transaction has committed in which one of them was called.
	Committed()
}

// New returns a store on a migrated database, with the guests of those definitions that have one, by name. The pool stays the
// caller's. What the store changes is committed by the committer, together with what others commit by it.
func New(pool *pgxpool.Pool, committer *commit.Committer, guests map[string]Guest) *Store {
	s := &Store{pool: pool, committer: committer, guests: guests, watchers: newWatchers(), passes: &passes{bySaga: make(map[saga.ID]given)}, meter: newMeter(pool)}
	s.rows = &rows{guest: s.guest, known: make(map[saga.ID]*fixed)}
	return s
}

func (s *Store) guest(definition string) Guest {
	if g, has := s.guests[definition]; has {
		return g
	}
	return nobody{}
}

// nobody is the guest of a definition that keeps nothing beside.
type nobody struct{}

func (nobody) Accepted(context.Context, *pgx.Batch, Saga) error { return nil }
func (nobody) Ended(context.Context, *pgx.Batch, Saga) error    { return nil }
func (nobody) Committed()                                       {}

// Saga is what readers see of a saga.
type Saga struct {
	journal.Saga
	// Elsewhere says that its participants drive it among themselves, by events.
	Elsewhere bool
	About     saga.About
	// Input is what its participants are asked with.
	Input json.RawMessage
}
