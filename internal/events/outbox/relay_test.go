package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

var errAway = errors.New("the bus is away")

func TestI5AndI6RelaysThatCompeteAndLoseTheirSessionsLoseNothingAndKeepOrder(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	b := new(broker)
	// Slow enough that a session ends while a batch is in hand.
	b.hold = func(ctx context.Context, _ bus.Event) { pause.For(ctx, time.Millisecond) }
	var processes []*Outbox
	for range 3 {
		o := open(t, url, slog.New(slog.DiscardHandler))
		processes = append(processes, o)
		relaying(t, o, b)
	}
	const rounds = 6
	for n := range rounds {
		written := make(chan error, 1)
		go func() { written <- writeConcurrently(t.Context(), processes[n%2], 8, 25, 5) }()
		var leader int
		eventually(t, 20*time.Second, "one leads and is at work", func() bool {
			leader = leaderOf(t, processes[2].pool)
			return leader != 0 && b.count() > 200*n+50
		})
		var isKilled bool
		require.NoError(t, processes[2].pool.QueryRow(t.Context(), `SELECT pg_terminate_backend($1)`, leader).Scan(&isKilled))
		require.True(t, isKilled)
		require.NoError(t, <-written)
	}
	eventually(t, 30*time.Second, "all is published", func() bool { return b.count() == 200*rounds })
	b.hasAllInOrder(t, processes[0])
	t.Logf("the leader's session was killed %d times; %d events were published %d times", rounds, b.count(), b.size())
}

func TestALeaderThatLosesItsSessionInTheMiddleOfABatchLosesNothing(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write(t, o, "ord-1", "ord-2", "ord-1")
	b, inHand, goOn := new(broker), make(chan struct{}, 10), make(chan struct{})
	b.hold = func(context.Context, bus.Event) { inHand <- struct{}{}; <-goOn }
	relaying(t, o, b)
	<-inHand
	_, err := o.pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, leaderOf(t, o.pool))
	require.NoError(t, err)
	eventually(t, 5*time.Second, "the lock is free", func() bool { return leaderOf(t, o.pool) == 0 })
	close(goOn)
	eventually(t, 10*time.Second, "all is published", func() bool { return b.count() == 3 })
	b.hasAllInOrder(t, o)
	write(t, o, "ord-2")
	eventually(t, 10*time.Second, "it leads again", func() bool { return b.count() == 4 })
}

func TestWhileTheBusIsAwayEventsWaitAndKeepTheirIDs(t *testing.T) {
	t.Parallel()
	for name, orders := range map[string]int{"a few": 3, "more than the relay steps around": 3 * patience} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := setup(t)
			b := new(broker)
			seen := make(chan string, 100_000)
			b.setRefuse(func(e bus.Event) error { seen <- e.ID; return errAway })
			relaying(t, o, b)
			var all []string
			for i := range orders {
				all = append(all, fmt.Sprint("ord-", i), fmt.Sprint("ord-", i))
			}
			write(t, o, all...)
			o.Committed()
			for range 3 * orders { // Two rounds and more.
				<-seen
			}
			require.Empty(t, b.publications())
			backlog, err := o.Backlog(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2*orders, backlog.Events)

			b.setRefuse(nil)
			eventually(t, maxPause+5*time.Second, "all is published", func() bool { return b.count() == 2*orders })
			b.hasAllInOrder(t, o)
		})
	}
}

func TestTheBusIsAskedLessAndLessOftenWhileItIsAway(t *testing.T) {
	t.Parallel()
	r := &relay{Outbox: New("warehouse", nil, slog.New(slog.DiscardHandler)), aside: map[string]retry{}}
	b := new(broker)
	b.setRefuse(func(bus.Event) error { return errAway })
	r.to = b
	batch := []stored{{id: "e1", key: "ord-1", payload: []byte("{}")}}
	var pauses []time.Duration
	for range 8 {
		require.Empty(t, r.publish(t.Context(), batch))
		pauses = append(pauses, r.aside["ord-1"].after)
	}
	const ms = time.Millisecond
	require.Equal(t, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms}, pauses)
	b.setRefuse(nil)
	require.Len(t, r.publish(t.Context(), batch), 1)
	require.Empty(t, r.aside)
}

func TestAKeyThatIsNotTakenHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	o := setup(t)
	o.lookAgain = time.Hour
	b := new(broker)
	b.setRefuse(func(e bus.Event) error {
		if e.Key == "ord-bad" {
			return errors.New("it is too large")
		}
		return nil
	})
	// More of it than fit into a batch stand before the first other.
	bad := make([]string, batchSize+10)
	for i := range bad {
		bad[i] = "ord-bad"
	}
	write(t, o, bad...)
	write(t, o, "ord-0")
	relaying(t, o, b)
	eventually(t, 5*time.Second, "what stands behind is published", func() bool { return b.count() == 1 })

	var delays []time.Duration
	for i := 1; i <= 50; i++ {
		began := time.Now()
		write(t, o, fmt.Sprint("ord-", i))
		o.Committed()
		eventually(t, 5*time.Second, "the next is published", func() bool { return b.count() == i+1 })
		delays = append(delays, time.Since(began))
	}
	require.Less(t, median(delays), minPause, "others do not wait for the retries of the one")

	b.setRefuse(nil)
	eventually(t, maxPause+5*time.Second, "the one is published", func() bool { return b.count() == 51+len(bad) })
	b.hasAllInOrder(t, o)
}

// An event takes its position before it is committed, so a later one of another key may be seen before it; one of its own may not
// be published before it.
func TestAnEventThatIsCommittedBehindABatchIsNotOvertakenByTheNextOfItsKey(t *testing.T) {
	t.Parallel()
	o := setup(t)
	o.lookAgain = time.Hour
	tx, err := o.pool.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, o.Write(t.Context(), tx, Order("ord-slow", "orchestrated"), reserved("A")))
	var many []string
	for i := range 2 * batchSize {
		many = append(many, fmt.Sprint("ord-", i))
	}
	write(t, o, many...)

	b, inHand, goOn := new(broker), make(chan struct{}, 2*len(many)), make(chan struct{})
	b.hold = func(context.Context, bus.Event) { inHand <- struct{}{}; <-goOn }
	relaying(t, o, b)
	<-inHand // The first batch is read; now both become visible.
	require.NoError(t, tx.Commit(t.Context()))
	write(t, o, "ord-slow")
	close(goOn)
	o.Committed()
	eventually(t, 10*time.Second, "all is published", func() bool { return b.count() == len(many)+2 })
	b.hasAllInOrder(t, o)
}

func TestAStandByTakesOver(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	first, second := open(t, url, slog.New(slog.DiscardHandler)), open(t, url, slog.New(slog.DiscardHandler))
	b1, b2 := new(broker), new(broker)
	stopFirst := relaying(t, first, b1)
	eventually(t, 5*time.Second, "the first leads", first.leads.Load)
	relaying(t, second, b2)
	write(t, second, "ord-1")
	eventually(t, 5*time.Second, "the first publishes", func() bool { return b1.count() == 1 })
	require.Zero(t, b2.count())

	began := time.Now()
	go stopFirst()
	// Killed, it has no time for a farewell.
	_, err := second.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1`, leaderOf(t, second.pool))
	require.NoError(t, err)
	eventually(t, 10*time.Second, "the second leads", second.leads.Load)
	write(t, second, "ord-2")
	second.Committed()
	eventually(t, 10*time.Second-time.Since(began), "the second publishes", func() bool { return b1.count()+b2.count() == 2 })
	t.Logf("the stand-by published %s after the leader was killed", time.Since(began).Round(time.Millisecond))
}

func TestAnyProcessThatWritesWakesTheOneThatRelays(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	leader, other := open(t, url, slog.New(slog.DiscardHandler)), open(t, url, slog.New(slog.DiscardHandler))
	b := new(broker)
	for _, o := range []*Outbox{leader, other} {
		o.lookAgain, o.maxGather = time.Hour, 0 // Nothing is found by looking, and none waits for the next.
	}
	relaying(t, leader, b)
	eventually(t, 5*time.Second, "the first leads", leader.leads.Load)
	relaying(t, other, b)
	for name, writer := range map[string]*Outbox{"the process that relays": leader, "another process": other} {
		var delays []time.Duration
		for i := range 100 {
			order := fmt.Sprint(name, i)
			write(t, writer, order)
			committed := time.Now()
			writer.Committed()
			var e publication
			eventually(t, 5*time.Second, "it is published", func() (isThere bool) {
				e, isThere = b.newest()
				return isThere && e.Key == order
			})
			delays = append(delays, e.at.Sub(committed))
		}
		t.Logf("written by %s: published %s after the commit (median of %d)", name, median(delays).Round(10*time.Microsecond), len(delays))
	}
}

func TestEventsThatFollowEachOtherArePublishedTogetherAndOneAloneAtOnce(t *testing.T) {
	t.Parallel()
	o := setup(t)
	o.lookAgain, o.maxGather = time.Hour, 8*time.Second // "At once" is a quarter of it, on a slow machine too.
	b := &batches{broker: new(broker)}
	relaying(t, o, b)
	eventually(t, 5*time.Second, "it leads", o.leads.Load) // It has just looked, so what comes now follows that.
	write(t, o, "ord-0")
	o.Committed()
	write(t, o, "ord-1", "ord-2", "ord-3") // In the time in which the relay gathers, which is short: so not one by one.
	o.Committed()
	eventually(t, o.maxGather, "all are published", func() bool { return b.count() == 4 })
	require.Equal(t, []int{4}, b.all())

	// Silence begins with the last look, not with the last event: where the first look has published all, a second one follows it,
	// after a quarter of maxGather, for what was told meanwhile.
	last, _ := b.newest()
	eventually(t, 2*o.maxGather, "nothing was published for long", func() bool { return time.Since(last.at) > o.maxGather+o.maxGather/2 })
	write(t, o, "ord-alone")
	o.Committed()
	eventually(t, o.maxGather/4, "it is published at once", func() bool { return b.count() == 5 })
}

// batches is a broker that notes how many events were handed over together.
type batches struct {
	*broker
	mu    sync.Mutex
	sizes []int
}

func (b *batches) Publish(ctx context.Context, events []bus.Event) []error {
	b.mu.Lock()
	b.sizes = append(b.sizes, len(events))
	b.mu.Unlock()
	return b.broker.Publish(ctx, events)
}

func (b *batches) all() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sizes)
}

func TestAnEventOfWhichNobodyToldIsFound(t *testing.T) {
	t.Parallel()
	o := setup(t)
	b := new(broker)
	relaying(t, o, b)
	eventually(t, 5*time.Second, "it leads", o.leads.Load)
	write(t, o, "ord-1")
	eventually(t, 5*lookAgain, "it is published", func() bool { return b.count() == 1 })
}

func TestABacklogIsDrainedInPasses(t *testing.T) {
	t.Parallel()
	o := setup(t)
	const events, keys = 20_000, 4_000
	all := make([]string, events)
	for i := range all {
		all[i] = fmt.Sprint("ord-", i%keys)
	}
	write(t, o, all...)
	b := new(broker)
	began := time.Now()
	relaying(t, o, b)
	eventually(t, time.Minute, "all is published", func() bool { return b.size() >= events })
	took := time.Since(began)
	b.hasAllInOrder(t, o)
	require.Len(t, b.publications(), events, "each is published once")
	eventually(t, 5*time.Second, "all is marked", func() bool {
		backlog, err := o.Backlog(t.Context())
		return err == nil && backlog == Backlog{}
	})
	t.Logf("one relay published %d events in %s: %.0f/s", events, took.Round(time.Millisecond), float64(events)/took.Seconds())
}

func TestRepublishSendsASelectionAgainWithTheSameIDs(t *testing.T) {
	t.Parallel()
	o := setup(t)
	b := new(broker)
	relaying(t, o, b)
	write(t, o, "ord-1", "ord-2", "ord-1", "ord-3")
	o.Committed()
	eventually(t, 5*time.Second, "all is published", func() bool { return b.count() == 4 })
	eventually(t, 5*time.Second, "all is marked", func() bool { return len(ids(t, o, Selection{Unpublished: true})) == 0 })

	count, err := o.Republish(t.Context(), Selection{OrderIDs: []string{"ord-1", "ord-3", "ord-unknown"}})
	require.NoError(t, err)
	require.EqualValues(t, 3, count)
	eventually(t, 5*time.Second, "they are published again", func() bool { return len(ids(t, o, Selection{Unpublished: true})) == 0 })
	var again []string
	for _, e := range b.publications()[4:] {
		again = append(again, e.ID)
	}
	require.ElementsMatch(t, []string{"warehouse:order:ord-1:1", "warehouse:order:ord-1:2", "warehouse:order:ord-3:1"}, again)
}

func TestAStopHandsOverWhatIsLeftAndSaysSo(t *testing.T) {
	t.Parallel()
	var l logs
	o := open(t, pgtest.URL(t), l.logger())
	o.lookAgain = time.Hour
	b := new(broker)
	stop := relaying(t, o, b)
	eventually(t, 5*time.Second, "it leads", o.leads.Load)
	write(t, o, "ord-1", "ord-2")
	stop()
	require.Equal(t, 2, b.count())
	require.Contains(t, l.String(), "the outbox is empty")
}

func TestAStopWithoutABusSaysHowManyEventsAreLeft(t *testing.T) {
	t.Parallel()
	var l logs
	o := open(t, pgtest.URL(t), l.logger())
	b := new(broker)
	b.setRefuse(func(bus.Event) error { return errAway })
	stop := relaying(t, o, b)
	eventually(t, 5*time.Second, "it leads", o.leads.Load)
	write(t, o, "ord-1", "ord-2", "ord-2")
	stop()
	require.Contains(t, l.String(), "stopped with events in the outbox")
	require.Contains(t, l.String(), "events=3")
}

func TestAStopWaitsForABusThatHangsOnlyForAWhileAndSaysHowManyEventsAreLeft(t *testing.T) {
	t.Parallel()
	for name, inHand := range map[string]bool{"with a batch in hand": true, "right after they were written": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l logs
			o := open(t, pgtest.URL(t), l.logger())
			o.lookAgain = time.Hour
			b, held := new(broker), make(chan struct{}, 10)
			b.hold = func(ctx context.Context, _ bus.Event) { held <- struct{}{}; <-ctx.Done() }
			b.setRefuse(func(bus.Event) error { return errAway })
			var stop func()
			if inHand {
				write(t, o, "ord-1", "ord-2")
				stop = relaying(t, o, b)
				<-held
			} else {
				stop = relaying(t, o, b)
				eventually(t, 5*time.Second, "it leads", o.leads.Load)
				write(t, o, "ord-1", "ord-2")
			}
			began := time.Now()
			stop()
			require.Less(t, time.Since(began), flushTimeout+3*time.Second)
			require.Contains(t, l.String(), "events=2")
		})
	}
}

func TestAStopDoesNotCutOffWhatIsInHand(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write(t, o, "ord-1")
	b, inHand, goOn := new(broker), make(chan struct{}, 1), make(chan struct{})
	b.hold = func(context.Context, bus.Event) { inHand <- struct{}{}; <-goOn }
	stop := relaying(t, o, b)
	<-inHand
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	eventually(t, 5*time.Second, "it is told to stop", func() bool { return o.pool.Stat().AcquiredConns() == 0 })
	close(goOn)
	<-stopped
	require.Len(t, b.publications(), 1, "it is not published a second time")
	require.Empty(t, ids(t, o, Selection{Unpublished: true}))
}
