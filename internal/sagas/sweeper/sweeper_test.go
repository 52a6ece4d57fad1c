package sweeper_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/sagas/sweeper"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// I3: whatever the engine says of a run, the checkout goes on or a person is called.
func TestI3AnOverdueCheckoutGoesOn(t *testing.T) {
	tests := map[string]struct {
		// state of run 1 in the engine; "" means that the engine does not know it.
		state  engine.State
		engErr error
		sweeps int
		// started are the runs that the engine was asked to start, in order.
		started []string
		pokes   int
	}{
		"accepted and never started: it is started":               {state: "unmarked", sweeps: 1, started: []string{"checkout.ord-1-1"}},
		"running: it is woken first":                              {state: engine.Running, sweeps: 1, pokes: 1},
		"running and deaf to the wake-up call: the next run":      {state: engine.Running, sweeps: 2, pokes: 1, started: []string{"checkout.ord-1-2"}},
		"failed: the next run at once":                            {state: engine.Failed, sweeps: 1, started: []string{"checkout.ord-1-2"}},
		"stalled: the next run at once":                           {state: engine.Stalled, sweeps: 1, started: []string{"checkout.ord-1-2"}},
		"completed while the checkout is open: the next run":      {state: engine.Completed, sweeps: 1, started: []string{"checkout.ord-1-2"}},
		"unknown to the engine: the next run":                     {state: "", sweeps: 1, started: []string{"checkout.ord-1-2"}},
		"an engine that cannot be asked costs no run":             {state: engine.Running, engErr: errors.New("away"), sweeps: 3},
		"runs that are lost one after another: each has its next": {state: engine.Failed, sweeps: 3, started: []string{"checkout.ord-1-2", "checkout.ord-1-3", "checkout.ord-1-4"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, st := accepted(t, "ord-1")
			fake := &fakeEngine{state: test.state, err: test.engErr}
			if test.state != "unmarked" {
				require.NoError(t, st.MarkStarted(t.Context(), checkout.Saga("ord-1"), 1))
				touch(t, st)
			}
			s := sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler))
			for range test.sweeps {
				overdue(t, pool)
				_ = s.Sweep(t.Context()) // What it could not do is told by what it did.
			}
			require.Equal(t, test.started, fake.started)
			require.Equal(t, test.pokes, fake.pokes)
		})
	}
}

// A run whose code panicked, or does not fit its history, may do so again at once, or may have met a broken history.
func TestARunThatStoppedNeedsAttentionAndIsFollowedByAnotherSoonAndThenSeldom(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	require.NoError(t, st.MarkStarted(t.Context(), checkout.Saga("ord-1"), 1))
	touch(t, st)
	fake := &fakeEngine{state: engine.Failed, failure: "saga stopped: panic: nil map"}
	s := sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler))
	for run, again := range []time.Duration{15 * time.Second, 5 * time.Minute, 10 * time.Minute} {
		overdue(t, pool)
		require.NoError(t, s.Sweep(t.Context()))
		c, err := st.Saga(t.Context(), checkout.Saga("ord-1"))
		require.NoError(t, err)
		require.Equal(t, journal.NeedsAttention, c.Status)
		require.Equal(t, journal.AttentionStopped, c.Attention.Code)
		require.Contains(t, c.Attention.LastError, "saga stopped: panic: nil map")
		require.WithinDuration(t, time.Now().Add(again), c.Attention.Next, again/3)
		require.NoError(t, s.Sweep(t.Context()), "nothing is due before")
		require.Len(t, fake.started, run)
		overdue(t, pool)
		require.NoError(t, s.Sweep(t.Context()))
	}
	require.Equal(t, []string{"checkout.ord-1-2", "checkout.ord-1-3", "checkout.ord-1-4"}, fake.started, "only when the time has come")
}

func TestWhoWaitsForAParticipantIsWoken(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	fake := &fakeEngine{state: engine.Running}
	s := sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler))
	require.NoError(t, s.Wake(t.Context(), checkout.Payment))
	require.Zero(t, fake.pokes, "it is at another participant")
	require.NoError(t, s.Wake(t.Context(), checkout.Warehouse))
	require.Equal(t, 1, fake.pokes)
	fake.err = errors.New("away")
	require.Error(t, s.Wake(t.Context(), checkout.Warehouse), "whoever asks has to ask again")
}

func TestAStartThatFailsIsTriedAgainWithoutSpendingARun(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	fake := &fakeEngine{startErr: errors.New("away")}
	s := sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler))
	for range 3 {
		overdue(t, pool)
		require.Error(t, s.Sweep(t.Context()))
	}
	fake.startErr = nil
	overdue(t, pool)
	require.NoError(t, s.Sweep(t.Context()))
	require.Equal(t, []string{"checkout.ord-1-1", "checkout.ord-1-1", "checkout.ord-1-1", "checkout.ord-1-1"}, fake.started)
	c, err := st.Saga(t.Context(), checkout.Saga("ord-1"))
	require.NoError(t, err)
	require.Equal(t, 1, c.Run)
}

func TestACancelledCheckoutThatNeverBeganEndsWithoutAnEngine(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	_, err := pool.Exec(t.Context(), `UPDATE checkouts SET deadline = now() - interval '1 second'`)
	require.NoError(t, err)
	fake := &fakeEngine{err: errors.New("away"), startErr: errors.New("away")}
	overdue(t, pool)
	require.NoError(t, sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler)).Sweep(t.Context()))
	c, err := st.Saga(t.Context(), checkout.Saga("ord-1"))
	require.NoError(t, err)
	require.Equal(t, journal.Expired, c.Status)
	require.Empty(t, fake.started)
}

func TestOfTwoSweepersOneLeadsAndTheOtherTakesOver(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	log := slog.New(slog.DiscardHandler)
	first, second := &fakeEngine{}, &fakeEngine{}
	firstCtx, stopFirst := context.WithCancel(t.Context())
	secondCtx, stopSecond := context.WithCancel(t.Context())
	var running errgroup.Group
	t.Cleanup(func() { stopFirst(); stopSecond(); _ = running.Wait() })

	running.Go(func() error { sweeper.New(pool, st, first, log).Run(firstCtx); return nil })
	overdue(t, pool)
	require.Eventually(t, func() bool { return first.count() == 1 }, 10*time.Second, 20*time.Millisecond)

	running.Go(func() error { sweeper.New(pool, st, second, log).Run(secondCtx); return nil })
	overdue(t, pool)
	require.Eventually(t, func() bool { return first.count() == 2 }, 10*time.Second, 20*time.Millisecond)
	require.Zero(t, second.count())

	stopFirst()
	overdue(t, pool)
	require.Eventually(t, func() bool { return second.count() > 0 }, 10*time.Second, 20*time.Millisecond)
}

func accepted(t *testing.T, id string) (*pgxpool.Pool, *store.Store) {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
	st := checkouttest.Store(pool)
	_, _, err := st.Accept(t.Context(), checkouttest.Start(checkouttest.Order(id, 1)))
	require.NoError(t, err)
	return pool, st
}

func touch(t *testing.T, st *store.Store) {
	t.Helper()
	pass, err := st.Fence(t.Context(), journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: "ord-1", Run: 1, Step: checkout.ReserveStock}})
	require.NoError(t, err)
	require.Equal(t, journal.Go, pass.Leave)
}

func overdue(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `UPDATE checkouts SET check_at = now() - interval '1 second' WHERE check_at IS NOT NULL`)
	require.NoError(t, err)
}

// fakeEngine says the same of every run and counts what it is asked for.
type fakeEngine struct {
	mu       sync.Mutex
	state    engine.State
	failure  string
	err      error
	startErr error
	started  []string
	pokes    int
}

func (f *fakeEngine) Name() string { return "embedded" }

func (f *fakeEngine) Run(ctx context.Context) error { return nil }

func (f *fakeEngine) Start(_ context.Context, workflow, id string, _ any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if workflow != saga.WorkflowName {
		return errors.New("no such workflow")
	}
	f.started = append(f.started, id)
	return f.startErr
}

func (f *fakeEngine) Raise(_ context.Context, id, event string, _ any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id != runs.ID(checkout.Saga("ord-1"), 1) || event != saga.CommandEvent {
		return engine.ErrGone
	}
	f.pokes++
	return f.err
}

func (f *fakeEngine) Inspect(context.Context, string) (engine.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return engine.Instance{}, f.err
	case f.state == "":
		return engine.Instance{}, engine.ErrGone
	}
	return engine.Instance{State: f.state, Failure: f.failure}, nil
}

func (f *fakeEngine) History(context.Context, string) ([]*protos.HistoryEvent, error) {
	return nil, engine.ErrGone
}

func (f *fakeEngine) Purge(context.Context, string) error { return nil }

func (f *fakeEngine) Check(context.Context) error { return f.err }

// count is how often the engine was asked to do something.
func (f *fakeEngine) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.started) + f.pokes
}

func TestI3WhatWasWrittenBeforeTheClockWasSetBackIsLookedAtAtOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		written string // from now
		pokes   int
	}{
		"written an hour ahead: it is looked at":        {"1 hour", 1},
		"written before now: it is left until its time": {"-1 second", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, st := accepted(t, "ord-1")
			require.NoError(t, st.MarkStarted(t.Context(), checkout.Saga("ord-1"), 1))
			touch(t, st)
			fake := &fakeEngine{state: engine.Running}
			s := sweeper.New(pool, st, fake, slog.New(slog.DiscardHandler))
			_, err := pool.Exec(t.Context(), `UPDATE checkouts SET updated_at = clock_timestamp() + $1::interval, check_at = clock_timestamp() + '1 hour'`, test.written)
			require.NoError(t, err)
			require.NoError(t, s.Sweep(t.Context()))
			require.Equal(t, test.pokes, fake.pokes)
		})
	}
}
