package activities

import (
	"context"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/requests"
)

// Payment makes payment a participant of checkouts.
func Payment(client paymentv1connect.PaymentServiceClient) Participant {
	return Participant{
		records: client,
		do: map[string]call{
			checkout.AuthorizePayment: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Authorize(ctx, connect.NewRequest(requests.Authorize(order))))
			},
			checkout.CapturePayment: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Capture(ctx, connect.NewRequest(requests.Capture(order))))
			},
		},
		undo: map[string]call{
			checkout.AuthorizePayment: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Void(ctx, connect.NewRequest(&paymentv1.VoidRequest{OrderId: order.ID})))
			},
			checkout.CapturePayment: func(ctx context.Context, order checkout.Order) (resulting, error) {
				return answer(client.Refund(ctx, connect.NewRequest(&paymentv1.RefundRequest{OrderId: order.ID})))
			},
		},
	}
}

var _ records = paymentv1connect.PaymentServiceClient(nil)

// resulting is the answer of whatever was asked for.
type resulting interface{ GetResult() *operationv1.Result }

func answer[M any, R interface {
	*M
	resulting
}](response *connect.Response[M], err error) (resulting, error) {
	if err != nil {
		return nil, err
	}
	return R(response.Msg), nil
}
