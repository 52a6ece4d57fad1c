package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// channel is the PostgreSQL notification channel on which every transaction names the order that it changed.
const channel = "checkout_changed"

func queueNotify(batch *pgx.Batch, orderID string) {
	batch.Queue(`SELECT pg_notify($1, $2)`, channel, orderID)
}

// watchers are those who wait for a change, by order id.
type watchers struct {
	mu      sync.Mutex
	byOrder map[string]map[chan struct{}]struct{}
}

// Subscribe returns a channel that has a value after each change of the order, by whichever process; several changes may
// leave one value. It needs Listen to run. The caller calls cancel when done.
func (s *Store) Subscribe(orderID string) (changed <-chan struct{}, cancel func()) {
	w := &s.watchers
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byOrder[orderID] == nil {
		w.byOrder[orderID] = make(map[chan struct{}]struct{})
	}
	w.byOrder[orderID][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.byOrder[orderID], ch)
		if len(w.byOrder[orderID]) == 0 {
			delete(w.byOrder, orderID)
		}
	}
}

// Listen wakes subscribers until ctx ends or its connection is lost. It wakes all of them when it begins, because what
// happened before then was not heard.
func (s *Store) Listen(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	// It is closed in the end, not given back: a connection that listens must not serve anybody else.
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
		s.watchers.wake(n.Payload)
	}
}

func (w *watchers) wake(orderID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wake(w.byOrder[orderID])
}

func (w *watchers) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range w.byOrder {
		wake(waiting)
	}
}

func wake(waiting map[chan struct{}]struct{}) {
	for ch := range waiting {
		select {
		case ch <- struct{}{}:
		default: // It has not seen the last change yet, so it will see this one with it.
		}
	}
}
