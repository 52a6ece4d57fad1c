package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/runs"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
)

// idempotencyKey is the header by which a caller may name a start.
const idempotencyKey = "Idempotency-Key"

// Start accepts an order and begins its checkout. Once it has answered, the checkout goes on whatever becomes of the
// caller, of this process or of the engine.
func (s *Service) Start(ctx context.Context, req *connect.Request[checkoutv1.StartRequest]) (*connect.Response[checkoutv1.StartResponse], error) {
	key := req.Header().Get(idempotencyKey)
	order, err := s.price(ctx, req.Msg, key)
	if err != nil {
		return nil, err
	}
	if order.Approval > 0 && order.Coordination == event.Choreographed {
		return nil, contract.BadInput(contract.BadField("coordination", "an order of %s needs approval, so it can only be %s",
			inWords(order.Amount), event.Orchestrated))
	}
	if order.Coordination == event.Choreographed && !s.hasBus {
		return nil, connect.NewError(connect.CodeFailedPrecondition,
			errors.New("this process has no bus, so participants would not hear of the order: only orchestrated checkouts can be started"))
	}
	c, created, err := s.store.Accept(ctx, order)
	if errors.Is(err, store.ErrConflict) {
		return nil, connect.NewError(connect.CodeAlreadyExists, whatDiffers(err))
	}
	if err != nil {
		return nil, err
	}
	if created {
		s.accepted.Inc()
		if c.Coordination == event.Orchestrated {
			s.begin(ctx, c)
		}
	}
	return connect.NewResponse(&checkoutv1.StartResponse{Checkout: toWire(c), Created: created}), nil
}

// price checks an order and puts our prices to it.
func (s *Service) price(ctx context.Context, req *checkoutv1.StartRequest, key string) (store.NewCheckout, error) {
	list, err := s.priceListFor(ctx, req)
	if err != nil {
		return store.NewCheckout{}, err
	}
	return s.priceBy(list, req, key)
}

// priceBy is price with a price list.
func (s *Service) priceBy(list priceList, req *checkoutv1.StartRequest, key string) (store.NewCheckout, error) {
	if err := contract.BadInput(validate(req, key, list)...); err != nil {
		return store.NewCheckout{}, err
	}

	named := proto.CloneOf(req)
	if named.OrderId == "" {
		named.OrderId = orderIDFromKey(key)
	}
	if key == "" {
		key = named.OrderId
	}
	request, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(named)
	if err != nil {
		return store.NewCheckout{}, fmt.Errorf("encode request: %w", err)
	}
	order := store.NewCheckout{
		OrderID: named.OrderId, IdempotencyKey: key, Digest: digest(named), Engine: s.engine.Name(), Request: request,
		CustomerID: named.CustomerId, Amount: checkout.Money{Currency: named.Currency},
		PaymentMethod: named.PaymentMethod, Deadline: defaultDeadline, Coordination: event.Orchestrated,
		Plan: s.plan.Without(checkout.Approval),
	}
	if named.Coordination != "" {
		order.Coordination = named.Coordination
	}
	if named.Deadline != nil {
		order.Deadline = named.Deadline.AsDuration()
	}
	for _, item := range named.Items {
		unit := list.prices[item.Sku]
		order.Items = append(order.Items, checkout.Item{SKU: item.Sku, Quantity: item.Quantity})
		order.Prices = append(order.Prices, store.Price{SKU: item.Sku, Unit: checkout.Money{Currency: named.Currency, MinorUnits: unit}})
		order.Amount.MinorUnits += unit * int64(item.Quantity)
	}
	if err := contract.BadInput(unacceptable(order)...); err != nil {
		return store.NewCheckout{}, err
	}
	if above, set := s.approval[order.Amount.Currency]; set && order.Amount.MinorUnits > above {
		order.Plan, order.Approval = s.plan, defaultApproval
		if named.ApprovalDeadline != nil {
			order.Approval = named.ApprovalDeadline.AsDuration()
		}
	}
	return order, nil
}

func (s *Service) priceListFor(ctx context.Context, req *checkoutv1.StartRequest) (priceList, error) {
	list := priceList{currencies: []string{req.Currency}, known: make(map[string]bool), prices: make(map[string]int64)}
	prices, err := s.store.Prices(ctx, articles(req.Items))
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
		list.currencies, err = s.store.Currencies(ctx)
	}
	return list, err
}

// begin asks the engine for the checkout's run. The caller has his answer whatever comes of it: what was accepted and not
// started is started by the sweeper.
func (s *Service) begin(ctx context.Context, c store.Checkout) {
	// Not the caller's context: that he hangs up is no reason not to start what was accepted.
	if c.Engine != s.engine.Name() {
		return // It was moved to another; that one's sweeper starts it.
	}
	err := runs.Start(context.WithoutCancel(ctx), s.engine, c.Key, c.Run, c.RunPhase(), c.Plan)
	if err != nil {
		s.log.Warn("the run was not started; the sweeper starts it",
			"order_id", c.Key, "workflow_id", runs.ID(c.Key, c.Run), "error", err)
	}
}

// whatDiffers is what a conflict says, without the way that it came.
func whatDiffers(err error) error {
	_, sentence, found := strings.Cut(err.Error(), store.ErrConflict.Error()+": ")
	if !found {
		return err
	}
	return errors.New(sentence)
}
