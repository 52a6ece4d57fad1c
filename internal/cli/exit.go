package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/checkoutsaga/orchestrator/internal/process"
)

// Exit statuses; scripts rely on them.
const (
	ExitDone        = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitConflict    = 4
	ExitForbidden   = 5
	ExitUnreachable = 6
	ExitNotEnded    = 7
	ExitFindings    = 8
	ExitRejected    = 10
	ExitUndone      = 11
	ExitAttention   = 12
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

// ExitWith returns an error that ends the process with status, in a sentence of ours. What it is given is made visible.
func ExitWith(status int, format string, args ...any) error {
	return &exit{status: status, err: fmt.Errorf(format, shown(args)...)}
}

// Usage is wrong usage or refused input; nothing was changed.
func Usage(format string, args ...any) error {
	return ExitWith(ExitUsage, format, args...)
}

// CutShort is the end of a verb by a signal, in the verb's own words. Without a signal, as when a caller gives up, it failed.
func CutShort(ctx context.Context, format string, args ...any) error {
	return cutShort(ctx, false, format, args)
}

// GoesOn is CutShort where nothing went wrong: its words are told without the program's name, which stands before errors.
func GoesOn(ctx context.Context, format string, args ...any) error {
	return cutShort(ctx, true, format, args)
}

func cutShort(ctx context.Context, news bool, format string, args []any) error {
	err := &exit{status: ExitFailed, err: fmt.Errorf(format, shown(args)...), news: news}
	if by, stopped := stoppedBy(ctx); stopped {
		err.status = by.ExitStatus()
	}
	return err
}

// Stopped tells whether a signal has ended ctx.
func Stopped(ctx context.Context) bool {
	_, stopped := stoppedBy(ctx)
	return stopped
}

// BrokenOff tells whether a call ended with err because a signal broke it off, so that nobody knows whether it arrived.
func BrokenOff(ctx context.Context, err error) bool { return Stopped(ctx) && isCancelled(err) }

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
		return CutShort(ctx, "%w", by)
	}
	return err
}

// isCancelled tells whether an error says no more than that a context ended.
func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled
}

// ExitStatus is the one place that decides how the process ends.
func ExitStatus(err error) int {
	var known *exit
	var wire *connect.Error
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &known):
		return known.status
	case errors.As(err, &wire):
		return statusOfCode(wire.Code())
	case errors.Is(err, context.DeadlineExceeded):
		return ExitUnreachable
	}
	return ExitFailed
}

func statusOfCode(code connect.Code) int {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return ExitUsage
	case connect.CodeNotFound:
		return ExitNotFound
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeAborted:
		return ExitConflict
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return ExitForbidden
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return ExitUnreachable
	}
	return ExitFailed
}

// IsVerdict tells an answer that would be the same next time from a connection that broke, for which there are many codes.
func IsVerdict(err error) bool {
	switch ExitStatus(err) {
	case ExitUsage, ExitNotFound, ExitConflict, ExitForbidden:
		return true
	}
	return false
}

// Explain is an error as people read it: a sentence, or a line for each field that is wrong. What comes from elsewhere is visible in
// it, so that each of its line breaks is ours.
func Explain(err error) string {
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
			return Visible(before) + Explain(cause)
		}
	}
	return Visible(err.Error())
}

// explainRefusal is what the server says.
func explainRefusal(refusal *connect.Error) string {
	var lines []string
	for _, detail := range refusal.Details() {
		if field, problem, ok := badField(detail); ok {
			lines = append(lines, "  "+Visible(field)+": "+Visible(problem))
		}
	}
	if len(lines) > 0 {
		return "refused, nothing was changed:\n" + strings.Join(lines, "\n")
	}
	return Visible(refusal.Message())
}

// badField reads the detail of an error that names a field that is wrong. Such a message is called BadField and holds the field's path
// and the problem, in that order, whichever contract it is of: it is read without one, because this package knows the contract of no
// particular saga.
func badField(detail *connect.ErrorDetail) (field, problem string, ok bool) {
	if !strings.HasSuffix(detail.Type(), ".BadField") {
		return "", "", false
	}
	for rest := detail.Bytes(); len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return "", "", false
		}
		size := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if size < 0 {
			return "", "", false
		}
		if text, n := protowire.ConsumeBytes(rest[n:]); kind == protowire.BytesType && n > 0 {
			switch number {
			case 1:
				field = string(text)
			case 2:
				problem = string(text)
			}
		}
		rest = rest[n+size:]
	}
	return field, problem, true
}

// explainAll has a line for each of several errors that were joined.
func explainAll(err error, causes []error) string {
	texts, lines := make([]string, len(causes)), make([]string, len(causes))
	for i, cause := range causes {
		texts[i], lines[i] = cause.Error(), Explain(cause)
	}
	if err.Error() != strings.Join(texts, "\n") {
		return Visible(err.Error()) // They stand in a sentence.
	}
	return strings.Join(slices.Compact(lines), "\n")
}
