package orders

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

var (
	moneyAuthorized = prometheus.NewDesc("checkouts_money_authorized_minor_units",
		"Money that is authorized, and not captured, for checkouts that have not ended.", []string{"currency"}, nil)
	moneyCaptured = prometheus.NewDesc("checkouts_money_captured_minor_units",
		"Money that is captured for checkouts that have not ended.", []string{"currency"}, nil)
	stockReserved = prometheus.NewDesc("checkouts_stock_reserved_pieces",
		"Pieces that are reserved for checkouts that have not ended.", nil, nil)
)

// Collector tells what is held for the checkouts that have not ended.
func (o *Orders) Collector() prometheus.Collector { return gauges{pg.NewReading(o.held)} }

// gauges tell what is held.
type gauges struct{ held *pg.Reading[[]held] }

// held is what is held for open checkouts in one currency, in minor units and pieces.
type held struct {
	Currency                       string
	Authorized, Captured, Reserved int64
}

// selectHeld reads the open ones alone, by the index of those that the sweeper looks at. What is held is what the API says is held.
const selectHeld = `
	SELECT currency,
	       coalesce(sum(amount) FILTER (WHERE held.authorized AND NOT held.captured), 0)::bigint,
	       coalesce(sum(amount) FILTER (WHERE held.captured), 0)::bigint,
	       coalesce(sum(ordered.pieces) FILTER (WHERE held.reserved), 0)::bigint
	FROM checkouts,
	     LATERAL (SELECT coalesce(bool_or(name = 'reserve-stock'), false)     AS reserved,
	                     coalesce(bool_or(name = 'authorize-payment'), false) AS authorized,
	                     coalesce(bool_or(name = 'capture-payment'), false)   AS captured
	              FROM jsonb_to_recordset(progress) AS step (name text, state text, compensation text)
	              WHERE state IN ('done', 'resolved') AND compensation NOT IN ('done', 'resolved')) AS held,
	     LATERAL (SELECT sum(quantity) AS pieces FROM jsonb_to_recordset(items) AS item (quantity bigint)) AS ordered
	WHERE check_at IS NOT NULL
	GROUP BY currency`

func (o *Orders) held(ctx context.Context) ([]held, error) {
	rows, err := o.pool.Query(ctx, selectHeld)
	if err != nil {
		return nil, fmt.Errorf("read what is held: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[held])
	if err != nil {
		return nil, fmt.Errorf("read what is held: %w", err)
	}
	return all, nil
}

// Describe is prometheus.Collector's.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- moneyAuthorized
	ch <- moneyCaptured
	ch <- stockReserved
}

// Collect is prometheus.Collector's. It leaves the gauges out while the database does not answer: old figures would look like new ones.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	all, err := g.held.Latest()
	if err != nil {
		return // The store's own gauges count it.
	}
	var pieces int64
	for _, h := range all {
		ch <- prometheus.MustNewConstMetric(moneyAuthorized, prometheus.GaugeValue, float64(h.Authorized), h.Currency)
		ch <- prometheus.MustNewConstMetric(moneyCaptured, prometheus.GaugeValue, float64(h.Captured), h.Currency)
		pieces += h.Reserved
	}
	ch <- prometheus.MustNewConstMetric(stockReserved, prometheus.GaugeValue, float64(pieces))
}
