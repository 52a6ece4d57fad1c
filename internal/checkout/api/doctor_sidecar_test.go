package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
)

func TestDoctorReadsWhatARealSidecarTells(t *testing.T) {
	t.Parallel()
	broker := daprtest.StartBroker(t, "redis")
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	subscriptions, err := os.ReadFile("../../../components/subscriptions.yaml")
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "subscriptions.yaml"), subscriptions, 0o600))
	started := daprtest.StartOn(t, broker, []string{folder}, daprtest.App{Name: "orchestrator", Port: app.Listener.Addr().(*net.TCPAddr).Port})
	side := started.Sidecar("orchestrator")
	require.NoError(t, side.WaitForApp(t.Context()))

	f := setup(t)
	own := doctor.Sidecar{URL: fmt.Sprintf("http://127.0.0.1:%d", side.HTTPPort)}
	got := f.beside(t, own)
	got.requireFine(t, "sidecar version", localstack.DaprVersion)
	got.requireWrong(t, "sidecar connections", "", "")
	got.requireFine(t, "sidecar components", "pubsub (pubsub.redis), deadletter (pubsub.redis), ")
	got.requireFine(t, "sidecar subscriptions", "all ")

	worker, err := dapr.New(dapr.Config{Address: fmt.Sprintf("127.0.0.1:%d", side.GRPCPort), Registry: task.NewTaskRegistry(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer worker.Close()
	running, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- worker.Run(running) }()
	defer func() { stop(); <-stopped }()
	require.Eventually(t, func() bool { return f.beside(t, own)["sidecar connections"].Ok }, 3*soon, soon/100)
	f.beside(t, own).requireFine(t, "sidecar connections", "1 workflow worker")
}
