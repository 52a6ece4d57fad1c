package outage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/tests/harness"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// goesOnWithin is I8's bound for the embedded engine.
const goesOnWithin = 10 * time.Second

func TestI8EmbeddedTheDatabaseIsRestartedAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := startDev(t, folder(t))
	load := startLoad(t, &s.System)
	for range restarts {
		load.awaitEnds(t, 3)
		require.NoError(t, s.server.Restart(t.Context()))
	}
	s.goOn(t, load, time.Now())
}

func TestI8EmbeddedTheDatabaseIsStoppedForAMinute(t *testing.T) {
	t.Parallel()
	s := startDev(t, folder(t))
	load := startLoad(t, &s.System)
	load.awaitEnds(t, 20)
	require.NoError(t, s.server.Halt(t.Context()))
	awaitSaying(t, s.Process.URL(), "database: missing since ")
	awaitUnavailable(t, &s.System)
	time.Sleep(stopped) // It is the outage itself.
	require.NoError(t, s.server.Restart(t.Context()))
	s.goOn(t, load, time.Now())
}

func TestI8EmbeddedEachConnectionIsCutInTurn(t *testing.T) {
	t.Parallel()
	s := startDev(t, folder(t))
	load := startLoad(t, &s.System)
	load.awaitEnds(t, 20)
	cut := cutEachInTurn(t, s.server.SuperuserURL("postgres"))
	t.Logf("%d connections were cut, one after the other", cut)
	s.goOn(t, load, time.Now())
}

func TestI8EmbeddedOthersTakeAllConnections(t *testing.T) {
	t.Parallel()
	s := startDev(t, folder(t))
	load := startLoad(t, &s.System)
	load.awaitEnds(t, 20)
	release := takeAllConnections(t, s.server.SuperuserURL("postgres"))
	awaitSaying(t, s.Process.URL(), "database: missing since ")
	awaitUnavailable(t, &s.System)
	time.Sleep(crowded) // It is the outage itself.
	release()
	s.goOn(t, load, time.Now())
}

func TestI8EmbeddedTheDatabasesDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	s := startDev(t, disk)
	load := startLoad(t, &s.System)
	load.awaitEnds(t, 20)
	release := fill(t, disk)
	awaitFullDisk(t, &s.System)
	time.Sleep(full) // It is the outage itself.
	release()
	// A full disk may have ended the server, which whoever runs it starts again.
	require.NoError(t, s.server.Restart(t.Context()))
	s.goOn(t, load, time.Now())
}

// dev is the whole system in one process, on a PostgreSQL server of its own.
type dev struct {
	*harness.Dev
	server *localstack.Postgres
	pid    int
}

func startDev(t *testing.T, dir string) dev {
	t.Helper()
	server := startServer(t, dir)
	databases := judge.Databases{}
	for _, name := range append(node.Participants(), "orchestrator") {
		url, err := server.EnsureDatabase(t.Context(), name)
		require.NoError(t, err)
		databases[name] = url
	}
	d := harness.StartDev(t, databases)
	d.WatchSums(t)
	return dev{Dev: d, server: server, pid: d.Process.PID()}
}

// goOn demands that work has gone on in time since the database is back, that all ends rightly, and that nobody had to start
// anything.
func (s dev) goOn(t *testing.T, load *load, back time.Time) {
	t.Helper()
	open := openNow(t, &s.System)
	first := requireProgress(t, &s.System, back, goesOnWithin)
	accepted := load.stop(t)
	s.AwaitAllEnded(t, time.Minute)
	t.Logf("I8: it went on %s after the database was back; %d orders were accepted, and %d calls answered unavailable; all had ended after %s",
		first.Round(time.Millisecond), accepted, load.unavailable.Load(), time.Since(back).Round(time.Millisecond))
	last, after := lastProgress(t, &s.System, open, back)
	t.Logf("of the %d that were open then the last to go on was %s, after %s", len(open), last, after.Round(time.Millisecond))
	require.True(t, s.Process.Running())
	require.Equal(t, s.pid, s.Process.PID(), "the process stays")
	s.Process.AwaitReady(t)
	s.Audit(t)
	final, err := s.Judge.Final(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	t.Logf("ends: %v", final)
	require.Positive(t, final["CONFIRMED"])
	require.Positive(t, final["REJECTED"])
}
