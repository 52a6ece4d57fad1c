package store

import (
	"context"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// meter counts what this process's transactions have done to sagas, each once it has committed. So the counters of all processes
// add up. The figures of open sagas are read from the database (gauges.go), and every process tells the same.
type meter struct {
	ended           *prometheus.CounterVec
	duration        *prometheus.HistogramVec
	attempts        *prometheus.CounterVec
	attemptDuration *prometheus.HistogramVec
	stepDuration    *prometheus.HistogramVec
	compensations   *prometheus.CounterVec
	attention       *prometheus.CounterVec
	nextRuns        *prometheus.CounterVec
	reasons         *words
	gauges          *gauges
}

// longBuckets reach from a saga that nothing holds up to one that a person thinks about for days.
var longBuckets = []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600}

func newMeter(open func(context.Context) ([]OpenGroup, error)) *meter {
	reasons := newWords()
	return &meter{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sagas_ended_total",
			Help: "Sagas that came to their end, by final status and by the reason's word, which is empty where they are confirmed.",
		}, []string{"saga", "status", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "saga_duration_seconds", Buckets: longBuckets,
			Help: "How long sagas took from their start to their end, by final status.",
		}, []string{"saga", "status"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "step_attempts_total",
			Help: "Attempts at steps and at compensations, by what they taught: applied, rejected or unknown.",
		}, []string{"saga", "step", "outcome"}),
		attemptDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "step_attempt_duration_seconds",
			Help: "How long one attempt at a step or a compensation waited for its participant.",
		}, []string{"saga", "step", "outcome"}),
		stepDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "step_duration_seconds", Buckets: longBuckets,
			Help: "How long a step took from when it was next until its outcome was known, with all its attempts and the waits between them.",
		}, []string{"saga", "step", "state"}),
		compensations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "compensations_total",
			Help: "Compensations that became necessary (pending) and those that came to an end (any other state).",
		}, []string{"saga", "step", "state"}),
		attention: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sagas_attention_total",
			Help: "How often a saga began to wait for an operator, by the cause's word.",
		}, []string{"saga", "code"}),
		nextRuns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sagas_next_runs_total",
			Help: "How often a saga was handed to its next run, by who did it: the sweeper or an operator.",
		}, []string{"saga", "by"}),
		reasons: reasons,
		gauges:  newGauges(open, reasons),
	}
}

// Collector has what this process has done to sagas, and figures of all open ones.
func (s *Store) Collector() prometheus.Collector { return s.meter }

func (m *meter) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.ended, m.duration, m.attempts, m.attemptDuration, m.stepDuration, m.compensations, m.attention, m.nextRuns, m.gauges,
	}
}

// Describe is prometheus.Collector's.
func (m *meter) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect is prometheus.Collector's.
func (m *meter) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

// past is the row before the transaction, for the meter to compare.
type past struct {
	run       int
	attention string
	steps     []journal.Step
}

func pastOf(r *row) past {
	return past{run: r.Run, attention: attentionCode(r), steps: slices.Clone(r.Steps)}
}

func attentionCode(r *row) string {
	if r.Attention == nil {
		return ""
	}
	return string(r.Attention.Code)
}

// step is the zero Step if there was none.
func (p past) step(name string) journal.Step {
	if i := slices.IndexFunc(p.steps, func(s journal.Step) bool { return s.Name == name }); i >= 0 {
		return p.steps[i]
	}
	return journal.Step{}
}

// committed counts what a committed transaction did.
func (m *meter) committed(was past, r *row) {
	of, bySweeper := r.Plan.Definition, false
	for _, e := range r.Entries {
		if e.Kind == "attempt" {
			m.attempts.WithLabelValues(of, e.Step, e.Outcome).Inc()
			m.attemptDuration.WithLabelValues(of, e.Step, e.Outcome).Observe(e.Duration.Seconds())
		}
		bySweeper = bySweeper || e.Actor == journal.ActorSweeper
	}
	for _, s := range r.Steps {
		m.stepEnded(of, was.step(s.Name), s)
		m.compensation(of, was.step(s.Name), s)
	}
	if code := attentionCode(r); code != "" && code != was.attention {
		m.attention.WithLabelValues(of, code).Inc()
	}
	if r.Run != was.run {
		by := "operator"
		if bySweeper {
			by = journal.ActorSweeper
		}
		m.nextRuns.WithLabelValues(of, by).Inc()
	}
	if r.Ended {
		m.ended.WithLabelValues(of, string(r.Status), m.reasons.label(r.ReasonCode)).Inc()
		m.duration.WithLabelValues(of, string(r.Status)).Observe(r.EndedAt.Sub(r.StartedAt).Seconds())
	}
}

// stepEnded leaves out a step whose begin became known only with its end, as with events: its duration is not known.
func (m *meter) stepEnded(of string, was, is journal.Step) {
	if was.EndedAt == nil && was.StartedAt != nil && is.EndedAt != nil {
		m.stepDuration.WithLabelValues(of, is.Name, is.State).Observe(is.EndedAt.Sub(*was.StartedAt).Seconds())
	}
}

func (m *meter) compensation(of string, was, is journal.Step) {
	if was.CompensationState == is.CompensationState {
		return
	}
	if was.CompensationState == journal.CompensationNotNeeded {
		m.compensations.WithLabelValues(of, is.Compensation, journal.CompensationPending).Inc()
	}
	switch is.CompensationState {
	case journal.CompensationPending, journal.CompensationRunning, journal.CompensationFailing:
	default:
		m.compensations.WithLabelValues(of, is.Compensation, is.CompensationState).Inc()
	}
}

const (
	// maxWords bounds how many words a label can have. Each is a series as long as the process lives; a participant with order ids
	// in its reasons would fill the memory.
	maxWords = 50
	// maxWord bounds the length of a word, in bytes.
	maxWord = 64
	// otherWord stands for every word beyond these bounds.
	otherWord = "other"
)

// words are the values of a label that participants choose.
type words struct {
	mu    sync.Mutex
	known map[string]bool
}

func newWords() *words {
	return &words{known: make(map[string]bool)}
}

// label is the word itself, or otherWord.
func (w *words) label(word string) string {
	if word == "" {
		return word
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known[word] {
		if len(w.known) == maxWords || len(word) > maxWord {
			return otherWord
		}
		w.known[word] = true
	}
	return word
}
