package eventtest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tick is the unit of time in /proc/<pid>/stat.
const tick = 10 * time.Millisecond

// Cost begins to measure what the sessions of a database cost. The function that it returns reports that, by the events that there
// were: the wall clock says little on a machine that others use too.
func Cost(b *testing.B, pool *pgxpool.Pool) (report func(events int)) {
	b.Helper()
	before := used(b, pool)
	return func(events int) {
		cost := used(b, pool) - before
		b.ReportMetric(float64(cost.Milliseconds())*1000/float64(events), "db-CPU-ms/1000events")
		b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
	}
}

// used is the CPU that a database's open sessions have used.
func used(b *testing.B, pool *pgxpool.Pool) (sum time.Duration) {
	b.Helper()
	rows, err := pool.Query(b.Context(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database()`)
	if err != nil {
		b.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // It has ended.
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // From the third on; see proc(5).
		for _, field := range fields[11:13] {                           // utime and stime
			ticks, err := strconv.ParseInt(string(field), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(ticks) * tick
		}
	}
	return sum
}
