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

// The errors that a caller can tell apart; each is wrapped with a sentence. See Conflict too.
var (
	// ErrNotFound: no saga has this id.
	ErrNotFound = errors.New("no such saga")
	// ErrBadPageToken: the page token is not one that List returned.
	ErrBadPageToken = errors.New("not a page token of this list")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations make the tables of sagas.
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
	// Write queues what is written with the sagas that a transaction accepts and ends.
	Write(batch *pgx.Batch, accepted, ended []Told) error
	// Committed says that a transaction has committed for which it was called.
	Committed()
}

// Told is a saga that a guest is told of, with the context of whoever changed it, for the trace.
type Told struct {
	Context context.Context
	Saga
}

// New returns a store on a migrated database, with the guests of those definitions that have one, by name. The pool stays the
// caller's. What the store changes is committed by the committer, together with what others commit by it.
func New(pool *pgxpool.Pool, committer *commit.Committer, guests map[string]Guest) *Store {
	s := &Store{pool: pool, committer: committer, guests: guests, watchers: newWatchers(), passes: &passes{bySaga: make(map[saga.ID]given)}}
	s.rows = &rows{guest: s.guest, known: make(map[saga.ID]*fixed)}
	s.meter = newMeter(s.OpenGroups)
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

func (nobody) Write(*pgx.Batch, []Told, []Told) error { return nil }
func (nobody) Committed()                             {}

// Saga is what readers see of a saga.
type Saga struct {
	journal.Saga
	// Elsewhere says that its participants drive it, by events.
	Elsewhere bool
	About     saga.About
	// Input is its participants' request.
	Input json.RawMessage
}
