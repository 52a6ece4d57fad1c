package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func TestTheMeterCountsWhatTransactionsDid(t *testing.T) {
	t.Parallel()
	took := func(l journal.Learned, d time.Duration) journal.Learned { l.Took = d; return l }
	forward := func(s *scenario, step string, l journal.Learned, want journal.Standing) {
		s.fence(step, false, journal.Go)
		s.record(step, false, l, want)
	}
	back := func(s *scenario, step string, l journal.Learned) {
		s.fence(step, true, journal.Go)
		s.record(step, true, l, journal.GoOn)
	}
	for name, test := range map[string]struct {
		does func(*scenario)
		want string
	}{
		"a confirmed checkout, with an attempt that got no answer": {func(s *scenario) {
			forward(s, checkout.ReserveStock, took(noAnswer("reset"), 5*time.Second), journal.GoOn)
			for _, step := range []string{checkout.ReserveStock, checkout.AuthorizePayment, checkout.CapturePayment, checkout.CommitStock} {
				forward(s, step, took(applied, 20*time.Millisecond), journal.GoOn)
			}
		}, `
			saga_duration_seconds{status=CONFIRMED} 1 times
			sagas_ended_total{reason=,status=CONFIRMED} 1
			step_attempt_duration_seconds{outcome=applied,step=authorize-payment} 1 times 0.02
			step_attempt_duration_seconds{outcome=applied,step=capture-payment} 1 times 0.02
			step_attempt_duration_seconds{outcome=applied,step=commit-stock} 1 times 0.02
			step_attempt_duration_seconds{outcome=applied,step=reserve-stock} 1 times 0.02
			step_attempt_duration_seconds{outcome=unknown,step=reserve-stock} 1 times 5
			step_attempts_total{outcome=applied,step=authorize-payment} 1
			step_attempts_total{outcome=applied,step=capture-payment} 1
			step_attempts_total{outcome=applied,step=commit-stock} 1
			step_attempts_total{outcome=applied,step=reserve-stock} 1
			step_attempts_total{outcome=unknown,step=reserve-stock} 1
			step_duration_seconds{state=done,step=authorize-payment} 1 times
			step_duration_seconds{state=done,step=capture-payment} 1 times
			step_duration_seconds{state=done,step=commit-stock} 1 times
			step_duration_seconds{state=done,step=reserve-stock} 1 times`},
		"a refusal with what it makes undone": {func(s *scenario) {
			forward(s, checkout.ReserveStock, applied, journal.GoOn)
			forward(s, checkout.AuthorizePayment, refused("card_declined"), journal.GoBack)
			back(s, checkout.ReserveStock, noAnswer("down"))
			back(s, checkout.ReserveStock, applied)
		}, `
			saga_duration_seconds{status=REJECTED} 1 times
			sagas_ended_total{reason=card_declined,status=REJECTED} 1
			compensations_total{state=done,step=release-stock} 1
			compensations_total{state=pending,step=release-stock} 1
			step_attempt_duration_seconds{outcome=applied,step=release-stock} 1 times
			step_attempt_duration_seconds{outcome=applied,step=reserve-stock} 1 times
			step_attempt_duration_seconds{outcome=rejected,step=authorize-payment} 1 times
			step_attempt_duration_seconds{outcome=unknown,step=release-stock} 1 times
			step_attempts_total{outcome=applied,step=release-stock} 1
			step_attempts_total{outcome=applied,step=reserve-stock} 1
			step_attempts_total{outcome=rejected,step=authorize-payment} 1
			step_attempts_total{outcome=unknown,step=release-stock} 1
			step_duration_seconds{state=done,step=reserve-stock} 1 times
			step_duration_seconds{state=rejected,step=authorize-payment} 1 times`},
		"a cancel before anybody was asked": {func(s *scenario) { s.cancel(journal.CancelDone) }, `
			saga_duration_seconds{status=CANCELLED} 1 times
			sagas_ended_total{reason=cancelled,status=CANCELLED} 1`},
		"attention once however often its cause is met, and once more when it comes back": {func(s *scenario) {
			stuck := s.attempt(checkout.ReserveStock, false)
			stuck.Stuck = true
			s.fence(checkout.ReserveStock, false, journal.Go)
			for range 3 {
				_, err := s.store.Record(s.t.Context(), stuck, noAnswer("down"), nil)
				require.NoError(s.t, err)
			}
			s.record(checkout.ReserveStock, false, applied, journal.GoOn)
			stuck.Step = checkout.AuthorizePayment
			_, err := s.store.Record(s.t.Context(), stuck, noAnswer("down"), nil)
			require.NoError(s.t, err)
		}, `
			sagas_attention_total{code=failing} 2
			step_attempt_duration_seconds{outcome=applied,step=reserve-stock} 1 times
			step_attempt_duration_seconds{outcome=unknown,step=authorize-payment} 1 times
			step_attempt_duration_seconds{outcome=unknown,step=reserve-stock} 3 times
			step_attempts_total{outcome=applied,step=reserve-stock} 1
			step_attempts_total{outcome=unknown,step=authorize-payment} 1
			step_attempts_total{outcome=unknown,step=reserve-stock} 3
			step_duration_seconds{state=done,step=reserve-stock} 1 times`},
		"the sweeper's next runs": {func(s *scenario) { s.nextRun(); s.nextRun() }, `
			sagas_next_runs_total{by=sweeper} 2`},
		"nothing where nothing was written": {func(s *scenario) {
			s.fence(checkout.CapturePayment, false, journal.Superseded)
			s.run = 7
			s.record(checkout.ReserveStock, false, applied, journal.Over)
		}, ``},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t)
			test.does(s)
			requireCounted(t, s.store, test.want)
		})
	}
}

func TestADurationIsThatOfTheDatabasesClock(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	s.fence(checkout.ReserveStock, false, journal.Go)
	s.exec(`UPDATE checkouts SET started_at = started_at - interval '1 hour',
		progress = jsonb_set(progress, '{0,started_at}', to_jsonb(now() - interval '10 minutes'))`)
	s.record(checkout.ReserveStock, false, refused("out_of_stock"), journal.GoBack)
	sums := map[string]float64{}
	for _, m := range gather(t, s.store) {
		sums[m.name] += m.sum
	}
	require.InDelta(t, 3600, sums["saga_duration_seconds"], 60)
	require.InDelta(t, 600, sums["step_duration_seconds"], 60)
}

func TestReasonsBeyondABoundAreOther(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	st := newStore(pool)
	for n := range 60 {
		reason := fmt.Sprintf("reason_%02d", n)
		if n == 0 {
			reason = strings.Repeat("long", 30)
		}
		s := scenarioOn(t, pool, fmt.Sprintf("ord-%d", n))
		s.store = st
		s.fence(checkout.ReserveStock, false, journal.Go)
		s.record(checkout.ReserveStock, false, refused(reason), journal.GoBack)
	}
	reasons := map[string]float64{}
	for _, m := range gather(t, st) {
		if m.name == "sagas_ended_total" {
			reasons[m.labels["reason"]] += m.value
		}
	}
	require.Len(t, reasons, 51)
	require.EqualValues(t, 1, reasons["reason_01"])
	require.EqualValues(t, 10, reasons["other"], "the long one and those after the fiftieth")
}

func TestMetricsAreNamedAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	s.nextRun()
	stuck := s.attempt(checkout.ReserveStock, false)
	stuck.Stuck = true
	s.fence(checkout.ReserveStock, false, journal.Go)
	_, err := s.store.Record(t.Context(), stuck, noAnswer("down"), nil)
	require.NoError(t, err)
	s.record(checkout.ReserveStock, false, applied, journal.GoOn)
	s.cancel(journal.CancelAccepted)
	s.fence(checkout.AuthorizePayment, false, journal.TurnBack)
	s.record(checkout.AuthorizePayment, true, applied, journal.GoOn)
	families, err := registryOf(s.store).Gather()
	require.NoError(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

// metric is one series. Of a histogram value is how often something was observed, and sum what was.
type metric struct {
	name, text string
	labels     map[string]string
	value, sum float64
	histogram  bool
}

func registryOf(st *store.Store) *prometheus.Registry {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(st.Collector())
	return registry
}

func gather(t testing.TB, st *store.Store) []metric {
	t.Helper()
	families, err := registryOf(st).Gather()
	require.NoError(t, err)
	var all []metric
	for _, family := range families {
		for _, series := range family.Metric {
			m := metric{name: family.GetName(), labels: map[string]string{}}
			var labels []string
			for _, l := range series.Label {
				if l.GetName() == "saga" && l.GetValue() == checkout.Definition {
					continue // All of them are.
				}
				m.labels[l.GetName()] = l.GetValue()
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			m.text = m.name
			if len(labels) > 0 {
				m.text += "{" + strings.Join(labels, ",") + "}"
			}
			if h := series.Histogram; h != nil {
				m.histogram, m.value, m.sum = true, float64(h.GetSampleCount()), h.GetSampleSum()
			} else {
				m.value = series.GetCounter().GetValue() + series.GetGauge().GetValue()
			}
			all = append(all, m)
		}
	}
	return all
}

// requireCounted compares what is counted with lines; of a histogram a line may leave out the sum. Gauges are left out.
func requireCounted(t testing.TB, st *store.Store, want string) {
	t.Helper()
	var got, wanted []string
	sums := map[string]bool{}
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			wanted = append(wanted, line)
			sums[strings.Fields(line)[0]] = !strings.HasSuffix(line, "times")
		}
	}
	for _, m := range gather(t, st) {
		switch {
		case m.name == "sagas_scrape_errors_total":
		case m.histogram && sums[m.text]:
			got = append(got, fmt.Sprintf("%s %v times %v", m.text, m.value, m.sum))
		case m.histogram:
			got = append(got, fmt.Sprintf("%s %v times", m.text, m.value))
		case strings.HasSuffix(m.name, "_total"):
			got = append(got, fmt.Sprintf("%s %v", m.text, m.value))
		}
	}
	slices.Sort(got)
	slices.Sort(wanted)
	require.Equal(t, wanted, got)
}
