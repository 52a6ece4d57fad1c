// Package node puts one orchestrator process together: database, engine, saga, API and sweeper, the same for the command
// line's serve and dev and for whole-system tests. It wires and orders start and stop; it decides nothing about checkouts.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/checkoutsaga/orchestrator/activities"
	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/invoke"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/sweeper"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// maxConns bounds the connections to the orchestrator's database: about one for each activity that runs at once. Fewer make
// activities wait for each other, many more press PostgreSQL.
const maxConns = 30

// Node is one orchestrator: open it, run it, close it.
type Node struct {
	pool    *pgxpool.Pool
	store   *store.Store
	engine  closableEngine
	sweeper *sweeper.Sweeper
	server  *rpcserver.Server
	caller  *invoke.Caller
	log     *slog.Logger
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
	n := &Node{log: log}
	if err := n.open(ctx, config, settings); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) open(ctx context.Context, config Config, settings []*checkoutv1.Setting) (err error) {
	if n.pool, err = pg.Open(ctx, config.DatabaseURL, maxConns); err != nil {
		return err
	}
	if err := pg.Migrate(ctx, n.pool, store.Migrations()); err != nil {
		return err
	}
	n.store = store.New(n.pool)

	to, err := n.participants(config)
	if err != nil {
		return err
	}
	registry := task.NewTaskRegistry()
	if err := workflows.Register(registry, config.Policy); err != nil {
		return err
	}
	if err := activities.Register(registry, n.store, to); err != nil {
		return err
	}
	opened, err := openEngine(ctx, config, registry, n.log)
	if err != nil {
		return err
	}
	n.engine = opened
	n.sweeper = sweeper.New(n.pool, n.store, n.engine, n.log)

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.server, err = rpcserver.Listen(rpcserver.Config{Address: config.Listen, Ready: n.ready, Metrics: metrics, Log: n.log})
	if err != nil {
		return err
	}
	service := orchestrator.New(orchestrator.Config{
		Store: n.store, Pool: n.pool, Engine: n.engine, Warehouse: to.Warehouse, Payment: to.Payment,
		Log: n.log, Metrics: metrics, Settings: settings,
	})
	n.server.Mount(checkoutv1connect.NewCheckoutServiceHandler(service, n.server.Options()...))
	return nil
}

// participants makes the clients by which warehouse and payment are called.
func (n *Node) participants(config Config) (activities.Participants, error) {
	warehouse, payment := config.WarehouseURL, config.PaymentURL
	n.caller = invoke.Direct()
	if config.Engine == Dapr {
		port, err := strconv.Atoi(config.DaprHTTPPort)
		if err != nil {
			return activities.Participants{}, fmt.Errorf("read DAPR_HTTP_PORT: %w", err)
		}
		n.caller = invoke.ThroughDapr(port, config.DaprAPIToken)
		warehouse, payment = config.WarehouseAppID, config.PaymentAppID
	}
	warehouseHTTP, warehouseURL := n.caller.To(warehouse)
	paymentHTTP, paymentURL := n.caller.To(payment)
	return activities.Participants{
		Warehouse: warehousev1connect.NewWarehouseServiceClient(warehouseHTTP, warehouseURL),
		Payment:   paymentv1connect.NewPaymentServiceClient(paymentHTTP, paymentURL),
	}, nil
}

func openEngine(ctx context.Context, config Config, registry *task.TaskRegistry, log *slog.Logger) (closableEngine, error) {
	if config.Engine == Dapr {
		return dapr.New(dapr.Config{
			Address: "127.0.0.1:" + config.DaprGRPCPort, Token: config.DaprAPIToken, Registry: registry, Log: log,
		})
	}
	return embedded.Open(ctx, embedded.Config{DatabaseURL: config.DatabaseURL, Registry: registry, Log: log})
}

// ready says what keeps this process from driving checkouts.
func (n *Node) ready(ctx context.Context) error {
	if err := n.pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
	return n.engine.Check(ctx)
}

// URL is where the API listens.
func (n *Node) URL() string { return n.server.URL() }

// Run serves the API and drives checkouts until ctx ends. It stops in order: the API takes no more calls, the engine
// finishes the activities in hand, and the sweeper goes last, so that nothing is begun that nobody would look after.
func (n *Node) Run(ctx context.Context) error {
	return runParts(ctx, n.log, n.parts()...)
}

func (n *Node) parts() []part {
	return []part{
		{"api", n.server.Run},
		{"engine " + n.engine.Name(), n.engine.Run},
		{"sweeper", func(ctx context.Context) error { n.sweeper.Run(ctx); return nil }},
		{"listener for changes", n.listen},
	}
}

// listenAgain is the pause after the connection that hears of changes was lost. Watchers look by themselves meanwhile.
const listenAgain = time.Second

func (n *Node) listen(ctx context.Context) error {
	for {
		err := n.store.Listen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		n.log.Warn("changes are not heard of, and watchers see them late", "error", err)
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
			return nil
		}
	}
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
