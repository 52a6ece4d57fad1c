package node_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	sdk "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sidecar"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// spans receives what every process of this test program records.
var spans = tracetest.NewInMemoryExporter()

func TestMain(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	os.Exit(m.Run())
}

// What one trace must hold: the start, each activity, each call of a participant, and each consumer of an event.
var (
	orchestratedTrace = append(slices.Repeat([]string{"saga.participant.v1.ParticipantService/Do"}, 2*4), // The caller's and the participant's.
		"checkout.v1.CheckoutService/Start",
		"reserve-stock", "authorize-payment", "capture-payment", "commit-stock",
		"process checkout.order.created", "process checkout.order.confirmed", "process orders.order.status_changed",
	)
	choreographedTrace = []string{
		"checkout.v1.CheckoutService/Start", "process checkout.order.created", "process warehouse.inventory.reserved",
		"process payments.payment.authorized", "process payments.payment.completed", "process warehouse.inventory.committed",
		"process checkout.order.confirmed", "process orders.order.status_changed",
	}
)

func TestOneTraceFromTheStartToTheLastConsumer(t *testing.T) {
	config := everything(t)
	d, err := node.OpenDev(t.Context(), config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	require.NoError(t, err)
	runInBackground(t, d.Close, d.Run)
	traceIsWhole(t, d.URL())
}

func TestOneTraceFromTheStartToTheLastConsumerThroughRealDapr(t *testing.T) {
	broker := daprtest.StartBroker(t, localstack.Redis)
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	components := t.TempDir()
	for _, file := range []string{"subscriptions.yaml", "resiliency.yaml"} {
		require.NoError(t, os.Symlink(filepath.Join(root, "components", file), filepath.Join(components, file)))
	}
	names := append(node.Participants(), "orchestrator")
	ports, err := localstack.FreePorts(len(names))
	require.NoError(t, err)
	port := func(name string) int { return ports[slices.Index(names, name)] }
	var apps []daprtest.App
	for _, name := range names {
		apps = append(apps, daprtest.App{
			Name: name, Port: port(name), HealthPath: "/apphealthz",
			// As it is shipped: the sidecars sample nothing themselves, and pass on what they get.
			Configs: []string{filepath.Join(root, "components", "config.yaml")},
		})
	}
	sidecars := daprtest.StartOn(t, broker, []string{components}, apps...)

	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, kind := range node.Kinds(func(string) string { return "" }) {
		p, err := process.Open(t.Context(), kind, process.Settings{
			DatabaseURL: pgtest.URL(t), Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(port(kind.Name))),
		}, log.With("participant", kind.Name))
		require.NoError(t, err)
		conn, err := sidecar.Dial(net.JoinHostPort("127.0.0.1", strconv.Itoa(sidecars.Sidecar(kind.Name).GRPCPort)), "")
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		p.UseDapr(sdk.NewClientWithConnection(conn))
		runInBackground(t, p.Close, func(ctx context.Context) error { return process.RunParts(ctx, log, p.Parts()...) })
	}
	own := sidecars.Sidecar("orchestrator")
	env := map[string]string{
		"ORCHESTRATOR_DATABASE_URL": pgtest.URL(t), "APP_PORT": strconv.Itoa(port("orchestrator")),
		"DAPR_HTTP_PORT": strconv.Itoa(own.HTTPPort), "DAPR_GRPC_PORT": strconv.Itoa(own.GRPCPort),
	}
	config := node.FromEnv(func(name string) string { return env[name] })
	for _, name := range node.Participants() {
		config.AppIDs[name] = sidecars.AppID(name)
	}
	n, err := node.Open(t.Context(), config, log)
	require.NoError(t, err)
	runInBackground(t, n.Close, n.Run)
	for _, name := range names {
		ready, cancel := context.WithTimeout(t.Context(), time.Minute)
		require.NoError(t, sidecars.Sidecar(name).WaitForApp(ready))
		cancel()
	}
	traceIsWhole(t, n.URL())
}

// traceIsWhole starts a checkout of each coordination and demands that all that follows from it has the trace id of its start.
func traceIsWhole(t *testing.T, url string) {
	t.Helper()
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	require.NoError(t, err)
	api := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, url, connect.WithInterceptors(tracing))
	for coordination, want := range map[string][]string{"orchestrated": orchestratedTrace, "choreographed": choreographedTrace} {
		ctx, root := otel.Tracer("test").Start(t.Context(), "the command line")
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := api.Start(ctx, connect.NewRequest(&checkoutv1.StartRequest{
			OrderId: "ord-" + coordination, CustomerId: "cus-1", Currency: "EUR", PaymentMethod: "tok_visa", Coordination: coordination,
			Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 1}},
		}))
		cancel()
		require.NoError(t, err)
		root.End()

		trace := root.SpanContext().TraceID()
		var missing []string
		require.Eventually(t, func() bool {
			have := make(map[string]int)
			for _, span := range spans.GetSpans() {
				if span.SpanContext.TraceID() == trace {
					have[span.Name]++
				}
			}
			missing = slices.DeleteFunc(slices.Clone(want), func(name string) bool { have[name]--; return have[name] >= 0 })
			return len(missing) == 0
		}, 60*time.Second, 50*time.Millisecond, "the trace of a %s checkout lacks %v", coordination, &missing)
	}
}

func runInBackground(t *testing.T, closeIt func(), runIt func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runIt(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		closeIt()
	})
}
