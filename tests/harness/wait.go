package harness

import (
	"context"
	"testing"
	"time"
)

// Eventually returns once check returns nil. It fails the test after a minute.
func Eventually(t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	Within(t, patience, what, check)
}

// Within returns how long it took until check returned nil. It fails the test after limit.
func Within(t testing.TB, limit time.Duration, what string, check func(context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return time.Since(began)
		}
		if ctx.Err() == nil || last == nil {
			last = err // An error that only says that the time is up would hide the real one.
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s for %s: %v", limit, what, last)
		}
	}
}
