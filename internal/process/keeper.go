package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// firstPause and longestPause bound the pause before a part that ended is started again. It doubles. A longer one delays work
	// when what was away is back (I8 allows 10 s); a shorter one asks a server that is just starting more often.
	firstPause, longestPause = 100 * time.Millisecond, 2 * time.Second
	// proven is how long a part that was started again must run to count as working. Connecting to a database may take 5 s to fail.
	proven = 6 * time.Second
	// lookEvery is how often a dependency is looked at, lookTimeout how long it may take to answer.
	lookEvery, lookTimeout = time.Second, 2 * time.Second
	// tellAgain is how often the log repeats that something is still missing.
	tellAgain = time.Minute
)

// Keeper keeps the parts of a process going while what they depend on comes and goes, and tells what is missing since when. Only a
// Keeper starts a part again that failed.
type Keeper struct {
	log      *slog.Logger
	proven   time.Duration
	failures *prometheus.CounterVec

	mu      sync.Mutex
	missing map[string]*Missing
}

// Missing is a part that fails, or a dependency that does not answer.
type Missing struct {
	Name string
	// Since is when that began, and Failures counts the failures since.
	Since    time.Time
	Failures int
	// Error is the last one.
	Error error

	told time.Time // when the log last said so
}

// String is a sentence for people.
func (m Missing) String() string {
	return fmt.Sprintf("%s: missing since %s (%s): %v", m.Name, m.Since.UTC().Format(time.RFC3339), time.Since(m.Since).Round(time.Second), m.Error)
}

// NewKeeper returns a keeper of parts.
func NewKeeper(log *slog.Logger) *Keeper {
	return &Keeper{
		log: log, proven: proven, missing: make(map[string]*Missing),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "process_part_failures_total",
			Help: "How often a part of this process ended by a failure and was started again, or a dependency did not answer.",
		}, []string{"part"}),
	}
}

// Keep returns the part as one that goes on until it is told to end: when it ends by itself it is started again, after a pause.
func (k *Keeper) Keep(p Part) Part {
	return Part{Name: p.Name, Run: func(ctx context.Context) error {
		wait := firstPause
		for {
			began := time.Now()
			works := time.AfterFunc(k.proven, func() { k.isBack(p.Name) })
			err := p.Run(ctx)
			works.Stop()
			if ctx.Err() != nil {
				k.forget(p.Name)
				return err
			}
			if err == nil {
				err = errEnded
			}
			if time.Since(began) >= k.proven {
				wait = firstPause
			}
			k.isMissing(p.Name, err)
			if !pause.For(ctx, wait) {
				k.forget(p.Name)
				return nil
			}
			wait = min(2*wait, longestPause)
		}
	}}
}

var errEnded = errors.New("ended by itself")

// Watch returns a part that looks at a dependency every second, to know since when it does not answer.
func (k *Keeper) Watch(dependency string, check func(context.Context) error) Part {
	return Part{Name: dependency, Run: func(ctx context.Context) error {
		for pause.For(ctx, lookEvery) {
			looking, cancel := context.WithTimeout(ctx, lookTimeout)
			err := check(looking)
			cancel()
			switch {
			case ctx.Err() != nil:
			case err != nil:
				k.isMissing(dependency, err)
			default:
				k.isBack(dependency)
			}
		}
		k.forget(dependency)
		return nil
	}}
}

// Missing is what is missing now, by name.
func (k *Keeper) Missing() []Missing {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Missing
	for _, m := range k.missing {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b Missing) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Ready is nil while nothing is missing; otherwise it says what is, and since when.
func (k *Keeper) Ready() error {
	var all []error
	for _, m := range k.Missing() {
		all = append(all, errors.New(m.String()))
	}
	return errors.Join(all...)
}

func (k *Keeper) isMissing(name string, err error) {
	k.failures.WithLabelValues(name).Inc()
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	m := k.missing[name]
	if m == nil {
		m = &Missing{Name: name, Since: now}
		k.missing[name] = m
	}
	m.Failures, m.Error = m.Failures+1, err
	if now.Sub(m.told) < tellAgain {
		return
	}
	m.told = now
	k.log.Warn("missing; it is tried again until it is back", "part", name, "since", m.Since.UTC(), "failures", m.Failures, "error", err)
}

func (k *Keeper) isBack(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.missing[name]; m != nil {
		k.log.Info("it is back", "part", name, "after", time.Since(m.Since).Round(time.Millisecond), "failures", m.Failures)
		delete(k.missing, name)
	}
}

// forget drops a part that was told to end.
func (k *Keeper) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.missing, name)
}

// Collector tells what is missing, and how often parts failed.
func (k *Keeper) Collector() prometheus.Collector { return keeperMetrics{k} }

type keeperMetrics struct{ *Keeper }

var missingSeconds = prometheus.NewDesc("process_part_missing_seconds",
	"For how long a part of this process, or a dependency of it, has been missing; left out where it is there.", []string{"part"}, nil)

// Describe implements prometheus.Collector.
func (k keeperMetrics) Describe(to chan<- *prometheus.Desc) {
	k.failures.Describe(to)
	to <- missingSeconds
}

// Collect implements prometheus.Collector.
func (k keeperMetrics) Collect(to chan<- prometheus.Metric) {
	k.failures.Collect(to)
	for _, m := range k.Missing() {
		to <- prometheus.MustNewConstMetric(missingSeconds, prometheus.GaugeValue, time.Since(m.Since).Seconds(), m.Name)
	}
}

// Opened returns what open opens. While open fails because something is away, such as a database that is starting, Opened tries
// again until ctx ends. What no waiting mends, such as a wrong setting, it returns at once.
func Opened[T any](ctx context.Context, log *slog.Logger, open func(context.Context) (T, error)) (T, error) {
	k := NewKeeper(log)
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		opened, err := open(ctx)
		if err == nil {
			k.isBack("what it needs to begin")
			return opened, nil
		}
		if !pg.Away(err) || ctx.Err() != nil {
			return opened, err
		}
		k.isMissing("what it needs to begin", err)
		if !pause.For(ctx, wait) {
			return opened, err
		}
	}
}
