// Package sweeper sees to it that no saga hangs unseen: it starts what was accepted and not started, wakes what is
// overdue, and hands to a next run what its engine lost. It trusts the row alone; the engine is only asked.
package sweeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

const (
	// interval is how often overdue sagas are looked for. The query reads an index of open sagas by time.
	interval = time.Second
	// batch bounds what one sweep handles, and atOnce how much of it at a time, and so the load that it adds to an engine that is
	// merely slow. An engine that answers nothing costs each saga its budget, so too few at once would leave the others waiting.
	batch, atOnce = 100, 10
	// engineBudget bounds one question to the engine.
	engineBudget = 3 * time.Second
	// maxPokes is how many wake-up calls a run may leave unanswered before the next run takes over although the engine
	// says that it lives.
	maxPokes = 1
)

// leaderLock is the key of the advisory lock that makes one sweeper the leader of all that share a database; one leader
// for each engine.
var leaderLock = map[string]int64{"dapr": 0x63686b6f75740001, "embedded": 0x63686b6f75740002}

// LeaderLock is the key of the advisory lock that the leading sweeper of an engine holds.
func LeaderLock(engine string) int64 { return leaderLock[engine] }

// Sweeper sweeps the sagas of one engine. While it is not the leader it stands by.
type Sweeper struct {
	pool   *pgxpool.Pool
	store  *store.Store
	engine engine.Engine
	log    *slog.Logger
	finds  finds
	// looked is when it last swept, by the database's clock.
	looked time.Time
}

// New returns a sweeper; Run runs it.
func New(pool *pgxpool.Pool, s *store.Store, e engine.Engine, log *slog.Logger) *Sweeper {
	return &Sweeper{pool: pool, store: s, engine: e, log: log, finds: newFinds()}
}

// Run sweeps until ctx ends, or until this sweeper can no longer lead, which is an error: it is to be run again, because without a
// sweeper sagas would hang unseen. What goes wrong in a sweep is logged and survived.
func (s *Sweeper) Run(ctx context.Context) error {
	return pg.Rounds(ctx, s.pool, LeaderLock(s.engine.Name()), interval, s.Sweep, func(err error) {
		s.log.Warn("a sweep failed; the next one tries again", "error", err)
	})
}

// Sweep looks once at each overdue saga, the longest overdue first. It is not for several goroutines.
func (s *Sweeper) Sweep(ctx context.Context) error {
	if err := s.mindTheClock(ctx); err != nil {
		return err
	}
	overdue, err := s.store.Overdue(ctx, s.engine.Name(), batch)
	if err != nil {
		return err
	}
	failed := make([]error, len(overdue))
	var sweeping errgroup.Group
	sweeping.SetLimit(atOnce)
	for i, o := range overdue {
		sweeping.Go(func() error {
			failed[i] = s.attend(ctx, o)
			return nil
		})
	}
	_ = sweeping.Wait() // They return none: one saga's trouble is no other's.
	return errors.Join(failed...)
}

// mindTheClock has sagas looked at whose time to be looked at lies ahead only because the database's clock was set back since. Nobody
// else would notice for as long that one of them hangs. It may have happened before this sweeper's first look, too.
func (s *Sweeper) mindTheClock(ctx context.Context) error {
	now, err := s.store.Now(ctx)
	if err != nil {
		return err
	}
	if s.looked.IsZero() || now.Before(s.looked) {
		ahead, err := s.store.LookAtTheFuture(ctx, s.engine.Name())
		if err != nil {
			return err
		}
		if ahead > 0 {
			s.log.Warn("the database's clock was set back; open sagas that were written ahead of it are looked at now", "sagas", ahead)
		}
	}
	s.looked = now
	return nil
}

// attend does for one overdue saga what its row and its engine call for.
func (s *Sweeper) attend(ctx context.Context, o store.Overdue) error {
	ctx, cancel := context.WithTimeout(ctx, 3*engineBudget)
	defer cancel()
	settled, err := s.store.SettleUntouched(ctx, o.ID)
	switch {
	case err != nil:
		return err
	case settled:
		s.finds.count(foundSettled)
		return nil
	case !o.Started && o.Elsewhere:
		return s.takeOver(ctx, o)
	case !o.Started:
		s.finds.count(foundNotStarted)
		return s.start(ctx, o)
	}
	lost, err := s.whyLost(ctx, o)
	switch {
	case err != nil:
		// The engine cannot be asked. It is no fault of this saga's, so no run is spent on it.
		s.finds.count(foundNoEngine)
		return errors.Join(err, s.store.Postpone(ctx, o, false))
	case lost == nil && o.Pokes < maxPokes:
		s.finds.count(foundSilent)
		return s.poke(ctx, o)
	case lost == nil:
		lost = &loss{foundUnanswered, fmt.Sprintf("run %d did not answer a wake-up call", o.Run)}
	}
	if lost.find == foundStopped {
		news, err := s.store.Stopped(ctx, o, lost.why)
		if err != nil {
			return err
		}
		if news {
			s.finds.count(foundStopped)
			s.log.Error("a run stopped and needs attention", "saga", o.ID.Definition, "key", o.ID.Key, "run", o.Run, "reason", lost.why)
			return nil
		}
	}
	next, moved, err := s.store.NextRun(ctx, o, lost.why)
	if err != nil || !moved {
		return err
	}
	s.finds.count(lost.find)
	s.log.Warn("saga goes on in its next run", "saga", o.ID.Definition, "key", o.ID.Key, "run", next.Run, "reason", lost.why)
	return s.start(ctx, next)
}

func (s *Sweeper) takeOver(ctx context.Context, o store.Overdue) error {
	next, takenOver, err := s.store.TakeOver(ctx, o)
	if err != nil || !takenOver {
		return err
	}
	s.finds.count(foundTakenOver)
	s.log.Info("a saga that was driven elsewhere goes on in a run of ours", "saga", o.ID.Definition, "key", o.ID.Key, "phase", next.Phase)
	return s.start(ctx, next)
}

// loss is why a run cannot go on by itself.
type loss struct {
	find find
	why  string
}

// whyLost says why a run cannot go on by itself; nil if the engine believes that it can. A run that stopped did so of itself, by an
// error: its code panicked, or does not fit its history.
func (s *Sweeper) whyLost(ctx context.Context, o store.Overdue) (*loss, error) {
	ctx, cancel := context.WithTimeout(ctx, engineBudget)
	defer cancel()
	instance, err := s.engine.Inspect(ctx, runs.ID(o.ID, o.Run))
	switch {
	case errors.Is(err, engine.ErrGone):
		return &loss{foundGone, fmt.Sprintf("the engine does not know run %d", o.Run)}, nil
	case err != nil:
		return nil, fmt.Errorf("inspect run %d of %s: %w", o.Run, o.ID, err)
	case instance.State == engine.Running:
		return nil, nil
	case instance.State == engine.Failed && instance.Failure != "":
		return &loss{foundStopped, fmt.Sprintf("run %d %s: %s", o.Run, instance.State, instance.Failure)}, nil
	case instance.Failure != "":
		return &loss{foundEnded, fmt.Sprintf("run %d %s: %s", o.Run, instance.State, instance.Failure)}, nil
	}
	return &loss{foundEnded, fmt.Sprintf("run %d %s", o.Run, instance.State)}, nil
}

// start starts the run of a saga. If that fails it is not marked as started, so the next sweep tries again.
func (s *Sweeper) start(ctx context.Context, o store.Overdue) error {
	err := runs.Start(ctx, s.engine, o.ID, o.Run, o.Phase, o.Plan)
	if err == nil {
		err = s.store.MarkStarted(ctx, o.ID, o.Run)
	}
	return errors.Join(err, s.store.Postpone(ctx, o, false))
}

func (s *Sweeper) poke(ctx context.Context, o store.Overdue) error {
	if err := s.raise(ctx, o.ID, o.Run); err != nil {
		return errors.Join(err, s.store.Postpone(ctx, o, false))
	}
	return s.store.Postpone(ctx, o, true)
}

// wakePage is how many sagas are read at a time to be woken.
const wakePage = 500

// Wake wakes the runs of all sagas that are at a participant, because it answers again.
func (s *Sweeper) Wake(ctx context.Context, participant string) error {
	for after := (saga.ID{}); ; {
		page, err := s.store.Waiting(ctx, s.engine.Name(), participant, after, wakePage)
		if err != nil || len(page) == 0 {
			return err
		}
		waking, wakeCtx := errgroup.WithContext(ctx)
		waking.SetLimit(atOnce)
		for _, d := range page {
			waking.Go(func() error { return s.raise(wakeCtx, d.ID, d.Run) })
		}
		if err := waking.Wait(); err != nil {
			return err
		}
		after = page[len(page)-1].ID
	}
}

// raise sends a run the word to try again. One that has ended does not need it.
func (s *Sweeper) raise(ctx context.Context, id saga.ID, run int) error {
	ctx, cancel := context.WithTimeout(ctx, engineBudget)
	defer cancel()
	err := s.engine.Raise(ctx, runs.ID(id, run), saga.CommandEvent,
		saga.Command{ID: uuid.NewString(), Kind: journal.CommandRetry})
	if err != nil && !errors.Is(err, engine.ErrGone) {
		return fmt.Errorf("wake run %d of %s: %w", run, id, err)
	}
	return nil
}
