package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/process"
)

// Exit statuses; scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitForbidden   = 5
	exitUnreachable = 6
	exitNotEnded    = 7
	exitFindings    = 8
	exitRejected    = 10
	exitUndone      = 11
	exitAttention   = 12
	// What a signal cut short ends with 128 and the signal's number: see process.Stopped.
)

// exit is an error that knows the status it ends the process with.
type exit struct {
	status int
	err    error
	// news is told as it is: it is no error of this program, whose name stands before errors.
	news bool
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

// exitWith returns an error that ends the process with status, in a sentence of ours. What it is given is made visible.
func exitWith(status int, format string, args ...any) error {
	return &exit{status: status, err: fmt.Errorf(format, shown(args)...)}
}

// usage is wrong usage or refused input; nothing was changed.
func usage(format string, args ...any) error {
	return exitWith(exitUsage, format, args...)
}

// cutShort is the end of a verb by a signal, in the verb's own words. Without a signal, as when a caller gives up, it failed.
func cutShort(ctx context.Context, format string, args ...any) *exit {
	err := &exit{status: exitFailed, err: fmt.Errorf(format, shown(args)...)}
	if by, stopped := stoppedBy(ctx); stopped {
		err.status = by.ExitStatus()
	}
	return err
}

// news makes an end one that is told without the program's name before it.
func news(e *exit) error {
	e.news = true
	return e
}

// stoppedBy tells which signal has ended ctx, if one has.
func stoppedBy(ctx context.Context) (by process.Stopped, stopped bool) {
	stopped = errors.As(context.Cause(ctx), &by)
	return by, stopped
}

// ended turns the error of a verb that a signal broke off, wherever it was, into what happened. An error that knows its status is the
// verb's own word, and stays.
func ended(ctx context.Context, err error) error {
	var known *exit
	if by, stopped := stoppedBy(ctx); stopped && isCancelled(err) && !errors.As(err, &known) {
		return cutShort(ctx, "%w", by)
	}
	return err
}

// isCancelled tells whether an error says no more than that a context ended.
func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled
}

// exitStatus is the one place that decides how the process ends.
func exitStatus(err error) int {
	var known *exit
	var wire *connect.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &known):
		return known.status
	case errors.As(err, &wire):
		return statusOfCode(wire.Code())
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnreachable
	}
	return exitFailed
}

func statusOfCode(code connect.Code) int {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return exitUsage
	case connect.CodeNotFound:
		return exitNotFound
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeAborted:
		return exitConflict
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return exitForbidden
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return exitUnreachable
	}
	return exitFailed
}

// explain is an error as people read it: a sentence, or a line for each field that is wrong. What comes from elsewhere is visible in
// it, so that each of its line breaks is ours.
func explain(err error) string {
	switch e := err.(type) {
	case *exit:
		return e.Error()
	case *connect.Error:
		return explainRefusal(e)
	case interface{ Unwrap() []error }:
		return explainAll(err, e.Unwrap())
	}
	if cause := errors.Unwrap(err); cause != nil {
		if before, found := strings.CutSuffix(err.Error(), cause.Error()); found {
			return visible(before) + explain(cause)
		}
	}
	return visible(err.Error())
}

// explainRefusal is what the server says.
func explainRefusal(refusal *connect.Error) string {
	var lines []string
	for _, detail := range refusal.Details() {
		if value, err := detail.Value(); err == nil {
			if f, ok := value.(*checkoutv1.BadField); ok {
				lines = append(lines, "  "+visible(f.Field)+": "+visible(f.Problem))
			}
		}
	}
	if len(lines) > 0 {
		return "refused, nothing was changed:\n" + strings.Join(lines, "\n")
	}
	return visible(refusal.Message())
}

// explainAll has a line for each of several errors that were joined.
func explainAll(err error, causes []error) string {
	texts, lines := make([]string, len(causes)), make([]string, len(causes))
	for i, cause := range causes {
		texts[i], lines[i] = cause.Error(), explain(cause)
	}
	if err.Error() != strings.Join(texts, "\n") {
		return visible(err.Error()) // They stand in a sentence.
	}
	return strings.Join(slices.Compact(lines), "\n")
}
