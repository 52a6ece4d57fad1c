package store_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func TestTheGaugesTellHowTheOpenCheckoutsStand(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	on := func(id string) *scenario { return scenarioOn(t, pool, id) }
	forward := func(s *scenario, steps ...string) {
		for _, step := range steps {
			s.fence(step, false, journal.Go)
			s.record(step, false, applied, journal.GoOn)
		}
	}

	on("untouched")
	forward(on("reserved"), checkout.ReserveStock)
	authorized := on("authorized")
	forward(authorized, checkout.ReserveStock, checkout.AuthorizePayment)
	forward(on("captured"), checkout.ReserveStock, checkout.AuthorizePayment, checkout.CapturePayment)
	forward(on("confirmed"), checkout.ReserveStock, checkout.AuthorizePayment, checkout.CapturePayment, checkout.CommitStock)
	dollars := on("dollars")
	dollars.exec(`UPDATE checkouts SET currency = 'USD', amount = 700 WHERE order_id = 'dollars'`)
	forward(dollars, checkout.ReserveStock, checkout.AuthorizePayment)

	undoing := on("undoing") // The money is free again, the stock is not, and the warehouse does not answer.
	forward(undoing, checkout.ReserveStock, checkout.AuthorizePayment)
	undoing.fence(checkout.CapturePayment, false, journal.Go)
	undoing.record(checkout.CapturePayment, false, refused("authorization_expired"), journal.GoBack)
	undoing.record(checkout.AuthorizePayment, true, applied, journal.GoOn)
	stuck := undoing.attempt(checkout.ReserveStock, true)
	stuck.Stuck = true
	_, err := undoing.store.Record(t.Context(), stuck, noAnswer("down"), nil)
	require.NoError(t, err)

	undoing.exec(`UPDATE checkouts SET attention = jsonb_set(attention, '{since}', to_jsonb(now() - interval '1 hour'))
		WHERE order_id = 'undoing'`)
	undoing.exec(`UPDATE checkouts SET check_at = now() - interval '2 minutes' WHERE order_id = 'untouched'`)
	undoing.exec(`UPDATE checkouts SET status = 'AWAITING_APPROVAL', at_step = 'approval', approval_wait = '1 day',
		approval_deadline = now() + interval '20 hours' WHERE order_id = 'authorized'`)

	require.Equal(t, []string{
		"sagas_awaiting_approval 1",
		"sagas_needing_attention{code=failing} 1",
		"sagas_open_money_minor_units{currency=EUR,phase=forward} 29994",
		"sagas_open_money_minor_units{currency=EUR,phase=pivoted} 9998",
		"sagas_open_money_minor_units{currency=EUR,phase=undoing} 9998",
		"sagas_open_money_minor_units{currency=USD,phase=forward} 700",
		"sagas_open{reason=,status=AWAITING_APPROVAL,step=approval} 1",
		"sagas_open{reason=,status=RUNNING,step=authorize-payment} 1",
		"sagas_open{reason=,status=RUNNING,step=capture-payment} 1",
		"sagas_open{reason=,status=RUNNING,step=commit-stock} 1",
		"sagas_open{reason=,status=RUNNING,step=reserve-stock} 1",
		"sagas_open{reason=authorization_expired,status=NEEDS_ATTENTION,step=release-stock} 1",
	}, gauges(t, newStore(pool)))
	require.Equal(t, []string{
		"checkouts_money_authorized_minor_units EUR 9998",
		"checkouts_money_authorized_minor_units USD 700",
		"checkouts_money_captured_minor_units EUR 9998",
		"checkouts_money_captured_minor_units USD 0",
		"checkouts_stock_reserved_pieces  10",
	}, held(t, checkouttest.Orders(pool)), "what the guest tells of the same rows")
	require.InDelta(t, 3600, gauge(t, undoing.store, "sagas_needing_attention_age_seconds"), 60)
	require.InDelta(t, 4*3600, gauge(t, undoing.store, "sagas_awaiting_approval_age_seconds"), 60)
	require.InDelta(t, 120, gauge(t, undoing.store, "sagas_overdue_age_seconds"), 60)
}

func TestWithoutOpenCheckoutsTheGaugesAreZero(t *testing.T) {
	t.Parallel()
	st := newStore(migrated(t))
	require.Equal(t, []string{"sagas_awaiting_approval 0"}, gauges(t, st))
	for _, age := range []string{"needing_attention", "awaiting_approval", "overdue"} {
		require.Zero(t, gauge(t, st, "sagas_"+age+"_age_seconds"))
	}
}

func TestManyScrapesAskTheDatabaseOnce(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	open := func() float64 { return gauge(t, s.store, "sagas_open") }
	require.EqualValues(t, 1, open())
	scenarioOn(t, s.pool, "ord-2")
	require.EqualValues(t, 1, open(), "what was read a moment ago")
	require.Eventually(t, func() bool { return open() == 2 }, 10*time.Second, 100*time.Millisecond)
}

func TestADatabaseThatDoesNotAnswerTakesOnlyTheGaugesFromAScrapeAndDoesNotHangIt(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	s.cancel(journal.CancelDone)
	lock, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = lock.Exec(t.Context(), `LOCK TABLE checkouts`)
	require.NoError(t, err)

	begin := time.Now()
	for range 20 {
		gather(t, s.store)
	}
	require.Less(t, time.Since(begin), 8*time.Second, "twenty scrapes wait as long as two at the most, and not each")
	require.Empty(t, gauges(t, s.store))
	require.LessOrEqual(t, gauge(t, s.store, "sagas_scrape_errors_total"), 3.0)
	require.EqualValues(t, 1, gauge(t, s.store, "sagas_ended_total"), "what this process counted is there")

	require.NoError(t, lock.Rollback(t.Context()))
	require.Eventually(t, func() bool { return len(gauges(t, s.store)) > 0 }, 10*time.Second, 100*time.Millisecond)
	require.Positive(t, gauge(t, s.store, "sagas_scrape_errors_total"))
}

// gauges are the lines of those that are no ages.
func gauges(t testing.TB, st *store.Store) []string {
	t.Helper()
	var lines []string
	for _, m := range gather(t, st) {
		switch m.name {
		case "sagas_awaiting_approval", "sagas_needing_attention", "sagas_open", "sagas_open_money_minor_units":
			lines = append(lines, fmt.Sprintf("%s %v", m.text, m.value))
		}
	}
	slices.Sort(lines)
	return lines
}

// gauge is the sum of a metric's series.
func gauge(t testing.TB, st *store.Store, name string) (sum float64) {
	t.Helper()
	for _, m := range gather(t, st) {
		if m.name == name {
			sum += m.value
		}
	}
	return sum
}

// held are the lines of what is held for open orders.
func held(t testing.TB, o *orders.Orders) (lines []string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(o.Collector())
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, series := range family.Metric {
			currency := ""
			for _, l := range series.Label {
				currency = l.GetValue()
			}
			lines = append(lines, fmt.Sprintf("%s %s %v", family.GetName(), currency, series.GetGauge().GetValue()))
		}
	}
	slices.Sort(lines)
	return lines
}
