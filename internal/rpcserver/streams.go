package rpcserver

import (
	"context"
	"fmt"
	"net"
	"sync"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxStreams bounds the streams that are open at once at one server. Too few refuse people who watch; each costs up to 70 kB
	// over a connection of its own: two stacks and net/http's buffers make 35 kB, what is sent and not yet collected the rest.
	maxStreams = 2048
	// maxStreamsPerClient is the same for one address, so that one client does not take all. All that come through a sidecar or a
	// proxy, or from this machine, have one address, so it is far above what one person can follow.
	maxStreamsPerClient = 1024
)

// streams bounds the calls that have no end of their own.
type streams struct {
	max, maxPerClient int
	open              prometheus.GaugeFunc
	refused           prometheus.Counter

	mu    sync.Mutex
	count int
	by    map[string]int // open ones, by the client's IP address
}

func newStreams(l limits, connections int, registry *prometheus.Registry) *streams {
	// Over HTTP/1.1 each stream holds a connection: half of the connections stay for other calls, and half of the streams for other
	// clients.
	most := min(l.streams, max(connections/2, 1))
	s := &streams{max: most, maxPerClient: min(l.streamsPerClient, max(most/2, 1)), by: make(map[string]int)}
	s.open = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rpc_server_open_streams",
		Help: "Streams (watch, follow) that are open now.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.count)
	})
	s.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rpc_server_streams_refused_total",
		Help: "Streams that were refused because too many were open, in all or by the same client.",
	})
	registry.MustRegister(s.open, s.refused)
	return s
}

// WrapUnary leaves calls that end by themselves alone.
func (s *streams) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

// WrapStreamingClient is of no concern to a server.
func (s *streams) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (s *streams) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		client, _, err := net.SplitHostPort(conn.Peer().Addr)
		if err != nil {
			return fmt.Errorf("read the client's address: %w", err)
		}
		if err := s.enter(client); err != nil {
			return err
		}
		defer s.leave(client)
		return next(ctx, conn)
	}
}

func (s *streams) enter(client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.count >= s.max:
		s.refused.Inc()
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d streams are open, as many as this server serves at once; try again later", s.max))
	case s.by[client] >= s.maxPerClient:
		s.refused.Inc()
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d streams are open from %s, as many as one client may have; end some first", s.maxPerClient, client))
	}
	s.count++
	s.by[client]++
	return nil
}

func (s *streams) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	if s.by[client]--; s.by[client] == 0 {
		delete(s.by, client)
	}
}
