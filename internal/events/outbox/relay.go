package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// channel is the PostgreSQL notification channel on which other processes wake the one that relays. They notify after the
	// transaction and not in it: only one transaction that notifies can commit at a time.
	channel = "outbox_written"
	// gather is how long a process that does not relay waits after a notification before it sends the next one.
	gather = 5 * time.Millisecond
	// batchSize is how many events are read and published at a time. More make a stop take longer.
	batchSize = 500
	// lookAgain is how often the relay looks without being told: a process may die between its commit and the telling.
	lookAgain = time.Second
	// maxGather bounds how long a relay that is told again right after it has published waits for more. At 100 events a second, an
	// event published alone costs twice as much, with its share of sidecar and broker. The wait begins with a quarter and doubles
	// while that goes on. After maxGather of silence an event is published at once.
	maxGather = 20 * time.Millisecond
	// minPause and maxPause bound how long a key is left alone after the bus did not take its event. The pause doubles.
	minPause, maxPause = 100 * time.Millisecond, 5 * time.Second
	// patience is how many such keys the relay steps around. With more of them the bus takes nothing at all, and new events need
	// not try.
	patience = 100
	// publishTimeout bounds handing over one batch; it is longer than what bus/embedded allows one handler. markTimeout bounds
	// writing down what was taken, flushTimeout handing over what is left when the process stops.
	publishTimeout, markTimeout, flushTimeout = 15 * time.Second, 5 * time.Second, 5 * time.Second
	// quiet is how long the session that holds the leader's lock may be silent before it is asked whether it lives. answerTimeout
	// is how long the database may take, when the process stops, to say what is left.
	quiet, answerTimeout = 5 * time.Second, 5 * time.Second
	// pruneEvery is how often what is older than Keep is removed.
	pruneEvery = time.Hour
)

// Keep is how long events are kept. It is longer than a checkout may be open and miss one (30 days).
const Keep = 40 * 24 * time.Hour

// leaderLock is the key of the advisory lock that makes one relay the leader of all that share a database.
const leaderLock = 0x6f7574626f780001

// Relay publishes what is written until ctx ends; then it hands over what is left, for a few seconds. Of all processes that share
// the database one relays and the others stand by. It survives trouble with the bus. It returns an error when it lost its database,
// and may be called again then.
//
// Two may relay for a moment, when the leader lost its session and has a batch in hand. Events are then published twice, but each
// event's first time is still in order within its key: both publish a key in order from the first event that nobody had published.
func (o *Outbox) Relay(ctx context.Context, to bus.Publisher) error {
	r := &relay{Outbox: o, to: to, due: make(chan struct{}, 1), aside: make(map[string]retry)}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { r.tell(ctx); return nil })
	both.Go(func() error { return pg.Lead(ctx, o.pool, leaderLock, r.lead) })
	return both.Wait()
}

// relay is what one process does to publish an outbox's events.
type relay struct {
	*Outbox
	to bus.Publisher
	// due has a value while there is something to publish.
	due chan struct{}
	// aside are the keys with an event that was not taken. The events behind it wait too; all others pass.
	aside map[string]retry
}

// retry is when a key is tried again, and how long that is after the last time.
type retry struct {
	at    time.Time
	after time.Duration
}

// tell says that something was written: to this process's own relay if it leads, otherwise to the one that does.
func (r *relay) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.written:
		}
		if r.leads.Load() {
			signal(r.due)
			continue
		}
		if _, err := r.pool.Exec(ctx, `SELECT pg_notify($1, '')`, channel); err != nil && ctx.Err() == nil {
			r.log.Warn("the relay was not told of events; it finds them by itself", "error", err)
		}
		pause.For(ctx, gather)
	}
}

// lead publishes while session, which holds the lock, lives.
func (r *relay) lead(ctx context.Context, session *pgx.Conn) error {
	if _, err := session.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen for events: %w", err)
	}
	r.leads.Store(true)
	defer r.leads.Store(false)

	// A stop cuts off nothing in hand, but it and what is left have only so much time together.
	handing, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(flushTimeout, cut) })()

	all, leading := errgroup.WithContext(ctx)
	all.Go(func() error { return r.listen(leading, session) })
	all.Go(func() error { return r.publishAll(leading, handing) })
	all.Go(func() error { r.pruneNowAndThen(leading); return nil })
	err := all.Wait()
	if ctx.Err() != nil {
		r.flush(handing)
		return nil
	}
	return err
}

// listen hears other processes, and notices when the session is gone.
func (r *relay) listen(ctx context.Context, session *pgx.Conn) error {
	for {
		hearing, cancel := context.WithTimeout(ctx, quiet)
		_, err := session.WaitForNotification(hearing)
		isQuiet := hearing.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			signal(r.due)
		case isQuiet:
			err = pg.Ask(ctx, session)
		}
		if err != nil {
			return fmt.Errorf("listen for events: %w", err)
		}
	}
}

// publishAll publishes until ctx ends. What is in hand then may go on until handing ends.
func (r *relay) publishAll(ctx, handing context.Context) error {
	clear(r.aside)
	var gathering time.Duration
	for {
		if err := r.pass(ctx, handing); err != nil {
			return err
		}
		passed := time.Now()
		due, wait := r.due, r.lookAgain
		if retry, any := r.nextRetry(); any {
			if len(r.aside) > patience {
				due, wait = nil, maxPause
			}
			wait = min(wait, retry)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-due:
			if time.Since(passed) > r.maxGather {
				gathering = 0
			} else {
				gathering = min(max(2*gathering, r.maxGather/4), r.maxGather)
			}
			pause.For(ctx, gathering)
			forget(r.due)
		case <-time.After(wait):
			gathering = 0
		}
	}
}

// flush hands over what is left when the process stops, until handing ends, and says whether that was all.
func (r *relay) flush(handing context.Context) {
	clear(r.aside)
	err := r.pass(handing, handing)
	asking, cancel := context.WithTimeout(context.WithoutCancel(handing), answerTimeout)
	defer cancel()
	left, countErr := r.Backlog(asking)
	switch {
	case countErr != nil:
		r.log.Warn("stopped, perhaps with events in the outbox; they are published by the next to start", "error", errors.Join(err, countErr))
	case left.Events > 0:
		r.log.Warn("stopped with events in the outbox; they are published by the next to start", "events", left.Events, "error", err)
	default:
		r.log.Info("the outbox is empty: every event was handed over")
	}
}

// pass publishes all that waits, once, without the keys that are aside. The end of ctx does not cut off the batch in hand, which
// would be published again for nothing; the end of handing does.
func (r *relay) pass(ctx, handing context.Context) error {
	for ctx.Err() == nil {
		batch, err := r.unpublished(ctx, r.notYet(time.Now()))
		if err != nil || len(batch) == 0 {
			return err
		}
		taken := r.publish(handing, batch)
		if len(taken) > 0 {
			if err := r.markPublished(context.WithoutCancel(ctx), taken); err != nil {
				return err
			}
		}
		isAway := len(taken) == 0 && len(r.aside) > patience
		if isAway || len(batch) < batchSize {
			return nil
		}
	}
	return ctx.Err()
}

// publish hands a batch to the bus, returns the positions of what it took, and puts aside the keys of what it did not take.
func (r *relay) publish(ctx context.Context, batch []stored) (taken []int64) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	events := make([]bus.Event, len(batch))
	for i, e := range batch {
		events[i] = r.event(e)
	}
	refused := make(map[string]bool)
	var first error
	for i, err := range r.to.Publish(ctx, events) {
		if err == nil {
			taken = append(taken, batch[i].position)
			continue
		}
		refused[batch[i].key] = true
		if first == nil {
			first = fmt.Errorf("publish event %s: %w", events[i].ID, err)
		}
	}
	now := time.Now()
	for _, e := range batch {
		if !refused[e.key] {
			delete(r.aside, e.key)
		}
	}
	var longest time.Duration
	for key := range refused {
		after := min(max(2*r.aside[key].after, minPause), maxPause)
		r.aside[key] = retry{at: now.Add(after), after: after}
		longest = max(longest, after)
	}
	if first != nil {
		r.log.Warn("the bus did not take events; they and those behind them wait in the outbox",
			"keys", len(refused), "taken", len(taken), "again_in", longest.String(), "error", first)
	}
	return taken
}

// notYet are the keys to leave alone; never nil, which would be NULL to the query and leave all alone.
func (r *relay) notYet(now time.Time) []string {
	keys := make([]string, 0, len(r.aside))
	for key, retry := range r.aside {
		if retry.at.After(now) {
			keys = append(keys, key)
		}
	}
	return keys
}

// nextRetry is how long it is until the first of the keys aside is tried again.
func (r *relay) nextRetry() (in time.Duration, any bool) {
	var first time.Time
	for _, retry := range r.aside {
		if first.IsZero() || retry.at.Before(first) {
			first = retry.at
		}
	}
	return time.Until(first), len(r.aside) > 0
}

// pruneNowAndThen keeps the table small. It begins at once, to make up for the time when nobody led.
func (r *relay) pruneNowAndThen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.prune(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("the outbox was not pruned; it is tried again", "error", err)
		}
		pause.For(ctx, pruneEvery)
	}
}

// signal leaves a value in a channel that holds one, unless there is one.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// forget takes a signal back: what it tells of is about to be read.
func forget(ch chan struct{}) {
	select {
	case <-ch:
	default:
	}
}
