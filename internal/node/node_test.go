package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// everything is the configuration of a whole system on databases of the test's own.
func everything(t *testing.T) node.DevConfig {
	t.Helper()
	config := node.DevFromEnv(func(string) string { return "" })
	config.DatabaseURL, config.Listen = pgtest.URL(t), "127.0.0.1:0"
	for _, name := range node.Participants() {
		config.Participants[name] = process.Settings{DatabaseURL: pgtest.URL(t), Listen: "127.0.0.1:0"}
	}
	return config
}

// run runs a whole system; stop stops it and checks that it stopped in order.
func run(t *testing.T, config node.DevConfig) (api checkoutv1connect.CheckoutServiceClient, stop func()) {
	t.Helper()
	d, err := node.OpenDev(t.Context(), config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		d.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	t.Cleanup(stop)
	return checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, d.URL()), stop
}

func start(t *testing.T, api checkoutv1connect.CheckoutServiceClient, orderID, paymentMethod string, item *checkoutv1.Item) {
	t.Helper()
	_, err := api.Start(t.Context(), connect.NewRequest(&checkoutv1.StartRequest{
		OrderId: orderID, CustomerId: "cus-1", Currency: "EUR", PaymentMethod: paymentMethod, Items: []*checkoutv1.Item{item},
	}))
	require.NoError(t, err)
}

// settle waits for the end of a checkout.
func settle(t *testing.T, api checkoutv1connect.CheckoutServiceClient, orderID string) *checkoutv1.Checkout {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := api.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: orderID, UntilSettled: true}))
	require.NoError(t, err)
	var last *checkoutv1.Checkout
	for stream.Receive() {
		last = stream.Msg().Checkout
	}
	require.NoError(t, stream.Err(), "%s stands at %v", orderID, last)
	require.NoError(t, stream.Close())
	return last
}

func audit(t *testing.T, api checkoutv1connect.CheckoutServiceClient) int64 {
	t.Helper()
	stream, err := api.Audit(t.Context(), connect.NewRequest(&checkoutv1.AuditRequest{}))
	require.NoError(t, err)
	var checked int64
	for stream.Receive() {
		require.Empty(t, stream.Msg().Violations)
		checked = stream.Msg().Checked
	}
	require.NoError(t, stream.Err())
	require.NoError(t, stream.Close())
	return checked
}

func TestI1CheckoutsEndAsTheyShouldAndTheBooksAgree(t *testing.T) {
	api, _ := run(t, everything(t))
	chair := &checkoutv1.Item{Sku: "CHAIR-OAK", Quantity: 2}
	start(t, api, "confirmed", "tok_visa", chair)
	start(t, api, "declined", "tok_declined", chair)
	start(t, api, "out-of-stock", "tok_visa", &checkoutv1.Item{Sku: "TABLE-OAK", Quantity: 9999})

	require.Equal(t, checkoutv1.Status_STATUS_CONFIRMED, settle(t, api, "confirmed").Status)
	declined := settle(t, api, "declined")
	require.Equal(t, checkoutv1.Status_STATUS_REJECTED, declined.Status)
	require.Contains(t, declined.Reason, "card_declined")
	require.Equal(t, "done", declined.Steps[0].Compensation)
	outOfStock := settle(t, api, "out-of-stock")
	require.Equal(t, checkoutv1.Status_STATUS_REJECTED, outOfStock.Status)
	require.Contains(t, outOfStock.Reason, "out_of_stock")
	require.EqualValues(t, 3, audit(t, api))

	answer, err := api.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
	require.NoError(t, err)
	for _, f := range answer.Msg.Findings {
		require.True(t, f.Ok, "%s: %s", f.Check, f.Detail)
	}
	for _, s := range answer.Msg.Settings {
		require.NotContains(t, s.Value, "secret")
	}
}

func TestI8AStopUnderLoadIsInOrderAndTheNextProcessGoesOn(t *testing.T) {
	ignored := goleak.IgnoreCurrent()
	config := everything(t)
	api, stop := run(t, config)
	const orders = 30
	for i := range orders {
		start(t, api, fmt.Sprintf("ord-%d", i), "tok_visa", &checkoutv1.Item{Sku: "CHAIR-OAK", Quantity: 1})
	}
	stop()
	// The stock PostgreSQL backend of the embedded engine has no way to close its pool; its connections are cut.
	goleak.VerifyNone(t, ignored, goleak.IgnoreTopFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))

	api, _ = run(t, config)
	for i := range orders {
		require.Equal(t, checkoutv1.Status_STATUS_CONFIRMED, settle(t, api, fmt.Sprintf("ord-%d", i)).Status)
	}
	require.EqualValues(t, orders, audit(t, api))
}

func TestWrongConfigurationIsToldAllAtOnce(t *testing.T) {
	config := node.FromEnv(func(name string) string {
		return map[string]string{"ORCHESTRATOR_HOSTS": "http://checkout.example"}[name]
	})
	config.Engine, config.Listen = "temporal", "here"
	err := config.Validate()
	for _, setting := range []string{"ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_ENGINE", "ORCHESTRATOR_LISTEN", "ORCHESTRATOR_HOSTS"} {
		require.ErrorContains(t, err, setting+": ")
	}
}

func TestTheEngineIsDaprWhereASidecarIs(t *testing.T) {
	env := map[string]string{"ORCHESTRATOR_DATABASE_URL": "postgres://db/x", "APP_PORT": "9123"}
	fromEnv := func() node.Config {
		config := node.FromEnv(func(name string) string { return env[name] })
		require.NoError(t, config.Validate())
		return config
	}
	require.Equal(t, node.Embedded, fromEnv().Engine)
	require.Equal(t, "127.0.0.1:9123", fromEnv().Listen)
	env["DAPR_GRPC_PORT"], env["DAPR_HTTP_PORT"] = "50001", "3500"
	require.Equal(t, node.Dapr, fromEnv().Engine)
	env["ORCHESTRATOR_ENGINE"] = node.Embedded
	require.Equal(t, node.Embedded, fromEnv().Engine)
}

func TestAWrongAddressIsToldWithoutItsPassword(t *testing.T) {
	config := node.FromEnv(func(string) string { return "" })
	config.URLs["warehouse"] = "http://key:sec/ret"
	err := config.Validate()
	require.ErrorContains(t, err, "WAREHOUSE_URL: ")
	require.NotContains(t, err.Error(), "key:sec")
}
