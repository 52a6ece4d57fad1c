package api

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// lookAgain bounds how late a watcher learns of a change whose notification was lost with a database connection.
const lookAgain = 5 * time.Second

// Watch sends the checkout now and after each change, until it is final or, where the caller wishes, needs attention.
func (s *Service) Watch(ctx context.Context, req *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	interest := store.AnyChange
	if req.Msg.OnlySettled {
		interest = store.Settled
	}
	var sent *checkoutv1.Checkout
	return s.store.Watch(ctx, checkout.Saga(req.Msg.OrderId), interest, lookAgain, func() (done bool, err error) {
		c, err := s.find(ctx, req.Msg.OrderId)
		if err != nil {
			return false, err
		}
		settled := c.Status.IsFinal() || c.Status == journal.NeedsAttention
		wanted := sent == nil || settled || !req.Msg.OnlySettled
		if now := toWire(c); wanted && !proto.Equal(now, sent) {
			if err := stream.Send(&checkoutv1.WatchResponse{Checkout: now}); err != nil {
				return false, err
			}
			sent = now
		}
		return c.Status.IsFinal() || req.Msg.UntilSettled && settled, nil
	})
}
