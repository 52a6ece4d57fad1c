package invoke_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/invoke"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
)

func TestDirectCallsGoToTheAddressWithoutDaprsHeaders(t *testing.T) {
	got := make(chan *http.Request, 1)
	participant := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer participant.Close()
	client, base := invoke.Direct().To(participant.URL)
	require.NoError(t, post(t.Context(), client, base))

	r := <-got
	require.Equal(t, "/warehouse.v1.WarehouseService/Reserve", r.URL.Path)
	require.Empty(t, r.Header.Get("dapr-app-id"))
}

func TestCallsThroughDaprNameTheAppAndCarryTheToken(t *testing.T) {
	got := make(chan *http.Request, 1)
	sidecar := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer sidecar.Close()
	client, base := invoke.ThroughDapr(sidecar.Listener.Addr().(*net.TCPAddr).Port, "secret").To("warehouse")
	require.NoError(t, post(t.Context(), client, base))

	r := <-got
	want := []string{"/warehouse.v1.WarehouseService/Reserve", "warehouse", "secret"}
	require.Empty(t, cmp.Diff(want, []string{r.URL.Path, r.Header.Get("dapr-app-id"), r.Header.Get("dapr-api-token")}))
}

func TestASidecarFindsTheOtherOneOnThisHost(t *testing.T) {
	got := make(chan *http.Request, 100)
	participant := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r }))
	defer participant.Close()
	dapr := daprtest.Start(t,
		daprtest.App{Name: "caller"},
		daprtest.App{Name: "warehouse", Port: participant.Listener.Addr().(*net.TCPAddr).Port})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, dapr.Sidecar("warehouse").WaitForApp(ctx))

	caller := invoke.ThroughDapr(dapr.Sidecar("caller").HTTPPort, "")
	client, base := caller.To(dapr.AppID("warehouse"))
	// The callee announces itself when its application listens, which the caller's resolver may learn a moment later.
	require.NoError(t, localstack.WaitFor(ctx, "the other sidecar", func(ctx context.Context) error { return post(ctx, client, base) }))
	for {
		if r := <-got; r.Method == http.MethodPost { // The sidecar asks the application for its subscriptions, too.
			require.Equal(t, "/warehouse.v1.WarehouseService/Reserve", r.URL.Path)
			break
		}
	}

	dapr.Sidecar("warehouse").Kill()
	require.ErrorContains(t, post(ctx, client, base), "500")
}

func post(ctx context.Context, client *http.Client, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/warehouse.v1.WarehouseService/Reserve", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("content-type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status + ": " + string(body))
	}
	return err
}
