package activities

import (
	"context"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

func authorizePayment(payment paymentv1connect.PaymentServiceClient) call {
	return func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		answer, err := payment.Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
			OrderId: order.ID, CustomerId: order.CustomerID, Amount: money(order.Amount), PaymentMethod: order.PaymentMethod,
		}))
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
		answer, err := payment.Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{
			OrderId: order.ID, Amount: money(order.Amount),
		}))
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

func money(m checkout.Money) *operationv1.Money {
	return &operationv1.Money{Currency: m.Currency, MinorUnits: m.MinorUnits}
}
