package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/backend/postgres"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// lockTimeout ends the lock on a turn or an activity that its worker does not know of, as when the answer to its dequeuing got
	// lost. What a dead process had locked is released at the next Run.
	lockTimeout = 15 * time.Second
	// pollInterval is how late an instance of another process, or an ended lock, may be noticed.
	pollInterval = time.Second
	// maxRetries bounds the pause before a turn that keeps failing, in seconds. After an hour without a database it goes on within
	// seconds.
	maxRetries = 5
	// backendConns and ownConns are the sizes of the two connection pools.
	backendConns, ownConns = 8, 4
)

// runLock and schemaLock are PostgreSQL advisory locks: who runs the engine, and who makes the schema.
const (
	runLock    int64 = 0x6368656b6f757401
	schemaLock int64 = 0x6368656b6f757402
)

// schema is where all of the engine's tables are.
const schema = "engine"

// hub is durabletask-go's PostgreSQL backend with waiting of our own. The stock one asks the database for work without any pause
// (its backoff is never reset to its first interval, so it stays zero), which costs more than a core when idle. It looks at all
// instances that ever were. It hands out an instance's events in no particular order. It locks all that a process has under one
// name, so that a turn whose lock has ended could be stored twice.
type hub struct {
	backend.Backend
	own       *pgxpool.Pool // for taking work; apart, because a lock that a crash of PostgreSQL loses does no harm
	conns     *connections  // of both pools
	log       *slog.Logger
	worker    string
	taken     *atomic.Int64
	turns     chan struct{} // has an element when there may be a turn to take
	tasks     chan struct{} // has an element when there may be an activity to take
	closeOnce *sync.Once
}

func openHub(ctx context.Context, url string, logger backend.Logger, log *slog.Logger) (*hub, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's own message repeats the url, password included, so it is not wrapped.
		return nil, errors.New("parse database url of embedded engine: not a PostgreSQL connection string")
	}
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.ConnConfig.RuntimeParams["search_path"] = schema
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"

	conns := &connections{}
	config.ConnConfig.DialFunc = conns.dial

	ownConfig := config.Copy()
	ownConfig.MaxConns = ownConns
	ownConfig.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	own, err := pgxpool.NewWithConfig(ctx, ownConfig)
	if err != nil {
		return nil, fmt.Errorf("open database of embedded engine: %w", err)
	}
	h := &hub{
		own:       own,
		conns:     conns,
		log:       log,
		worker:    uuid.NewString(),
		taken:     new(atomic.Int64),
		turns:     make(chan struct{}, 1),
		tasks:     make(chan struct{}, 1),
		closeOnce: new(sync.Once),
	}
	config.MaxConns = backendConns
	h.Backend = postgres.NewPostgresBackend(&postgres.PostgresOptions{
		PgOptions:           config,
		WorkflowLockTimeout: lockTimeout,
		ActivityLockTimeout: lockTimeout,
	}, logger)
	if err := h.makeSchema(ctx); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// makeSchema lets one process at a time make the tables: the stock backend panics when two do.
func (h *hub) makeSchema(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("make tables of embedded engine: %v", p)
			if cause, is := p.(error); is {
				err = fmt.Errorf("make tables of embedded engine: %w", cause)
			}
		}
	}()
	return pgx.BeginFunc(ctx, h.own, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, schemaLock); err != nil {
			return fmt.Errorf("lock schema of embedded engine: %w", err)
		}
		var path string
		if err := tx.QueryRow(ctx, `SHOW search_path`).Scan(&path); err != nil {
			return fmt.Errorf("ask for schema of embedded engine: %w", err)
		}
		if path != schema {
			return fmt.Errorf("the database ignores that connections of the embedded engine begin in schema %s (they begin in %s), as PgBouncer does "+
				"with ignore_startup_parameters: name the database itself", schema, path)
		}
		// Outside of the transaction, because the stock backend works on connections of its own.
		if _, err := h.own.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS engine`); err != nil {
			return fmt.Errorf("make schema of embedded engine: %w", err)
		}
		return h.Backend.CreateTaskHub(ctx)
	})
}

// close cuts the connections of both pools. The stock backend cannot close its own.
func (h *hub) close() {
	h.closeOnce.Do(func() {
		h.conns.close()
		h.own.Close()
	})
}

// String is what the worker logs; the stock backend's has the password in it.
func (h *hub) String() string { return "embedded engine" }

// CreateTaskHub does nothing: openHub has made it.
func (h *hub) CreateTaskHub(context.Context) error { return backend.ErrTaskHubExists }

// sqlReleaseLocks releases what a dead process had in hand. Only the holder of the run lock may do that.
const sqlReleaseLocks = `
WITH instances AS (UPDATE Instances SET LockedBy = NULL, LockExpiration = NULL WHERE LockExpiration IS NOT NULL),
     events    AS (UPDATE NewEvents SET LockedBy = NULL WHERE LockedBy IS NOT NULL)
UPDATE NewTasks SET LockedBy = NULL, LockExpiration = NULL WHERE LockExpiration IS NOT NULL`

func (h *hub) releaseLocks(ctx context.Context) error {
	if _, err := h.own.Exec(ctx, sqlReleaseLocks); err != nil {
		return fmt.Errorf("release locks of embedded engine: %w", err)
	}
	return nil
}

const sqlIsRun = `
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = $1)`

func (h *hub) CreateWorkflowInstance(ctx context.Context, e *backend.HistoryEvent) error {
	defer wake(h.turns)
	return h.Backend.CreateWorkflowInstance(ctx, e)
}

func (h *hub) AddNewWorkflowEvent(ctx context.Context, id api.InstanceID, e *backend.HistoryEvent) error {
	defer wake(h.turns)
	return h.Backend.AddNewWorkflowEvent(ctx, id, e)
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// during returns the hub as its workers see it: what they have begun is finished and stored as long as work lives, even
// when they are told to stop.
func (h *hub) during(work context.Context) *runningHub { return &runningHub{hub: h, work: work} }

type runningHub struct {
	*hub
	work context.Context
}

func (h *runningHub) GetWorkflowRuntimeState(ctx context.Context, wi *backend.WorkflowWorkItem) (*backend.WorkflowRuntimeState, error) {
	ctx, cancel := detach(ctx, h.work)
	defer cancel()
	return h.hub.GetWorkflowRuntimeState(ctx, wi)
}

func (h *runningHub) CompleteWorkflowWorkItem(ctx context.Context, wi *backend.WorkflowWorkItem) error {
	ctx, cancel := detach(ctx, h.work)
	defer cancel()
	err := h.hub.CompleteWorkflowWorkItem(ctx, wi)
	wake(h.turns) // An event may have come during the turn.
	if len(wi.State.GetPendingTasks()) > 0 {
		wake(h.tasks)
	}
	return err
}

func (h *runningHub) CompleteActivityWorkItem(ctx context.Context, wi *backend.ActivityWorkItem) error {
	ctx, cancel := detach(ctx, h.work)
	defer cancel()
	defer wake(h.turns)
	return h.hub.CompleteActivityWorkItem(ctx, wi)
}

// AbandonWorkflowWorkItem gives a turn back, so that it is taken again before its lock ends.
func (h *runningHub) AbandonWorkflowWorkItem(_ context.Context, wi *backend.WorkflowWorkItem) error {
	defer wake(h.turns)
	return h.untilDone(func(ctx context.Context) error { return h.hub.AbandonWorkflowWorkItem(ctx, wi) })
}

// AbandonActivityWorkItem gives an activity back, so that it is taken again before its lock ends.
func (h *runningHub) AbandonActivityWorkItem(_ context.Context, wi *backend.ActivityWorkItem) error {
	defer wake(h.tasks)
	return h.untilDone(func(ctx context.Context) error { return h.hub.AbandonActivityWorkItem(ctx, wi) })
}

const (
	// backTimeout bounds one attempt to give work back, backPause is the pause before the next.
	backTimeout = 5 * time.Second
	backPause   = 200 * time.Millisecond
)

// untilDone repeats what fails because the database is away. It gives up with work: the next process to run the engine releases all
// locks.
func (h *runningHub) untilDone(do func(context.Context) error) error {
	for {
		ctx, cancel := context.WithTimeout(h.work, backTimeout)
		err := do(ctx)
		cancel()
		if err == nil || !pg.Away(err) || !pause.For(h.work, backPause) {
			return err
		}
	}
}

// letGo releases what was locked under a holder's name by a query whose answer got lost.
func (h *runningHub) letGo(holder string) error {
	return h.untilDone(func(ctx context.Context) error {
		_, err := h.own.Exec(ctx, sqlLetGo, holder)
		return err
	})
}

const sqlLetGo = `
WITH instances AS (UPDATE Instances SET LockedBy = NULL, LockExpiration = NULL WHERE LockedBy = $1),
     events    AS (UPDATE NewEvents SET LockedBy = NULL WHERE LockedBy = $1)
UPDATE NewTasks SET LockedBy = NULL, LockExpiration = NULL WHERE LockedBy = $1`

// NextWorkflowWorkItem waits for a turn and takes it.
func (h *runningHub) NextWorkflowWorkItem(ctx context.Context) (*backend.WorkflowWorkItem, error) {
	for ctx.Err() == nil {
		// Taken below work, not ctx: a query that is cut off may have locked what nobody then works on.
		item, err := h.takeTurn(h.work)
		if item != nil {
			return item, nil
		}
		again := pollInterval
		if err == nil {
			again, err = h.untilTimer(h.work)
		}
		h.wait(ctx, h.turns, again, err)
	}
	return nil, ctx.Err()
}

// NextActivityWorkItem waits for an activity and takes it.
func (h *runningHub) NextActivityWorkItem(ctx context.Context) (*backend.ActivityWorkItem, error) {
	for ctx.Err() == nil {
		item, err := h.takeTask(h.work)
		if item != nil {
			return item, nil
		}
		h.wait(ctx, h.tasks, pollInterval, err)
	}
	return nil, ctx.Err()
}

// wait returns when it is worth looking again: after again, earlier when woken, but not at once after an error.
func (h *runningHub) wait(ctx context.Context, woken <-chan struct{}, again time.Duration, err error) {
	if err != nil && h.work.Err() == nil {
		h.log.Warn("embedded engine cannot ask for work", "error", err)
		woken = nil
	}
	timer := time.NewTimer(again)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-timer.C:
	}
}

// sqlTakeTurn locks the instance that has waited longest for its turn and takes its events, oldest first. It starts from
// the events, of which there are few, and not from the instances, of which there are as many as ever were.
const sqlTakeTurn = `
WITH due AS (
    SELECT i.InstanceID
    FROM NewEvents e JOIN Instances i ON i.InstanceID = e.InstanceID
    WHERE (e.VisibleTime IS NULL OR e.VisibleTime <= $2)
      AND (i.LockExpiration IS NULL OR i.LockExpiration < $2)
    ORDER BY e.SequenceNumber
    LIMIT 1
), locked AS (
    UPDATE Instances SET LockedBy = $1, LockExpiration = $3
    WHERE InstanceID = (SELECT InstanceID FROM due)
    RETURNING InstanceID
), taken AS (
    UPDATE NewEvents SET LockedBy = $1, DequeueCount = DequeueCount + 1
    WHERE InstanceID = (SELECT InstanceID FROM locked) AND (VisibleTime IS NULL OR VisibleTime <= $2)
    RETURNING SequenceNumber, InstanceID, EventPayload, DequeueCount
)
SELECT InstanceID, EventPayload, DequeueCount FROM taken ORDER BY SequenceNumber`

// takeTurn returns nil when there is none.
func (h *runningHub) takeTurn(ctx context.Context) (taken *backend.WorkflowWorkItem, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	holder, now := h.holder(), time.Now().UTC()
	defer func() {
		if err != nil {
			err = errors.Join(err, h.letGo(holder))
		}
	}()
	rows, err := h.own.Query(ctx, sqlTakeTurn, holder, now, now.Add(lockTimeout))
	if err != nil {
		return nil, fmt.Errorf("take turn: %w", err)
	}
	var id string
	var payload []byte
	var dequeued, retries int32
	var events []*backend.HistoryEvent
	_, err = pgx.ForEachRow(rows, []any{&id, &payload, &dequeued}, func() error {
		e, err := backend.UnmarshalHistoryEvent(payload)
		if err != nil {
			return err
		}
		events = append(events, e)
		retries = min(max(retries, dequeued-1), maxRetries)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take turn: %w", err)
	}
	if len(events) == 0 {
		return nil, nil
	}
	return &backend.WorkflowWorkItem{InstanceID: api.InstanceID(id), NewEvents: events, LockedBy: holder, RetryCount: retries}, nil
}

const sqlNextTimer = `SELECT min(VisibleTime) FROM NewEvents WHERE VisibleTime > $1`

// untilTimer is how long to wait for the next timer, at most pollInterval.
func (h *runningHub) untilTimer(ctx context.Context) (time.Duration, error) {
	now := time.Now().UTC()
	var due *time.Time
	if err := h.own.QueryRow(ctx, sqlNextTimer, now).Scan(&due); err != nil {
		return pollInterval, fmt.Errorf("look for next timer: %w", err)
	}
	if due == nil {
		return pollInterval, nil
	}
	return min(due.Sub(now), pollInterval), nil
}

const sqlTakeTask = `
UPDATE NewTasks SET LockedBy = $1, LockExpiration = $3, DequeueCount = DequeueCount + 1
WHERE SequenceNumber = (
    SELECT SequenceNumber FROM NewTasks
    WHERE LockExpiration IS NULL OR LockExpiration < $2
    ORDER BY SequenceNumber
    LIMIT 1)
RETURNING SequenceNumber, InstanceID, EventPayload`

// takeTask returns nil when there is none.
func (h *runningHub) takeTask(ctx context.Context) (taken *backend.ActivityWorkItem, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	item := &backend.ActivityWorkItem{LockedBy: h.holder()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.letGo(item.LockedBy))
		}
	}()
	now := time.Now().UTC()
	var id string
	var payload []byte
	err = h.own.QueryRow(ctx, sqlTakeTask, item.LockedBy, now, now.Add(lockTimeout)).Scan(&item.SequenceNumber, &id, &payload)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take activity: %w", err)
	}
	item.InstanceID = api.InstanceID(id)
	if item.NewEvent, err = backend.UnmarshalHistoryEvent(payload); err != nil {
		return nil, fmt.Errorf("take activity: %w", err)
	}
	return item, nil
}

// holder names one lock. Each has its own name. So a worker whose lock has ended, and whose work another has taken, cannot complete
// that work a second time.
func (h *hub) holder() string { return fmt.Sprintf("%s-%d", h.worker, h.taken.Add(1)) }

// connections are network connections that can all be cut at once.
type connections struct {
	mu     sync.Mutex
	open   map[*connection]struct{}
	closed bool
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := pg.Dialer().DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	if c.open == nil {
		c.open = map[*connection]struct{}{}
	}
	tracked := &connection{Conn: conn, owner: c}
	c.open[tracked] = struct{}{}
	return tracked, nil
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Conn.Close()
	}
	c.open = nil
}

// connection forgets itself when it is closed.
type connection struct {
	net.Conn
	owner *connections
}

func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
