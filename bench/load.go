package main

import (
	"context"
	"errors"
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
	// CPUPer1000 is CPU seconds per 1,000 of all, with those of the warm-up and those that ended late, by kind of process; MemoryMB is
	// what is resident at the end.
	CPUPer1000 map[string]float64 `json:"cpu_seconds_per_1000"`
	MemoryMB   map[string]float64 `json:"memory_mb,omitempty"`
	// Commits is how many transactions of the whole server wrote something, and WALBytes how much log, for each of all.
	Commits  float64 `json:"commits_each,omitempty"`
	WALBytes float64 `json:"wal_bytes_each,omitempty"`

	latencies []time.Duration
	all       int
}

// measure keeps inFlight at work on a system for the warm-up and then length, and counts what ends within the length. Ids are
// unique for ever. What is under way at the end is finished, so that the next turn meets an idle machine.
func (g *ground) measure(ctx context.Context, s *system, inFlight int, length time.Duration, prefix string) (turn, error) {
	ctx, cancel := context.WithTimeout(ctx, warmUp+length+3*time.Minute)
	defer cancel()
	began := time.Now()
	from := began.Add(warmUp)
	until := from.Add(length)

	before, err := g.usage(ctx)
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
	workers.Wait()
	after, err := g.usage(ctx)
	if err := errors.Join(failed, err); err != nil {
		return turn{}, fmt.Errorf("measure %s with %d in flight: %w", s.name, inFlight, err)
	}
	t.Done, t.Seconds = len(t.latencies), length.Seconds()
	t.PerSecond = float64(t.Done) / t.Seconds
	t.uses(before, after, s.owners, t.all)
	return t, nil
}

// uses puts down what n took of the owners' processes, and of the server, between before and after.
func (t *turn) uses(before, after usage, owners []string, n int) {
	t.CPUPer1000, t.MemoryMB = map[string]float64{}, map[string]float64{}
	for kind, took := range after.since(before, owners) {
		t.CPUPer1000[kind] = took.Seconds() * 1000 / float64(n)
	}
	for kind, now := range after.processes {
		if now.memory > 0 && slices.Contains(owners, kind.owner) {
			t.MemoryMB[kind.name] += float64(now.memory) / (1 << 20)
		}
	}
	t.Commits, t.WALBytes = float64(after.commits-before.commits)/float64(n), float64(after.wal-before.wal)/float64(n)
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
