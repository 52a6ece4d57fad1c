// Command orchestrator runs the orchestrator of checkouts (serve, dev) and is the command line of its API (all other
// verbs). It wires and translates; what a checkout is and does lies below internal/ and workflows/.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	// The first signal asks for an orderly end; a second one ends the process at once, because stop gives it back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	status := run(ctx, os.Args[1:], surroundings{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, workDir: workDir(), now: time.Now,
		colour: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "",
	})
	os.Exit(status)
}

// workDir is where the search for .local/env begins; without one there is none.
func workDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	return dir
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
