package process

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Stopped is the cause of a context that a signal ended.
type Stopped struct{ Signal syscall.Signal }

func (s Stopped) Error() string {
	if s.Signal == syscall.SIGINT {
		return "interrupted"
	}
	return "terminated"
}

// Is makes it a cancellation to libraries that ask for one.
func (Stopped) Is(target error) bool { return target == context.Canceled }

// ExitStatus is what a shell shows for a program that such a signal ended: 130 for an interrupt, 143 for SIGTERM. SIGHUP, which a
// terminal sends when it goes away, counts as SIGTERM.
func (s Stopped) ExitStatus() int {
	if s.Signal == syscall.SIGHUP {
		return 128 + int(syscall.SIGTERM)
	}
	return 128 + int(s.Signal)
}

// UntilSignal returns the context of a whole program: it ends at the first interrupt, SIGTERM or SIGHUP, with a Stopped as its
// cause. The next one ends the process at once. Signals that the process was started to ignore (by nohup, or in the background of a
// script) stay ignored.
func UntilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	go func() {
		s := <-signals
		// Before anybody can know of the first signal, so that a second one ends the process.
		signal.Stop(signals)
		cancel(Stopped{Signal: s.(syscall.Signal)})
	}()
	return ctx
}
