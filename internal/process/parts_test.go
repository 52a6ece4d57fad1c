package process

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// journal notes what happens, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// untilStopped is a Part that runs until it is told to stop.
func (j *journal) untilStopped(name string) Part {
	return Part{name, func(ctx context.Context) error {
		<-ctx.Done()
		j.note(name)
		return nil
	}}
}

func TestPartsStopOneAfterTheOther(t *testing.T) {
	for range 20 { // An order by chance would show.
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, RunParts(ctx, slog.New(slog.DiscardHandler), j.untilStopped("api"), j.untilStopped("engine"), j.untilStopped("sweeper")))
		require.Equal(t, []string{"api", "engine", "sweeper"}, j.lines)
	}
}

func TestAPartThatEndsByItselfStopsTheOthersAndIsAFailure(t *testing.T) {
	for want, end := range map[string]error{"engine: lost its lock": errors.New("lost its lock"), "engine: ended by itself": nil} {
		var j journal
		broken := Part{"engine", func(context.Context) error { return end }}
		err := RunParts(t.Context(), slog.New(slog.DiscardHandler), j.untilStopped("api"), broken, j.untilStopped("sweeper"))
		require.EqualError(t, err, want)
		require.Equal(t, []string{"api", "sweeper"}, j.lines)
	}
}
