package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

var applied = journal.Learned{Outcome: saga.Applied}

func refused(reason string) journal.Learned {
	return journal.Learned{Outcome: saga.Rejected, Reason: reason}
}

func noAnswer(detail string) journal.Learned {
	return journal.Learned{Outcome: saga.Unknown, Detail: detail}
}

// A scenario is told as lines: what is asked of the store, and what it must answer.
func TestTheRowDecidesWhatEachAttemptMayDo(t *testing.T) {
	type line struct {
		does func(*scenario)
	}
	try := func(step string, l journal.Learned, want journal.Standing) line {
		return line{func(s *scenario) {
			s.t.Helper()
			s.fence(step, false, journal.Go)
			s.record(step, false, l, want)
		}}
	}
	undo := func(step string, l journal.Learned, want journal.Standing) line {
		return line{func(s *scenario) {
			s.t.Helper()
			s.fence(step, true, journal.Go)
			s.record(step, true, l, want)
		}}
	}
	fence := func(step string, want journal.Leave) line {
		return line{func(s *scenario) { s.t.Helper(); s.fence(step, false, want) }}
	}
	fenceUndo := func(step string, want journal.Leave) line {
		return line{func(s *scenario) { s.t.Helper(); s.fence(step, true, want) }}
	}
	cancel := func(want journal.CancelOutcome) line {
		return line{func(s *scenario) { s.t.Helper(); s.cancel(want) }}
	}
	expire := line{func(s *scenario) { s.expire() }}
	nextRun := line{func(s *scenario) { s.nextRun() }}

	tests := map[string]struct {
		lines []line
		want  string
	}{
		"every step is done and the checkout is confirmed": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, applied, journal.GoOn),
				try(checkout.CapturePayment, applied, journal.GoOn), try(checkout.CommitStock, applied, journal.GoOn),
				fence(checkout.CommitStock, journal.Superseded),
			},
			"CONFIRMED final: done done done done",
		},
		"a refusal of the first step leaves nothing to undo": {
			[]line{try(checkout.ReserveStock, refused("out_of_stock"), journal.GoBack)},
			"REJECTED final reserve-stock: out_of_stock: rejected skipped skipped skipped",
		},
		"a declined card releases the stock": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn),
				try(checkout.AuthorizePayment, refused("card_declined"), journal.GoBack),
				fenceUndo(checkout.AuthorizePayment, journal.Known),
				undo(checkout.ReserveStock, applied, journal.GoOn),
			},
			"REJECTED final authorize-payment: card_declined: done/done rejected skipped skipped",
		},
		"a cancel between two steps turns the second back and undoes both": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), cancel(journal.CancelAccepted), cancel(journal.CancelUnderWay),
				fence(checkout.AuthorizePayment, journal.TurnBack),
				undo(checkout.AuthorizePayment, applied, journal.GoOn), undo(checkout.ReserveStock, applied, journal.GoOn),
				cancel(journal.CancelDone),
			},
			"CANCELLED final changed my mind: done/done unknown/done skipped skipped",
		},
		"a cancel during a step is told with the step's outcome, so the next is not tried": {
			[]line{
				fence(checkout.ReserveStock, journal.Go), cancel(journal.CancelAccepted),
				{func(s *scenario) { s.record(checkout.ReserveStock, false, applied, journal.GoBack) }},
				undo(checkout.ReserveStock, applied, journal.GoOn),
			},
			"CANCELLED final changed my mind: done/done skipped skipped skipped",
		},
		"a cancel before anybody was asked ends the checkout at once": {
			[]line{cancel(journal.CancelDone), fence(checkout.ReserveStock, journal.Superseded)},
			"CANCELLED final changed my mind: skipped skipped skipped skipped",
		},
		"a deadline that passed before anybody was asked ends the checkout at the first fence": {
			[]line{expire, fence(checkout.ReserveStock, journal.Superseded)},
			"EXPIRED final the deadline has passed: skipped skipped skipped skipped",
		},
		"a deadline stops the pivot": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, applied, journal.GoOn), expire,
				fence(checkout.CapturePayment, journal.TurnBack), fenceUndo(checkout.CapturePayment, journal.Known),
				undo(checkout.AuthorizePayment, applied, journal.GoOn), undo(checkout.ReserveStock, applied, journal.GoOn),
			},
			"EXPIRED final the deadline has passed: done/done done/done skipped skipped",
		},
		"after the pivot is claimed a cancel is too late and a deadline means nothing": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, applied, journal.GoOn),
				try(checkout.CapturePayment, noAnswer("reset"), journal.GoOn), cancel(journal.CancelTooLate), expire,
				fenceUndo(checkout.AuthorizePayment, journal.Superseded),
				try(checkout.CapturePayment, applied, journal.GoOn), try(checkout.CommitStock, applied, journal.GoOn),
				cancel(journal.CancelTooLate),
			},
			"CONFIRMED final: done done done done",
		},
		"the pivot's recorded refusal is the one way back": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, applied, journal.GoOn),
				try(checkout.CapturePayment, refused("authorization_expired"), journal.GoBack),
				undo(checkout.AuthorizePayment, applied, journal.GoOn), undo(checkout.ReserveStock, applied, journal.GoOn),
			},
			"REJECTED final capture-payment: authorization_expired: done/done done/done rejected skipped",
		},
		"the last step refused is no way back but a call for attention": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, applied, journal.GoOn),
				try(checkout.CapturePayment, applied, journal.GoOn), try(checkout.CommitStock, refused("on_strike"), journal.GoOn),
			},
			"NEEDS_ATTENTION pivoted attention(commit-stock is refused, and there is no other way on): done done done failing",
		},
		"a compensation that fails is tried until it works": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), try(checkout.AuthorizePayment, refused("card_declined"), journal.GoBack),
				undo(checkout.ReserveStock, noAnswer("down"), journal.GoOn), undo(checkout.ReserveStock, noAnswer("down"), journal.GoOn),
				undo(checkout.ReserveStock, applied, journal.GoOn),
			},
			"REJECTED final authorize-payment: card_declined: done/done rejected skipped skipped",
		},
		"an activity that ran twice changes nothing": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), fence(checkout.ReserveStock, journal.Known),
				{func(s *scenario) { s.record(checkout.ReserveStock, false, refused("late"), journal.GoOn) }},
				{func(s *scenario) { s.record(checkout.ReserveStock, false, applied, journal.GoOn) }},
			},
			"RUNNING forward: done running pending pending",
		},
		"the next run takes over and the old one is not listened to": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn),
				fence(checkout.AuthorizePayment, journal.Go), nextRun,
				{func(s *scenario) {
					s.run = 1
					s.record(checkout.AuthorizePayment, false, applied, journal.Over)
					s.fence(checkout.AuthorizePayment, false, journal.Superseded)
					s.run = 2
				}},
				fence(checkout.ReserveStock, journal.Known), try(checkout.AuthorizePayment, applied, journal.GoOn),
			},
			"RUNNING forward: done done running pending",
		},
		"no step is tried before the one that comes before it, the pivot least of all": {
			[]line{
				fence(checkout.AuthorizePayment, journal.Superseded), try(checkout.ReserveStock, applied, journal.GoOn),
				fence(checkout.CapturePayment, journal.Superseded),
			},
			"RUNNING forward: done running pending pending",
		},
		"nothing is undone that the row has not given up": {
			[]line{
				try(checkout.ReserveStock, applied, journal.GoOn), fenceUndo(checkout.ReserveStock, journal.Superseded),
				fence(checkout.CommitStock, journal.Superseded),
			},
			"RUNNING forward: done running pending pending",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t)
			for _, l := range test.lines {
				l.does(s)
			}
			if diff := cmp.Diff(test.want, s.tell()); diff != "" {
				t.Errorf("the row (-want +got):\n%s", diff)
			}
		})
	}
}

// I1, I8: one winner. Were the pivot claimed without a look at the cancel, both would win.
func TestI1ACancelAndThePivotHaveOneWinner(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	won := map[string]int{}
	for n := range 1000 {
		s := scenarioOn(t, pool, fmt.Sprintf("race-%d", n))
		for _, step := range []string{checkout.ReserveStock, checkout.AuthorizePayment} {
			s.fence(step, false, journal.Go)
			s.record(step, false, applied, journal.GoOn)
		}
		var pass journal.Pass
		var answer store.CancelAnswer
		var race errgroup.Group
		start := make(chan struct{})
		race.Go(func() (err error) {
			<-start
			pass, err = s.store.Fence(t.Context(), s.attempt(checkout.CapturePayment, false))
			return err
		})
		race.Go(func() (err error) {
			<-start
			answer, err = s.store.Cancel(t.Context(), s.id, "changed my mind", "test")
			return err
		})
		close(start)
		require.NoError(t, race.Wait())

		switch {
		case pass.Leave == journal.Go && answer.Outcome == journal.CancelTooLate:
			won["pivot"]++
		case pass.Leave == journal.TurnBack && (answer.Outcome == journal.CancelAccepted || answer.Outcome == journal.CancelUnderWay):
			won["cancel"]++
		default:
			t.Fatalf("%s: the pivot was answered %s and the cancel %s", s.id, pass.Leave, answer.Outcome)
		}
	}
	t.Logf("of 200 races the pivot won %d, the cancel %d", won["pivot"], won["cancel"])
}

func TestI7TheSameStartIsOneCheckoutAndAnotherIsRefused(t *testing.T) {
	t.Parallel()
	st := newStore(migrated(t))
	var created, same int
	var mu sync.Mutex
	var race errgroup.Group
	for range 64 {
		race.Go(func() error {
			_, isNew, err := st.Accept(t.Context(), order("ord-1"))
			mu.Lock()
			defer mu.Unlock()
			if isNew {
				created++
			} else {
				same++
			}
			return err
		})
	}
	require.NoError(t, race.Wait())
	require.Equal(t, 1, created)
	require.Equal(t, 63, same)

	other := order("ord-1")
	other.Digest = "v1:other"
	_, _, err := st.Accept(t.Context(), other)
	requireConflict(t, store.OtherDigest, err)

	otherID := order("ord-2")
	otherID.IdempotencyKey = "ord-1"
	_, _, err = st.Accept(t.Context(), otherID)
	requireConflict(t, store.OtherKey, err)

	otherKey := order("ord-1")
	otherKey.IdempotencyKey = "key-2"
	_, _, err = st.Accept(t.Context(), otherKey)
	requireConflict(t, store.OtherIdempotencyKey, err)
	_, err = st.Saga(t.Context(), checkout.Saga("ord-2"))
	require.ErrorIs(t, err, store.ErrNotFound)
}

func requireConflict(t *testing.T, with store.ConflictWith, err error) {
	t.Helper()
	conflict := new(store.Conflict)
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, with, conflict.With)
}

func TestI3WhatFailsForLongCallsForAttentionAndStopsCallingWhenItWorks(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	s.fence(checkout.ReserveStock, false, journal.Go)
	s.record(checkout.ReserveStock, false, applied, journal.GoOn)
	s.cancel(journal.CancelAccepted)
	s.fence(checkout.AuthorizePayment, false, journal.TurnBack)

	stuck := s.attempt(checkout.AuthorizePayment, true)
	stuck.Round, stuck.Stuck, stuck.WaitMS = 12, true, time.Minute.Milliseconds()
	_, err := s.store.Record(t.Context(), stuck, noAnswer("connection refused"), nil)
	require.NoError(t, err)
	c, err := s.store.Saga(t.Context(), s.id)
	require.NoError(t, err)
	require.Equal(t, journal.NeedsAttention, c.Status)
	require.Equal(t, checkout.VoidAuthorization, c.Attention.Step)
	require.Equal(t, "connection refused", c.Attention.LastError)

	s.record(checkout.AuthorizePayment, true, applied, journal.GoOn)
	c, err = s.store.Saga(t.Context(), s.id)
	require.NoError(t, err)
	require.Equal(t, journal.Compensating, c.Status)
	require.Nil(t, c.Attention)
}

func TestListPagesThroughAllCheckoutsOnceNewestFirst(t *testing.T) {
	t.Parallel()
	st := newStore(migrated(t))
	for n := range 25 {
		_, _, err := st.Accept(t.Context(), order(fmt.Sprintf("ord-%02d", n)))
		require.NoError(t, err)
	}
	var got []string
	filter := store.Filter{Limit: 10, Statuses: []journal.Status{journal.Running}, About: "cus-1", Step: checkout.ReserveStock}
	for pages := 1; ; pages++ {
		page, next, err := st.List(t.Context(), filter)
		require.NoError(t, err)
		for _, c := range page {
			got = append(got, c.Key)
		}
		if next == "" {
			require.Equal(t, 3, pages)
			break
		}
		filter.PageToken = next
	}
	var want []string
	for n := 24; n >= 0; n-- {
		want = append(want, fmt.Sprintf("ord-%02d", n))
	}
	require.Empty(t, cmp.Diff(want, got))

	_, _, err := st.List(t.Context(), store.Filter{Limit: 10, PageToken: "nonsense"})
	require.ErrorIs(t, err, store.ErrBadPageToken)
}

func TestASubscriberHearsOfEachChange(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	ctx, stop := context.WithCancel(t.Context())
	var listener errgroup.Group
	listener.Go(func() error { return s.store.Listen(ctx) })
	t.Cleanup(func() { stop(); _ = listener.Wait() })
	changed, cancel := s.store.Subscribe(s.id, store.AnyChange)
	defer cancel()
	settled, cancelSettled := s.store.Subscribe(s.id, store.Settled)
	defer cancelSettled()

	heard := func(of <-chan struct{}) {
		t.Helper()
		select {
		case <-of:
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was heard")
		}
	}
	heard(changed) // Listen has begun.
	heard(settled)

	// What other processes change is heard as what this one changes is.
	elsewhere := &scenario{t: t, pool: s.pool, store: newStore(s.pool), id: s.id, run: 1}
	ctxElsewhere, stopElsewhere := context.WithCancel(t.Context())
	listener.Go(func() error { return elsewhere.store.Listen(ctxElsewhere) })
	t.Cleanup(stopElsewhere)

	elsewhere.fence(checkout.ReserveStock, false, journal.Go)
	heard(changed)
	require.Empty(t, settled, "nothing is settled yet")
	elsewhere.record(checkout.ReserveStock, false, refused("out_of_stock"), journal.GoBack)
	heard(changed)
	heard(settled)
}

// The rules know no step by name: they go by the plan with which it was accepted, whatever that of today is.
func TestACheckoutGoesByThePlanThatItWasAcceptedWith(t *testing.T) {
	t.Parallel()
	trip, err := saga.Define("trip", 7,
		saga.Do("hold-seat").At("airline").UndoneBy("free-seat"),
		saga.Do("book-room").At("hotel").UndoneBy("cancel-room"),
		saga.Decision("boss"),
		saga.Pivot("charge-card").At("bank").UndoneBy("pay-back").Denies("no_booking", "book-room"),
		saga.Do("send-ticket").At("airline").NothingToUndo(),
	)
	require.NoError(t, err)
	pool := migrated(t)
	begin := func(id string, plan saga.Plan) *scenario {
		s := newStore(pool)
		n := order(id)
		n.Plan, n.Approval = plan, time.Hour
		c, created, err := s.Accept(t.Context(), n)
		require.NoError(t, err)
		require.True(t, created)
		require.Equal(t, plan, c.Plan)
		return &scenario{t: t, pool: pool, store: s, id: n.ID(), run: 1}
	}
	do := func(s *scenario, step string, learned journal.Learned, want journal.Standing) {
		s.fence(step, false, journal.Go)
		s.record(step, false, learned, want)
	}

	whole := begin("whole", trip.Plan().WithoutDecision())
	for _, step := range []string{"hold-seat", "book-room", "charge-card", "send-ticket"} {
		do(whole, step, applied, journal.GoOn)
	}
	c, err := whole.store.Saga(t.Context(), whole.id)
	require.NoError(t, err)
	require.Equal(t, journal.Confirmed, c.Status)
	require.Equal(t, "bank", c.Steps[2].Participant)

	back := begin("back", trip.Plan())
	do(back, "hold-seat", applied, journal.GoOn)
	do(back, "book-room", applied, journal.GoOn)
	back.fence("charge-card", false, journal.Hold) // The boss has to say yes.
	_, err = back.store.Approve(t.Context(), store.Wish{Saga: back.id, Actor: "boss", Reason: "fine"})
	require.NoError(t, err)
	do(back, "charge-card", refused("no_booking"), journal.Doubted) // The hotel confirmed it: somebody must look.
	do(back, "charge-card", refused("card_declined"), journal.GoBack)
	for _, step := range []string{"book-room", "hold-seat"} {
		back.fence(step, true, journal.Go)
		back.record(step, true, applied, journal.GoOn)
	}
	c, err = back.store.Saga(t.Context(), back.id)
	require.NoError(t, err)
	require.Equal(t, journal.Rejected, c.Status)
}

func TestTheSweepersRowsAreThoseThatAreOverdue(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	overdue, err := s.store.Overdue(t.Context(), "embedded", 10)
	require.NoError(t, err)
	require.Empty(t, overdue)

	s.exec(`UPDATE checkouts SET check_at = now() - interval '1 second'`)
	overdue, err = s.store.Overdue(t.Context(), "embedded", 10)
	require.NoError(t, err)
	require.Equal(t, []store.Overdue{{ID: s.id, Run: 1, Phase: saga.Forward, Plan: checkouttest.Plan()}}, overdue)
	other, err := s.store.Overdue(t.Context(), "dapr", 10)
	require.NoError(t, err)
	require.Empty(t, other, "another engine's checkouts are left alone")

	for run := 2; run <= 4; run++ {
		next, moved, err := s.store.NextRun(t.Context(), overdue[0], "lost")
		require.NoError(t, err)
		require.True(t, moved)
		require.Equal(t, run, next.Run)
		_, moved, err = s.store.NextRun(t.Context(), overdue[0], "lost")
		require.NoError(t, err)
		require.False(t, moved, "a second sweeper has nothing to start")
		overdue[0].Run = run
		s.exec(`UPDATE checkouts SET check_at = now() - interval '1 second'`)
	}
	_, _, err = s.store.NextRun(t.Context(), overdue[0], "lost")
	require.NoError(t, err)
	c, err := s.store.Saga(t.Context(), s.id)
	require.NoError(t, err)
	require.Equal(t, journal.NeedsAttention, c.Status)
	require.Equal(t, "3 runs made no progress", c.Attention.Cause)
}

// scenario plays a run against one checkout.
type scenario struct {
	t     testing.TB
	pool  *pgxpool.Pool
	store *store.Store
	id    saga.ID
	run   int
}

func newScenario(t testing.TB) *scenario {
	return scenarioOn(t, migrated(t), "ord-1")
}

func scenarioOn(t testing.TB, pool *pgxpool.Pool, id string) *scenario {
	t.Helper()
	st := newStore(pool)
	_, created, err := st.Accept(t.Context(), order(id))
	require.NoError(t, err)
	require.True(t, created)
	return &scenario{t: t, pool: pool, store: st, id: checkout.Saga(id), run: 1}
}

func migrated(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
	return pool
}

func order(id string) store.NewSaga {
	n := checkouttest.Start(checkouttest.Order(id, 2))
	n.Deadline = time.Minute
	return n
}

func (s *scenario) attempt(step string, undo bool) journal.Attempt {
	return journal.Attempt{Call: saga.Call{Definition: s.id.Definition, Key: s.id.Key, Run: s.run, Step: step, Undo: undo, Round: 1,
		Claims: !undo && (step == checkout.ReserveStock || step == checkout.CapturePayment),
	}}
}

func (s *scenario) fence(step string, undo bool, want journal.Leave) {
	s.t.Helper()
	pass, err := s.store.Fence(s.t.Context(), s.attempt(step, undo))
	require.NoError(s.t, err)
	require.Equal(s.t, want, pass.Leave, "fence of %s (undo %t): %s", step, undo, pass.Reason)
}

func (s *scenario) record(step string, undo bool, l journal.Learned, want journal.Standing) {
	s.t.Helper()
	reply, err := s.store.Record(s.t.Context(), s.attempt(step, undo), l, nil)
	require.NoError(s.t, err)
	require.Equal(s.t, want.Reply(s.attempt(step, undo), l), reply, "record of %s (undo %t)", step, undo)
}

func (s *scenario) cancel(want journal.CancelOutcome) {
	s.t.Helper()
	would, err := s.store.WouldCancel(s.t.Context(), s.id)
	require.NoError(s.t, err)
	require.Equal(s.t, want, would.Outcome, "dry run")
	answer, err := s.store.Cancel(s.t.Context(), s.id, "changed my mind", "test")
	require.NoError(s.t, err)
	require.Equal(s.t, want, answer.Outcome)
}

func (s *scenario) expire() {
	s.t.Helper()
	s.exec(`UPDATE checkouts SET deadline = now() - interval '1 second'`)
}

func (s *scenario) nextRun() {
	s.t.Helper()
	s.exec(`UPDATE checkouts SET check_at = now() - interval '1 second'`)
	next, moved, err := s.store.NextRun(s.t.Context(), store.Overdue{ID: s.id, Run: s.run}, "test")
	require.NoError(s.t, err)
	require.True(s.t, moved)
	s.run = next.Run
}

func (s *scenario) exec(sql string) {
	s.t.Helper()
	_, err := s.pool.Exec(s.t.Context(), sql)
	require.NoError(s.t, err)
}

// tell puts a checkout into one line: status, phase, reason, and each step's state with its compensation's.
func (s *scenario) tell() string {
	s.t.Helper()
	c, err := s.store.Saga(s.t.Context(), s.id)
	require.NoError(s.t, err)
	line := fmt.Sprintf("%s %s", c.Status, c.Phase)
	if c.Reason != "" {
		line += " " + c.Reason
	}
	if c.Attention != nil {
		line += fmt.Sprintf(" attention(%s)", c.Attention.Cause)
	}
	line += ":"
	for _, step := range c.Steps {
		line += " " + step.State
		if step.CompensationState != journal.CompensationNotNeeded {
			line += "/" + step.CompensationState
		}
	}
	if history, err := s.store.History(s.t.Context(), s.id); err != nil || len(history.Entries) == 0 {
		s.t.Errorf("history of %s: %d entries, %v", s.id, len(history.Entries), errors.Unwrap(err))
	}
	return line
}

// newStore is a store whose events nobody publishes.
func newStore(pool *pgxpool.Pool) *store.Store {
	return checkouttest.Store(pool)
}
