package rpcserver

import (
	"container/list"
	"context"
	"net"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxConnections bounds the connections of a process's servers, if the process may open enough files. With fewer, callers that
	// keep many connect again and again; each costs 35 kB while a call goes on. It must be well above maxStreams: over HTTP/1.1
	// each stream has a connection of its own.
	maxConnections = 4096
	// spareDescriptors are kept for what a process opens itself. The largest, `orchestrator dev`, has up to 80 connections to
	// databases, and as many calls to its own participants as there are activities at once. With too few, the database cannot be
	// reached while many callers are connected.
	spareDescriptors = 384
)

// Connections bounds the connections of all servers of one process, which share its file descriptors. When there are too many, a
// new one takes the place of the one that has made the server wait longest for a whole request. So connections that send nothing,
// or slowly, keep nobody out, and what is being answered goes on.
type Connections struct {
	max     int
	open    prometheus.GaugeFunc
	dropped prometheus.Counter

	mu    sync.Mutex
	count int
	// waiting are the connections (*connection) whose request has not arrived, longest wait first.
	waiting *list.List
}

// NewConnections bounds them by the number of files that the process may open.
func NewConnections() *Connections {
	most := maxConnections
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur < maxConnections+spareDescriptors {
		most = max(int(files.Cur)-spareDescriptors, int(files.Cur)/4, 1)
	}
	return boundedConnections(most)
}

func boundedConnections(most int) *Connections {
	c := &Connections{max: most, waiting: list.New()}
	c.open = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rpc_server_open_connections",
		Help: "Connections that are open now, at all servers of this process.",
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.count)
	})
	c.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rpc_server_connections_dropped_total",
		Help: "Connections that were closed to make room for others, at all servers of this process.",
	})
	return c
}

// Describe implements prometheus.Collector.
func (c *Connections) Describe(to chan<- *prometheus.Desc) {
	c.open.Describe(to)
	c.dropped.Describe(to)
}

// Collect implements prometheus.Collector.
func (c *Connections) Collect(to chan<- prometheus.Metric) {
	c.open.Collect(to)
	c.dropped.Collect(to)
}

// take counts a new connection and makes room for it. While all others are being answered there is none, and the new one is closed.
func (c *Connections) take(tcp *net.TCPConn) (*connection, bool) {
	conn := &connection{TCPConn: tcp, of: c}
	c.mu.Lock()
	var oldest *connection
	if c.count >= c.max {
		c.dropped.Inc()
		first := c.waiting.Front()
		if first == nil {
			c.mu.Unlock()
			_ = tcp.Close()
			return nil, false
		}
		oldest = first.Value.(*connection)
		c.forget(oldest)
	}
	c.count++
	conn.place = c.waiting.PushBack(conn)
	c.mu.Unlock()
	if oldest != nil {
		_ = oldest.TCPConn.Close() // Its server notices, and closes it again.
	}
	return conn, true
}

// forget stops counting a connection. The caller holds mu.
func (c *Connections) forget(conn *connection) {
	if conn.gone {
		return
	}
	conn.gone = true
	c.count--
	conn.waits(false)
}

// connection is one that is counted.
type connection struct {
	*net.TCPConn // with CloseWrite, by which the server lets an early answer arrive
	of           *Connections

	// of.mu guards the rest.
	inHand int           // requests that have arrived and are being answered
	place  *list.Element // in of.waiting; nil while something is in hand
	gone   bool
}

// Close closes it and makes room.
func (c *connection) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.TCPConn.Close()
}

// begin tells that a request has arrived, and end that it was answered.
func (c *connection) begin() { c.add(1) }
func (c *connection) end()   { c.add(-1) }

func (c *connection) add(n int) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.inHand += n
	c.waits(c.inHand == 0 && !c.gone)
}

// waits adds it to those that wait, or takes it out. The caller holds of.mu.
func (c *connection) waits(so bool) {
	switch {
	case so && c.place == nil:
		c.place = c.of.waiting.PushBack(c)
	case !so && c.place != nil:
		c.of.waiting.Remove(c.place)
		c.place = nil
	}
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	*net.TCPListener
	connections *Connections
}

func (l countingListener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if conn, taken := l.connections.take(tcp); taken {
			return conn, nil
		}
	}
}

type connectionKey struct{}

// withConnection is http.Server.ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

func connectionOf(ctx context.Context) *connection {
	return ctx.Value(connectionKey{}).(*connection) // The listener makes no others.
}
