package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/process"
)

// Shop is warehouse and payment in the test's process, each behind its proxy. Orchestrators come and go on one database. There is
// no bus, so events stay in their outboxes.
type Shop struct {
	*System
	// Config is the orchestrator's; a test changes it before Open.
	Config node.Config
	// URL is the address of the orchestrator that was opened last.
	URL string
}

// StartShop starts warehouse and payment, which end with the test. Open starts an orchestrator.
func StartShop(t testing.TB) *Shop {
	t.Helper()
	s := &Shop{System: &System{Databases: databases(t)}, Config: node.FromEnv(func(string) string { return "" })}
	urls := make(map[string]string)
	for _, kind := range node.Kinds(func(string) string { return "" }) {
		if kind.Name != checkout.Warehouse && kind.Name != checkout.Payment {
			delete(s.Databases, kind.Name) // The judge must not wait for apps that do not run.
			continue
		}
		p, err := process.Open(t.Context(), kind, process.Settings{DatabaseURL: s.Databases[kind.Name], Listen: "127.0.0.1:0"}, logger(t, kind.Name))
		if err != nil {
			t.Fatal(err)
		}
		background(t, p.Close, p.Parts()...)
		urls[kind.Name] = p.URL()
	}
	s.WarehouseProxy, s.PaymentProxy = StartProxy(t, urls[checkout.Warehouse]), StartProxy(t, urls[checkout.Payment])
	s.Config.Engine, s.Config.DatabaseURL, s.Config.Listen = node.Embedded, s.Databases["orchestrator"], "127.0.0.1:0"
	s.Config.URLs = map[string]string{checkout.Warehouse: s.WarehouseProxy.URL(), checkout.Payment: s.PaymentProxy.URL()}
	s.connect(t, urls)
	return s
}

// Open starts an orchestrator, which the system's clients call from now on. It ends with stop or with the test.
func (s *Shop) Open(t testing.TB) (stop func()) {
	t.Helper()
	n, err := node.Open(t.Context(), s.Config, logger(t, "orchestrator"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
		n.Close()
	})
	t.Cleanup(stop)
	s.URL = n.URL()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	t.Cleanup(client.CloseIdleConnections)
	s.Checkouts = checkoutv1connect.NewCheckoutServiceClient(client, s.URL)
	Eventually(t, "the orchestrator to be ready", func(ctx context.Context) error { return Ready(ctx, s.URL) })
	return stop
}

// Metric is the value of a series of /metrics, such as `participant_held_back{participant="payment"}`.
func (s *Shop) Metric(ctx context.Context, series string) (value string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/metrics", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("there is no series %s", series)
}
