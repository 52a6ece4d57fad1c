package pgtest

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

// CPU is what the open sessions of a database have used so far. The wall clock says little on a machine that others use too. It skips
// the benchmark where the database's processes cannot be seen, as on another system than Linux.
func CPU(b *testing.B, pool *pgxpool.Pool) (used time.Duration) {
	b.Helper()
	rows, err := pool.Query(b.Context(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database()`)
	if err != nil {
		b.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		b.Fatal(err)
	}
	seen := false
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // It has ended.
		}
		seen = true
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // From the third on; see proc(5).
		for _, field := range fields[11:13] {                           // utime and stime
			ticks, err := strconv.ParseInt(string(field), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			used += time.Duration(ticks) * tick
		}
	}
	if !seen {
		b.Skip("no process of the database is in /proc")
	}
	return used
}
