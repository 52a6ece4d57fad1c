package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/commit"
)

const (
	// lastingAfter is after how long an instance is noted as lasting. Less would note many that are about to end, more would have more to
	// read when another process takes over.
	lastingAfter = 10 * time.Second
	// parkAfter is after how long an instance that only waits leaves memory.
	parkAfter = time.Minute
	// maxInMemory is how many instances may be in memory before those leave it early that wait for longer than soon.
	maxInMemory = 10_000
	soon        = 2 * time.Second
	// maxNoted bounds how many instances are noted in one transaction. They are held meanwhile.
	maxNoted = 500
)

// keepHouse takes what comes into the inbox, and every second looks after what is in memory.
func (r *runner) keepHouse(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.posted:
		case <-look.C:
			if err := r.noteLasting(ctx); err != nil && ctx.Err() == nil {
				r.Log.Warn("embedded engine cannot note which instances last", "error", err)
			}
			r.park()
		}
		if err := r.takeInbox(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("embedded engine cannot take its inbox", "error", err)
		}
	}
}

// noteLasting notes instances that have gone on for some time, and raises the key below which no other goes on. So whoever takes over
// has little to read, however many instances wait.
func (r *runner) noteLasting(ctx context.Context) error {
	for ctx.Err() == nil {
		held, low := r.toBeNoted()
		changes := make([]*commit.Change, 0, len(held)+1)
		for _, i := range held {
			i.noted = true
			changes = append(changes, &commit.Change{Of: r.table, What: &turn{runner: r, instance: i, next: i.history}})
		}
		if low > r.lowWater {
			changes = append(changes, &commit.Change{Of: r.table, What: &lowWater{runner: r, key: low}})
		}
		if len(changes) == 0 {
			return nil
		}
		err := r.Committer.Do(r.work, changes...)
		r.mu.Lock()
		for _, i := range held {
			i.kept = err == nil
		}
		r.mu.Unlock()
		for _, i := range held {
			r.letGo(i)
		}
		if errors.Is(err, ErrLost) {
			r.lose(err)
		}
		if err != nil {
			return fmt.Errorf("note lasting instances: %w", err)
		}
		r.lowWater = max(r.lowWater, low)
		if len(held) < maxNoted {
			return nil
		}
	}
	return nil
}

// toBeNoted holds instances that last and are not noted yet, and tells the lowest key of those that remain so.
func (r *runner) toBeNoted() (held []*instance, low int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, low := time.Now().Add(-lastingAfter), r.nextKey
	for _, i := range r.instances {
		if i.kept || i.key == 0 {
			continue
		}
		if (i.came.Before(old) || r.crowded()) && len(held) < maxNoted && i.tryHold() {
			if !i.gone && i.history.rows > 0 && i.history.end == nil {
				held = append(held, i)
				continue
			}
			<-i.held
		}
		low = min(low, i.key)
	}
	return held, low
}

// crowded tells whether instances leave memory early. The caller has the lock.
func (r *runner) crowded() bool { return len(r.instances) > maxInMemory }

func (i *instance) tryHold() bool {
	select {
	case i.held <- struct{}{}:
		return true
	default:
		return false
	}
}

// park lets instances leave memory that only wait, and have for some time. They are noted as lasting, so that they are found again.
func (r *runner) park() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, i := range r.instances {
		if !i.kept || !i.tryHold() {
			continue
		}
		wake := i.history.wake()
		waits := len(i.history.tasks) == 0 && (wake.IsZero() || wake.Sub(now) > soon)
		if waits && (now.Sub(i.used) > parkAfter || r.crowded()) {
			i.gone = true
			delete(r.instances, i.id)
		}
		<-i.held
	}
}
