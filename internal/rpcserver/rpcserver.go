// Package rpcserver is the HTTP server of every process: Connect handlers (so gRPC, gRPC-Web and JSON by curl) over
// HTTP/1.1 and HTTP/2 without TLS, with health, readiness and metrics beside them. It knows no service.
package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

const (
	// minCompressed is where answers begin to be compressed: a checkout's, of a few hundred bytes, would cost more CPU than it
	// saves on any wire.
	minCompressed = 4 << 10
	// drain is how long what is in hand may take once the server was told to stop.
	drain = 10 * time.Second
)

// Config is what a server needs.
type Config struct {
	// Address to listen on, such as "127.0.0.1:8081". Port 0 takes a free one; URL tells which.
	Address string
	// Ready answers /readyz: nil while the process can do its work, otherwise what it lacks. A nil Ready is always ready.
	Ready func(context.Context) error
	// AppHealth answers /apphealthz, which the sidecar asks before it delivers events: nil while what this process needs is there.
	// The sidecar itself does not count, or it would wait for itself. A nil AppHealth is Ready.
	AppHealth func(context.Context) error
	// Metrics is what /metrics shows; the server's own metrics are added to it. Nil makes a registry of the server's own.
	Metrics *prometheus.Registry
	// Hosts are further names of the server, beside loopback's, its Address and the address that a connection comes in at. Requests
	// for others are refused. A server that is called by a name, such as a service's in a cluster, must be told it.
	Hosts Hosts
	// Connections bounds the connections of all servers of the process together. Nil bounds this server's alone.
	Connections *Connections
	// CallTimeout bounds a unary call whose caller set no shorter deadline. Zero means 30 s. Too small ends calls that are
	// meant to wait; too large lets a hanging database pile up calls. Streams are not bounded.
	CallTimeout time.Duration
	Log         *slog.Logger
}

// AddressFromEnv is the address in an environment variable; without it, loopback with the port that `dapr run` gives in APP_PORT;
// without that, otherwise.
func AddressFromEnv(variable, otherwise string) string {
	if address := os.Getenv(variable); address != "" {
		return address
	}
	if port := os.Getenv("APP_PORT"); port != "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return otherwise
}

// Server listens from Listen on and serves while Run runs.
type Server struct {
	config   Config
	limits   limits
	listener net.Listener
	mux      *http.ServeMux
	http     *http.Server
	options  []connect.HandlerOption
	// stopping ends when Run is told to stop: then /readyz refuses, and streams end.
	stopping context.Context
	stop     context.CancelFunc
}

// Listen takes the address. Connections wait until Run serves them, so whoever knows the URL may call at once. The caller
// runs the server, or closes it.
func Listen(c Config) (*Server, error) { return listen(c, standardLimits()) }

func listen(c Config, l limits) (*Server, error) {
	if c.CallTimeout == 0 {
		c.CallTimeout = 30 * time.Second
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Connections == nil {
		c.Connections = NewConnections()
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) error { return nil }
	}
	if c.AppHealth == nil {
		c.AppHealth = c.Ready
	}
	listener, err := net.Listen("tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", c.Address, err)
	}
	s := &Server{config: c, limits: l, listener: countingListener{listener.(*net.TCPListener), c.Connections}, mux: http.NewServeMux()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	// A caller's trace goes on here, and an answer tells no address.
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithTrustRemote(), otelconnect.WithoutMetrics(), otelconnect.WithoutServerPeerAttributes())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make tracing: %w", err), listener.Close())
	}
	s.options = []connect.HandlerOption{
		connect.WithReadMaxBytes(maxMessage),
		withBoundedGzip(),
		connect.WithCompressMinBytes(minCompressed),
		connect.WithCodec(protoNamesJSON{name: "json"}),
		connect.WithCodec(protoNamesJSON{name: "json; charset=utf-8"}),
		connect.WithInterceptors(tracing, &edge{server: s, durations: newDurations(c.Metrics)},
			newStreams(l, c.Connections.max, c.Metrics)),
		// Below the edge, so that it counts a panic as the error it becomes.
		connect.WithRecover(s.recovered),
		connect.WithInterceptors(contract.Interceptor{}),
	}
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("GET /readyz", s.answers(c.Ready))
	s.mux.HandleFunc("GET /apphealthz", s.answers(c.AppHealth))
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{}))

	c.Metrics.MustRegister(c.Connections)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           newAnswersFor(c.Address, c.Hosts).only(sameSite(s.held(s.mux))),
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection},
		ConnContext:       withConnection,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       l.requestTime,
		// No WriteTimeout: it would also end a stream that somebody watches. Each piece of an answer is bounded instead.
		IdleTimeout: idleTime,
		ErrorLog:    slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// Options go to a Connect handler when it is made: s.Mount(warehousev1connect.NewWarehouseServiceHandler(svc, s.Options()...)).
func (s *Server) Options() []connect.HandlerOption { return s.options }

// Mount serves a Connect handler under a path. It must be called before Run.
func (s *Server) Mount(path string, handler http.Handler) {
	contract.Prepare(strings.Trim(path, "/")) // The path of a Connect handler is its service's name.
	s.mux.Handle(path, http.MaxBytesHandler(handler, maxBody))
}

// MountRaw serves any other handler, which must itself bound what it reads of a body. It must be called before Run.
func (s *Server) MountRaw(pattern string, handler http.Handler) { s.mux.Handle(pattern, handler) }

// URL is where the server really listens, such as "http://127.0.0.1:41231".
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Run serves until ctx ends, then takes no more connections, finishes what is in hand (at most 10 s) and returns nil. It
// returns an error if the server broke, or if something was still in hand and was cut off.
func (s *Server) Run(ctx context.Context) error {
	defer s.stop()
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", s.URL(), err)
	case <-ctx.Done():
	}
	s.stop()
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := s.http.Shutdown(draining); err != nil {
		return fmt.Errorf("finish calls in hand: %w", errors.Join(err, s.http.Close()))
	}
	<-served
	return nil
}

// Close gives back the address of a server that was never run.
func (s *Server) Close() error {
	s.stop()
	return s.listener.Close()
}

// answers is a handler that says whether a check passes. A server that stops does not pass.
func (s *Server) answers(check func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		err := check(ctx)
		if s.stopping.Err() != nil {
			err = errors.New("stopping")
		}
		if err != nil {
			http.Error(w, redact.Text(err.Error()), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
