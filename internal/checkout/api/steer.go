package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

// Approve lets a checkout that awaits approval go on.
func (s *Service) Approve(ctx context.Context, req *connect.Request[checkoutv1.ApproveRequest]) (*connect.Response[checkoutv1.ApproveResponse], error) {
	steered, err := s.desk.Approve(ctx, wish(req.Msg))
	c, err := answeredFor(req.Msg.OrderId, steered, err)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.ApproveResponse{Checkout: toWire(c)}), nil
}

// Reject turns back a checkout that awaits approval.
func (s *Service) Reject(ctx context.Context, req *connect.Request[checkoutv1.RejectRequest]) (*connect.Response[checkoutv1.RejectResponse], error) {
	steered, err := s.desk.Reject(ctx, wish(req.Msg))
	c, err := answeredFor(req.Msg.OrderId, steered, err)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.RejectResponse{Checkout: toWire(c)}), nil
}

// Resolve settles what a checkout cannot settle by itself.
func (s *Service) Resolve(ctx context.Context, req *connect.Request[checkoutv1.ResolveRequest]) (*connect.Response[checkoutv1.ResolveResponse], error) {
	if err := s.validateResolve(ctx, req.Msg); err != nil {
		return nil, err
	}
	steered, err := sagaapi.Resolve(ctx, s.desk, wish(req.Msg), req.Msg.As, req.Msg)
	c, err := answeredFor(req.Msg.OrderId, steered, err)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.ResolveResponse{Checkout: toWire(c), What: steered.What}), nil
}

// Redrive hands a checkout to a new run.
func (s *Service) Redrive(ctx context.Context, req *connect.Request[checkoutv1.RedriveRequest]) (*connect.Response[checkoutv1.RedriveResponse], error) {
	steered, err := s.desk.Redrive(ctx, wish(req.Msg), req.Msg.Engine)
	c, err := answeredFor(req.Msg.OrderId, steered, err)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.RedriveResponse{Checkout: toWire(c), What: steered.What}), nil
}

// wish is what an operator's request asks for.
func wish(req interface {
	sagaapi.Steering
	GetOrderId() string
}) store.Wish {
	return sagaapi.Wish(checkout.Saga(req.GetOrderId()), req)
}

// answeredFor is what became of a wish about an order; errors get their codes.
func answeredFor(orderID string, steered store.Steered, err error) (orders.Checkout, error) {
	if err != nil {
		return orders.Checkout{}, sagaapi.Refused(err, orderID, noSuchCheckout(orderID))
	}
	return orders.Of(steered.Saga)
}

func (s *Service) validateResolve(ctx context.Context, req *checkoutv1.ResolveRequest) error {
	var bad []*contract.Problem
	known, err := s.hasStep(ctx, req.OrderId, req.Step)
	if err != nil {
		return err
	}
	if !known {
		bad = append(bad, contract.BadField("step", "is neither a step nor a compensation: %q", req.Step))
	}
	if req.WithoutProof && req.As != checkoutv1.Resolution_RESOLUTION_DONE {
		bad = append(bad, contract.BadField("without_proof", "goes with RESOLUTION_DONE only"))
	}
	return contract.BadInput(bad...)
}

// hasStep tells whether a name is that of a step or compensation of today's plan, or of the one that the checkout was accepted with.
func (s *Service) hasStep(ctx context.Context, orderID, name string) (bool, error) {
	if _, _, known := s.definition.Plan().Named(name); known {
		return true, nil
	}
	c, err := s.store.Saga(ctx, checkout.Saga(orderID))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	_, _, known := c.Plan.Named(name)
	return known, nil
}
