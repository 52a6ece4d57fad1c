// Package commit lets many changes of one database share a transaction. While one transaction runs, the changes that come wait;
// together they are the next. So a disk that takes a millisecond for a commit does not bound the process to a thousand changes a
// second, and what a single change costs PostgreSQL falls with the load.
//
// It knows no tables: each kind of change has a Table that reads and writes for all changes of its kind at once.
package commit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// maxChanges bounds a transaction. More would make the first wait for the last without costing less.
	maxChanges = 256
	// budget bounds a transaction in which many have a part: whoever hangs hangs them all.
	budget = 2 * time.Second
)

// ErrBusy is what a Table gives a change that cannot be decided with the others without waiting, as when somebody else holds the lock
// of its row. It is then decided in a transaction of its own, which waits.
var ErrBusy = errors.New("somebody else is changing it")

// Table reads and writes for all changes of its kind in a transaction. It is asked by several transactions at once.
type Table interface {
	// Read queues what the changes need to see, and locks it. Where wait is false it must not wait for anybody's lock. The
	// results are taken by the callbacks of the queued queries, which may give a change an Err.
	Read(batch *pgx.Batch, changes []*Change, wait bool)
	// Decide lets each change see what was read. It may give one an Err. A change may be decided again, from what is then so,
	// when nothing of it was committed.
	Decide(changes []*Change)
	// Write queues what was decided. An error fails the transaction.
	Write(ctx context.Context, batch *pgx.Batch, changes []*Change) error
}

// Change is one part of a transaction.
type Change struct {
	// Of is the table that knows What is to be changed. Tables are compared, so they are pointers.
	Of   Table
	What any
	// Err is why nothing is written for this change; the others go on without it.
	Err error
	// Committed says that it was written and committed, to whoever did not call Do for it, as a Rider.
	Committed bool

	party *party
}

// With tells whether two changes were brought by one caller: they are committed together, or neither is.
func (c *Change) With(other *Change) bool { return c.party == other.party }

// Committer commits changes. Its methods may be called from many goroutines.
type Committer struct {
	pool *pgxpool.Pool
	// single has an element for each party that is committed by itself: half of the connections at most, so that those who wait for a
	// row that somebody holds leave some to the others.
	single chan struct{}

	mu      sync.Mutex
	waiting []*party
	// leading says that somebody commits, and calls the next one when that is done.
	leading bool
}

// New returns a committer for the database of pool, which stays the caller's.
func New(pool *pgxpool.Pool) *Committer {
	return &Committer{pool: pool, single: make(chan struct{}, max(1, pool.Config().MaxConns/2))}
}

// party is the changes of one caller: they are committed in one transaction, or none of them is.
type party struct {
	changes []*Change
	// lead says that the caller is the next to commit for all that wait; done that somebody has committed, with err.
	lead, done chan struct{}
	err        error
}

func newParty(changes []*Change) *party {
	p := &party{changes: changes, lead: make(chan struct{}), done: make(chan struct{})}
	for _, change := range changes {
		change.party = p
	}
	return p
}

// Do commits the changes, in one transaction and with whoever else waits. Of two tables that any caller names one after the other, the
// first is read, decided and written first. Do returns the first Err of a change, when nothing of any of them is written, or why the
// transaction failed: then it is not known whether it was committed. It returns early when ctx ends before the transaction has begun.
func (c *Committer) Do(ctx context.Context, changes ...*Change) error {
	p := newParty(changes)
	if !c.enter(p) {
		select {
		case <-p.lead:
		case <-p.done:
			return c.alone(ctx, p)
		case <-ctx.Done():
			if c.leave(p) {
				return ctx.Err()
			}
			select {
			case <-p.lead: // The others wait for this one, whatever its own caller does.
			case <-p.done:
				return c.alone(ctx, p)
			}
		}
	}
	c.lead()
	return c.alone(ctx, p)
}

// enter joins those that wait, and tells whether nobody commits now, so that the caller has to.
func (c *Committer) enter(p *party) (lead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, p)
	lead = !c.leading
	c.leading = true
	return lead
}

// leave tells whether the party still waited, and no longer does.
func (c *Committer) leave(p *party) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-p.lead: // It was called to commit for the others.
		return false
	default:
	}
	i := slices.Index(c.waiting, p)
	if i < 0 {
		return false
	}
	c.waiting = slices.Delete(c.waiting, i, i+1)
	return true
}

// take empties what waits into the next transaction, as far as that has room.
func (c *Committer) take() []*party {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxChanges)
	taken := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	return taken
}

// lead commits for all that wait, and calls the next.
func (c *Committer) lead() {
	defer c.handOver()
	c.commit(c.take())
}

// handOver calls the first of those that came meanwhile to commit.
func (c *Committer) handOver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.leading = false
		return
	}
	close(c.waiting[0].lead)
}

// commit commits the parties together. If that fails by something that one of them brought, each is committed by its own caller, so
// that one that cannot be written fails alone.
func (c *Committer) commit(parties []*party) {
	err := errPanicked
	defer func() {
		if len(parties) > 1 && errors.Is(err, errPanicked) {
			_ = recover() // It panics again, in the goroutine of the caller that it belongs to.
			err = ErrBusy
		}
		for _, p := range parties {
			if p.result() == nil { // Else nothing of it was written, whatever became of the others.
				p.err = err
			}
			close(p.done)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	err = c.transaction(ctx, parties, false)
	if err != nil && (len(parties) > 1 || hadToWait(err)) && !pg.Away(err) && ctx.Err() == nil {
		err = ErrBusy
	}
}

// hadToWait tells whether waitForNobody ended a transaction: PostgreSQL's lock_not_available.
func hadToWait(err error) bool {
	var told *pgconn.PgError
	return errors.As(err, &told) && told.Code == "55P03"
}

var errPanicked = errors.New("the decision panicked")

// alone is what a party's transaction came to; one that could not be decided with the others is first decided by itself.
func (c *Committer) alone(ctx context.Context, p *party) error {
	err := p.result()
	if !errors.Is(err, ErrBusy) {
		return err
	}
	select {
	case c.single <- struct{}{}:
		defer func() { <-c.single }()
	case <-ctx.Done():
		return ctx.Err()
	}
	p.err = nil
	for _, change := range p.changes {
		change.Err = nil
	}
	if err := c.transaction(ctx, []*party{p}, true); err != nil {
		return err
	}
	return p.result()
}

func (p *party) result() error {
	if p.err != nil {
		return p.err
	}
	for _, change := range p.changes {
		if change.Err != nil {
			return change.Err
		}
	}
	return nil
}

// waitForNobody bounds what a table could not avoid, such as waiting for somebody who inserts the same key: it fails, and each is
// committed by itself.
const waitForNobody = "SET LOCAL lock_timeout = '100ms'"

// transaction reads, decides and writes what the parties change, in two round trips: begin with the reads, and commit with the writes.
func (c *Committer) transaction(ctx context.Context, parties []*party, wait bool) error {
	// Released in the middle of a transaction, a connection is closed by the pool, and PostgreSQL rolls it back.
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer conn.Release()

	begin := &pgx.Batch{}
	begin.Queue("BEGIN")
	if !wait {
		begin.Queue(waitForNobody)
	}
	if err := decide(ctx, conn, begin, parties, wait); err != nil {
		return err
	}
	end := &pgx.Batch{}
	if err := write(ctx, end, parties); err != nil {
		return err
	}
	end.Queue("COMMIT")
	if err := conn.SendBatch(ctx, end).Close(); err != nil {
		return fmt.Errorf("write transaction: %w", err)
	}
	for _, p := range parties {
		for _, change := range p.changes {
			change.Committed = change.Err == nil
		}
	}
	return nil
}

// In makes the changes in a transaction that the caller has begun, and waits for whoever holds what they need. It returns the first Err of
// a change, when nothing of any of them is written, or why the database failed. The caller commits, or rolls back if there was an error.
// A transaction calls it once, with all its changes: a second call might wait for somebody who waits for what the first has locked.
func In(ctx context.Context, tx pgx.Tx, changes ...*Change) error {
	p := newParty(changes)
	parties := []*party{p}
	if err := decide(ctx, tx, &pgx.Batch{}, parties, true); err != nil {
		return err
	}
	if err := p.result(); err != nil {
		return err
	}
	writes := &pgx.Batch{}
	if err := write(ctx, writes, parties); err != nil || writes.Len() == 0 {
		return err
	}
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return fmt.Errorf("write in a transaction: %w", err)
	}
	return nil
}

// session is a connection, or a transaction on one.
type session interface {
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// decide reads for the parties, after what is in the batch already, and has their tables decide. Once one table has refused a party, the
// tables after it are not asked about it.
func decide(ctx context.Context, on session, batch *pgx.Batch, parties []*party, wait bool) error {
	for _, t := range tablesOf(parties) {
		t.table.Read(batch, t.changes, wait)
	}
	if err := on.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("read for a transaction: %w", err)
	}
	failTogether(parties)
	for _, t := range tablesOf(parties) {
		if changes := WithoutError(t.changes); len(changes) > 0 {
			t.table.Decide(changes)
			failTogether(parties)
		}
	}
	return nil
}

// write queues what was decided.
func write(ctx context.Context, batch *pgx.Batch, parties []*party) error {
	for _, t := range tablesOf(parties) {
		if err := t.table.Write(ctx, batch, t.changes); err != nil {
			return fmt.Errorf("write transaction: %w", err)
		}
	}
	return nil
}

// WithoutError are those of the changes that have no Err.
func WithoutError(changes []*Change) []*Change {
	var kept []*Change
	for _, change := range changes {
		if change.Err == nil {
			kept = append(kept, change)
		}
	}
	return kept
}

// failTogether makes all changes of a party fail of which one has: they are written together, or not at all.
func failTogether(parties []*party) {
	for _, p := range parties {
		if err := p.result(); err != nil {
			for _, change := range p.changes {
				change.Err = err
			}
		}
	}
}

// tableChanges are the changes of one table.
type tableChanges struct {
	table   Table
	changes []*Change
	// rank is at which place a party names the table.
	rank int
}

// tablesOf sorts changes by their tables; those that have failed are left out. A table comes after all that a party names before it:
// what it decides may follow from what they have decided.
func tablesOf(parties []*party) []tableChanges {
	var tables []tableChanges
	for _, p := range parties {
		var named []Table
		for _, change := range p.changes {
			if !slices.Contains(named, change.Of) {
				named = append(named, change.Of)
			}
			if change.Err != nil {
				continue
			}
			i := slices.IndexFunc(tables, func(t tableChanges) bool { return t.table == change.Of })
			if i < 0 {
				i, tables = len(tables), append(tables, tableChanges{table: change.Of})
			}
			tables[i].changes = append(tables[i].changes, change)
			tables[i].rank = max(tables[i].rank, len(named))
		}
	}
	slices.SortStableFunc(tables, func(a, b tableChanges) int { return a.rank - b.rank })
	return tables
}
