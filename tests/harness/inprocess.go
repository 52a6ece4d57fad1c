package harness

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/participants/payment"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
	"github.com/checkoutsaga/orchestrator/workflows/saga"
)

// InProcess says what differs from what `orchestrator serve` does.
type InProcess struct {
	// Policy is how the saga tries again; the zero value is what runs in production.
	Policy saga.Policy
}

// StartInProcess starts warehouse, payment and orchestrator in the test's process, with the embedded engine and a proxy
// before each participant. All of it ends with the test.
func StartInProcess(t testing.TB, o InProcess) *System {
	t.Helper()
	s := &System{Databases: databases(t)}
	warehouseURL := startWarehouse(t, s.Databases.Warehouse)
	paymentURL := startPayment(t, s.Databases.Payment)
	s.WarehouseProxy, s.PaymentProxy = StartProxy(t, warehouseURL), StartProxy(t, paymentURL)

	config := node.FromEnv(func(string) string { return "" })
	config.Engine, config.Policy = node.Embedded, o.Policy
	config.DatabaseURL, config.Listen = s.Databases.Orchestrator, "127.0.0.1:0"
	config.WarehouseURL, config.PaymentURL = s.WarehouseProxy.URL(), s.PaymentProxy.URL()
	orchestrator, err := node.Open(t.Context(), config, logger(t, "orchestrator"))
	if err != nil {
		t.Fatal(err)
	}
	background(t, orchestrator.Close, orchestrator.Run)
	s.connect(t, orchestrator.URL(), warehouseURL, paymentURL)
	return s
}

func startWarehouse(t testing.TB, databaseURL string) (url string) {
	t.Helper()
	service, err := warehouse.Open(t.Context(), warehouse.Config{DatabaseURL: databaseURL})
	if err != nil {
		t.Fatal(err)
	}
	server := listen(t, logger(t, "warehouse"), service.Ready)
	service.Mount(server)
	background(t, service.Close, server.Run)
	return server.URL()
}

func startPayment(t testing.TB, databaseURL string) (url string) {
	t.Helper()
	log := logger(t, "payment")
	service, err := payment.Open(t.Context(), payment.Config{DatabaseURL: databaseURL}, log)
	if err != nil {
		t.Fatal(err)
	}
	server := listen(t, log, service.Ready)
	service.Mount(server)
	background(t, service.Close, server.Run, service.Run)
	return server.URL()
}

func listen(t testing.TB, log *slog.Logger, ready func(context.Context) error) *rpcserver.Server {
	t.Helper()
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: ready, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// background runs parts until the test ends, waits for them, and closes what they worked with.
func background(t testing.TB, close func(), parts ...func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		group.Go(func() error { return part(ctx) })
	}
	t.Cleanup(func() {
		stop()
		if err := group.Wait(); err != nil {
			t.Errorf("stop: %v", err)
		}
		close()
	})
}

// logger writes to a file whose end is shown if the test fails.
func logger(t testing.TB, name string) *slog.Logger {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.ArtifactDir(), name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		file.Close()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, tail(file.Name()))
		}
	})
	return slog.New(slog.NewTextHandler(file, nil))
}
