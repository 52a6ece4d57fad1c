package dapr

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
)

func TestTheTokenIsAddedToOtherMetadata(t *testing.T) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-1-2-01")
	md, _ := metadata.FromOutgoingContext((&wire{token: "secret"}).authorized(ctx))
	require.Equal(t, []string{"00-1-2-01"}, md.Get("traceparent"))
	require.Equal(t, []string{"secret"}, md.Get("dapr-api-token"))
}
