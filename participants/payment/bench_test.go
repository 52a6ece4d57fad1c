package payment

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// BenchmarkAuthorizeAndCapture authorizes and captures one order each time, with 64 orders in flight. Beside the sandbox it asks a
// network that keeps nothing, so that what the sandbox costs is the difference. What PostgreSQL works for it is told per order.
func BenchmarkAuthorizeAndCapture(b *testing.B) {
	for name, network := range map[string]Network{"sandbox": nil, "no network": agreeable{}} {
		b.Run(name, func(b *testing.B) {
			service, err := Open(b.Context(), Config{DatabaseURL: pgtest.URL(b)}, slog.New(slog.DiscardHandler))
			require.NoError(b, err)
			b.Cleanup(service.Close)
			if network != nil {
				service.network = network
			}
			run := func(prefix string, orders int) {
				group, ctx := errgroup.WithContext(b.Context())
				group.SetLimit(64)
				for n := range orders {
					group.Go(func() error { return service.authorizeAndCapture(ctx, fmt.Sprintf("%s-%d", prefix, n)) })
				}
				require.NoError(b, group.Wait())
			}
			run("warm", 500)
			before := pgtest.CPU(b, service.store.pool)
			b.ResetTimer()
			run("ord", b.N)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
			b.ReportMetric(float64((pgtest.CPU(b, service.store.pool)-before).Microseconds())/1000/float64(b.N), "db-cpu-ms/order")
		})
	}
}

// agreeable is a card network that does what it is asked, and keeps nothing.
type agreeable struct{}

func (agreeable) Ask(context.Context, Charge) (string, error) { return "", nil }

func (s *Service) authorizeAndCapture(ctx context.Context, order string) error {
	amount := &operationv1.Money{Currency: "EUR", MinorUnits: 4999}
	made, err := s.Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
		OrderId: order, CustomerId: "cus-1", PaymentMethod: "tok_visa", Amount: amount,
	}))
	if err != nil {
		return err
	}
	taken, err := s.Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{OrderId: order, Amount: amount}))
	if err != nil {
		return err
	}
	if made.Msg.Result.Outcome != applied || taken.Msg.Result.Outcome != applied {
		return fmt.Errorf("%s: %s, %s", order, made.Msg.Result, taken.Msg.Result)
	}
	return nil
}
