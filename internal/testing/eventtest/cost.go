package eventtest

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// Cost begins to measure what the sessions of a database cost. The function that it returns reports that, by the events that there
// were: the wall clock says little on a machine that others use too.
func Cost(b *testing.B, pool *pgxpool.Pool) (report func(events int)) {
	b.Helper()
	before := pgtest.CPU(b, pool)
	return func(events int) {
		cost := pgtest.CPU(b, pool) - before
		b.ReportMetric(float64(cost.Milliseconds())*1000/float64(events), "db-CPU-ms/1000events")
		b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	}
}
