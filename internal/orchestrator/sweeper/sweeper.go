// Package sweeper sees to it that no checkout hangs unseen: it starts what was accepted and not started, wakes what is
// overdue, and hands to a next run what its engine lost. It trusts the row alone; the engine is only asked.
package sweeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/runs"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// interval is how often overdue checkouts are looked for. The query reads an index of open checkouts by time.
	interval = time.Second
	// batch bounds what one sweep handles, and so the load that it adds to an engine that is merely slow.
	batch = 50
	// engineBudget bounds one question to the engine.
	engineBudget = 3 * time.Second
	// maxPokes is how many wake-up calls a run may leave unanswered before the next run takes over although the engine
	// says that it lives.
	maxPokes = 1
)

// leaderLock is the key of the advisory lock that makes one sweeper the leader of all that share a database; one leader
// for each engine.
var leaderLock = map[string]int64{"dapr": 0x63686b6f75740001, "embedded": 0x63686b6f75740002}

// Sweeper sweeps the checkouts of one engine. While it is not the leader it stands by.
type Sweeper struct {
	pool   *pgxpool.Pool
	store  *store.Store
	engine engine.Engine
	log    *slog.Logger
}

// New returns a sweeper; Run runs it.
func New(pool *pgxpool.Pool, s *store.Store, e engine.Engine, log *slog.Logger) *Sweeper {
	return &Sweeper{pool: pool, store: s, engine: e, log: log}
}

// Run sweeps until ctx ends. Trouble is logged and survived: a sweeper that gave up would leave checkouts hanging unseen.
func (s *Sweeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := pg.Lead(ctx, s.pool, leaderLock[s.engine.Name()], s.lead); err != nil && ctx.Err() == nil {
			s.log.Warn("sweeper lost its leadership and tries again", "error", err)
		}
		wait(ctx, interval)
	}
}

// lead sweeps for as long as the connection that holds the lock lives.
func (s *Sweeper) lead(ctx context.Context, session *pgx.Conn) error {
	for {
		if err := session.Ping(ctx); err != nil {
			return fmt.Errorf("keep leadership: %w", err)
		}
		if err := s.Sweep(ctx); err != nil {
			s.log.Warn("sweep failed", "error", err)
		}
		if !wait(ctx, interval) {
			return nil
		}
	}
}

// Sweep looks once at each overdue checkout, the longest overdue first.
func (s *Sweeper) Sweep(ctx context.Context) error {
	overdue, err := s.store.Overdue(ctx, s.engine.Name(), batch)
	if err != nil {
		return err
	}
	var failed []error
	for _, o := range overdue {
		if err := s.attend(ctx, o); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// attend does for one overdue checkout what its row and its engine call for.
func (s *Sweeper) attend(ctx context.Context, o store.Overdue) error {
	ctx, cancel := context.WithTimeout(ctx, 3*engineBudget)
	defer cancel()
	if settled, err := s.store.SettleUntouched(ctx, o.OrderID); err != nil || settled {
		return err
	}
	if !o.Started && o.Coordination == event.Choreographed {
		next, takenOver, err := s.store.TakeOver(ctx, o)
		if err != nil || !takenOver {
			return err
		}
		s.log.Info("a choreographed checkout goes on in a run of ours", "order_id", o.OrderID, "phase", next.Phase)
		return s.start(ctx, next)
	}
	if !o.Started {
		return s.start(ctx, o)
	}
	lost, err := s.whyLost(ctx, o)
	switch {
	case err != nil:
		// The engine cannot be asked. It is no fault of this checkout's, so no run is spent on it.
		return errors.Join(err, s.store.Postpone(ctx, o, false))
	case lost == "" && o.Pokes < maxPokes:
		return s.poke(ctx, o)
	case lost == "":
		lost = fmt.Sprintf("run %d did not answer a wake-up call", o.Run)
	}
	next, moved, err := s.store.NextRun(ctx, o, lost)
	if err != nil || !moved {
		return err
	}
	s.log.Warn("checkout goes on in its next run", "order_id", o.OrderID, "run", next.Run, "reason", lost)
	return s.start(ctx, next)
}

// whyLost says why a run cannot go on by itself; empty if the engine believes that it can.
func (s *Sweeper) whyLost(ctx context.Context, o store.Overdue) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, engineBudget)
	defer cancel()
	instance, err := s.engine.Inspect(ctx, runs.ID(o.OrderID, o.Run))
	switch {
	case errors.Is(err, engine.ErrGone):
		return fmt.Sprintf("the engine does not know run %d", o.Run), nil
	case err != nil:
		return "", fmt.Errorf("inspect run %d of %s: %w", o.Run, o.OrderID, err)
	case instance.State == engine.Running:
		return "", nil
	case instance.Failure != "":
		return fmt.Sprintf("run %d %s: %s", o.Run, instance.State, instance.Failure), nil
	}
	return fmt.Sprintf("run %d %s", o.Run, instance.State), nil
}

// start starts the run of a checkout. If that fails it is not marked as started, so the next sweep tries again.
func (s *Sweeper) start(ctx context.Context, o store.Overdue) error {
	err := runs.Start(ctx, s.engine, o.OrderID, o.Run, o.Phase)
	if err == nil {
		err = s.store.MarkStarted(ctx, o.OrderID, o.Run)
	}
	return errors.Join(err, s.store.Postpone(ctx, o, false))
}

func (s *Sweeper) poke(ctx context.Context, o store.Overdue) error {
	raiseCtx, cancel := context.WithTimeout(ctx, engineBudget)
	defer cancel()
	err := s.engine.Raise(raiseCtx, runs.ID(o.OrderID, o.Run), checkout.CommandEvent,
		checkout.Command{ID: uuid.NewString(), Kind: checkout.CommandRetry})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		return errors.Join(fmt.Errorf("wake run %d of %s: %w", o.Run, o.OrderID, err), s.store.Postpone(ctx, o, false))
	}
	return s.store.Postpone(ctx, o, true)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
