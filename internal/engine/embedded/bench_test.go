package embedded_test

import (
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func BenchmarkEngine(b *testing.B) {
	url := pgtest.URL(b)
	enginetest.Bench(b, func(b *testing.B, registry *task.TaskRegistry) engine.Engine { return open(b, url, registry) })
}

// BenchmarkAfter10000Instances is BenchmarkEngine on a database in which 10,000 instances have ended.
func BenchmarkAfter10000Instances(b *testing.B) {
	url := pgtest.URL(b)
	open(b, url, task.NewTaskRegistry())
	conn, err := pgx.Connect(b.Context(), url)
	require.NoError(b, err)
	_, err = conn.Exec(b.Context(), `
		INSERT INTO engine.log (key, seq, id, status, events)
		SELECT n, s, CASE WHEN s = 0 THEN 'old-' || n END, s / 4, repeat('x', 1500)::bytea FROM generate_series(1, 10000) n, generate_series(0, 4) s;
		UPDATE engine.low_water SET key = 10001`)
	require.NoError(b, err)
	require.NoError(b, conn.Close(b.Context()))
	enginetest.Bench(b, func(b *testing.B, registry *task.TaskRegistry) engine.Engine { return open(b, url, registry) })
}

// BenchmarkIdle runs an engine that has nothing to do for 10 s; own-cpu is this process's, database's is not in it.
func BenchmarkIdle(b *testing.B) {
	run(b, open(b, pgtest.URL(b), task.NewTaskRegistry()))
	cpu := enginetest.CPUTime()
	for b.Loop() {
		<-time.After(10 * time.Second)
	}
	b.ReportMetric(float64((enginetest.CPUTime()-cpu).Milliseconds())/float64(b.N)/100, "own-cpu-%")
}
