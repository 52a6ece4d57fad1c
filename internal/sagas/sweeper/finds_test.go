package sweeper_test

import (
	"errors"
	"log/slog"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sagas/sweeper"
)

func TestEachFindIsASeriesFromTheBeginning(t *testing.T) {
	t.Parallel()
	pool, st := accepted(t, "ord-1")
	got := found(t, sweeper.New(pool, st, &fakeEngine{}, slog.New(slog.DiscardHandler)))
	require.Equal(t, map[string]float64{
		"settled": 0, "taken_over": 0, "not_started": 0, "silent": 0, "unanswered": 0, "gone": 0, "ended": 0, "stopped": 0, "no_engine": 0,
	}, got)
}

func TestTheSweeperCountsWhatItFinds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state  engine.State
		err    error
		sweeps int
		before string // SQL
		want   map[string]float64
	}{
		"accepted and never started":             {state: "unmarked", sweeps: 1, want: map[string]float64{"not_started": 1}},
		"silent, then deaf":                      {state: engine.Running, sweeps: 2, want: map[string]float64{"silent": 1, "unanswered": 1}},
		"completed while the checkout is open":   {state: engine.Completed, sweeps: 1, want: map[string]float64{"ended": 1}},
		"unknown to the engine":                  {state: "", sweeps: 1, want: map[string]float64{"gone": 1}},
		"an engine that cannot be asked":         {state: engine.Running, err: errors.New("away"), sweeps: 2, want: map[string]float64{"no_engine": 2}},
		"past its deadline before it was begun":  {state: "unmarked", sweeps: 1, before: `UPDATE checkouts SET deadline = now()`, want: map[string]float64{"settled": 1}},
		"a choreographed one whose time is over": {state: "unmarked", sweeps: 1, before: `UPDATE sagas SET elsewhere = true, touched_at = now(), deadline = now()`, want: map[string]float64{"taken_over": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, st := accepted(t, "ord-1")
			if test.state != "unmarked" {
				require.NoError(t, st.MarkStarted(t.Context(), checkout.Saga("ord-1"), 1))
				touch(t, st)
			}
			if test.before != "" {
				_, err := pool.Exec(t.Context(), test.before)
				require.NoError(t, err)
			}
			s := sweeper.New(pool, st, &fakeEngine{state: test.state, err: test.err}, slog.New(slog.DiscardHandler))
			for range test.sweeps {
				overdue(t, pool)
				_ = s.Sweep(t.Context()) // What it could not do is told by what it counts.
			}
			got := found(t, s)
			maps.DeleteFunc(got, func(_ string, n float64) bool { return n == 0 })
			require.Equal(t, test.want, got)
		})
	}
}

// found is what a sweeper has counted, by find.
func found(t *testing.T, s *sweeper.Sweeper) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collector())
	families, err := registry.Gather()
	require.NoError(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
	got := map[string]float64{}
	for _, m := range families[0].Metric {
		got[m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	return got
}
