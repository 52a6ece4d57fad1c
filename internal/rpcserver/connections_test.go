package rpcserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

func TestConnectionsThatSendNothingOrSlowlyKeepNobodyOut(t *testing.T) {
	t.Parallel()
	slow := map[string]string{
		"nothing":          "",
		"half a header":    "POST /x HTTP/1.1\r\nHost: loc",
		"half a body":      "POST " + warehousev1connect.WarehouseServiceSetStockProcedure + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"a body unread":    "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
		"HTTP/2's preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	}
	for name, sent := range slow {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connections := boundedConnections(8)
			s := startWith(t, Config{Connections: connections}, standardLimits(), nil)
			for range 40 {
				_, err := io.WriteString(dial(t, s), sent)
				require.NoError(t, err)
			}
			client := warehousev1connect.NewWarehouseServiceClient(&http.Client{Transport: &http.Transport{}}, s.URL())
			_, err := client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "A"}))
			require.NoError(t, err)
			require.LessOrEqual(t, connections.counted(), 8)
			require.NotContains(t, metrics(t, s), "rpc_server_connections_dropped_total 0\n")
		})
	}
}

func TestWhatIsBeingAnsweredIsNotClosedForOthers(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": h2c()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun, finish := make(chan struct{}), make(chan struct{})
			s := startWith(t, Config{Connections: boundedConnections(4)}, standardLimits(), func(context.Context) error {
				close(begun)
				<-finish
				return nil
			})
			web := &http.Client{Transport: transport}
			stream, err := checkoutv1connect.NewCheckoutServiceClient(web, s.URL()).Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "A"}))
			require.NoError(t, err)
			defer stream.Close()
			require.True(t, stream.Receive())
			answered := make(chan error, 1)
			go func() {
				_, err := warehousev1connect.NewWarehouseServiceClient(web, s.URL()).GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "A"}))
				answered <- err
			}()
			<-begun
			for range 20 {
				dial(t, s)
			}
			close(finish)
			require.NoError(t, <-answered)
			require.Contains(t, metrics(t, s), "rpc_server_open_streams 1\n")
		})
	}
}

func TestWhileAllConnectionsAreInUseANewOneIsClosed(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{Connections: boundedConnections(1)}, standardLimits(), nil)
	stream, err := checkoutv1connect.NewCheckoutServiceClient(&http.Client{Transport: &http.Transport{}}, s.URL()).
		Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "A"}))
	require.NoError(t, err)
	defer stream.Close()
	require.True(t, stream.Receive())
	conn := dial(t, s)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestServersOfOneProcessShareTheirConnections(t *testing.T) {
	t.Parallel()
	shared := boundedConnections(4)
	one, other := startWith(t, Config{Connections: shared}, standardLimits(), nil), startWith(t, Config{Connections: shared}, standardLimits(), nil)
	for range 4 {
		dial(t, one)
	}
	require.Equal(t, "ok\n", get(t, other.URL()+"/healthz"))
	require.Eventually(t, func() bool { return shared.counted() == 4 }, 5*time.Second, 5*time.Millisecond)
}

func TestClosedConnectionsAreNotCounted(t *testing.T) {
	t.Parallel()
	connections := boundedConnections(4)
	s := startWith(t, Config{Connections: connections}, standardLimits(), nil)
	for range 3 {
		conn := dial(t, s)
		_, err := fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return connections.counted() == 0 }, 5*time.Second, 5*time.Millisecond)
	connections.mu.Lock()
	defer connections.mu.Unlock()
	require.Zero(t, connections.waiting.Len())
}

func (c *Connections) counted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// metrics are read without a connection, which would change them.
func metrics(t *testing.T, s *running) string {
	t.Helper()
	families, err := s.config.Metrics.Gather()
	require.NoError(t, err)
	var page strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			fmt.Fprintf(&page, "%s %v\n", f.GetName(), m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return page.String()
}
