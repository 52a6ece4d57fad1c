package api

import (
	"context"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Watch sends the checkout now and after each change, until it is final or, where the caller wishes, needs attention.
func (s *Service) Watch(ctx context.Context, req *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	return sagaapi.Watch(ctx, s.store, checkout.Saga(req.Msg.OrderId), req.Msg, func() (*checkoutv1.Checkout, journal.Status, error) {
		c, err := s.find(ctx, req.Msg.OrderId)
		if err != nil {
			return nil, "", err
		}
		return toWire(c), c.Status, nil
	}, func(now *checkoutv1.Checkout) error { return stream.Send(&checkoutv1.WatchResponse{Checkout: now}) })
}
