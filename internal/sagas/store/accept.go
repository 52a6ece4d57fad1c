package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
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

const insertSagas = `
	WITH accepted AS (
	    INSERT INTO sagas (definition, key, idempotency_key, digest, request, input, engine, about, currency, amount, progress,
	                       elsewhere, traceparent, deadline, approval_wait, at_step, plan, requests, check_at, touched_at)
	    SELECT definition, key, idempotency_key, digest, request, input::jsonb, engine, about, currency, amount, progress::jsonb,
	           elsewhere, traceparent, now() + deadline, nullif(approval, '0'), at_step, plan::jsonb, requests::jsonb,
	           -- Nobody starts one that is driven elsewhere, so it is looked at when its deadline has passed; and as soon as its
	           -- event is out participants may act.
	           now() + CASE WHEN elsewhere THEN deadline ELSE $19::interval END, CASE WHEN elsewhere THEN now() END
	    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
	                $11::text[], $12::boolean[], $13::text[], $14::interval[], $15::interval[], $16::text[], $17::text[], $18::text[])
	         AS w (definition, key, idempotency_key, digest, request, input, engine, about, currency, amount,
	               progress, elsewhere, traceparent, deadline, approval, at_step, plan, requests)
	    ON CONFLICT DO NOTHING
	    RETURNING definition, key, started_at, deadline
	), told AS (
	    INSERT INTO entries (definition, key, kind, outcome) SELECT definition, key, 'status', 'RUNNING' FROM accepted
	)
	SELECT definition, key, started_at, deadline FROM accepted`

// areForgotten is asked after sagas were inserted, never within the same statement: an insert that waited for Forget to remove the
// saga of the same key goes on with the snapshot from before, in which nothing was forgotten; the next statement sees it.
const areForgotten = `
	SELECT n
	FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS w (definition, key, idempotency_key, n)
	WHERE EXISTS (SELECT FROM forgotten_sagas f WHERE f.definition = w.definition AND f.key = w.key)
	   OR EXISTS (SELECT FROM forgotten_sagas f WHERE f.definition = w.definition AND f.idempotency_key = w.idempotency_key)`

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
	a := &acceptance{ctx: ctx, NewSaga: n, steps: journal.FirstSteps(n.Plan)}
	if err := a.encode(); err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	if err := s.committer.Do(ctx, &commit.Change{Of: s.rows, What: a}); err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	if a.created {
		s.watchers.changed(n.ID(), AnyChange, nil)
		s.guest(n.Plan.Definition).Committed()
		return a.saga(), true, nil
	}
	if err := s.sameStart(ctx, n); err != nil {
		return Saga{}, false, fmt.Errorf("accept %s: %w", n.ID(), err)
	}
	c, err = s.Saga(ctx, n.ID())
	return c, false, err
}

// acceptance is a change that inserts a row.
type acceptance struct {
	// ctx is its caller's, for the trace that events are in.
	ctx context.Context
	NewSaga
	steps []journal.Step
	// As JSON.
	progress, plan, requests string

	created   bool // false: there is one with its key
	forgotten bool
	startedAt time.Time
	deadline  time.Time
}

func (a *acceptance) encode() error {
	progress, err := storedSteps(a.steps)
	if err != nil {
		return err
	}
	plan, err := json.Marshal(a.Plan)
	if err != nil {
		return err
	}
	requests := []byte("{}")
	if a.Requests != nil {
		if requests, err = json.Marshal(a.Requests); err != nil {
			return err
		}
	}
	a.progress, a.plan, a.requests = string(progress), string(plan), string(requests)
	return nil
}

// saga is the one that was just inserted.
func (a *acceptance) saga() Saga {
	return Saga{
		Saga: journal.Saga{
			Key: a.Key, Plan: a.Plan, Steps: a.steps, Phase: saga.Forward, Status: journal.Running, Engine: a.Engine, Run: 1,
			StartedAt: a.startedAt, UpdatedAt: a.startedAt, Deadline: a.deadline,
		},
		Elsewhere: a.Elsewhere, About: a.About, Input: a.Input,
	}
}

// insert queues the insertion of sagas that are accepted. One that is there already is left alone.
func (t *rows) insert(batch *pgx.Batch, changes []*commit.Change) {
	if len(changes) == 0 {
		return
	}
	all, byID := make([]*acceptance, len(changes)), make(map[saga.ID]*acceptance, len(changes))
	for i, c := range changes {
		a := c.What.(*acceptance)
		a.created, a.forgotten = false, false
		all[i], byID[a.ID()] = a, a
	}
	// In order of their keys, so that two processes that insert the same ones do not wait for each other.
	slices.SortFunc(all, func(a, b *acceptance) int {
		return cmp.Or(cmp.Compare(a.Plan.Definition, b.Plan.Definition), cmp.Compare(a.Key, b.Key))
	})
	definitions := pg.Column(all, func(a *acceptance) string { return a.Plan.Definition })
	keys := pg.Column(all, func(a *acceptance) string { return a.Key })
	idempotencyKeys := pg.Column(all, func(a *acceptance) string { return a.IdempotencyKey })
	batch.Queue(insertSagas, definitions, keys, idempotencyKeys,
		pg.Column(all, func(a *acceptance) string { return a.Digest }),
		pg.Column(all, func(a *acceptance) []byte { return a.Request }),
		pg.Column(all, func(a *acceptance) string { return string(a.Input) }),
		pg.Column(all, func(a *acceptance) string { return a.Engine }),
		pg.Column(all, func(a *acceptance) string { return a.About.Whom }),
		pg.Column(all, func(a *acceptance) string { return a.About.Money.Currency }),
		pg.Column(all, func(a *acceptance) int64 { return a.About.Money.MinorUnits }),
		pg.Column(all, func(a *acceptance) string { return a.progress }),
		pg.Column(all, func(a *acceptance) bool { return a.Elsewhere }),
		pg.Column(all, func(a *acceptance) string { return event.TraceOf(a.ctx) }),
		pg.Column(all, func(a *acceptance) time.Duration { return a.Deadline }),
		pg.Column(all, func(a *acceptance) time.Duration { return a.Approval }),
		pg.Column(all, func(a *acceptance) string { return a.steps[0].Name }),
		pg.Column(all, func(a *acceptance) string { return a.plan }),
		pg.Column(all, func(a *acceptance) string { return a.requests }),
		journal.StartPatience,
	).Query(func(inserted pgx.Rows) error {
		var id saga.ID
		var startedAt, deadline time.Time
		_, err := pgx.ForEachRow(inserted, []any{&id.Definition, &id.Key, &startedAt, &deadline}, func() error {
			a := byID[id]
			a.created, a.startedAt, a.deadline = true, startedAt, deadline
			return nil
		})
		return err
	})
	batch.Queue(areForgotten, definitions, keys, idempotencyKeys).Query(func(forgotten pgx.Rows) error {
		var n int
		_, err := pgx.ForEachRow(forgotten, []any{&n}, func() error {
			all[n-1].forgotten = all[n-1].created
			return nil
		})
		return err
	})
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
