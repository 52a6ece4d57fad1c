package main

import (
	"context"
	"errors"
	"fmt"
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

// exitWith returns an error that ends the process with status.
func exitWith(status int, format string, args ...any) error {
	return &exit{status: status, err: fmt.Errorf(format, args...)}
}

// usage is wrong usage or refused input; nothing was changed.
func usage(format string, args ...any) error {
	return exitWith(exitUsage, format, args...)
}

// cutShort is the end of a verb by a signal, in the verb's own words. Without a signal, as when a caller gives up, it failed.
func cutShort(ctx context.Context, format string, args ...any) *exit {
	err := &exit{status: exitFailed, err: fmt.Errorf(format, args...)}
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

// explain is an error as people read it: a sentence, or a line for each field that is wrong.
func explain(err error) string {
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return err.Error()
	}
	var lines []string
	for _, detail := range wire.Details() {
		if value, err := detail.Value(); err == nil {
			if f, ok := value.(*checkoutv1.BadField); ok {
				lines = append(lines, "  "+f.Field+": "+f.Problem)
			}
		}
	}
	if len(lines) > 0 {
		return "refused, nothing was changed:\n" + strings.Join(lines, "\n")
	}
	return wire.Message()
}
