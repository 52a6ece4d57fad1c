package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// What only the audit reads: sagas by id, open ones, forgotten ones, and what people did without proof.

// Kept reads those of some sagas of a definition that are kept, by key. It leaves out those that are being forgotten: their
// participants may have forgotten them already.
func (s *Store) Kept(ctx context.Context, definition string, keys []string) (map[string]Saga, error) {
	page, err := s.readMany(ctx, `
		SELECT definition, key FROM sagas WHERE definition = $1 AND key = ANY($2)
		EXCEPT SELECT definition, key FROM forgotten_sagas WHERE definition = $1 AND key = ANY($2)`, definition, keys)
	if err != nil {
		return nil, fmt.Errorf("read sagas: %w", err)
	}
	kept := make(map[string]Saga, len(page))
	for _, c := range page {
		kept[c.Key] = c
	}
	return kept, nil
}

// EverAccepted tells which keys of a definition belong to a saga that is kept, or was.
func (s *Store) EverAccepted(ctx context.Context, definition string, keys []string) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT key FROM sagas WHERE definition = $1 AND key = ANY($2)
		UNION SELECT key FROM forgotten_sagas WHERE definition = $1 AND key = ANY($2)`, definition, keys)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	accepted := make(map[string]bool)
	var key string
	if _, err := pgx.ForEachRow(rows, []any{&key}, func() error {
		accepted[key] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return accepted, nil
}

// Forgotten is what is left of a saga that is no longer kept.
type Forgotten struct {
	Status  journal.Status
	EndedAt time.Time
}

// Forgotten tells how a saga that is no longer kept ended, or returns ErrNotFound.
func (s *Store) Forgotten(ctx context.Context, id saga.ID) (f Forgotten, err error) {
	err = s.pool.QueryRow(ctx, `SELECT status, ended_at FROM forgotten_sagas WHERE definition = $1 AND key = $2`, id.Definition, id.Key).
		Scan(&f.Status, &f.EndedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Forgotten{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return Forgotten{}, fmt.Errorf("read what is left of %s: %w", id, err)
	}
	return f, nil
}

// Open is an open saga, with what shows whether it is being worked on.
type Open struct {
	saga.ID
	Status journal.Status
	Phase  saga.Phase
	// Elsewhere says that its participants drive it, until a run takes over.
	Elsewhere bool
	Engine    string
	Run       int
	// StartedRun is the newest run that the engine is known to have started.
	StartedRun int
	Money      saga.Money
	StartedAt  time.Time
	UpdatedAt  time.Time
	// CheckAt is when the sweeper looks at it, unless something happens before.
	CheckAt time.Time
	// ApprovalDeadline is when its time to be approved ends; nil unless that has begun.
	ApprovalDeadline *time.Time
	// Attention is the code of why it waits for an operator; empty if it does not.
	Attention journal.AttentionCode
	// Now is the database's clock.
	Now time.Time
}

const selectOpenRows = `
	SELECT definition, key, status, phase, elsewhere, engine, run, started_run, currency, amount, started_at, updated_at, check_at,
	       approval_deadline, coalesce(attention ->> 'code', ''), clock_timestamp()
	FROM sagas
	WHERE check_at IS NOT NULL AND `

// Open returns a definition's open sagas, of all engines, by key, after one.
func (s *Store) Open(ctx context.Context, definition, after string, limit int) ([]Open, error) {
	return s.open(ctx, selectOpenRows+`definition = $1 AND key > $2 ORDER BY key LIMIT $3`, definition, after, limit)
}

// OpenOf returns those of some sagas of a definition that are open.
func (s *Store) OpenOf(ctx context.Context, definition string, keys []string) ([]Open, error) {
	return s.open(ctx, selectOpenRows+`definition = $1 AND key = ANY($2) ORDER BY key`, definition, keys)
}

func (s *Store) open(ctx context.Context, sql string, args ...any) ([]Open, error) {
	// Planned anew each time: a plan for all values would read every saga by its key, ended ones too.
	rows, err := s.pool.Query(ctx, sql, slices.Insert(args, 0, any(pgx.QueryExecModeCacheDescribe))...)
	if err != nil {
		return nil, fmt.Errorf("read open sagas: %w", err)
	}
	open, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (o Open, err error) {
		err = from.Scan(&o.Definition, &o.Key, &o.Status, &o.Phase, &o.Elsewhere, &o.Engine, &o.Run, &o.StartedRun, &o.Money.Currency,
			&o.Money.MinorUnits, &o.StartedAt, &o.UpdatedAt, &o.CheckAt, &o.ApprovalDeadline, &o.Attention, &o.Now)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("read open sagas: %w", err)
	}
	return open, nil
}

// Act is something that an operator took as done without a participant's record. It is kept for ever.
type Act struct {
	// ID is the command's.
	ID   string
	Saga saga.ID
	At   time.Time
	// Step is the step or the compensation.
	Step   string
	Actor  string
	Reason string
}

const selectActs = `
	SELECT id::text, definition, key, at, step, actor, reason FROM commands
	WHERE without_proof AND `

// ActsOn returns the acts without proof on some sagas of a definition, oldest first.
func (s *Store) ActsOn(ctx context.Context, definition string, keys []string) ([]Act, error) {
	return s.acts(ctx, selectActs+`definition = $1 AND key = ANY($2) ORDER BY at, id`, definition, keys)
}

// ActsSince returns the acts without proof on a definition's sagas since a time, oldest first, after one; the zero Act is before
// all.
func (s *Store) ActsSince(ctx context.Context, definition string, since time.Time, after Act, limit int) ([]Act, error) {
	if after.ID == "" {
		after.ID = "00000000-0000-0000-0000-000000000000"
	}
	return s.acts(ctx, selectActs+`definition = $1 AND at >= $2 AND (at, id) > ($3, $4::uuid) ORDER BY at, id LIMIT $5`,
		definition, since, after.At, after.ID, limit)
}

func (s *Store) acts(ctx context.Context, sql string, args ...any) ([]Act, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read acts without proof: %w", err)
	}
	acts, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (a Act, err error) {
		err = from.Scan(&a.ID, &a.Saga.Definition, &a.Saga.Key, &a.At, &a.Step, &a.Actor, &a.Reason)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read acts without proof: %w", err)
	}
	return acts, nil
}
