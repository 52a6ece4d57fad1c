package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend/runtimestate"
	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// drainTimeout is how long activities in hand are waited for when the engine stops, cancelTimeout how long after they were cancelled.
	drainTimeout  = 10 * time.Second
	cancelTimeout = 2 * time.Second
	// lookEvery is how often the session is looked at that says that only this process runs the engine, and the inbox, though nobody
	// said that something came.
	lookEvery = time.Second
	// maxRings bounds how many instances whose timers fire are at it at once. Each may have to be read from the log.
	maxRings = 16
	// askAgain is the longest pause before the database is asked again after it could not answer.
	askAgain = 200 * time.Millisecond
)

// errEnded means that an instance has ended.
var errEnded = errors.New("the instance has ended")

// runner is all that this process knows of the instances while it is the one that runs them: from when it took over until it stops
// or another one takes over.
type runner struct {
	Config
	table *table
	epoch int64
	code  code
	// work ends when what is in hand is abandoned.
	work    context.Context
	workers *workers
	wakes   *wakes
	// posted has an element when something may lie in the inbox, lost one when this process may not go on.
	posted chan struct{}
	lost   chan error
	// caughtUp is closed once the inbox was empty, taking is held by whoever takes it.
	caughtUp chan struct{}
	taking   chan struct{}

	mu        sync.Mutex
	instances map[string]*instance // in memory
	nextKey   int64
	lowWater  int64
	stopped   bool
	aside     sync.WaitGroup // goroutines beside the workers
}

// instance is one that goes on, in memory. Whoever holds it may look at it and change it.
type instance struct {
	id   string
	held chan struct{} // has an element while somebody holds the instance

	history history
	begun   []int32   // activities that somebody carries out
	used    time.Time // when it last went on
	// noted says that it may stand in engine.lasting, so that each turn writes what is so there.
	noted bool
	// gone says that this is no longer what the runner knows of it.
	gone bool

	// Of the runner's, by its lock: the key, when it came into memory, and that it stands in engine.lasting for certain.
	key  int64
	came time.Time
	kept bool
}

func newInstance(id string) *instance {
	now := time.Now()
	return &instance{id: id, held: make(chan struct{}, 1), came: now, used: now}
}

// work runs the engine while session, which holds its lock, lives.
func (e *Engine) work(ctx context.Context, session *pgx.Conn) error {
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	r := &runner{
		Config: e.config, table: e.table, work: work, wakes: newWakes(),
		code:   code{executor: task.NewTaskExecutor(e.config.Registry), applier: runtimestate.NewApplier("", "")},
		posted: make(chan struct{}, 1), lost: make(chan error, 1),
		caughtUp: make(chan struct{}), taking: make(chan struct{}, 1), instances: make(map[string]*instance),
	}
	r.workers = newWorkers(r.Activities, r.perform)
	if _, err := session.Exec(ctx, "LISTEN "+inboxChannel); err != nil {
		return unlessStopped(ctx, fmt.Errorf("listen to the embedded engine's inbox: %w", err))
	}
	if err := r.takeOver(ctx); err != nil {
		return unlessStopped(ctx, err)
	}
	e.begin(r)
	defer e.stop(r)
	err := r.run(ctx, session)
	if err != nil {
		// Another process may run it now.
		e.stop(r)
		abandon()
	}
	return r.drain(err, abandon)
}

func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// run goes on until ctx ends, or returns why it may not go on.
func (r *runner) run(ctx context.Context, session *pgx.Conn) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r.aside.Go(func() { r.fireTimers(ctx) })
	r.aside.Go(func() { r.keepHouse(ctx) })
	ended := make(chan error, 1)
	go func() { ended <- r.listen(ctx, session) }()
	select {
	case err := <-r.lost:
		stop()
		<-ended // The session is its own until then.
		return err
	case err := <-ended:
		return err
	}
}

// listen hears of what other processes put into the inbox, and returns an error when the session is lost.
func (r *runner) listen(ctx context.Context, session *pgx.Conn) error {
	for ctx.Err() == nil {
		wait, enough := context.WithTimeout(ctx, lookEvery)
		_, err := session.WaitForNotification(wait)
		enough()
		switch {
		case err == nil:
			signal(r.posted)
		case wait.Err() == nil:
			return fmt.Errorf("keep leadership: %w", err)
		default:
			if err := pg.Ask(context.WithoutCancel(ctx), session); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain lets what is in hand finish, or end where it is not to go on.
func (r *runner) drain(lost error, abandon func()) error {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.workers.stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		r.workers.wait()
		r.aside.Wait()
	}()
	select {
	case <-drained:
		return lost
	case <-time.After(drainTimeout):
	}
	abandon()
	select {
	case <-drained:
		return lost
	case <-time.After(cancelTimeout):
		return errors.Join(lost, errors.New("stop embedded engine: an activity ignores that it is cancelled"))
	}
}

// lose takes note that another process runs the engine.
func (r *runner) lose(err error) {
	select {
	case r.lost <- err:
	default:
	}
}

// bringing brings an event to an instance; brought is the row of the inbox that it came by, 0 where there is none.
type bringing func(r *runner, ctx context.Context, id string, event *protos.HistoryEvent, brought int64) error

// bring brings an event to an instance after all that lay in the inbox when this process took over, and after its start, which may
// lie there.
func (r *runner) bring(ctx context.Context, do bringing, id string, event *protos.HistoryEvent) error {
	select {
	case <-r.caughtUp:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.work.Done():
		return ErrLost
	}
	err := do(r, ctx, id, event, 0)
	if !errors.Is(err, engine.ErrGone) {
		return err
	}
	if err := r.takeInbox(ctx); err != nil {
		return err
	}
	return do(r, ctx, id, event, 0)
}

// start begins an instance: engine.ErrExists.
func (r *runner) start(ctx context.Context, id string, started *protos.HistoryEvent, brought int64) error {
	i, err := r.hold(ctx, id)
	if err != nil {
		return err
	}
	if i.history.rows > 0 {
		r.letGo(i)
		return engine.ErrExists
	}
	r.mu.Lock()
	i.key, r.nextKey = r.nextKey, r.nextKey+1
	r.mu.Unlock()
	i.history = history{id: id, key: i.key}
	return r.deliver(ctx, &turn{runner: r, instance: i, happened: []*protos.HistoryEvent{started}, brought: brought})
}

// raise brings an event to an instance: errEnded, engine.ErrGone.
func (r *runner) raise(ctx context.Context, id string, raised *protos.HistoryEvent, brought int64) error {
	i, err := r.open(ctx, id)
	if err != nil {
		return err
	}
	return r.deliver(ctx, &turn{runner: r, instance: i, happened: []*protos.HistoryEvent{raised}, brought: brought})
}

// deliver takes a turn of an instance that the caller holds, commits it, has done what follows from it, and lets go of the instance.
func (r *runner) deliver(ctx context.Context, t *turn) error {
	if err := t.take(); err != nil {
		r.letGo(t.instance)
		return err
	}
	isOpen, err := r.commit(ctx, t)
	switch {
	case err == nil:
		r.workers.add(r.settle(t))
	case isOpen:
		// Whoever brought it is not kept waiting; the instance is.
		if r.spawn(func() { r.rebuild(t.instance); r.letGo(t.instance) }) {
			return err
		}
	}
	r.letGo(t.instance)
	return err
}

// commit makes a turn durable. After some errors it is open whether it has become so.
func (r *runner) commit(ctx context.Context, t *turn) (isOpen bool, err error) {
	change := &commit.Change{Of: r.table, What: t}
	err = r.Committer.Do(ctx, change)
	if errors.Is(err, ErrLost) {
		r.lose(err)
	}
	return err != nil && t.isOpen(change), err
}

// settle makes a committed turn what is so, and returns the activities that it caused.
func (r *runner) settle(t *turn) []job {
	i := t.instance
	i.history, i.used = t.next, time.Now()
	if i.noted {
		r.mu.Lock()
		i.kept = true
		r.mu.Unlock()
	}
	return r.follow(i)
}

// follow sets the timers that follow from an instance's history, and returns the activities that nobody carries out yet.
func (r *runner) follow(i *instance) []job {
	r.wakes.set(i.id, i.history.wake())
	i.begun = slices.DeleteFunc(i.begun, func(task int32) bool { return !i.history.awaits(task) })
	var jobs []job
	for _, task := range i.history.tasks {
		if !slices.Contains(i.begun, task.GetEventId()) {
			i.begun = append(i.begun, task.GetEventId())
			jobs = append(jobs, job{i, task})
		}
	}
	return jobs
}

// hold waits until the caller alone holds what the runner knows of an instance, which may be nothing yet.
func (r *runner) hold(ctx context.Context, id string) (*instance, error) {
	for {
		r.mu.Lock()
		i, known := r.instances[id]
		if !known {
			i = newInstance(id)
			r.instances[id] = i
		}
		r.mu.Unlock()
		if err := i.hold(ctx); err != nil {
			return nil, err
		}
		if !i.gone {
			return i, nil
		}
		<-i.held
	}
}

func (i *instance) hold(ctx context.Context) error {
	select {
	case i.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// letGo ends the holding of an instance. One that does not go on, or of which nothing is known, leaves memory.
func (r *runner) letGo(i *instance) {
	if i.history.rows == 0 || i.history.end != nil {
		r.forget(i)
	}
	<-i.held
}

// forget takes an instance out of memory, which the caller holds.
func (r *runner) forget(i *instance) {
	if i.gone {
		return
	}
	i.gone = true
	r.mu.Lock()
	delete(r.instances, i.id)
	r.mu.Unlock()
}

// open holds an instance that goes on, and reads it from the log where it is not in memory: errEnded, engine.ErrGone.
func (r *runner) open(ctx context.Context, id string) (*instance, error) {
	i, err := r.hold(ctx, id)
	if err != nil {
		return nil, err
	}
	if i.history.rows == 0 {
		err = r.load(ctx, i)
	}
	switch {
	case err != nil:
	case i.history.rows == 0:
		err = engine.ErrGone
	case i.history.end != nil:
		err = errEnded
	default:
		return i, nil
	}
	r.letGo(i)
	return nil, err
}

// load reads an instance that the caller holds from the log.
func (r *runner) load(ctx context.Context, i *instance) error {
	h, err := read(ctx, r.Pool, i.id)
	if err != nil {
		return err
	}
	i.history, i.used = h, time.Now()
	i.noted = true // Nothing else leaves memory.
	r.mu.Lock()
	i.key, i.kept = h.key, true
	r.mu.Unlock()
	r.workers.add(r.follow(i))
	return nil
}

// rebuild makes of an instance, which the caller holds, what the log says of it, when it is open whether a turn of it was committed. It
// tells whether it has; else the engine stops.
func (r *runner) rebuild(i *instance) bool {
	for wait := askAgain / 16; ; wait = min(2*wait, askAgain) {
		h, err := r.readAfterAll(r.work, i.id)
		if err == nil {
			i.history = h
			r.workers.add(r.follow(i))
			return true
		}
		if errors.Is(err, ErrLost) {
			r.lose(err)
			return false
		}
		r.Log.Warn("embedded engine cannot read what became of a transaction", "workflow_id", i.id, "error", err)
		if !pause.For(r.work, wait) {
			return false
		}
	}
}

// spawn runs something beside the workers, unless the engine has stopped.
func (r *runner) spawn(do func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.aside.Go(do)
	return true
}

// fireTimers brings timers to their instances when they fire.
func (r *runner) fireTimers(ctx context.Context) {
	room := make(chan struct{}, maxRings)
	for ctx.Err() == nil {
		due, next := r.wakes.due(time.Now())
		for _, id := range due {
			room <- struct{}{}
			r.aside.Go(func() {
				defer func() { <-room }()
				r.ring(id)
			})
		}
		// Not longer than this, because the clock may be set.
		wait := time.Second
		if !next.IsZero() {
			wait = min(wait, time.Until(next.Round(0)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.wakes.sooner:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// ring brings its due timers to an instance.
func (r *runner) ring(id string) {
	i, err := r.open(r.work, id)
	switch {
	case errors.Is(err, engine.ErrGone), errors.Is(err, errEnded), r.work.Err() != nil:
		return
	case err != nil:
		r.Log.Warn("embedded engine cannot read an instance whose timer fires", "workflow_id", id, "error", err)
		r.wakes.set(id, time.Now().Add(askAgain))
		return
	}
	due := i.history.due(time.Now())
	if len(due) == 0 {
		r.wakes.set(id, i.history.wake())
		r.letGo(i)
		return
	}
	if err := r.deliver(r.work, &turn{runner: r, instance: i, happened: due}); err != nil && r.work.Err() == nil {
		r.Log.Warn("embedded engine cannot store that a timer fired", "workflow_id", id, "error", err)
		r.wakes.set(id, time.Now().Add(askAgain))
	}
}
