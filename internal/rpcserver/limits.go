package rpcserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// What one request may take. The bounds of Connections and of streams stand with them.
const (
	// maxMessage bounds a request. The largest legitimate one, 1,000 order ids, has 70 kB.
	maxMessage = 1 << 20
	// maxBody bounds what is read of a request to a Connect handler: its message and the protocol's own bytes around it. Connect
	// itself reads past its limit, to tell the length.
	maxBody = maxMessage + 1<<10
	// maxHeader bounds a request's header, in bytes. The largest legitimate one, with traces and baggage, has 10 kB. Go's own
	// limit, 1 MiB, lets a thousand connections hold a gigabyte.
	maxHeader = 64 << 10
	// headerTime is how long a request's header may take to arrive.
	headerTime = 5 * time.Second
	// requestTime is how long a request may take to arrive, its header included. Less cuts off a megabyte over a poor line (70
	// kB/s); more lets a caller that sends a byte a second hold a connection for longer.
	requestTime = 15 * time.Second
	// answerTime is how long one piece of an answer may wait for its reader. Less ends streams whose line is gone for a while; more
	// lets a caller that reads nothing hold a handler, and a stream's place, for longer.
	answerTime = 30 * time.Second
	// answerPiece is how many bytes have this time, so that a long answer may last as long as it makes progress.
	answerPiece = 32 << 10
	// idleTime is how long a connection without a request is kept for the next one. Less makes callers connect more often.
	idleTime = 2 * time.Minute
	// streamsPerConnection bounds the concurrent calls over one HTTP/2 connection; it is Go's default. More than that wait at the
	// caller or take a second connection. One connection can have this many times maxMessage in memory.
	streamsPerConnection = 250
)

// limits are the limits that a test cannot wait for, or reach.
type limits struct {
	requestTime, answerTime   time.Duration
	streams, streamsPerClient int
}

func standardLimits() limits {
	return limits{requestTime: requestTime, answerTime: answerTime, streams: maxStreams, streamsPerClient: maxStreamsPerClient}
}

// held watches a request and its answer. The body tells why it ended early, a reader that does not read is given up, and the
// connection counts as in hand from when its request has arrived until it is answered.
//
// http.Server.ReadTimeout bounds the arrival of the request, and of what no handler reads. It counts from the first byte, for
// HTTP/2 by stream, and ends once the body was read, so that a stream may last.
func (s *Server) held(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := connectionOf(r.Context())
		arrived := false
		arrive := func() {
			if !arrived {
				arrived = true
				conn.begin()
			}
		}
		defer func() {
			if arrived {
				conn.end()
			}
		}()
		if r.ContentLength == 0 {
			arrive()
		} else {
			watched := *r // The server goes on with the request as it was.
			watched.Body = &arrivingBody{ReadCloser: r.Body, limit: s.limits.requestTime, arrived: arrive}
			r = &watched
		}
		a := &answer{ResponseWriter: w, controller: http.NewResponseController(w), limit: s.limits.answerTime}
		next.ServeHTTP(a, r)
		a.last()
	})
}

// arrivingBody is the body of a request.
type arrivingBody struct {
	io.ReadCloser
	limit   time.Duration
	arrived func()
}

func (b *arrivingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.arrived()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("the request did not arrive within %s: %w", b.limit, os.ErrDeadlineExceeded) // Without the connection's addresses.
	}
	return n, err
}

// answer gives each piece of an answer a deadline. Between the pieces there is none: an HTTP/2 stream ends at its deadline, even
// while nothing is being written.
type answer struct {
	http.ResponseWriter
	controller *http.ResponseController
	limit      time.Duration
}

func (a *answer) Write(p []byte) (written int, err error) {
	for err == nil && written < len(p) {
		var n int
		n, err = a.piece(p[written:min(len(p), written+answerPiece)])
		written += n
	}
	return written, err
}

func (a *answer) piece(p []byte) (int, error) {
	defer a.within()()
	return a.ResponseWriter.Write(p)
}

// Flush is what Connect looks for.
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is what http.ResponseController looks for.
func (a *answer) FlushError() error {
	defer a.within()()
	return a.controller.Flush()
}

// Unwrap is what http.ResponseController looks for.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// The errors are those of writers without deadlines, such as a test's.
func (a *answer) within() (over func()) {
	_ = a.controller.SetWriteDeadline(time.Now().Add(a.limit))
	return func() { _ = a.controller.SetWriteDeadline(time.Time{}) }
}

// last bounds what the server writes after the handler; the server lifts it.
func (a *answer) last() { _ = a.controller.SetWriteDeadline(time.Now().Add(a.limit)) }
