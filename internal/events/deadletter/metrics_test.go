package deadletter

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
)

func TestTheOpenLettersAreOnTheMetricsPageWithTheAgeOfTheOldest(t *testing.T) {
	t.Parallel()
	w := setup(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(w.service.Collector())
	values := func() map[string]float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		require.NoError(t, err)
		require.Empty(t, problems)
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = m.Gauge.GetValue()
			}
		}
		return got
	}
	require.Equal(t, map[string]float64{"dead_letters_open_age_seconds": 0}, values())

	w.arrive(t, created, []byte("one"))
	w.arrive(t, created, []byte("another"))
	w.arrive(t, cancelled, []byte("a third"))
	w.arrive(t, cancelled, []byte("settled"))
	for _, sql := range []string{
		`UPDATE dead_letters SET state = 'archived', settled_at = clock_timestamp() WHERE message = 'settled'`,
		`UPDATE dead_letters SET arrived_at = clock_timestamp() - interval '90 seconds' WHERE message = 'another'`,
		`UPDATE dead_letters SET arrived_at = clock_timestamp() - interval '1 day' WHERE message = 'settled'`,
	} {
		_, err := w.pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	got := values()
	require.InDelta(t, 90, got["dead_letters_open_age_seconds"], 10)
	delete(got, "dead_letters_open_age_seconds")
	require.Equal(t, map[string]float64{"dead_letters_open " + created: 2, "dead_letters_open " + cancelled: 1}, got)

	w.pool.Close()
	require.Empty(t, values(), "without a database the page has the other metrics")
}
