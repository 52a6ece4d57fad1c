// Package process has what the programs of this project share: parts that stop in order, and one participant with its server, its
// events and its end. It knows no participant.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	sdk "github.com/dapr/go-sdk/client"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/dapr"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/redact"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sidecar"
	"github.com/checkoutsaga/orchestrator/internal/telemetry"
)

// Service is a participant as its process sees it.
type Service interface {
	// Mount serves its methods on a server.
	Mount(*rpcserver.Server)
	// Ready says what keeps it from working.
	Ready(context.Context) error
	// Outbox is where it writes its events; nil if it writes none.
	Outbox() *outbox.Outbox
	// Inbox is where it receives events; nil if it receives none.
	Inbox() *inbox.Inbox
	// Run does its own work until ctx ends.
	Run(ctx context.Context) error
	// Close releases what Open took.
	Close()
}

// Kind is a kind of participant.
type Kind struct {
	// Name is the app's, in lower case.
	Name string
	// Listen is its default address.
	Listen string
	// Streams says that it opens its subscriptions itself, over streams, and has no route for events.
	Streams bool
	// Open reaches the database and brings it to the newest migration.
	Open func(ctx context.Context, databaseURL string, log *slog.Logger) (Service, error)
}

// variable is the name of an environment variable of the participant, such as WAREHOUSE_LISTEN.
func (k Kind) variable(suffix string) string { return strings.ToUpper(k.Name) + suffix }

// Main runs a participant as a program of its own until an interrupt, SIGTERM or SIGHUP; then it finishes what is in hand. It reads
// <NAME>_DATABASE_URL, <NAME>_LISTEN (or APP_PORT), <NAME>_HOSTS, LOG_LEVEL, and what `dapr run` sets. Without a sidecar it
// receives no events, and its own stay in its outbox.
func Main(k Kind) {
	if err := run(UntilSignal(), k, os.Getenv); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", k.Name, redact.Text(err.Error()))
		os.Exit(1)
	}
}

func run(ctx context.Context, k Kind, getenv func(string) string) error {
	log, err := telemetry.NewLogger(os.Stderr, k.Name, getenv("LOG_LEVEL"))
	if err != nil {
		return err
	}
	traces, err := telemetry.StartTracing(ctx, k.Name, getenv)
	if err != nil {
		return err
	}
	defer func() {
		if err := traces.Stop(); err != nil {
			log.Warn("the last spans were not sent", "error", err)
		}
	}()
	settings := Settings{
		DatabaseURL: getenv(k.variable("_DATABASE_URL")),
		Listen:      rpcserver.AddressFromEnv(k.variable("_LISTEN"), k.Listen),
		Hosts:       getenv(k.variable("_HOSTS")),
	}
	p, err := Opened(ctx, log, func(ctx context.Context) (*Participant, error) { return Open(ctx, k, settings, log) })
	if err != nil {
		return err
	}
	defer p.Close()
	if port := getenv("DAPR_GRPC_PORT"); port != "" {
		conn, err := sidecar.Dial(net.JoinHostPort("127.0.0.1", port), getenv("DAPR_API_TOKEN"))
		if err != nil {
			return err
		}
		defer conn.Close()
		p.UseDapr(sdk.NewClientWithConnection(conn))
	} else {
		log.Warn("there is no sidecar, so events are neither published nor received; they stay in the outbox")
	}
	log.Info("serving", "url", p.URL())
	if err := RunParts(ctx, log, p.Parts()...); err != nil {
		return fmt.Errorf("did not stop in order: %w", err)
	}
	log.Info("stopped: nothing is in hand any more")
	return nil
}

// Settings are what a participant is told.
type Settings struct {
	DatabaseURL string
	// Listen is its address. Port 0 takes a free one.
	Listen string
	// Hosts are further names that it answers to, separated by commas, beside localhost and the address that it listens at.
	Hosts string
	// Connections are shared by the servers of one process; nil for the only one.
	Connections *rpcserver.Connections
}

// Participant is an open participant: choose its bus, run its parts, close it.
type Participant struct {
	kind          Kind
	service       Service
	server        *rpcserver.Server
	subscriptions []bus.Subscription
	// keeper keeps the parts going and knows what is missing.
	keeper *Keeper
	log    *slog.Logger

	publisher bus.Publisher
	stream    func(context.Context) error
}

// Open opens a participant and takes its address. Calls wait there until its parts run.
func Open(ctx context.Context, k Kind, s Settings, log *slog.Logger) (*Participant, error) {
	if s.DatabaseURL == "" {
		return nil, fmt.Errorf("open %s: %s is missing; it names its PostgreSQL database", k.Name, k.variable("_DATABASE_URL"))
	}
	service, err := k.Open(ctx, s.DatabaseURL, log)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", k.Name, err)
	}
	p := &Participant{kind: k, service: service, keeper: NewKeeper(log), log: log}
	if err := p.listen(s); err != nil {
		p.Close()
		return nil, fmt.Errorf("open %s: %w", k.Name, err)
	}
	return p, nil
}

func (p *Participant) listen(s Settings) (err error) {
	hosts, err := p.kind.hosts(s)
	if err != nil {
		return err
	}
	if in := p.service.Inbox(); in != nil {
		if p.subscriptions, err = in.Subscriptions(); err != nil {
			return err
		}
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(p.keeper.Collector())
	if out := p.service.Outbox(); out != nil {
		metrics.MustRegister(out.Collector())
	}
	if in := p.service.Inbox(); in != nil {
		metrics.MustRegister(in.Collector())
	}
	config := rpcserver.Config{
		Address: s.Listen, Hosts: hosts, Connections: s.Connections, Ready: p.ready, AppHealth: p.service.Ready, Metrics: metrics, Log: p.log,
	}
	if p.server, err = rpcserver.Listen(config); err != nil {
		return err
	}
	p.service.Mount(p.server)
	p.server.Mount(eventv1connect.NewEventServiceHandler(
		eventrpc.Service{Outbox: p.service.Outbox(), Inbox: p.service.Inbox()}, p.server.Options()...))
	return nil
}

// UseDapr lets the broker behind the sidecar carry its events.
func (p *Participant) UseDapr(client sdk.Client) {
	carrier := dapr.New(client, p.log)
	p.publisher = carrier
	if p.kind.Streams {
		p.stream = func(ctx context.Context) error {
			if err := p.service.Ready(ctx); err != nil {
				return err
			}
			return carrier.Stream(ctx, p.subscriptions)
		}
	} else if len(p.subscriptions) > 0 {
		p.server.MountRaw(dapr.Routes(p.subscriptions))
	}
}

// UseEmbedded hands its events to apps of the same process.
func (p *Participant) UseEmbedded(carrier *embedded.Bus) {
	p.publisher = carrier
	carrier.Subscribe(p.subscriptions...)
}

// URL is where it listens.
func (p *Participant) URL() string { return p.server.URL() }

// ready says what keeps it from working: what has been missing for a while, and since when; or what is so now.
func (p *Participant) ready(ctx context.Context) error {
	if err := p.keeper.Ready(); err != nil {
		return err
	}
	return p.service.Ready(ctx)
}

// Parts are what runs, in the order in which it stops: the server takes no more calls and deliveries, Run finishes, and the events
// that are left are handed over. All are kept going except the server: its address would be lost.
func (p *Participant) Parts() []Part {
	name := func(part string) string { return p.kind.Name + ": " + part }
	keep := func(part string, run func(context.Context) error) Part { return p.keeper.Keep(Part{name(part), run}) }
	parts := []Part{{name("server"), p.server.Run}, p.keeper.Watch(name("database"), p.service.Ready)}
	if p.stream != nil {
		parts = append(parts, keep("subscriptions", p.stream))
	}
	parts = append(parts, keep("work", p.service.Run))
	if in := p.service.Inbox(); in != nil {
		parts = append(parts, keep("inbox", in.Prune))
	}
	if out := p.service.Outbox(); out != nil && p.publisher != nil {
		parts = append(parts, keep("outbox", func(ctx context.Context) error { return out.Relay(ctx, p.publisher) }))
	}
	return parts
}

// Close releases what Open took. The parts must have ended.
func (p *Participant) Close() {
	if p.server != nil {
		_ = p.server.Close() // Run has closed the listener already, if it ran.
	}
	p.service.Close()
}

// Check names every setting that is wrong, by environment variable.
func (k Kind) Check(s Settings) error {
	var wrong []error
	if s.DatabaseURL == "" {
		wrong = append(wrong, fmt.Errorf("%s: is missing; each participant has a database of its own", k.variable("_DATABASE_URL")))
	}
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		wrong = append(wrong, fmt.Errorf("%s: must be an address such as %s, an IPv6 one in brackets, not %q", k.variable("_LISTEN"), k.Listen, s.Listen))
	}
	if _, err := k.hosts(s); err != nil {
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

func (k Kind) hosts(s Settings) (hosts rpcserver.Hosts, err error) {
	if s.Hosts == "" {
		return nil, nil
	}
	if err := hosts.Set(s.Hosts); err != nil {
		return nil, fmt.Errorf("%s: %w", k.variable("_HOSTS"), err)
	}
	return hosts, nil
}

// FromEnv reads the settings from environment variables.
func (k Kind) FromEnv(getenv func(string) string) Settings {
	s := Settings{
		DatabaseURL: getenv(k.variable("_DATABASE_URL")), Listen: getenv(k.variable("_LISTEN")), Hosts: getenv(k.variable("_HOSTS")),
	}
	if s.Listen == "" {
		s.Listen = k.Listen
	}
	return s
}
