package harness

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/saga"
)

// InProcess are the differences from `orchestrator serve`.
type InProcess struct {
	// Policy is how the saga tries again; the zero value is production's.
	Policy saga.Policy
	// ApprovalAbove says which orders need an approval; the zero value none.
	ApprovalAbove node.Amounts
}

// StartInProcess starts all participants and the orchestrator in the test's process, with the embedded engine, the embedded bus,
// and a proxy before warehouse and payment. All of it ends with the test.
func StartInProcess(t testing.TB, o InProcess) *System {
	t.Helper()
	s := &System{Databases: databases(t)}
	config := node.FromEnv(func(string) string { return "" })
	config.Engine, config.Policy, config.ApprovalAbove = node.Embedded, o.Policy, o.ApprovalAbove
	config.DatabaseURL, config.Listen = s.Databases["orchestrator"], "127.0.0.1:0"
	config.Bus = embedded.New()

	urls := make(map[string]string)
	for _, kind := range node.Kinds(func(string) string { return "" }) {
		p, err := process.Open(t.Context(), kind, process.Settings{DatabaseURL: s.Databases[kind.Name], Listen: "127.0.0.1:0"}, logger(t, kind.Name))
		if err != nil {
			t.Fatal(err)
		}
		p.UseEmbedded(config.Bus)
		background(t, p.Close, p.Parts()...)
		urls[kind.Name] = p.URL()
	}
	s.WarehouseProxy, s.PaymentProxy = StartProxy(t, urls["warehouse"]), StartProxy(t, urls["payment"])
	maps.Copy(config.URLs, urls)
	config.URLs["warehouse"], config.URLs["payment"] = s.WarehouseProxy.URL(), s.PaymentProxy.URL()
	orchestrator, err := node.Open(t.Context(), config, logger(t, "orchestrator"))
	if err != nil {
		t.Fatal(err)
	}
	background(t, orchestrator.Close, process.Part{Name: "orchestrator", Run: orchestrator.Run})
	urls["orchestrator"] = orchestrator.URL()
	s.connect(t, urls)
	return s
}

// background runs parts until the test ends, waits for them, and then closes what they used.
func background(t testing.TB, close func(), parts ...process.Part) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- process.RunParts(ctx, slog.New(slog.DiscardHandler), parts...) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
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
