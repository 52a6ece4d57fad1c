package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/saga"
)

const (
	// channel is the PostgreSQL notification channel on which processes tell each other which sagas they changed.
	channel = "saga_changed"
	// announceEvery is how long changes are gathered for one announcement.
	announceEvery = 20 * time.Millisecond
	// maxUnannounced bounds what is gathered while the database is away. The rest is not announced: watchers of other processes
	// look every few seconds anyway.
	maxUnannounced = 10_000
)

// watchers are those who wait for a change, by saga, and the changes that were not announced to other processes yet.
//
// A change is announced after its transaction and not by it: PostgreSQL lets only one transaction that notifies commit at a time,
// so all of them would wait for each other's disk.
type watchers struct {
	// self marks this process's own announcements, which its watchers have heard of already.
	self string

	mu          sync.Mutex
	bySaga      map[saga.ID]map[*subscription]bool
	unannounced map[saga.ID]Interest
	announce    chan struct{}
}

// subscription is one who waits.
type subscription struct {
	interest Interest
	changed  chan struct{}
	// ended is the saga at its end, where this process has ended it.
	ended atomic.Pointer[Saga]
}

// Interest says which changes of a saga somebody wants to hear of, or of which kind a change was.
type Interest string

const (
	// AnyChange is every change.
	AnyChange Interest = "any"
	// Settled is that the saga is final or needs attention.
	Settled Interest = "settled"
)

func newWatchers() *watchers {
	return &watchers{
		self: uuid.NewString(), bySaga: make(map[saga.ID]map[*subscription]bool),
		unannounced: make(map[saga.ID]Interest), announce: make(chan struct{}, 1),
	}
}

// Subscribe returns a channel that has a value after each change of interest; several changes may leave one value. It hears changes
// by other processes while Listen runs. The caller calls cancel when done.
func (s *Store) Subscribe(id saga.ID, interest Interest) (changed <-chan struct{}, cancel func()) {
	sub, cancel := s.watchers.subscribe(id, interest)
	return sub.changed, cancel
}

func (w *watchers) subscribe(id saga.ID, interest Interest) (sub *subscription, cancel func()) {
	sub = &subscription{interest: interest, changed: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bySaga[id] == nil {
		w.bySaga[id] = make(map[*subscription]bool)
	}
	w.bySaga[id][sub] = true
	return sub, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.bySaga[id], sub)
		if len(w.bySaga[id]) == 0 {
			delete(w.bySaga, id)
		}
	}
}

// Watch calls look now and after each change of interest, until look says that it is done, or fails, or ctx ends. It also looks
// every now and then, because a notification may be lost with a connection. Where this process has ended the saga meanwhile, look is
// given it as it ended, and need not read it.
func (s *Store) Watch(ctx context.Context, id saga.ID, interest Interest, again time.Duration, look func(ended *Saga) (done bool, err error)) error {
	// Subscribed before the first look: a change between the two is seen twice rather than never.
	sub, unsubscribe := s.watchers.subscribe(id, interest)
	defer unsubscribe()
	ticker := time.NewTicker(again)
	defer ticker.Stop()
	for {
		if done, err := look(sub.ended.Load()); done || err != nil {
			return err
		}
		select {
		case <-sub.changed:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Listen tells other processes of this one's changes, and this one's subscribers of theirs, until ctx ends or, with an error, a
// connection is lost. Until it is run again, watchers look by themselves. It wakes all subscribers when it begins, because nothing
// before was heard.
func (s *Store) Listen(ctx context.Context) error {
	both, listening := errgroup.WithContext(ctx)
	both.Go(func() error { return s.hear(listening) })
	both.Go(func() error { return s.announce(listening) })
	if err := both.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *Store) hear(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	// Closed in the end, not given back: a connection that listens must not serve anybody else.
	listener := conn.Hijack()
	defer listener.Close(context.WithoutCancel(ctx))
	if _, err := listener.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	s.watchers.wakeAll()
	for {
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("listen for changes: %w", err)
		}
		process, change, _ := strings.Cut(n.Payload, " ")
		kind, name, _ := strings.Cut(change, " ")
		definition, key, _ := strings.Cut(name, " ")
		if process != s.watchers.self {
			s.watchers.wake(saga.ID{Definition: definition, Key: key}, Interest(kind))
		}
	}
}

func (s *Store) announce(ctx context.Context) error {
	gather := time.NewTicker(announceEvery)
	defer gather.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.watchers.announce:
		}
		if _, err := s.pool.Exec(ctx, `SELECT pg_notify($1, change) FROM unnest($2::text[]) AS change`,
			channel, s.watchers.takeUnannounced()); err != nil {
			return fmt.Errorf("announce changes: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-gather.C:
		}
	}
}

// changed wakes the saga's watchers here, with the saga where it has ended, and notes the change for the next announcement.
func (w *watchers) changed(id saga.ID, kind Interest, ended *Saga) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ended != nil {
		for sub := range w.bySaga[id] {
			sub.ended.Store(ended)
		}
	}
	wake(w.bySaga[id], kind)
	if w.unannounced[id] != Settled && len(w.unannounced) < maxUnannounced {
		w.unannounced[id] = kind
	}
	signal(w.announce)
}

// takeUnannounced empties what was gathered, as texts of process, kind of change, definition and key.
func (w *watchers) takeUnannounced() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := make([]string, 0, len(w.unannounced))
	for id, kind := range w.unannounced {
		changes = append(changes, fmt.Sprintf("%s %s %s", w.self, kind, id))
	}
	clear(w.unannounced)
	return changes
}

func (w *watchers) wake(id saga.ID, kind Interest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wake(w.bySaga[id], kind)
}

func (w *watchers) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range w.bySaga {
		wake(waiting, Settled)
	}
}

func wake(waiting map[*subscription]bool, kind Interest) {
	for sub := range waiting {
		if sub.interest == AnyChange || sub.interest == kind {
			signal(sub.changed)
		}
	}
}

// signal leaves one value in a channel of capacity one: a reader that has not taken the last one yet sees both changes at once.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
