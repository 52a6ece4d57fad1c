package sidecar_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/checkoutsaga/orchestrator/internal/sidecar"
)

func TestTheTokenIsAddedToWhatTheCallerSends(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	seen := make(chan metadata.MD, 2)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		seen <- md
		return status.Error(codes.Unimplemented, "seen")
	}))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	conn, err := sidecar.Dial(listener.Addr().String(), "secret")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-1-2-01")
	require.Equal(t, codes.Unimplemented, status.Code(conn.Invoke(ctx, "/some.Service/Call", &emptypb.Empty{}, &emptypb.Empty{})))
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/some.Service/Stream")
	require.NoError(t, err)
	require.Equal(t, codes.Unimplemented, status.Code(stream.RecvMsg(&emptypb.Empty{})))
	for range 2 {
		md := <-seen
		require.Equal(t, []string{"secret"}, md.Get("dapr-api-token"))
		require.Equal(t, []string{"00-1-2-01"}, md.Get("traceparent"))
	}
}
