package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/checkoutsaga/orchestrator/internal/telemetry"
)

// Logger is the log of a process that serves. It goes to stderr: stdout is for results.
func (s Surroundings) Logger(service string) (*slog.Logger, error) {
	log, err := telemetry.NewLogger(s.Err.To, service, s.Getenv("LOG_LEVEL"))
	if err != nil {
		return nil, Usage("%w", err)
	}
	return log, nil
}

// NotOpened says that a process could not begin: almost always something that it needs cannot be reached.
func NotOpened(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("stopped before it had begun")
	}
	return fmt.Errorf("cannot begin: %w", err)
}

// RunToTheEnd runs a process until it is told to stop; having been told is a good end.
func RunToTheEnd(ctx context.Context, log *slog.Logger, process interface{ Run(context.Context) error }) error {
	if err := process.Run(ctx); err != nil {
		return ExitWith(ExitFailed, "did not stop in order: %w", err)
	}
	log.Info("stopped: nothing is in hand any more")
	return nil
}
