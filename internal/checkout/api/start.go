package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

// Start accepts an order and begins its checkout. Once it has answered, the checkout goes on whatever becomes of the
// caller, of this process or of the engine.
func (s *Service) Start(ctx context.Context, req *connect.Request[checkoutv1.StartRequest]) (*connect.Response[checkoutv1.StartResponse], error) {
	accepted, created, err := s.start(ctx, req.Msg, req.Header().Get(sagaapi.IdempotencyKey))
	if err != nil {
		return nil, err
	}
	c, err := orders.Of(accepted)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.StartResponse{Checkout: toWire(c), Created: created}), nil
}

// StartSaga is Start for whoever knows sagas alone: the input is an order as a start's request has it, without the order id, which is
// the key.
func (s *Service) StartSaga(ctx context.Context, req *sagav1.StartRequest, input json.RawMessage, key string) (accepted store.Saga, created bool, err error) {
	order := &checkoutv1.StartRequest{}
	if err := protojson.Unmarshal(input, order); err != nil {
		return store.Saga{}, false, contract.BadInput(contract.BadField("input", "is no order: %v", err))
	}
	if order.OrderId != "" && order.OrderId != req.Key {
		return store.Saga{}, false, contract.BadInput(contract.BadField("input.order_id", "is %q, and the key is %q: they are the same", order.OrderId, req.Key))
	}
	order.OrderId = req.Key
	if req.Deadline != nil {
		order.Deadline = req.Deadline
	}
	if req.ApprovalDeadline != nil {
		order.ApprovalDeadline = req.ApprovalDeadline
	}
	if req.Wait != nil {
		order.Wait = req.Wait
	}
	if err := contract.BadInput(contract.Check(order)...); err != nil {
		return store.Saga{}, false, err
	}
	return s.start(ctx, order, key)
}

func (s *Service) start(ctx context.Context, req *checkoutv1.StartRequest, key string) (accepted store.Saga, created bool, err error) {
	order, err := s.price(ctx, req, key)
	if err != nil {
		return store.Saga{}, false, err
	}
	if order.Approval > 0 && order.Elsewhere {
		return store.Saga{}, false, contract.BadInput(contract.BadField("coordination", "an order of %s needs approval, so it can only be %s",
			inWords(order.About.Money), event.Orchestrated))
	}
	if order.Elsewhere && !s.hasBus {
		return store.Saga{}, false, connect.NewError(connect.CodeFailedPrecondition,
			errors.New("this process has no bus, so participants would not hear of the order: only orchestrated checkouts can be started"))
	}
	accepted, created, err = sagaapi.Accept(ctx, s.desk, order, sagaapi.StartWords{This: "order id " + order.Key, Key: "order id", Input: "order", One: "checkout"}, req.Wait.AsDuration())
	if err == nil && created {
		s.accepted.Inc()
	}
	return accepted, created, err
}

// price checks an order and puts our prices to it.
func (s *Service) price(ctx context.Context, req *checkoutv1.StartRequest, key string) (store.NewSaga, error) {
	list, err := s.priceListFor(ctx, req)
	if err != nil {
		return store.NewSaga{}, err
	}
	return s.priceBy(list, req, key)
}

// priceBy is price with a price list.
func (s *Service) priceBy(list priceList, req *checkoutv1.StartRequest, key string) (store.NewSaga, error) {
	if err := contract.BadInput(validate(req, key, list)...); err != nil {
		return store.NewSaga{}, err
	}

	named := proto.CloneOf(req)
	named.Wait = nil // It says nothing about the order.
	if named.OrderId == "" {
		named.OrderId = sagaapi.KeyFrom(key)
	}
	if key == "" {
		key = named.OrderId
	}
	request, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(named)
	if err != nil {
		return store.NewSaga{}, fmt.Errorf("encode request: %w", err)
	}
	order := checkout.Order{
		ID: named.OrderId, CustomerID: named.CustomerId, Amount: checkout.Money{Currency: named.Currency}, PaymentMethod: named.PaymentMethod,
	}
	for _, item := range named.Items {
		unit := list.prices[item.Sku]
		order.Items = append(order.Items, checkout.Item{SKU: item.Sku, Quantity: item.Quantity, UnitPrice: unit})
		order.Amount.MinorUnits += unit * int64(item.Quantity)
	}
	if err := contract.BadInput(unacceptable(order)...); err != nil {
		return store.NewSaga{}, err
	}
	made, err := s.definition.Accept(order.Input())
	if err != nil {
		return store.NewSaga{}, fmt.Errorf("make the saga of order %s: %w", order.ID, err)
	}
	accepted := store.NewSaga{
		Key: order.ID, IdempotencyKey: key, Digest: digest(named), Request: request, Input: made.Input, Requests: made.Requests,
		About: made.About, Plan: made.Plan.WithoutDecision(), Engine: s.engine.Name(),
		Elsewhere: named.Coordination == event.Choreographed, Deadline: made.Deadline,
	}
	if named.Deadline != nil {
		accepted.Deadline = named.Deadline.AsDuration()
	}
	if above, set := s.approval[order.Amount.Currency]; set && order.Amount.MinorUnits > above {
		accepted.Plan, accepted.Approval = made.Plan, sagaapi.DefaultApproval
		if named.ApprovalDeadline != nil {
			accepted.Approval = named.ApprovalDeadline.AsDuration()
		}
	}
	return accepted, nil
}

func (s *Service) priceListFor(ctx context.Context, req *checkoutv1.StartRequest) (priceList, error) {
	list := priceList{currencies: []string{req.Currency}, known: make(map[string]bool), prices: make(map[string]int64)}
	prices, err := s.orders.Prices(ctx, articles(req.Items))
	if err != nil {
		return list, err
	}
	for sku, byCurrency := range prices {
		list.known[sku] = true
		if price, ok := byCurrency[req.Currency]; ok {
			list.prices[sku] = price
		}
	}
	if len(list.prices) == 0 {
		// Nothing has a price in this currency, so it may be none at all.
		list.currencies, err = s.orders.Currencies(ctx)
	}
	return list, err
}
