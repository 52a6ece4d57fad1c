package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/daprtest"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/pgtest"
)

func TestI1CheckoutsOnDaprEndAsTheyShouldAndTheBooksAgree(t *testing.T) {
	// The participants are those of a whole embedded system, whose own orchestrator stays idle.
	participants := everything(t)
	ports := make(map[string]int)
	for _, name := range []string{"warehouse", "payment"} {
		port, err := localstack.FreePort()
		require.NoError(t, err)
		ports[name] = port
	}
	participants.WarehouseListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports["warehouse"]))
	participants.PaymentListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports["payment"]))
	run(t, participants)
	sidecars := daprtest.Start(t, daprtest.App{Name: "orchestrator"},
		daprtest.App{Name: "warehouse", Port: ports["warehouse"]}, daprtest.App{Name: "payment", Port: ports["payment"]})

	own := sidecars.Sidecar("orchestrator")
	env := map[string]string{
		"ORCHESTRATOR_DATABASE_URL": pgtest.URL(t), "ORCHESTRATOR_LISTEN": "127.0.0.1:0",
		"WAREHOUSE_APP_ID": sidecars.AppID("warehouse"), "PAYMENT_APP_ID": sidecars.AppID("payment"),
		"DAPR_HTTP_PORT": strconv.Itoa(own.HTTPPort), "DAPR_GRPC_PORT": strconv.Itoa(own.GRPCPort),
	}
	n, err := node.Open(t.Context(), node.FromEnv(func(name string) string { return env[name] }), slog.New(slog.NewTextHandler(t.Output(), nil)))
	require.NoError(t, err)
	t.Cleanup(n.Close)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()

	api := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, n.URL())
	begun, cancelBegun := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancelBegun()
	require.NoError(t, localstack.WaitFor(begun, "the orchestrator to be well", func(ctx context.Context) error {
		answer, err := api.Doctor(ctx, connect.NewRequest(&checkoutv1.DoctorRequest{}))
		if err != nil {
			return err
		}
		for _, f := range answer.Msg.Findings {
			if !f.Ok {
				return fmt.Errorf("%s: %s", f.Check, f.Detail)
			}
		}
		return nil
	}))
	chair := &checkoutv1.Item{Sku: "CHAIR-OAK", Quantity: 1}
	start(t, api, "confirmed", "tok_visa", chair)
	start(t, api, "declined", "tok_declined", chair)
	require.Equal(t, checkoutv1.Status_STATUS_CONFIRMED, settle(t, api, "confirmed").Status)
	declined := settle(t, api, "declined")
	require.Equal(t, checkoutv1.Status_STATUS_REJECTED, declined.Status)
	require.Equal(t, "dapr", declined.Engine)
	require.EqualValues(t, 2, audit(t, api))
}
