package rpcserver

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

func TestStreamsBeyondTheLimitAreRefusedWithASentence(t *testing.T) {
	t.Parallel()
	l := standardLimits()
	l.streams, l.streamsPerClient = 6, 3
	s := startWith(t, Config{}, l, nil)
	for name, options := range map[string][]connect.ClientOption{"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}} {
		transport := h2c()
		client := checkoutv1connect.NewCheckoutServiceClient(&http.Client{Transport: transport}, s.URL(), options...)
		var open []*connect.ServerStreamForClient[checkoutv1.WatchResponse]
		for range 3 {
			stream, err := client.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "A"}))
			require.NoError(t, err)
			require.True(t, stream.Receive(), stream.Err())
			open = append(open, stream)
		}
		refused, err := client.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "A"}))
		require.NoError(t, err)
		require.False(t, refused.Receive(), name)
		require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(refused.Err()), name)
		require.ErrorContains(t, refused.Err(), "3 streams are open from 127.0.0.1", name)
		// Calls that end by themselves go on.
		_, err = warehousev1connect.NewWarehouseServiceClient(&http.Client{Transport: transport}, s.URL()).
			SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "A"}))
		require.NoError(t, err)
		// A place is free again as soon as somebody leaves.
		transport.CloseIdleConnections()
		for _, stream := range open {
			_ = stream.Close()
		}
		require.Eventually(t, func() bool { return strings.Contains(metrics(t, s), "rpc_server_open_streams 0\n") }, 5*time.Second, 5*time.Millisecond)
	}
	require.Contains(t, metrics(t, s), "rpc_server_streams_refused_total 3\n")
}

func TestOneClientDoesNotTakeAllStreams(t *testing.T) {
	t.Parallel()
	s := newStreams(limits{streams: 4, streamsPerClient: 4}, 100, prometheus.NewRegistry())
	require.NoError(t, s.enter("10.0.0.1"))
	require.NoError(t, s.enter("10.0.0.1"))
	require.ErrorContains(t, s.enter("10.0.0.1"), "2 streams are open from 10.0.0.1")
	require.NoError(t, s.enter("10.0.0.2"))
	require.NoError(t, s.enter("10.0.0.3"))
	require.ErrorContains(t, s.enter("10.0.0.2"), "4 streams are open")
	s.leave("10.0.0.1")
	require.NoError(t, s.enter("10.0.0.2"))
	for _, client := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"} {
		s.leave(client)
	}
	require.Empty(t, s.by)
	require.Zero(t, s.count)
}

func TestStreamsLeaveConnectionsForOtherCalls(t *testing.T) {
	t.Parallel()
	few := newStreams(standardLimits(), 640, prometheus.NewRegistry())
	require.Equal(t, []int{320, 160}, []int{few.max, few.maxPerClient})
	many := newStreams(standardLimits(), maxConnections, prometheus.NewRegistry())
	require.Equal(t, []int{maxStreams, maxStreamsPerClient}, []int{many.max, many.maxPerClient})
}
