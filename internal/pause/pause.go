// Package pause waits without outliving a context. It knows the standard library only.
package pause

import (
	"context"
	"time"
)

// For waits for d, and says whether it waited to the end; false if ctx ended first.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
