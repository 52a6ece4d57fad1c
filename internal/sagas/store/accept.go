package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// NewSaga is a saga to be accepted.
type NewSaga struct {
	Key string
	// IdempotencyKey is unique within the definition, as the key is; they are the same where the client gave none.
	IdempotencyKey string
	// Digest is a version and a hash of what makes two starts the same. The same key with another digest is another start.
	Digest string
	// Request is the client's request, for people.
	Request []byte
	// Input is its participants' request.
	Input json.RawMessage
	// Requests are the requests of steps that have one of their own, by step.
	Requests map[string]json.RawMessage
	About    saga.About
	// Plan is the list of its steps, and names its definition.
	Plan   saga.Plan
	Engine string
	// Elsewhere says that its participants drive it, by events.
	Elsewhere bool
	// Deadline is how long it may take until it is undone.
	Deadline time.Duration
	// Approval is how long it may await approval; zero if its plan has no decision.
	Approval time.Duration
}

// ID names the saga.
func (n NewSaga) ID() saga.ID { return saga.ID{Definition: n.Plan.Definition, Key: n.Key} }

const insertSaga = `
	WITH accepted AS (
	    INSERT INTO sagas (definition, key, idempotency_key, digest, request, input, engine, about, currency, amount, progress,
	                       elsewhere, traceparent, deadline, approval_wait, at_step, plan, requests, check_at, touched_at)
	    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + $14::interval, nullif($16::interval, '0'), $17, $18, coalesce($19::jsonb, '{}'),
	            -- Nobody starts one that is driven elsewhere, so it is looked at when its deadline has passed; and as soon as its
	            -- event is out participants may act.
	            now() + CASE WHEN $12 THEN $14::interval ELSE $15::interval END,
	            CASE WHEN $12 THEN now() END)
	    ON CONFLICT DO NOTHING
	    RETURNING definition, key, deadline
	), told AS (
	    INSERT INTO entries (definition, key, kind, outcome) SELECT definition, key, 'status', 'RUNNING' FROM accepted
	)
	SELECT deadline FROM accepted`

// isForgotten is asked after the saga was inserted, and never in the same statement. An insert that waited for Forget to remove the
// saga of the same key goes on with the earlier snapshot, in which nothing was forgotten; the next statement sees it.
const isForgotten = `SELECT EXISTS (SELECT FROM forgotten_sagas WHERE definition = $1 AND (key = $2 OR idempotency_key = $3))`

// Conflict says why a start cannot be accepted: one of its keys belongs to another start.
type Conflict struct{ With ConflictWith }

// ConflictWith is what a start conflicts with.
type ConflictWith string

// The conflicts.
const (
	// OtherDigest: the key was accepted with another start.
	OtherDigest ConflictWith = "another start under this key"
	// OtherIdempotencyKey: the key was accepted under another idempotency key.
	OtherIdempotencyKey ConflictWith = "this key under another idempotency key"
	// OtherKey: the idempotency key was used with another key.
	OtherKey ConflictWith = "another key under this idempotency key"
	// WasForgotten: one of the keys is that of a saga that ended long ago and is no longer kept.
	WasForgotten ConflictWith = "one that is no longer kept"
)

func (c *Conflict) Error() string { return "conflict with " + string(c.With) }

// Accept accepts a saga, or finds the one that was accepted before: the same start under the same key. A *Conflict says that a key
// was used with another start; then nothing is written.
func (s *Store) Accept(ctx context.Context, n NewSaga) (c Saga, created bool, err error) {
	steps := journal.FirstSteps(n.Plan)
	progress, err := storedSteps(steps)
	if err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	if err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var deadline time.Time
		err := tx.QueryRow(ctx, insertSaga, n.Plan.Definition, n.Key, n.IdempotencyKey, n.Digest, n.Request, n.Input, n.Engine, n.About.Whom,
			n.About.Money.Currency, n.About.Money.MinorUnits, progress, n.Elsewhere, event.TraceOf(ctx),
			n.Deadline, journal.StartPatience, n.Approval, steps[0].Name, n.Plan, n.Requests).Scan(&deadline)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		told := &pgx.Batch{}
		told.Queue(isForgotten, n.Plan.Definition, n.Key, n.IdempotencyKey).QueryRow(func(row pgx.Row) error {
			var forgotten bool
			if err := row.Scan(&forgotten); err != nil {
				return err
			}
			if forgotten {
				return &Conflict{With: WasForgotten}
			}
			return nil
		})
		if err := s.guest(n.Plan.Definition).Accepted(ctx, told, accepted(n, deadline)); err != nil {
			return err
		}
		created = true
		return tx.SendBatch(ctx, told).Close()
	}); err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	if created {
		s.watchers.changed(n.ID(), AnyChange)
		s.guest(n.Plan.Definition).Committed()
	} else if err := s.sameStart(ctx, n); err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	c, err = s.Saga(ctx, n.ID())
	return c, created, err
}

// accepted is a saga that was just inserted, as far as its guest needs it.
func accepted(n NewSaga, deadline time.Time) Saga {
	return Saga{
		Saga:      journal.Saga{Key: n.Key, Plan: n.Plan, Phase: saga.Forward, Status: journal.Running, Engine: n.Engine, Run: 1, Deadline: deadline},
		Elsewhere: n.Elsewhere, About: n.About, Input: n.Input,
	}
}

// sameStart checks that the saga in the way of n is n itself.
func (s *Store) sameStart(ctx context.Context, n NewSaga) error {
	var key, digest string
	err := s.pool.QueryRow(ctx, `SELECT idempotency_key, digest FROM sagas WHERE definition = $1 AND key = $2`, n.Plan.Definition, n.Key).
		Scan(&key, &digest)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &Conflict{With: OtherKey}
	case err != nil:
		return fmt.Errorf("read what was accepted: %w", err)
	case key != n.IdempotencyKey:
		return &Conflict{With: OtherIdempotencyKey}
	case digest != n.Digest:
		return &Conflict{With: OtherDigest}
	}
	return nil
}
