package rpcserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// errorIDLength is the length of an internal error's id, in characters of 5 bits. It serves a day's log, and can be read out.
const errorIDLength = 8

// edge wraps every call: it bounds and times it. An error that its handler did not mean for the caller is logged here, once, and
// answered with code internal and the id of its line in the log. The error's text stays inside: it may quote SQL, rows or
// addresses.
type edge struct {
	server    *Server
	durations *prometheus.HistogramVec
}

func newDurations(registry *prometheus.Registry) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rpc_server_duration_seconds",
		Help: "How long calls took, by procedure and Connect code.",
	}, []string{"procedure", "code"})
	registry.MustRegister(h)
	return h
}

func (e *edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, e.timeFor(ctx), errCallTimeout)
		defer cancel()
		began := time.Now()
		res, err := next(context.WithValue(ctx, stoppingKey{}, e.server.stopping), req)
		return res, e.finish(ctx, req.Spec().Procedure, began, err)
	}
}

func (e *edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(e.server.stopping, cancel)()
		began := time.Now()
		err := next(ctx, conn)
		if err != nil && e.server.stopping.Err() != nil {
			err = connect.NewError(connect.CodeUnavailable, errors.New("the server is stopping"))
		}
		return e.finish(ctx, conn.Spec().Procedure, began, err)
	}
}

type stoppingKey struct{}

// Stopping returns, within a call that has one answer, a context that ends when its server is told to stop: a call that waits for
// something answers then.
func Stopping(ctx context.Context) context.Context {
	stopping, is := ctx.Value(stoppingKey{}).(context.Context)
	if !is {
		return context.Background()
	}
	return stopping
}

// timeFor is how long a call may take: the caller's own time less a tenth (at most a second), so that the answer arrives and says
// why the caller got nothing. It is never more than the server gives.
func (e *edge) timeFor(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return e.server.config.CallTimeout
	}
	left := time.Until(deadline)
	return min(e.server.config.CallTimeout, left-min(left/10, time.Second))
}

// errCallTimeout says that a call took all the time that it had for its work.
var errCallTimeout = errors.New("the server's time for a call is up")

// WrapStreamingClient is of no concern to a server.
func (e *edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (e *edge) finish(ctx context.Context, procedure string, began time.Time, err error) error {
	told := e.told(ctx, procedure, err)
	code := "ok"
	if told != nil {
		code = told.Code().String()
	}
	e.durations.WithLabelValues(procedure, code).Observe(time.Since(began).Seconds())
	if told == nil {
		return nil // Not `return told`: a nil pointer in an error is an error.
	}
	return told
}

// errAway is what a caller is told when this process lacks what it needs. Every procedure that changes something may be repeated.
var errAway = errors.New("what this server needs cannot be reached at present, so whether this was done is not known; it may be repeated without harm")

// told is the error that the caller gets; nil if there is none. Its code says whether to come again.
func (e *edge) told(ctx context.Context, procedure string, err error) *connect.Error {
	var meant *connect.Error
	var network net.Error
	late := errors.Is(err, context.DeadlineExceeded)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &meant):
		return meant
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return connect.NewError(connect.CodeCanceled, err)
	case late && ctx.Err() != nil && !errors.Is(context.Cause(ctx), errCallTimeout):
		return connect.NewError(connect.CodeDeadlineExceeded, err) // The caller's own time is up.
	case late, pg.Away(err), errors.As(err, &network):
		e.server.config.Log.WarnContext(ctx, "call could not be served at present", "procedure", procedure, "error", err)
		return connect.NewError(connect.CodeUnavailable, errAway)
	}
	return e.server.internal(ctx, "call failed", procedure, "error", err)
}

// recovered turns a handler's panic into an answer, so that one bad request does not end the process and all that it does.
func (s *Server) recovered(ctx context.Context, spec connect.Spec, _ http.Header, panicked any) error {
	return s.internal(ctx, "handler panicked", spec.Procedure, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
}

// internal logs an error of ours and returns what the caller is told: the id of the line in the log.
func (s *Server) internal(ctx context.Context, what, procedure string, details ...any) *connect.Error {
	id := rand.Text()[:errorIDLength]
	s.config.Log.ErrorContext(ctx, what, append([]any{"error_id", id, "procedure", procedure}, details...)...)
	return connect.NewError(connect.CodeInternal, fmt.Errorf("internal error %s; the server's log has a line with this id", id))
}
