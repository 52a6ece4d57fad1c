package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
)

// Part is something that a process does until its context ends.
type Part struct {
	Name string
	Run  func(context.Context) error
}

// RunParts runs all parts at once. When ctx ends, or when one of them ends by itself, it stops them one after the other in
// the given order, each after the one before it has ended. A part that ends by itself is a failure, with an error or without.
func RunParts(ctx context.Context, log *slog.Logger, parts ...Part) error {
	collectLess()
	type running struct {
		stop context.CancelFunc
		done chan error
	}
	all := make([]running, len(parts))
	ended := make(chan string, len(parts))
	for i, p := range parts {
		// Detached from ctx, whose end must not stop all parts at the same time.
		partCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		all[i] = running{stop: stop, done: make(chan error, 1)}
		go func() {
			err := p.Run(partCtx)
			if err == nil && partCtx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", p.Name, err)
			}
			ended <- p.Name
			all[i].done <- err
		}()
	}

	select {
	case <-ctx.Done():
		log.Info("stopping: what is in hand is finished first")
	case name := <-ended:
		log.Error("stopping, because a part of this process ended", "part", name)
	}
	var failed []error
	for i, r := range all {
		r.stop()
		failed = append(failed, <-r.done)
		log.Info("stopped", "part", parts[i].Name)
	}
	return errors.Join(failed...)
}

// heapGrowth is how much a heap grows until it is collected, in percent of what is live, unless GOGC says so: Go's own 100 collects a
// process that needs a few megabytes many times a second.
const heapGrowth = 400

func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}
