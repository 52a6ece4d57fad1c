package api

import (
	"context"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

// Watch sends the checkout now and after each change, until it is final or, where the caller wishes, needs attention.
func (s *Service) Watch(ctx context.Context, req *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	id := checkout.Saga(req.Msg.OrderId)
	return sagaapi.Watch(ctx, s.store, id, req.Msg, func() (store.Saga, error) { return s.findSaga(ctx, id) },
		func(now store.Saga) (*checkoutv1.Checkout, error) {
			c, err := orders.Of(now)
			return toWire(c), err
		},
		func(now *checkoutv1.Checkout) error { return stream.Send(&checkoutv1.WatchResponse{Checkout: now}) })
}
