package sandbox

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
)

// Controls is the gateway's own service, by which tests and people steer it.
type Controls struct{ gateway *Gateway }

var _ paymentv1connect.SandboxServiceHandler = (*Controls)(nil)

// NewControls steers a gateway.
func NewControls(g *Gateway) *Controls { return &Controls{gateway: g} }

// SetBehaviour changes how the gateway answers for a payment method, from the next request on. With nothing but the method it
// tells how it answers now.
func (c *Controls) SetBehaviour(ctx context.Context, req *connect.Request[paymentv1.SetBehaviourRequest]) (*connect.Response[paymentv1.SetBehaviourResponse], error) {
	wanted := behaviours{
		authorize: Behaviour(req.Msg.Authorize), capture: Behaviour(req.Msg.Capture),
		void: Behaviour(req.Msg.Void), refund: Behaviour(req.Msg.Refund),
	}
	now, err := c.gateway.setBehaviours(ctx, req.Msg.PaymentMethod, wanted)
	if errors.Is(err, errUnknownMethod) {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&paymentv1.SetBehaviourResponse{
		PaymentMethod: req.Msg.PaymentMethod, Authorize: string(now.authorize), Capture: string(now.capture),
		Void: string(now.void), Refund: string(now.refund),
	}), nil
}

// ListCharges tells what the gateway did for an order, oldest first.
func (c *Controls) ListCharges(ctx context.Context, req *connect.Request[paymentv1.ListChargesRequest]) (*connect.Response[paymentv1.ListChargesResponse], error) {
	all, err := c.gateway.charges(ctx, req.Msg.OrderId)
	if err != nil {
		return nil, err
	}
	res := &paymentv1.ListChargesResponse{}
	for _, ch := range all {
		res.Charges = append(res.Charges, &paymentv1.Charge{
			OrderId: req.Msg.OrderId, Kind: string(ch.kind), IdempotencyKey: ch.key,
			Amount:    &operationv1.Money{Currency: ch.currency, MinorUnits: ch.units},
			CreatedAt: timestamppb.New(ch.createdAt),
		})
	}
	return connect.NewResponse(res), nil
}
