package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// readOpenEvery is how old the gauges may be: however many scrape, the database is asked no more often. More load or older
	// figures is the choice.
	readOpenEvery = 3 * time.Second
	// readOpenTimeout bounds what a scrape waits for the database. Prometheus gives up after 10 s and would then know nothing.
	readOpenTimeout = 2 * time.Second
)

var (
	openCheckouts = prometheus.NewDesc("checkouts_open",
		"Checkouts that have not ended, by status, by the step or compensation that they are at and, where they are being undone, why.",
		[]string{"status", "step", "reason"}, nil)
	overdueAge = prometheus.NewDesc("checkouts_overdue_age_seconds",
		"For how long the most overdue checkout has waited for the sweeper; minutes mean that nobody sweeps.", nil, nil)
	needingAttention = prometheus.NewDesc("checkouts_needing_attention",
		"Checkouts that wait for an operator, by the cause's word.", []string{"code"}, nil)
	needingAttentionAge = prometheus.NewDesc("checkouts_needing_attention_age_seconds",
		"For how long the oldest of them has waited.", nil, nil)
	awaitingApproval = prometheus.NewDesc("checkouts_awaiting_approval",
		"Checkouts that wait for somebody to approve them.", nil, nil)
	awaitingApprovalAge = prometheus.NewDesc("checkouts_awaiting_approval_age_seconds",
		"For how long the oldest of them has waited.", nil, nil)
	moneyAuthorized = prometheus.NewDesc("checkouts_money_authorized_minor_units",
		"Money that is authorized, and not captured, for checkouts that have not ended.", []string{"currency"}, nil)
	moneyCaptured = prometheus.NewDesc("checkouts_money_captured_minor_units",
		"Money that is captured for checkouts that have not ended.", []string{"currency"}, nil)
	stockReserved = prometheus.NewDesc("checkouts_stock_reserved_pieces",
		"Pieces that are reserved for checkouts that have not ended.", nil, nil)
)

// gauges tell how the open checkouts stand.
type gauges struct {
	pool    *pgxpool.Pool
	reasons *words
	failed  prometheus.Counter

	mu     sync.Mutex // held while the database is asked, so that those who scrape together ask once
	groups []openGroup
	err    error
	readAt time.Time
}

func newGauges(pool *pgxpool.Pool, reasons *words) *gauges {
	return &gauges{pool: pool, reasons: reasons, failed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "checkouts_scrape_errors_total",
		Help: "How often the database did not tell in time how the open checkouts stand, so that a scrape went without them.",
	})}
}

// openGroup is what open checkouts that have these five in common add up to.
type openGroup struct {
	Status, Step, Reason, Attention, Currency string
	Checkouts                                 int64
	// The ages are of the oldest, in seconds; zero or less where there is none.
	AttentionAge, ApprovalAge, OverdueAge float64
	// Authorized and Captured are in minor units.
	Authorized, Captured, Reserved int64
}

// selectOpen reads by the index of those that the sweeper looks at, which has the open ones only: there are few of them however
// many have ended. What is held is what the API says is held.
const selectOpen = `
	SELECT status, at_step, reason_code, coalesce(attention ->> 'code', ''), currency,
	       count(*),
	       coalesce(extract(epoch FROM clock_timestamp() - min((attention ->> 'since')::timestamptz)), 0)::float8,
	       coalesce(extract(epoch FROM clock_timestamp()
	                        - min(approval_deadline - approval_wait) FILTER (WHERE status = 'AWAITING_APPROVAL')), 0)::float8,
	       extract(epoch FROM clock_timestamp() - min(check_at))::float8,
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
	GROUP BY 1, 2, 3, 4, 5`

func (g *gauges) read() ([]openGroup, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readOpenTimeout)
	defer cancel()
	rows, err := g.pool.Query(ctx, selectOpen)
	if err != nil {
		return nil, fmt.Errorf("read open checkouts: %w", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[openGroup])
	if err != nil {
		return nil, fmt.Errorf("read open checkouts: %w", err)
	}
	return groups, nil
}

// latest asks the database unless it was asked a moment ago. A failure is remembered as an answer is: a database that is slow
// is not asked again by each scrape that has waited for it.
func (g *gauges) latest() ([]openGroup, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readAt.IsZero() || time.Since(g.readAt) >= readOpenEvery {
		if g.groups, g.err = g.read(); g.err != nil {
			g.failed.Inc()
		}
		g.readAt = time.Now()
	}
	return g.groups, g.err
}

// Describe is prometheus.Collector's.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		openCheckouts, overdueAge, needingAttention, needingAttentionAge, awaitingApproval, awaitingApprovalAge,
		moneyAuthorized, moneyCaptured, stockReserved,
	} {
		ch <- d
	}
	g.failed.Describe(ch)
}

// Collect is prometheus.Collector's. It leaves the gauges out while the database does not answer: old figures would look like
// new ones, and an error would take all other metrics from the page too.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	groups, err := g.latest()
	g.failed.Collect(ch)
	if err != nil {
		return
	}
	g.tell(ch, groups)
}

func (g *gauges) tell(ch chan<- prometheus.Metric, groups []openGroup) {
	type place struct{ status, step, reason string }
	open := make(map[place]int64)
	attention, authorized, captured := make(map[string]int64), make(map[string]int64), make(map[string]int64)
	var approvals, pieces int64
	var attentionAge, approvalAge, overdue float64
	for _, group := range groups {
		open[place{group.Status, group.Step, g.reasons.label(group.Reason)}] += group.Checkouts
		if group.Attention != "" {
			attention[group.Attention] += group.Checkouts
		}
		if group.Status == "AWAITING_APPROVAL" {
			approvals += group.Checkouts
		}
		authorized[group.Currency] += group.Authorized
		captured[group.Currency] += group.Captured
		pieces += group.Reserved
		attentionAge = max(attentionAge, group.AttentionAge)
		approvalAge = max(approvalAge, group.ApprovalAge)
		overdue = max(overdue, group.OverdueAge)
	}

	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for at, n := range open {
		gauge(openCheckouts, float64(n), at.status, at.step, at.reason)
	}
	for code, n := range attention {
		gauge(needingAttention, float64(n), code)
	}
	for currency, sum := range authorized {
		gauge(moneyAuthorized, float64(sum), currency)
	}
	for currency, sum := range captured {
		gauge(moneyCaptured, float64(sum), currency)
	}
	gauge(overdueAge, overdue)
	gauge(needingAttentionAge, attentionAge)
	gauge(awaitingApproval, float64(approvals))
	gauge(awaitingApprovalAge, approvalAge)
	gauge(stockReserved, float64(pieces))
}
