package pg

import (
	"context"
	"sync"
	"time"
)

const (
	// readEvery is how old a reading may be: however many scrape, the database is asked no more often. More load or older figures is the
	// choice.
	readEvery = 3 * time.Second
	// readTimeout bounds what a scrape waits for the database. Prometheus gives up after 10 s and would then know nothing.
	readTimeout = 2 * time.Second
)

// Reading is what gauges read from a database, remembered for as long as it may be old.
type Reading[T any] struct {
	read func(context.Context) (T, error)

	mu     sync.Mutex // held while the database is asked, so that those who scrape together ask once
	value  T
	err    error
	readAt time.Time
}

// NewReading remembers what read reads.
func NewReading[T any](read func(context.Context) (T, error)) *Reading[T] {
	return &Reading[T]{read: read}
}

// Latest asks the database unless it was asked a moment ago. A failure is remembered as an answer is: a database that is slow is not
// asked again by each scrape that has waited for it.
func (r *Reading[T]) Latest() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.readAt.IsZero() || time.Since(r.readAt) >= readEvery {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		r.value, r.err = r.read(ctx)
		r.readAt = time.Now()
	}
	return r.value, r.err
}
