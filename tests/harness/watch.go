package harness

import (
	"context"
	"testing"
	"time"

	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// WatchSums checks the sums of I4 over and over until the test ends: they hold at any moment, not only at the end.
func (s *System) WatchSums(t testing.TB) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	looks := 0
	var broken []judge.Violation
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			found, err := s.Judge.Moment(ctx)
			if err == nil {
				looks++
				broken = append(broken, found...)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if looks == 0 {
			t.Error("the sums were never looked at")
		}
		for i, v := range broken {
			if i == 10 {
				break
			}
			t.Errorf("while checkouts were under way: %v", v)
		}
	})
}
