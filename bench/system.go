package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/client"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
)

// system is one of the things that are compared.
type system struct {
	// name is that in the table.
	name string
	// owners are those of the processes and databases that it consists of.
	owners []string
	// one runs one saga, one checkout or one bare workflow, from the call that starts it until the client hears that it has ended.
	one func(ctx context.Context, id string) error
	// stop ends what belongs to this system alone.
	stop func()
	// profile is where its program tells of itself, with -profile.
	profile string
}

// onDapr owns what has no other owner: Dapr's processes and those that it runs.
const onDapr = "dapr"

// ground is what all systems stand on: one machine, one PostgreSQL server that keeps its promises, one Dapr.
type ground struct {
	root, dir string
	postgres  *localstack.Postgres
	dapr      localstack.Dapr
	plane     *localstack.ControlPlane
	broker    *localstack.Broker
	// checkout is set once the checkout on Dapr runs, embedded once that in one process does.
	checkout *stack.Stack
	embedded *system
	// participants are the addresses of those of the saga, once they run.
	participants []string
	// server is a connection to PostgreSQL as a whole, postmaster the process id of its first process.
	server     *pgx.Conn
	postmaster int
	// programs are processes by their ids.
	programs map[int]kind
	// profiled says that programs tell of themselves.
	profiled bool
	// stops end what several systems share.
	stops []func()
	// countsItself says that this process is at work itself, and not only the client of what is measured.
	countsItself bool
}

// startGround starts PostgreSQL as in production, durable, on a fresh data folder, and with Dapr the control plane and a broker.
func startGround(ctx context.Context, root string, withDapr, profiled bool) (*ground, error) {
	local, err := localstack.LocalDir(root)
	if err != nil {
		return nil, err
	}
	parent := filepath.Join(local, "bench")
	if err := localstack.PrivateDir(parent); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "run-")
	if err != nil {
		return nil, err
	}
	g := &ground{root: root, dir: dir, programs: map[int]kind{}, profiled: profiled}
	if err := g.startPostgres(ctx); err != nil {
		return g, err
	}
	if !withDapr {
		return g, nil
	}
	if g.dapr, err = localstack.FindDapr(ctx); err != nil {
		return g, err
	}
	if g.plane, err = localstack.StartControlPlane(ctx, g.dapr, filepath.Join(dir, "plane"), true); err != nil {
		return g, err
	}
	g.broker, err = localstack.StartBroker(ctx, localstack.Redis, root, filepath.Join(dir, "redis"), true)
	return g, err
}

func (g *ground) startPostgres(ctx context.Context) (err error) {
	if g.postgres, err = localstack.StartPostgres(ctx, g.postgresDir(), localstack.PostgresOptions{}); err != nil {
		return err
	}
	if g.server, err = pgx.Connect(ctx, g.postgres.SuperuserURL("postgres")); err != nil {
		return fmt.Errorf("reach PostgreSQL: %w", err)
	}
	if g.profiled {
		if err := g.countStatements(ctx); err != nil {
			return fmt.Errorf("have PostgreSQL count statements: %w", err)
		}
	}
	if g.postmaster, err = postmasterOf(ctx, g.server); err != nil {
		return fmt.Errorf("find PostgreSQL's process: %w", err)
	}
	return nil
}

func (g *ground) postgresDir() string { return filepath.Join(g.dir, "postgres") }

// stop ends everything and removes what it wrote; logs stay where keep is set.
func (g *ground) stop(ctx context.Context, keep bool) error {
	for _, stop := range slices.Backward(g.stops) {
		stop()
	}
	if g.server != nil {
		_ = g.server.Close(ctx)
	}
	if g.plane != nil {
		g.plane.KillScheduler() // Its data is thrown away.
		g.plane.KillPlacement()
	}
	if g.broker != nil {
		g.broker.Kill()
	}
	err := localstack.StopPostgres(ctx, g.postgresDir())
	if keep {
		return err
	}
	return errors.Join(err, localstack.RemovePostgres(g.postgresDir()), os.RemoveAll(g.dir))
}

// build builds programs of this repository as they are now.
func (g *ground) build(ctx context.Context, packages string, flags ...string) error {
	args := append([]string{"build", "-o", g.bin() + "/"}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, packages)...)
	build.Dir = g.root
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", packages, err, text)
	}
	return nil
}

// buildOurs builds the programs of the checkout, with -profile including the file that serves a profile.
func (g *ground) buildOurs(ctx context.Context) error {
	if !g.profiled {
		return g.build(ctx, "./cmd/...")
	}
	overlay, err := g.profileOverlay()
	if err != nil {
		return err
	}
	return g.build(ctx, "./cmd/...", "-overlay", overlay)
}

func (g *ground) bin() string { return filepath.Join(g.dir, "bin") }

// start starts a program whose CPU time is its owner's, under a name.
func (g *ground) start(ctx context.Context, k kind, c localstack.ProgramConfig) (stop func(), err error) {
	c.Name, c.Dir, c.Tied = k.name, filepath.Join(g.dir, k.owner), true
	p, err := localstack.StartProgram(ctx, c)
	if err != nil {
		return nil, err
	}
	g.programs[p.PID()] = k
	return func() { p.Stop(15 * time.Second) }, nil
}

// databases makes databases whose names begin with prefix and returns how to address them.
func (g *ground) databases(ctx context.Context, prefix string, names ...string) (url func(name string) string, err error) {
	urls := map[string]string{}
	for _, name := range names {
		if urls[name], err = g.postgres.EnsureDatabase(ctx, prefix+name); err != nil {
			return nil, err
		}
	}
	return func(name string) string { return urls[name] }, nil
}

// startOnDapr starts this project on Dapr.
func startOnDapr(ctx context.Context, g *ground) (*system, error) {
	url, err := g.databases(ctx, "dapr_", append(stack.Names(), "dapr")...)
	if err != nil {
		return nil, err
	}
	if err := g.buildOurs(ctx); err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Config{
		Components: filepath.Join(g.root, "components"), Bin: g.bin(),
		Dir: filepath.Join(g.dir, "checkout-dapr"), Dapr: g.dapr, Plane: g.plane, Broker: g.broker, DatabaseURL: url,
	})
	if err != nil {
		return nil, err
	}
	if err := fillWarehouse(ctx, s.Warehouse.URL); err != nil {
		s.Kill()
		return nil, err
	}
	g.checkout = s
	return &system{name: "dapr", owners: []string{onDapr}, one: checkoutAt(s.Orchestrator.URL, articles), stop: s.Stop}, nil
}

// startEmbedded starts this project in one process.
func startEmbedded(ctx context.Context, g *ground) (*system, error) {
	s, server, err := startInOneProcess(ctx, g, "embedded")
	if err != nil {
		return nil, err
	}
	g.embedded = &system{name: "article", owners: s.owners, one: checkoutAt(server, articles[:1]), stop: func() {}}
	return s, nil
}

// startArticle is the same, where everybody buys one article.
func startArticle(_ context.Context, g *ground) (*system, error) { return g.embedded, nil }

// startInOneProcess starts this project in one process, on databases of owner, and tells the address of its API.
func startInOneProcess(ctx context.Context, g *ground, owner string) (s *system, server string, err error) {
	names := stack.Names()
	url, err := g.databases(ctx, owner+"_", names...)
	if err != nil {
		return nil, "", err
	}
	ports, err := localstack.FreePorts(len(names) + 1)
	if err != nil {
		return nil, "", err
	}
	at := func(name string) string { return fmt.Sprintf("127.0.0.1:%d", ports[slices.Index(names, name)]) }
	env, profile := g.profileAt(ports[len(names)])
	for _, name := range names {
		upper := strings.ToUpper(name)
		env = append(env, upper+"_LISTEN="+at(name), upper+"_DATABASE_URL="+url(name))
	}
	if err := g.buildOurs(ctx); err != nil {
		return nil, "", err
	}
	stop, err := g.start(ctx, kind{owner, stack.Orchestrator}, localstack.ProgramConfig{
		Path: filepath.Join(g.bin(), stack.Orchestrator), Args: []string{"dev"}, Env: env, ReadyURL: "http://" + at(stack.Orchestrator) + "/readyz",
	})
	if err != nil {
		return nil, "", err
	}
	if err := fillWarehouse(ctx, "http://"+at(stack.Warehouse)); err != nil {
		stop()
		return nil, "", err
	}
	server = "http://" + at(stack.Orchestrator)
	return &system{name: "embedded", owners: []string{owner}, one: checkoutAt(server, articles), stop: stop, profile: profile}, server, nil
}

// articles are those of the catalogue; orders are spread over them, as in a shop.
var articles = []string{
	"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "SHELF-WALNUT", "DESK-OAK", "SOFA-LINEN", "ARMCHAIR-WOOL", "BED-ASH",
	"WARDROBE-PINE", "MIRROR-ROUND", "RUG-JUTE", "CUSHION-VELVET", "VASE-CLAY", "CLOCK-STEEL", "LAMP-PAPER", "BASKET-WILLOW", "BOWL-OLIVE", "COAT-RACK",
}

func fillWarehouse(ctx context.Context, url string) error {
	warehouse := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, url)
	for _, sku := range articles {
		if _, err := warehouse.SetStock(ctx, connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku, OnHand: 1_000_000})); err != nil {
			return fmt.Errorf("set stock of %s: %w", sku, err)
		}
	}
	return nil
}

// newClient keeps as many connections as calls may be under way.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, 512
	return &http.Client{Transport: transport}
}

// checkoutAt runs checkouts of one of the articles through the API, each by one request, whose answer is the end.
func checkoutAt(url string, articles []string) func(ctx context.Context, id string) error {
	checkouts := checkoutv1connect.NewCheckoutServiceClient(newClient(), url)
	return func(ctx context.Context, id string) error {
		answer, err := checkouts.Start(ctx, connect.NewRequest(&checkoutv1.StartRequest{
			OrderId: id, CustomerId: "cus-bench", Currency: "EUR", PaymentMethod: "tok_visa",
			Items: []*checkoutv1.Item{{Sku: articles[rand.IntN(len(articles))], Quantity: 1}}, Wait: longest,
		}))
		if err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
		if status := answer.Msg.Checkout.Status; status != checkoutv1.Status_STATUS_CONFIRMED {
			return fmt.Errorf("%s ended %s, want confirmed", id, status)
		}
		return nil
	}
}

// startBare starts the bare workflow and the application that it calls, each with a sidecar.
func startBare(ctx context.Context, g *ground) (*system, error) {
	b, err := newBareStack(ctx, g, "bare")
	if err != nil {
		return nil, err
	}
	if _, err := b.start(ctx, stack.Warehouse, "app", nil); err != nil {
		b.stop()
		return nil, err
	}
	one, err := b.startWorker(ctx, "worker", []string{"APP_ID=" + b.appID(stack.Warehouse)})
	if err != nil {
		b.stop()
		return nil, err
	}
	return &system{name: "bare", owners: []string{onDapr, "bare"}, one: one, stop: b.stop}, nil
}

// startWorkflow starts the bare workflow that calls the participants of the checkout on Dapr, which must run.
func startWorkflow(ctx context.Context, g *ground) (*system, error) {
	b, err := newBareStack(ctx, g, "workflow")
	if err != nil {
		return nil, err
	}
	one, err := b.startWorker(ctx, "direct", []string{
		"WAREHOUSE_APP_ID=" + g.checkout.AppID(stack.Warehouse), "PAYMENT_APP_ID=" + g.checkout.AppID(stack.Payment),
	})
	if err != nil {
		b.stop()
		return nil, err
	}
	return &system{name: "workflow", owners: []string{onDapr, "workflow"}, one: one, stop: b.stop}, nil
}

// bareStack is the processes of bench/bare with their sidecars.
type bareStack struct {
	g           *ground
	dir         string
	suffix      string
	databaseURL string
	stops       []func()
}

func newBareStack(ctx context.Context, g *ground, owner string) (*bareStack, error) {
	b := &bareStack{g: g, dir: filepath.Join(g.dir, owner), suffix: fmt.Sprintf("-%06x", rand.Uint32N(1<<24))}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	if err := g.build(ctx, "./bench/bare"); err != nil {
		return nil, err
	}
	url, err := g.databases(ctx, owner+"_", "dapr")
	if err != nil {
		return nil, err
	}
	b.databaseURL = url("dapr")
	// The very component files of the checkout: the same state store with as many connections, the same limits.
	ids := map[string]string{stack.Orchestrator: b.appID(stack.Orchestrator), stack.Warehouse: b.appID(stack.Warehouse)}
	if err := localstack.RenderComponents(b.components(), ids, filepath.Join(g.root, "components")); err != nil {
		return nil, err
	}
	// A bare workflow hears no events.
	return b, os.Remove(filepath.Join(b.components(), "subscriptions.yaml"))
}

func (b *bareStack) components() string       { return filepath.Join(b.dir, "components") }
func (b *bareStack) appID(name string) string { return name + b.suffix }

// start starts one role of bench/bare with a sidecar. It bears the name of one of our services, so that the components,
// which name those, mean it.
func (b *bareStack) start(ctx context.Context, name, role string, env []string) (*localstack.Sidecar, error) {
	port, err := localstack.FreePorts(1)
	if err != nil {
		return nil, err
	}
	sidecar, err := localstack.StartSidecar(ctx, b.g.dapr, b.g.plane, localstack.SidecarConfig{
		AppID: b.appID(name), AppPort: port[0],
		Resources: []string{b.components()}, Configs: []string{filepath.Join(b.components(), "config.yaml")},
		Env: []string{"WORKFLOW_DATABASE_URL=" + b.databaseURL}, Dir: b.dir, Tied: true,
	})
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, sidecar.Stop)
	listen := fmt.Sprintf("127.0.0.1:%d", port[0])
	app, err := localstack.StartProgram(ctx, localstack.ProgramConfig{
		Name: role, Path: filepath.Join(b.g.bin(), "bare"), Args: []string{role},
		Env: append([]string{
			"LISTEN=" + listen,
			fmt.Sprintf("DAPR_GRPC_PORT=%d", sidecar.GRPCPort), fmt.Sprintf("DAPR_HTTP_PORT=%d", sidecar.HTTPPort),
		}, env...),
		Dir: b.dir, ReadyURL: "http://" + listen + "/readyz", Tied: true,
	})
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, func() { app.Stop(5 * time.Second) })
	return sidecar, sidecar.WaitForApp(ctx)
}

// startWorker starts a role that runs the workflow and connects to its sidecar as its client.
func (b *bareStack) startWorker(ctx context.Context, role string, env []string) (one func(context.Context, string) error, err error) {
	sidecar, err := b.start(ctx, stack.Orchestrator, role, env)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", sidecar.GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to sidecar: %w", err)
	}
	b.stops = append(b.stops, func() { conn.Close() })
	return bareAt(client.NewTaskHubGrpcClient(conn, backend.DefaultLogger())), nil
}

// stop ends what was started, last first.
func (b *bareStack) stop() {
	for _, stop := range slices.Backward(b.stops) {
		stop()
	}
}

// bareAt runs bare workflows: it starts one and waits on the sidecar's stream for its completion, which is how Dapr's own
// client waits. Started as the orchestrator starts its runs, with a start time; without one the call returns after the first turn.
func bareAt(hub *client.TaskHubGrpcClient) func(ctx context.Context, id string) error {
	return func(ctx context.Context, id string) error {
		at, err := hub.ScheduleNewWorkflow(ctx, "bare", api.WithInstanceID(api.InstanceID(id)), api.WithInput(id), api.WithStartTime(time.Now()))
		if err != nil {
			return fmt.Errorf("start %s: %w", id, err)
		}
		metadata, err := hub.WaitForWorkflowCompletion(ctx, at)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", id, err)
		}
		if metadata.RuntimeStatus != protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED {
			return fmt.Errorf("%s ended %s: %s", id, metadata.RuntimeStatus, metadata.GetFailureDetails().GetErrorMessage())
		}
		return nil
	}
}
