package process

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
)

// asParticipant in the environment makes this test binary a participant, so that tests can send it real signals.
const asParticipant = "PROCESS_TEST_AS_PARTICIPANT"

func TestMain(m *testing.M) {
	if os.Getenv(asParticipant) != "" {
		Main(Kind{Name: "idle", Listen: "127.0.0.1:0", Open: func(context.Context, string, *slog.Logger) (Service, error) { return idle{}, nil }})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// idle is a participant that does nothing until its end.
type idle struct{}

func (idle) Mount(*rpcserver.Server)     {}
func (idle) Ready(context.Context) error { return nil }
func (idle) Outbox() *outbox.Outbox      { return nil }
func (idle) Inbox() *inbox.Inbox         { return nil }
func (idle) Close()                      {}
func (idle) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestAParticipantStopsInOrderAtEachSignalThatAsksForIt(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = []string{asParticipant + "=1", "IDLE_DATABASE_URL=not read", "IDLE_LISTEN=127.0.0.1:0"}
			log, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			var all strings.Builder
			for lines := bufio.NewScanner(log); lines.Scan(); {
				all.WriteString(lines.Text() + "\n")
				if strings.Contains(lines.Text(), "serving") {
					require.NoError(t, cmd.Process.Signal(signal))
				}
			}
			require.NoError(t, cmd.Wait(), all.String())
			require.Contains(t, all.String(), "nothing is in hand any more")
		})
	}
}

func TestTheStatusOfASignalIsWhatAShellShows(t *testing.T) {
	t.Parallel()
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 143} {
		require.Equal(t, want, Stopped{Signal: signal}.ExitStatus())
		require.ErrorIs(t, Stopped{Signal: signal}, context.Canceled, "so that libraries take it for a cancellation")
	}
}
