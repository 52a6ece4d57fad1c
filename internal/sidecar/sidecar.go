// Package sidecar connects a process to the gRPC API of the Dapr sidecar beside it. It does not know what the connection is used
// for.
package sidecar

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Dial returns a connection to the sidecar at address, 127.0.0.1:$DAPR_GRPC_PORT. It connects at its first use, and again when it
// was lost. token is DAPR_API_TOKEN, empty where the sidecar asks for none. (The SDK's own interceptors would replace all other
// metadata with it, the trace included.) The caller closes the connection.
func Dial(address, token string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	authorized := func(ctx context.Context) context.Context {
		if token == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "dapr-api-token", token)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, slices.Concat([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(authorized(ctx), method, req, reply, conn, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(authorized(ctx), desc, conn, method, opts...)
		}),
		// By gRPC's own default, attempts to reach a sidecar that was long away are two minutes apart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
	}, options)...)
	if err != nil {
		return nil, fmt.Errorf("connect to Dapr sidecar: %w", err)
	}
	return conn, nil
}
