// Package node puts one orchestrator process together: database, engine, saga, API and sweeper, the same for the command
// line's serve and dev and for whole-system tests. It wires and orders start and stop; it decides nothing about checkouts.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	checkoutapi "github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	daprbus "github.com/checkoutsaga/orchestrator/internal/events/bus/dapr"
	embeddedbus "github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/events/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/host"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// Node is one orchestrator: open it, run it, close it.
type Node struct {
	*host.Host
	// plan is the checkout saga's list, as checkouts get it that are accepted now.
	plan        saga.Plan
	outbox      *outbox.Outbox
	inbox       *inbox.Inbox
	orders      *orders.Orders
	deadLetters *deadletter.Service
	clients     clients
	service     *checkoutapi.Service
	log         *slog.Logger
	// carrier takes the outbox's events; nil where there is no bus.
	carrier bus.Publisher
}

// Open reaches and migrates the database, makes the engine and takes the API's address. Calls wait there until Run.
func Open(ctx context.Context, config Config, log *slog.Logger) (*Node, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return openNode(ctx, config, config.settings(), log)
}

func openNode(ctx context.Context, config Config, settings []doctor.Setting, log *slog.Logger) (*Node, error) {
	n := &Node{log: log}
	if err := n.open(ctx, config, settings); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context, config Config, settings []doctor.Setting) (err error) {
	definition, err := workflows.Checkout()
	if err != nil {
		return err
	}
	n.plan = definition.Plan()
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	if err != nil {
		return fmt.Errorf("make tracing: %w", err)
	}
	traced := connect.WithInterceptors(tracing)
	n.Host, err = host.Open(ctx, host.Config{
		Definitions: []*saga.Definition{definition}, URLs: n.called(config.URLs), AppIDs: n.called(config.AppIDs),
		Starters:    map[string]api.Starter{checkout.Definition: n.startCheckout},
		DatabaseURL: config.DatabaseURL, Listen: config.Listen, Hosts: config.Hosts, Connections: config.Connections, Engine: config.Engine,
		DaprHTTPPort: config.DaprHTTPPort, DaprGRPCPort: config.DaprGRPCPort, DaprAPIToken: config.DaprAPIToken,
		KeepWorkflows: config.KeepWorkflows, KeepSagas: config.KeepCheckouts, Policy: config.Policy, Migrations: beside(),
	}, host.Extra{Guests: n.guests, OpenDeadLetters: n.openDeadLetters}, n.log)
	if err != nil {
		return err
	}
	n.Doctor.Settings = settings
	checkoutapi.Hear(n.inbox, n.Store, n.orders)
	n.Metrics.MustRegister(n.outbox.Collector(), n.inbox.Collector(), n.orders.Collector())
	n.clients = newClients(config, n.Host, n.ownEvents(), traced)
	if err := n.joinBus(config.Bus); err != nil {
		return err
	}
	n.Metrics.MustRegister(n.deadLetters.Collector())
	n.service = checkoutapi.New(checkoutapi.Config{
		Store: n.Store, Orders: n.orders, Pool: n.Pool, Engine: n.Engine, Definition: definition, Desk: n.Desk,
		Warehouse: n.clients.warehouse, Payment: n.clients.payment,
		Events: n.clients.events, DeadLetters: n.deadLetters, HasBus: n.carrier != nil, ApprovalAbove: config.ApprovalAbove,
		Log: n.log, Metrics: n.Metrics, Doctor: n.Doctor,
		Components: checkoutapi.Components{Folders: filepath.SplitList(config.Components), KeepWorkflows: config.KeepWorkflows},
	})
	n.Server.Mount(checkoutv1connect.NewCheckoutServiceHandler(n.service, n.Server.Options()...))
	n.Server.Mount(eventv1connect.NewEventServiceHandler(n.ownEvents(), n.Server.Options()...))
	n.Server.Mount(deadletterv1connect.NewDeadLetterServiceHandler(n.deadLetters, n.Server.Options()...))
	return nil
}

// called are the targets of those that do steps; the others only hear of checkouts.
func (n *Node) called(targets map[string]string) map[string]string {
	called := make(map[string]string)
	for _, name := range n.plan.Participants() {
		called[name] = targets[name]
	}
	return called
}

// startCheckout starts a checkout for whoever knows sagas alone. Nobody calls before the process runs.
func (n *Node) startCheckout(ctx context.Context, req *sagav1.StartRequest, input json.RawMessage, key string) (store.Saga, bool, error) {
	return n.service.StartSaga(ctx, req, input, key)
}

// beside are the migrations of what checkouts have beside their sagas; orders stand on those.
func beside() []pg.Migrations {
	return []pg.Migrations{inbox.Migrations(), deadletter.Migrations(), orders.Migrations()}
}

// guests makes what checkouts keep beside their sagas.
func (n *Node) guests(pool *pgxpool.Pool) map[string]store.Guest {
	n.outbox, n.inbox = outbox.New(appName, pool, n.log), inbox.New(appName, pool, n.log)
	n.orders = orders.New(pool, n.outbox)
	return map[string]store.Guest{checkout.Definition: n.orders}
}

func (n *Node) openDeadLetters(ctx context.Context, orderIDs []string) ([]string, error) {
	return n.deadLetters.OpenAbout(ctx, orderIDs)
}

// appName is the orchestrator's name among the apps that say and hear events.
const appName = "orchestrator"

// ownEvents answers for the orchestrator's own outbox and inbox.
func (n *Node) ownEvents() eventrpc.Service {
	return eventrpc.Service{Outbox: n.outbox, Inbox: n.inbox}
}

// clients are those by which the other processes are asked about what they have; to do steps, participants are called by their contract.
type clients struct {
	warehouse warehousev1connect.WarehouseServiceClient
	payment   paymentv1connect.PaymentServiceClient
	// events has every process that tells of its events, this one included.
	events map[string]eventv1connect.EventServiceClient
}

// newClients makes them of every process that has an address.
func newClients(config Config, h *host.Host, own eventrpc.Service, traced connect.ClientOption) clients {
	targets := config.URLs
	if config.Engine == Dapr {
		targets = config.AppIDs
	}
	c := clients{events: map[string]eventv1connect.EventServiceClient{appName: own}}
	for _, name := range Participants() {
		if targets[name] == "" {
			continue
		}
		web, url := h.To(targets[name])
		c.events[name] = eventv1connect.NewEventServiceClient(web, url, traced)
		switch name {
		case checkout.Warehouse:
			c.warehouse = warehousev1connect.NewWarehouseServiceClient(web, url, traced)
		case checkout.Payment:
			c.payment = paymentv1connect.NewPaymentServiceClient(web, url, traced)
		}
	}
	return c
}

// joinBus lets this process say and hear events: through its sidecar, or together with the participants in the same process.
// Otherwise its events stay in the outbox.
func (n *Node) joinBus(together *embeddedbus.Bus) error {
	onDapr, isDapr := n.Engine.(*dapr.Engine)
	switch {
	case isDapr:
		n.carrier = daprbus.New(onDapr.Client(), n.log)
	case together != nil:
		n.carrier = together
	default:
		n.log.Warn("there is no bus, so events are neither published nor received; they stay in the outbox")
	}
	n.deadLetters = deadletter.New(deadletter.Config{Pool: n.Pool, Publisher: n.carrier, Consumers: n.clients.events, Log: n.log})
	subscriptions, err := n.inbox.Subscriptions()
	if err != nil {
		return err
	}
	subscriptions = append(subscriptions, n.deadLetters.Subscriptions()...)
	if isDapr {
		n.Server.MountRaw(daprbus.Routes(subscriptions))
	} else if together != nil {
		together.Subscribe(subscriptions...)
	}
	return nil
}

// Run serves the API and drives checkouts until ctx ends. It stops in order, as a host does; the outbox goes last, with the events of
// all that.
func (n *Node) Run(ctx context.Context) error {
	return process.RunParts(ctx, n.log, n.parts()...)
}

// parts are the host's and what checkouts have beside.
func (n *Node) parts() []process.Part {
	parts := append(n.Parts(),
		n.Keeper.Keep(process.Part{Name: "inbox", Run: n.inbox.Prune}),
		n.Keeper.Keep(process.Part{Name: "dead letters", Run: n.deadLetters.Run}),
	)
	if n.carrier != nil {
		parts = append(parts, n.Keeper.Keep(process.Part{Name: "outbox", Run: func(ctx context.Context) error { return n.outbox.Relay(ctx, n.carrier) }}))
	}
	return parts
}

// Close gives back what Open took. Run must have returned.
func (n *Node) Close() {
	if n.Host != nil {
		n.Host.Close()
	}
}
