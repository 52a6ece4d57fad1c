package activities

import (
	"context"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/requests"
)

func authorizePayment(payment paymentv1connect.PaymentServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := payment.Authorize(ctx, connect.NewRequest(requests.Authorize(order)))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}

func voidAuthorization(payment paymentv1connect.PaymentServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := payment.Void(ctx, connect.NewRequest(&paymentv1.VoidRequest{OrderId: order.ID}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}

func capturePayment(payment paymentv1connect.PaymentServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := payment.Capture(ctx, connect.NewRequest(requests.Capture(order)))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}

func refundPayment(payment paymentv1connect.PaymentServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := payment.Refund(ctx, connect.NewRequest(&paymentv1.RefundRequest{OrderId: order.ID}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetResult(), nil
	}
}
