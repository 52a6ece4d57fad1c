package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// warmUp is how long a turn runs before it is measured: queues fill and idle connections wake up.
const warmUp = time.Second

// turn is what one system did in one turn.
type turn struct {
	Seconds   float64 `json:"seconds"`
	Done      int     `json:"done"`
	PerSecond float64 `json:"per_second"`
	// CPUPer1000 is CPU seconds per 1,000 done, and MemoryMB what is resident at the end, by kind of process.
	CPUPer1000 map[string]float64 `json:"cpu_seconds_per_1000"`
	MemoryMB   map[string]float64 `json:"memory_mb,omitempty"`
	// Commits is how many transactions of the whole server wrote something, and WALBytes how much log, for each done.
	Commits  float64 `json:"commits_each,omitempty"`
	WALBytes float64 `json:"wal_bytes_each,omitempty"`

	latencies []time.Duration
	all       int // With those of the warm-up, and those that ended late.
}

// measure keeps inFlight at work on a system for the warm-up and then length, and counts what ends within the length. Ids are
// unique for ever. What is under way at the end is finished, so that the next turn meets an idle machine.
func (g *ground) measure(ctx context.Context, s *system, inFlight int, length time.Duration, prefix string) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, warmUp+length+3*time.Minute)
	defer cancel()
	began := time.Now()
	from := began.Add(warmUp)
	until := from.Add(length)

	commits, bytes, err := g.written(ctx)
	if err != nil {
		return turn{}, err
	}
	var mu sync.Mutex
	var t turn
	var failed error
	var workers sync.WaitGroup
	for n := range inFlight {
		workers.Go(func() {
			for i := 0; time.Now().Before(until) && ctx.Err() == nil; i++ {
				start := time.Now()
				err := s.one(ctx, fmt.Sprintf("%s-%d-%d", prefix, n, i))
				end := time.Now()
				mu.Lock()
				t.all++
				switch {
				case err != nil && failed == nil:
					failed = err
					cancel() // A benchmark of failures says nothing.
				case err == nil && end.After(from) && end.Before(until):
					t.latencies = append(t.latencies, end.Sub(start))
				}
				mu.Unlock()
			}
		})
	}
	before, errBefore := g.usageAt(ctx, from)
	after, errAfter := g.usageAt(ctx, until)
	workers.Wait()
	commitsAfter, bytesAfter, errWritten := g.written(ctx)
	for _, err := range []error{failed, errBefore, errAfter, errWritten} {
		if err != nil {
			return turn{}, fmt.Errorf("measure %s with %d in flight: %w", s.name, inFlight, err)
		}
	}
	t.Done, t.Seconds = len(t.latencies), length.Seconds()
	t.PerSecond = float64(t.Done) / t.Seconds
	t.Commits, t.WALBytes = float64(commitsAfter-commits)/float64(t.all), float64(bytesAfter-bytes)/float64(t.all)
	t.uses(before, after, s.owners)
	return t, nil
}

// uses puts down what the processes of the owners did between before and after.
func (t *turn) uses(before, after usage, owners []string) {
	t.CPUPer1000, t.MemoryMB = map[string]float64{}, map[string]float64{}
	if t.Done == 0 {
		return
	}
	for kind, took := range after.since(before, owners) {
		t.CPUPer1000[kind] = took.Seconds() * 1000 / float64(t.Done)
	}
	for kind, now := range after {
		if now.memory > 0 && slices.Contains(owners, kind.owner) {
			t.MemoryMB[kind.name] += float64(now.memory) / (1 << 20)
		}
	}
}

// usageAt reads what is used at a moment to come.
func (g *ground) usageAt(ctx context.Context, at time.Time) (usage, error) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.usage()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// quantile of durations, q from 0 to 1.
func quantile(of []time.Duration, q float64) time.Duration {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
