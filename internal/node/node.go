// Package node puts one orchestrator process together: database, engine, saga, API and sweeper, the same for the command
// line's serve and dev and for whole-system tests. It wires and orders start and stop; it decides nothing about checkouts.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/checkoutsaga/orchestrator/activities"
	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/bus"
	daprbus "github.com/checkoutsaga/orchestrator/internal/bus/dapr"
	embeddedbus "github.com/checkoutsaga/orchestrator/internal/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/inbox"
	"github.com/checkoutsaga/orchestrator/internal/invoke"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/retention"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/sweeper"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// maxConns bounds the connections to the orchestrator's database: about one for each activity that runs at once. Fewer make
// activities wait for each other, many more press PostgreSQL.
const maxConns = 30

// Node is one orchestrator: open it, run it, close it.
type Node struct {
	// plan is the checkout saga's list, as checkouts get it that are accepted now.
	plan        saga.Plan
	pool        *pgxpool.Pool
	outbox      *outbox.Outbox
	inbox       *inbox.Inbox
	deadLetters *deadletter.Service
	store       *store.Store
	engine      closableEngine
	sweeper     *sweeper.Sweeper
	retention   *retention.Retention
	breakers    *breaker.Breakers
	server      *rpcserver.Server
	caller      *invoke.Caller
	log         *slog.Logger
	// keeper keeps the parts going and knows what is missing.
	keeper *process.Keeper
	// carrier takes the outbox's events; nil where there is no bus.
	carrier bus.Publisher
}

type closableEngine interface {
	engine.Engine
	Close()
}

// Open reaches and migrates the database, makes the engine and takes the API's address. Calls wait there until Run.
func Open(ctx context.Context, config Config, log *slog.Logger) (*Node, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return openNode(ctx, config, config.settings(), log)
}

func openNode(ctx context.Context, config Config, settings []*checkoutv1.Setting, log *slog.Logger) (*Node, error) {
	n := &Node{log: log, keeper: process.NewKeeper(log)}
	if err := n.open(ctx, config, settings); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context, config Config, settings []*checkoutv1.Setting) (err error) {
	if n.pool, err = pg.OpenMigrated(ctx, config.DatabaseURL, maxConns, append(store.Migrations(), deadletter.Migrations())...); err != nil {
		return err
	}
	n.outbox = outbox.New(appName, n.pool, n.log)
	n.inbox = inbox.New(appName, n.pool, n.log)
	n.store = store.New(n.pool, n.outbox)
	orchestrator.Hear(n.inbox, n.store)

	definition, err := workflows.Checkout()
	if err != nil {
		return err
	}
	n.plan = definition.Plan()
	clients, err := n.clients(config)
	if err != nil {
		return err
	}
	n.breakers = breaker.New(breaker.Config{
		Participants: n.plan.Participants(), Probe: clients.probe, Wake: n.wake, Log: n.log,
	})
	registry := task.NewTaskRegistry()
	if err := saga.Register(registry, config.Policy); err != nil {
		return err
	}
	if err := activities.Register(registry, n.store, clients.participants, n.breakers); err != nil {
		return err
	}
	if err := n.openEngine(ctx, config, registry); err != nil {
		return err
	}
	n.sweeper = sweeper.New(n.pool, n.store, n.engine, n.log)

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		n.outbox.Collector(), n.inbox.Collector(), n.breakers.Collector(), n.keeper.Collector(),
		n.store.Collector(), n.sweeper.Collector())
	n.server, err = rpcserver.Listen(rpcserver.Config{
		Address: config.Listen, Hosts: config.Hosts, Connections: config.Connections,
		Ready: n.ready, AppHealth: n.pool.Ping, Metrics: metrics, Log: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.joinBus(config.Bus, clients); err != nil {
		return err
	}
	metrics.MustRegister(n.deadLetters.Collector())
	if n.retention, err = retention.New(retention.Config{
		KeepWorkflows: config.KeepWorkflows, KeepCheckouts: config.KeepCheckouts,
		Pool: n.pool, Store: n.store, Engine: n.engine, Log: n.log,
		Participants: map[string]retention.Participant{
			checkout.Warehouse: clients.participants.Warehouse, checkout.Payment: clients.participants.Payment,
		},
		OpenDeadLetters: n.deadLetters.OpenAbout,
	}); err != nil {
		return err
	}
	service := orchestrator.New(orchestrator.Config{
		Store: n.store, Pool: n.pool, Engine: n.engine, Plan: n.plan, Warehouse: clients.participants.Warehouse, Payment: clients.participants.Payment,
		Events: clients.events, DeadLetters: n.deadLetters, HasBus: n.carrier != nil, ApprovalAbove: config.ApprovalAbove,
		Log: n.log, Metrics: metrics, Settings: settings, Doctor: n.doctor(config),
	})
	n.server.Mount(checkoutv1connect.NewCheckoutServiceHandler(service, n.server.Options()...))
	n.server.Mount(eventv1connect.NewEventServiceHandler(n.ownEvents(), n.server.Options()...))
	n.server.Mount(deadletterv1connect.NewDeadLetterServiceHandler(n.deadLetters, n.server.Options()...))
	return nil
}

// doctor is what Doctor looks at beside the API's own.
func (n *Node) doctor(config Config) orchestrator.DoctorConfig {
	doctor := orchestrator.DoctorConfig{
		Migrations:       []pg.Migrations{deadletter.Migrations()},
		ComponentFolders: filepath.SplitList(config.Components),
		KeepWorkflows:    config.KeepWorkflows,
		Breakers:         n.breakers,
		SweeperLock:      sweeper.LeaderLock(n.engine.Name()),
		Missing:          n.keeper.Missing,
	}
	if config.Engine == Dapr {
		doctor.Sidecar = orchestrator.SidecarAPI{URL: "http://127.0.0.1:" + config.DaprHTTPPort, Token: config.DaprAPIToken}
	}
	return doctor
}

// appName is the orchestrator's name among the apps that say and hear events.
const appName = "orchestrator"

// ownEvents answers for the orchestrator's own outbox and inbox.
func (n *Node) ownEvents() eventrpc.Service {
	return eventrpc.Service{Outbox: n.outbox, Inbox: n.inbox}
}

// clients are those by which the other processes are called.
type clients struct {
	participants activities.Participants
	// events has every process that tells of its events, this one included.
	events map[string]eventv1connect.EventServiceClient
}

// probe asks a participant something cheap, to see whether it answers.
func (c clients) probe(ctx context.Context, participant string) error {
	list := c.participants.Warehouse.ListOperations
	if participant == checkout.Payment {
		list = c.participants.Payment.ListOperations
	}
	_, err := list(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{PageSize: 1}))
	return err
}

// wake wakes the checkouts that are at a participant which answers again.
func (n *Node) wake(ctx context.Context, participant string) error {
	var steps []string
	for _, s := range n.plan.Steps {
		if s.Participant != participant {
			continue
		}
		steps = append(steps, s.Name)
		if s.Compensation != "" {
			steps = append(steps, s.Compensation)
		}
	}
	return n.sweeper.Wake(ctx, steps)
}

func (n *Node) clients(config Config) (clients, error) {
	targets := config.URLs
	n.caller = invoke.Direct()
	if config.Engine == Dapr {
		port, err := strconv.Atoi(config.DaprHTTPPort)
		if err != nil {
			return clients{}, fmt.Errorf("read DAPR_HTTP_PORT: %w", err)
		}
		n.caller = invoke.ThroughDapr(port, config.DaprAPIToken)
		targets = config.AppIDs
	}
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	if err != nil {
		return clients{}, fmt.Errorf("make tracing: %w", err)
	}
	traced := connect.WithInterceptors(tracing)

	all := clients{events: map[string]eventv1connect.EventServiceClient{appName: n.ownEvents()}}
	for _, name := range Participants() {
		if targets[name] == "" {
			continue
		}
		web, url := n.caller.To(targets[name])
		all.events[name] = eventv1connect.NewEventServiceClient(web, url, traced)
		switch name {
		case checkout.Warehouse:
			all.participants.Warehouse = warehousev1connect.NewWarehouseServiceClient(web, url, traced)
		case checkout.Payment:
			all.participants.Payment = paymentv1connect.NewPaymentServiceClient(web, url, traced)
		}
	}
	return all, nil
}

// joinBus lets this process say and hear events: through its sidecar, or together with the participants in the same process.
// Otherwise its events stay in the outbox.
func (n *Node) joinBus(together *embeddedbus.Bus, to clients) error {
	onDapr, isDapr := n.engine.(*dapr.Engine)
	switch {
	case isDapr:
		n.carrier = daprbus.New(onDapr.Client(), n.log)
	case together != nil:
		n.carrier = together
	default:
		n.log.Warn("there is no bus, so events are neither published nor received; they stay in the outbox")
	}
	n.deadLetters = deadletter.New(deadletter.Config{Pool: n.pool, Publisher: n.carrier, Consumers: to.events, Log: n.log})
	subscriptions, err := n.inbox.Subscriptions()
	if err != nil {
		return err
	}
	subscriptions = append(subscriptions, n.deadLetters.Subscriptions()...)
	if isDapr {
		n.server.MountRaw(daprbus.Routes(subscriptions))
	} else if together != nil {
		together.Subscribe(subscriptions...)
	}
	return nil
}

func (n *Node) openEngine(ctx context.Context, config Config, registry *task.TaskRegistry) error {
	if config.Engine == Dapr {
		opened, err := dapr.New(dapr.Config{
			Address: "127.0.0.1:" + config.DaprGRPCPort, Token: config.DaprAPIToken, Registry: registry, Log: n.log,
		})
		if err == nil {
			n.engine = opened
		}
		return err
	}
	opened, err := embedded.Open(ctx, embedded.Config{DatabaseURL: config.DatabaseURL, Registry: registry, Log: n.log})
	if err == nil {
		n.engine = opened
	}
	return err
}

// ready says what keeps this process from driving checkouts: what has been missing for a while, and since when; or what is so now.
func (n *Node) ready(ctx context.Context) error {
	if err := n.keeper.Ready(); err != nil {
		return err
	}
	if err := n.pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
	return n.engine.Check(ctx)
}

// URL is where the API listens.
func (n *Node) URL() string { return n.server.URL() }

// Run serves the API and drives checkouts until ctx ends. It stops in order: the API takes no more calls, the engine
// finishes the activities in hand, then the sweeper, so that nothing is begun that nobody would look after; and the outbox goes
// last, with the events of all that.
func (n *Node) Run(ctx context.Context) error {
	return process.RunParts(ctx, n.log, n.parts()...)
}

// parts are kept going, but for the server, whose address is lost with it: a process without its API is better started anew.
func (n *Node) parts() []process.Part {
	engine := "engine " + n.engine.Name()
	parts := []process.Part{
		{Name: "api", Run: n.server.Run},
		n.keeper.Watch("database", n.pool.Ping),
		n.keeper.Watch(engine, n.engine.Check),
		n.keeper.Keep(process.Part{Name: "work of " + engine, Run: n.engine.Run}),
		n.keeper.Keep(process.Part{Name: "breakers", Run: func(ctx context.Context) error { n.breakers.Run(ctx); return nil }}),
		n.keeper.Keep(process.Part{Name: "sweeper", Run: n.sweeper.Run}),
		n.keeper.Keep(process.Part{Name: "retention", Run: n.retention.Run}),
		n.keeper.Keep(process.Part{Name: "listener for changes", Run: n.store.Listen}),
		n.keeper.Keep(process.Part{Name: "inbox", Run: n.inbox.Prune}),
		n.keeper.Keep(process.Part{Name: "dead letters", Run: n.deadLetters.Run}),
	}
	if n.carrier != nil {
		parts = append(parts, n.keeper.Keep(process.Part{Name: "outbox", Run: func(ctx context.Context) error { return n.outbox.Relay(ctx, n.carrier) }}))
	}
	return parts
}

// Close gives back what Open took. Run must have returned.
func (n *Node) Close() {
	if n.server != nil {
		_ = n.server.Close() // After Run the listener is closed already.
	}
	if n.engine != nil {
		n.engine.Close()
	}
	if n.caller != nil {
		n.caller.Close()
	}
	if n.pool != nil {
		n.pool.Close()
	}
}
