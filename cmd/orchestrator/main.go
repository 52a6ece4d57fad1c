// Command orchestrator runs the orchestrator of checkouts (serve, dev) and is the command line of its API (all other
// verbs). It wires and translates; what a checkout is and does lies below internal/ and workflows/.
package main

import (
	"os"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/telemetry"
)

func main() {
	ctx := process.UntilSignal()
	out, prose := printer{os.Stdout}, printer{os.Stderr}
	traces, err := telemetry.StartTracing(ctx, "orchestrator", os.Getenv)
	if err != nil {
		prose.say("orchestrator: %v", err)
		os.Exit(exitUsage)
	}
	status := run(event.WithTrace(ctx, os.Getenv("TRACEPARENT")), os.Args[1:], surroundings{
		in: os.Stdin, out: out, err: prose, getenv: os.Getenv, workDir: workDir(), now: time.Now,
		colour: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "", terminal: isTerminal(os.Stdin),
	})
	if err := traces.Stop(); err != nil {
		prose.say("orchestrator: the last spans were not sent: %v", err)
	}
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

// isTerminal tells a terminal from files, pipes, and the null device, which is a character device, too.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
