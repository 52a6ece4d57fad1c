package dapr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestI8OfTwoOrchestratorsEachIsKilledInTurn has two orchestrators of one app id share a database while both take orders. Neither is
// special: whichever swept, published or drove a checkout when it was killed, the other goes on with that.
func TestI8OfTwoOrchestratorsEachIsKilledInTurn(t *testing.T) {
	s := open(t)
	first := s.Stack.Orchestrator
	second, err := s.StartReplica(t.Context())
	require.NoError(t, err)
	t.Cleanup(s.StopReplica)
	urls := s.URLs()
	urls[stack.Orchestrator] = second.URL
	door := system{System: harness.Connect(t, urls, s.Whole.Databases()), Whole: s.Whole}

	bothDrive(t, door, first, second)
	for _, victim := range []struct {
		name    string
		kill    func()
		restart func(ctx context.Context) error
	}{
		{"the first orchestrator", first.App.Kill, first.RestartWorker},
		{"the second orchestrator", second.App.Kill, second.RestartWorker},
		{"the sidecar of the first", first.Sidecar.Kill, first.Sidecar.Restart},
		{"the sidecar of the second", second.Sidecar.Kill, second.Sidecar.Restart},
	} {
		t.Run(victim.name, func(t *testing.T) {
			killUnderWay(t, open(t), victim.kill, victim.restart, time.Minute, door)
		})
	}
}

// bothDrive waits until each orchestrator has made attempts at steps, whoever took the orders.
func bothDrive(t *testing.T, door system, orchestrators ...*stack.Service) {
	t.Helper()
	for i := 0; ; i++ {
		require.Less(t, i, 50, "so many checkouts went to one of the two orchestrators alone")
		id := newID("shared")
		door.Start(t, harness.Order{ID: id})
		door.AwaitEnd(t, id, harness.Confirmed)
		all := true
		for _, o := range orchestrators {
			made, err := attempts(t.Context(), o.URL)
			require.NoError(t, err)
			all = all && made > 0
		}
		if all {
			return
		}
	}
}

var attemptsLine = regexp.MustCompile(`(?m)^step_attempts_total\{[^}]*\} (\S+)$`)

// attempts is how many attempts at steps an orchestrator has made.
func attempts(ctx context.Context, url string) (sum float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, errors.New(answer.Status)
	}
	for _, line := range attemptsLine.FindAllSubmatch(text, -1) {
		n, err := strconv.ParseFloat(string(line[1]), 64)
		if err != nil {
			return 0, fmt.Errorf("read metric: %w", err)
		}
		sum += n
	}
	return sum, nil
}
