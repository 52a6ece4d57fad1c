package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

var (
	openSagas = prometheus.NewDesc("sagas_open",
		"Sagas that have not ended, by status, by the step or compensation that they are at and, where they are being undone, why.",
		[]string{"saga", "status", "step", "reason"}, nil)
	openMoney = prometheus.NewDesc("sagas_open_money_minor_units",
		"Money that is at stake in sagas that have not ended, by phase: it may be undone (forward), is being undone (undoing), or goes forward (pivoted).",
		[]string{"saga", "currency", "phase"}, nil)
	overdueAge = prometheus.NewDesc("sagas_overdue_age_seconds",
		"For how long the most overdue saga has waited for the sweeper; minutes mean that nobody sweeps.", nil, nil)
	needingAttention = prometheus.NewDesc("sagas_needing_attention",
		"Sagas that wait for an operator, by the cause's word.", []string{"saga", "code"}, nil)
	needingAttentionAge = prometheus.NewDesc("sagas_needing_attention_age_seconds",
		"For how long the oldest of them has waited.", nil, nil)
	awaitingApproval = prometheus.NewDesc("sagas_awaiting_approval",
		"Sagas that wait for somebody to approve them.", nil, nil)
	awaitingApprovalAge = prometheus.NewDesc("sagas_awaiting_approval_age_seconds",
		"For how long the oldest of them has waited.", nil, nil)
)

// gauges are figures of the open sagas.
type gauges struct {
	reasons *words
	failed  prometheus.Counter
	open    *pg.Reading[[]OpenGroup]
}

func newGauges(read func(context.Context) ([]OpenGroup, error), reasons *words) *gauges {
	g := &gauges{reasons: reasons, failed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sagas_scrape_errors_total",
		Help: "How often the database did not tell in time how the open sagas stand, so that a scrape went without them.",
	})}
	g.open = pg.NewReading(func(ctx context.Context) ([]OpenGroup, error) {
		groups, err := read(ctx)
		if err != nil {
			g.failed.Inc()
		}
		return groups, err
	})
	return g
}

// OpenGroup is the sum of open sagas that have these eight in common.
type OpenGroup struct {
	Engine, Definition, Status, Phase, Step, Reason, Attention, Currency string
	Sagas                                                                int64
	// The ages are of the oldest, in seconds; zero or less where there is none.
	AttentionAge, ApprovalAge, OverdueAge float64
	// Money is in minor units.
	Money int64
}

// selectOpen uses the sweeper's index, which has only the open sagas: they are few, however many have ended.
const selectOpen = `
	SELECT engine, definition, status, phase, at_step, reason_code, coalesce(attention ->> 'code', ''), currency,
	       count(*),
	       coalesce(extract(epoch FROM clock_timestamp() - min((attention ->> 'since')::timestamptz)), 0)::float8,
	       coalesce(extract(epoch FROM clock_timestamp()
	                        - min(approval_deadline - approval_wait) FILTER (WHERE status = 'AWAITING_APPROVAL')), 0)::float8,
	       extract(epoch FROM clock_timestamp() - min(check_at))::float8,
	       sum(amount)::bigint
	FROM sagas
	WHERE check_at IS NOT NULL
	GROUP BY 1, 2, 3, 4, 5, 6, 7, 8`

// OpenGroups tells how the open sagas stand.
func (s *Store) OpenGroups(ctx context.Context) ([]OpenGroup, error) {
	rows, err := s.pool.Query(ctx, selectOpen)
	if err != nil {
		return nil, fmt.Errorf("read open sagas: %w", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[OpenGroup])
	if err != nil {
		return nil, fmt.Errorf("read open sagas: %w", err)
	}
	return groups, nil
}

// Describe is prometheus.Collector's.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		openSagas, openMoney, overdueAge, needingAttention, needingAttentionAge, awaitingApproval, awaitingApprovalAge,
	} {
		ch <- d
	}
	g.failed.Describe(ch)
}

// Collect is prometheus.Collector's. It leaves the gauges out while the database does not answer: old figures would look like
// new ones, and an error would take all other metrics from the page too.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	groups, err := g.open.Latest()
	g.failed.Collect(ch)
	if err != nil {
		return
	}
	g.tell(ch, groups)
}

func (g *gauges) tell(ch chan<- prometheus.Metric, groups []OpenGroup) {
	type place struct{ definition, status, step, reason string }
	type cause struct{ definition, code string }
	type stake struct{ definition, currency, phase string }
	open, attention, money := make(map[place]int64), make(map[cause]int64), make(map[stake]int64)
	var approvals int64
	var attentionAge, approvalAge, overdue float64
	for _, group := range groups {
		open[place{group.Definition, group.Status, group.Step, g.reasons.label(group.Reason)}] += group.Sagas
		if group.Attention != "" {
			attention[cause{group.Definition, group.Attention}] += group.Sagas
		}
		if group.Status == "AWAITING_APPROVAL" {
			approvals += group.Sagas
		}
		if group.Currency != "" {
			money[stake{group.Definition, group.Currency, group.Phase}] += group.Money
		}
		attentionAge = max(attentionAge, group.AttentionAge)
		approvalAge = max(approvalAge, group.ApprovalAge)
		overdue = max(overdue, group.OverdueAge)
	}

	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for at, n := range open {
		gauge(openSagas, float64(n), at.definition, at.status, at.step, at.reason)
	}
	for of, n := range attention {
		gauge(needingAttention, float64(n), of.definition, of.code)
	}
	for of, sum := range money {
		gauge(openMoney, float64(sum), of.definition, of.currency, of.phase)
	}
	gauge(overdueAge, overdue)
	gauge(needingAttentionAge, attentionAge)
	gauge(awaitingApproval, float64(approvals))
	gauge(awaitingApprovalAge, approvalAge)
}
