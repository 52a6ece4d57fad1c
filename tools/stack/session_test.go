package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

func TestASessionIsFoundAndEndedAlsoWhenItsFirstProcessWasKilled(t *testing.T) {
	s := testStack(t)
	var st state
	// As `dapr run` does: it starts children, and one of them ignores the request to stop.
	started, err := s.start(&st, "parent", nil, "sh", "-c", `sh -c 'trap "" TERM; while :; do sleep 0.1; done' & sleep 100`)
	require.NoError(t, err)
	t.Cleanup(func() { _ = started.end(context.Background(), s.root, time.Second) })
	await(t, "its processes to run", func() bool { return len(started.members(s.root)) >= 3 })

	require.NoError(t, syscall.Kill(started.ID, syscall.SIGKILL))
	await(t, "the first to be gone", func() bool { return len(started.members(s.root)) >= 2 && syscall.Kill(started.ID, 0) != nil })

	running, _ := s.running()
	require.True(t, running, "what it left behind counts")
	require.NoError(t, started.end(t.Context(), s.root, 200*time.Millisecond))
	require.Empty(t, started.members(s.root))
	running, _ = s.running()
	require.False(t, running)
}

func TestProcessesOfAnotherFolderAreNotOurs(t *testing.T) {
	s := testStack(t)
	var st state
	started, err := s.start(&st, "sleeper", nil, "sleep", "100")
	require.NoError(t, err)
	t.Cleanup(func() { _ = started.end(context.Background(), s.root, time.Second) })
	await(t, "it to run", func() bool { return len(started.members(s.root)) == 1 })
	require.Empty(t, started.members(t.TempDir()))
}

func TestWhatSomebodyExportedDoesNotReachOurPrograms(t *testing.T) {
	own := []string{"PATH=/bin", "ORCHESTRATOR_SERVER=http://elsewhere", "DAPR_HTTP_PORT=1", "APP_PORT=2"}
	require.Equal(t, []string{"PATH=/bin", "ORCHESTRATOR_LISTEN=here"}, environment(own, map[string]string{"ORCHESTRATOR_LISTEN": "here"}))
}

func TestEnvFileIsReadAsItWasWritten(t *testing.T) {
	s := testStack(t)
	want := map[string]string{"ORCHESTRATOR_SERVER": "http://127.0.0.1:1", "PAYMENT_DATABASE_URL": "postgres://x/y?sslmode=disable"}
	require.NoError(t, s.writeEnv(want))
	got, err := s.readEnv()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestLogTailsTellTheEndsAndNeitherMachineNorFolder(t *testing.T) {
	s := testStack(t)
	host, err := os.Hostname()
	require.NoError(t, err)
	log := "time=1 level=info msg=chatter instance=" + host + " scope=dapr.runtime\n" +
		"time=2 level=error msg=\"cannot open " + s.local("x") + " of postgres://a:secret@h\" instance=" + host + " scope=dapr.runtime\n"
	require.NoError(t, os.WriteFile(s.local("log", "dapr.log"), []byte(log), 0o644))
	tails := s.logTails()
	require.Equal(t, "--- end of .local/log/dapr.log\ntime=2 level=error msg=\"cannot open .local/x of postgres://a:xxxxx@h\" scope=dapr.runtime\n", tails)
}

func testStack(t *testing.T) *stack {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	s := &stack{root: root, out: io.Discard}
	require.NoError(t, os.MkdirAll(s.local("log"), 0o700))
	return s
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, localstack.WaitFor(ctx, what, func(context.Context) error {
		if !holds() {
			return errors.New("not yet")
		}
		return nil
	}))
}
