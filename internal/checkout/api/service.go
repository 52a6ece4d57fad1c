// Package api is the API of checkouts: it prices and accepts orders, shows and cancels checkouts, compares ended
// ones with what the participants recorded, and tells what is wrong with its own process. Everything it says of a checkout
// comes from the checkout's row (package store); it knows no workflow code and no SQL of checkouts.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Config is what the API works with. Every field is required but Components.
type Config struct {
	Store *store.Store
	// Orders are what checkouts have beside their sagas.
	Orders *orders.Orders
	// Pool is the store's database.
	Pool   *pgxpool.Pool
	Engine engine.Engine
	// Definition is that of checkouts which are accepted now.
	Definition *saga.Definition
	// Desk is where operators steer checkouts.
	Desk      operator.Desk
	Warehouse warehousev1connect.WarehouseServiceClient
	Payment   paymentv1connect.PaymentServiceClient
	// Events are asked about events, by app, this one included. One that is missing is told as one that cannot be asked.
	Events map[string]eventv1connect.EventServiceClient
	// DeadLetters tells of events that a consumer could not take. Nil where none are kept.
	DeadLetters DeadLetters
	// HasBus says that participants hear of this process's events; without it no choreographed checkout can begin.
	HasBus bool
	// ApprovalAbove is the amount, in minor units by currency, above which somebody has to approve a checkout. None needs it in a
	// currency that is not there.
	ApprovalAbove map[string]int64
	Log           *slog.Logger
	// Metrics is where the counters are registered.
	Metrics prometheus.Registerer
	// Doctor is that of the process's sagas. It is told what checkouts have beside.
	Doctor     *doctor.Doctor
	Components Components
}

// Service answers checkout.v1.CheckoutService. Its methods may be called from many goroutines.
type Service struct {
	store  *store.Store
	orders *orders.Orders
	desk   operator.Desk
	pool   *pgxpool.Pool
	engine engine.Engine
	// definition is that of checkouts which are accepted now.
	definition *saga.Definition
	warehouse  warehousev1connect.WarehouseServiceClient
	payment    paymentv1connect.PaymentServiceClient
	// ledgers tell what those have on record, by participant.
	ledgers map[string]ledger
	events  map[string]eventv1connect.EventServiceClient
	// deadLetters may be nil.
	deadLetters DeadLetters
	hasBus      bool
	approval    map[string]int64
	log         *slog.Logger
	doctor      *doctor.Doctor
	accepted    prometheus.Counter
}

// ledger is what a participant has on record of orders.
type ledger interface {
	GetOperation(context.Context, *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error)
	ListOperations(context.Context, *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error)
}

var _ checkoutv1connect.CheckoutServiceHandler = (*Service)(nil)

// New returns the service.
func New(c Config) *Service {
	s := &Service{
		store: c.Store, orders: c.Orders, desk: c.Desk, pool: c.Pool,
		engine: c.Engine, definition: c.Definition, warehouse: c.Warehouse, payment: c.Payment,
		events: c.Events, deadLetters: c.DeadLetters, hasBus: c.HasBus, approval: c.ApprovalAbove, log: c.Log, doctor: c.Doctor,
		ledgers: map[string]ledger{checkout.Warehouse: c.Warehouse, checkout.Payment: c.Payment},
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "checkouts_started_total", Help: "Checkouts that this process accepted.",
		}),
	}
	c.Metrics.MustRegister(s.accepted)
	s.instruct(c.Doctor, c.Components)
	return s
}

// Get tells how one checkout stands.
func (s *Service) Get(ctx context.Context, req *connect.Request[checkoutv1.GetRequest]) (*connect.Response[checkoutv1.GetResponse], error) {
	c, err := s.find(ctx, req.Msg.OrderId)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&checkoutv1.GetResponse{Checkout: toWire(c)}), nil
}

const (
	// defaultPage is how many a page of a list has that does not say.
	defaultPage = 100
	// maxPage is the most that a page of the event service may have.
	maxPage = 1000
)

// List tells of the checkouts that fit, newest first.
func (s *Service) List(ctx context.Context, req *connect.Request[checkoutv1.ListRequest]) (*connect.Response[checkoutv1.ListResponse], error) {
	filter, err := s.toFilter(req.Msg)
	if err != nil {
		return nil, err
	}
	page, next, err := s.store.List(ctx, filter)
	if errors.Is(err, store.ErrBadPageToken) {
		return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
	}
	if err != nil {
		return nil, err
	}
	answer := &checkoutv1.ListResponse{NextPageToken: next}
	checkouts, err := orders.OfAll(page)
	if err != nil {
		return nil, err
	}
	for _, c := range checkouts {
		answer.Checkouts = append(answer.Checkouts, toWire(c))
	}
	return connect.NewResponse(answer), nil
}

func (s *Service) toFilter(req *checkoutv1.ListRequest) (store.Filter, error) {
	f := store.Filter{
		Definition: checkout.Definition, About: req.CustomerId, Step: req.Step, AmountOver: req.AmountOver, OlderThan: req.OlderThan.AsDuration(),
		Attention: req.Attention, ReasonCode: req.ReasonCode, Limit: int(req.Limit), PageToken: req.PageToken,
	}
	if req.Since != nil {
		f.Since = req.Since.AsTime()
	}
	for _, wire := range req.Statuses {
		f.Statuses = append(f.Statuses, sagaapi.StatusOf(wire))
	}
	if _, _, known := s.definition.Plan().Named(f.Step); f.Step != "" && !known {
		return f, contract.BadInput(contract.BadField("step", "is neither a step nor a compensation: %q", f.Step))
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	return f, nil
}

// find reads a checkout, or says that there is none.
func (s *Service) find(ctx context.Context, orderID string) (orders.Checkout, error) {
	found, err := s.findSaga(ctx, checkout.Saga(orderID))
	if err != nil {
		return orders.Checkout{}, err
	}
	return orders.Of(found)
}

func (s *Service) findSaga(ctx context.Context, id saga.ID) (store.Saga, error) {
	found, err := s.store.Saga(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return found, noSuchCheckout(id.Key)
	}
	return found, err
}

func noSuchCheckout(orderID string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no checkout %q", orderID))
}
