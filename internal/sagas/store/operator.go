package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Wish is what an operator asks of a saga. Every wish is kept, with its actor, its reason and its outcome.
type Wish struct {
	Saga          saga.ID
	Actor, Reason string
	// DryRun changes nothing and tells the outcome.
	DryRun bool
}

// Steered is what became of a wish.
type Steered struct {
	// Saga is the saga after it; for a dry run, before.
	Saga Saga
	// What was done, or would be, in a sentence.
	What string
	// CommandID is what wakes the run; empty for a dry run.
	CommandID string
}

// Approve lets a saga that awaits approval go on. journal.ErrState, ErrNotFound.
func (s *Store) Approve(ctx context.Context, w Wish) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandApprove}, func(r *row) (string, error) {
		return r.Approve(w.Actor)
	})
}

// Reject turns back a saga that awaits approval. journal.ErrState, ErrNotFound.
func (s *Store) Reject(ctx context.Context, w Wish) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandReject}, func(r *row) (string, error) {
		return r.Reject(w.Actor, w.Reason)
	})
}

// Retry has the step or compensation that the saga is at tried at once. journal.ErrState, ErrNotFound.
func (s *Store) Retry(ctx context.Context, w Wish, step string) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandResolve + " retry", Step: step}, func(r *row) (string, error) {
		return r.Retry(step)
	})
}

// Settle takes the step or compensation that the saga is at as done. journal.ErrState, ErrNotFound.
func (s *Store) Settle(ctx context.Context, w Wish, step string, proof journal.Proof) (Steered, error) {
	wish := journal.Command{Kind: journal.CommandResolve + " done", Step: step, WithoutProof: proof == journal.ProofWord}
	return s.steer(ctx, w, wish, func(r *row) (string, error) { return r.Settle(step, proof) })
}

// Contradict refuses to take a step as done because the participant's record does not say so, and keeps the wish. journal.ErrState,
// ErrNotFound.
func (s *Store) Contradict(ctx context.Context, w Wish, step, record string) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandResolve + " done", Step: step}, func(r *row) (string, error) {
		return "", &journal.Refusal{Why: record}
	})
}

// Refund turns a saga back whose money was captured: a new run, which the caller starts, releases what else is held and then
// refunds. journal.ErrState, ErrNotFound.
func (s *Store) Refund(ctx context.Context, w Wish, step string) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandResolve + " refund", Step: step}, func(r *row) (string, error) {
		return r.Refund(step, w.Actor, w.Reason)
	})
}

// Redrive hands an open saga to a new run, on another engine if one is named. The caller starts it where the engine is its
// own; otherwise that engine's sweeper does. journal.ErrState, ErrNotFound.
func (s *Store) Redrive(ctx context.Context, w Wish, engine string) (Steered, error) {
	return s.steer(ctx, w, journal.Command{Kind: journal.CommandRedrive}, func(r *row) (string, error) {
		return r.Redrive(engine, w.Actor, w.Reason)
	})
}

// steer lets a rule decide about a wish. A rule that refuses has changed nothing.
func (s *Store) steer(ctx context.Context, w Wish, c journal.Command, rule func(*row) (what string, refused error)) (Steered, error) {
	if w.DryRun {
		r, err := s.read(ctx, w.Saga)
		if err != nil {
			return Steered{}, err
		}
		before := r.saga()
		before.Steps = append([]journal.Step(nil), r.Steps...)
		what, refused := rule(r)
		return Steered{Saga: before, What: what}, refused
	}
	c.ID, c.Actor, c.Reason = uuid.NewString(), w.Actor, w.Reason
	steered := Steered{CommandID: c.ID}
	var refused error
	var err error
	steered.Saga, err = s.change(ctx, w.Saga, func(r *row) bool {
		steered.What, refused = rule(r)
		c.Outcome = "done"
		if refusal := new(journal.Refusal); errors.As(refused, &refusal) {
			c.Outcome, c.WithoutProof = "refused: "+refusal.Why, false
		}
		if d := r.Decision(); d != nil && (c.Kind == journal.CommandApprove || c.Kind == journal.CommandReject) {
			c.Step = d.Name
		}
		r.Commands = append(r.Commands, c)
		return refused == nil
	})
	if err != nil {
		return Steered{}, fmt.Errorf("%s %s: %w", c.Kind, w.Saga, err)
	}
	return steered, refused
}
