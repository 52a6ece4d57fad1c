package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// fixture is the API over HTTP on a real database, with an engine and participants that do what the test says.
type fixture struct {
	api       checkoutv1connect.CheckoutServiceClient
	pool      *pgxpool.Pool
	store     *store.Store
	engine    *fakeEngine
	warehouse *fakeWarehouse
	payment   *fakePayment
}

func setup(t *testing.T) *fixture {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
	f := &fixture{
		pool: pool, store: checkouttest.Store(pool), engine: &fakeEngine{},
		warehouse: &fakeWarehouse{operations: operations{}, reservations: make(map[string][]*warehousev1.Line)},
		payment:   &fakePayment{operations: operations{}},
	}
	listening, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.store.Listen(listening)
	}()
	t.Cleanup(func() { stop(); <-done })

	service := api.New(api.Config{
		Store: f.store, Orders: checkouttest.Orders(pool), Pool: pool, Engine: f.engine, Plan: checkouttest.PlanWithApproval(), Warehouse: f.warehouse, Payment: f.payment,
		Desk: checkouttest.Desk(f.store, f.engine, f.warehouse, f.payment),
		Log:  slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Settings: []*checkoutv1.Setting{{Name: "ORCHESTRATOR_LISTEN", Value: "127.0.0.1:0"}},
		Doctor:   api.DoctorConfig{Migrations: checkouttest.Migrations()},
	})
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(service, connect.WithInterceptors(contract.Interceptor{})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	f.api = checkoutv1connect.NewCheckoutServiceClient(server.Client(), server.URL)
	return f
}

// order is a good order; edits make it another.
func order(edits ...func(*checkoutv1.StartRequest)) *checkoutv1.StartRequest {
	req := &checkoutv1.StartRequest{
		OrderId: "ord-1", CustomerId: "cus-17", Currency: "EUR", PaymentMethod: "tok_visa",
		Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
	}
	for _, edit := range edits {
		edit(req)
	}
	return req
}

func withID(id string) func(*checkoutv1.StartRequest) {
	return func(r *checkoutv1.StartRequest) { r.OrderId = id }
}

func (f *fixture) start(t *testing.T, req *checkoutv1.StartRequest) *checkoutv1.StartResponse {
	t.Helper()
	answer, err := f.api.Start(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	return answer.Msg
}

// do drives a step of the first run as the activities would, and keeps the participant's record of it.
func (f *fixture) do(t *testing.T, orderID, step string, undo bool, outcome saga.Outcome, reason string) saga.Reply {
	t.Helper()
	attempt := journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: orderID, Run: 1, Step: step, Undo: undo, Round: 1}}
	pass, err := f.store.Fence(t.Context(), attempt)
	require.NoError(t, err)
	require.Equal(t, journal.Go, pass.Leave, pass.Reason)
	asked, err := checkout.OrderOf(orderID, pass.Input)
	require.NoError(t, err)
	f.remember(asked, step, undo, outcome)
	reply, err := f.store.Record(t.Context(), attempt, journal.Learned{Outcome: outcome, Reason: reason}, nil)
	require.NoError(t, err)
	return reply
}

func (f *fixture) remember(o checkout.Order, step string, undo bool, outcome saga.Outcome) {
	ops := f.warehouse.operations
	if step == checkout.AuthorizePayment || step == checkout.CapturePayment {
		ops = f.payment.operations
	}
	key := [2]string{o.ID, step}
	op := ops[key]
	if op == nil {
		op = &operationv1.Operation{OrderId: o.ID, Step: step}
		ops[key] = op
	}
	if step == checkout.CapturePayment {
		op.Amount = &operationv1.Money{Currency: o.Amount.Currency, MinorUnits: o.Amount.MinorUnits}
	}
	if step == checkout.CommitStock {
		for _, item := range o.Items {
			f.warehouse.reservations[o.ID] = append(f.warehouse.reservations[o.ID], &warehousev1.Line{Sku: item.SKU, Quantity: item.Quantity})
		}
	}
	wire := map[saga.Outcome]operationv1.Outcome{
		saga.Applied: operationv1.Outcome_OUTCOME_APPLIED, saga.Rejected: operationv1.Outcome_OUTCOME_REJECTED,
		saga.Unknown: operationv1.Outcome_OUTCOME_UNKNOWN,
	}[outcome]
	if undo {
		op.Undo = wire
	} else {
		op.Do = wire
	}
}

// confirm takes an accepted checkout to its good end.
func (f *fixture) confirm(t *testing.T, orderID string) {
	t.Helper()
	for _, step := range checkouttest.Plan().Steps {
		f.do(t, orderID, step.Name, false, saga.Applied, "")
	}
}

// decline takes an accepted checkout to the end of a declined card.
func (f *fixture) decline(t *testing.T, orderID string) {
	t.Helper()
	f.do(t, orderID, checkout.ReserveStock, false, saga.Applied, "")
	f.do(t, orderID, checkout.AuthorizePayment, false, saga.Rejected, "card_declined")
	f.do(t, orderID, checkout.ReserveStock, true, saga.Applied, "")
}

func (f *fixture) rows(t *testing.T) int {
	t.Helper()
	var n int
	require.NoError(t, f.pool.QueryRow(t.Context(),
		`SELECT (SELECT count(*) FROM checkouts) + (SELECT count(*) FROM steps) + (SELECT count(*) FROM entries) + (SELECT count(*) FROM commands)`).Scan(&n))
	return n
}

// fakeEngine notes what it is asked.
type fakeEngine struct {
	mu       sync.Mutex
	started  []string
	raised   []string
	startErr error
	checkErr error
	// inspect, where set, answers Inspect; else what was started runs.
	inspect func(id string) (engine.Instance, error)
}

var _ engine.Engine = (*fakeEngine)(nil)

func (e *fakeEngine) Name() string                    { return "embedded" }
func (e *fakeEngine) Run(context.Context) error       { return nil }
func (e *fakeEngine) Check(ctx context.Context) error { return e.checkErr }

func (e *fakeEngine) Start(_ context.Context, _, id string, _ any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = append(e.started, id)
	return e.startErr
}

func (e *fakeEngine) Raise(_ context.Context, id, _ string, payload any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.raised = append(e.raised, id+" "+payload.(saga.Command).Kind)
	return nil
}

func (e *fakeEngine) Inspect(_ context.Context, id string) (engine.Instance, error) {
	e.mu.Lock()
	inspect, started := e.inspect, slices.Contains(e.started, id)
	e.mu.Unlock()
	switch {
	case inspect != nil:
		return inspect(id)
	case started:
		return engine.Instance{State: engine.Running}, nil
	}
	return engine.Instance{}, engine.ErrGone
}

func (e *fakeEngine) History(context.Context, string) ([]*protos.HistoryEvent, error) {
	return nil, engine.ErrGone
}

func (e *fakeEngine) Purge(context.Context, string) error { return engine.ErrGone }

// operations are a participant's records, by order and step.
type operations map[[2]string]*operationv1.Operation

func (o operations) get(req *operationv1.GetOperationRequest) (*connect.Response[operationv1.GetOperationResponse], error) {
	op := o[[2]string{req.OrderId, req.Step}]
	if op == nil {
		return nil, connect.NewError(connect.CodeNotFound, nil)
	}
	return connect.NewResponse(&operationv1.GetOperationResponse{Operation: op}), nil
}

func (o operations) list(req *operationv1.ListOperationsRequest) (*connect.Response[operationv1.ListOperationsResponse], error) {
	answer := &operationv1.ListOperationsResponse{}
	wanted := make(map[string]bool)
	for _, id := range req.OrderIds {
		wanted[id] = true
	}
	for _, op := range o {
		if len(wanted) == 0 || wanted[op.OrderId] {
			answer.Operations = append(answer.Operations, op)
		}
	}
	return connect.NewResponse(answer), nil
}

// fakeWarehouse answers what is asked of it here; a call of anything else is a nil dereference, so a failed test.
type fakeWarehouse struct {
	warehousev1connect.WarehouseServiceClient
	operations
	reservations map[string][]*warehousev1.Line
	down         error
}

func (w *fakeWarehouse) GetOperation(_ context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	if w.down != nil {
		return nil, w.down
	}
	return w.get(req.Msg)
}

func (w *fakeWarehouse) ListOperations(_ context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	if w.down != nil {
		return nil, w.down
	}
	return w.list(req.Msg)
}

func (w *fakeWarehouse) GetReservation(_ context.Context, req *connect.Request[warehousev1.GetReservationRequest]) (*connect.Response[warehousev1.GetReservationResponse], error) {
	return connect.NewResponse(&warehousev1.GetReservationResponse{
		State: warehousev1.ReservationState_RESERVATION_STATE_COMMITTED, Lines: w.reservations[req.Msg.OrderId],
	}), nil
}

type fakePayment struct {
	paymentv1connect.PaymentServiceClient
	operations
}

func (p *fakePayment) GetOperation(_ context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	return p.get(req.Msg)
}

func (p *fakePayment) ListOperations(_ context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	return p.list(req.Msg)
}

// soon is the longest that a test waits for what must happen.
const soon = 10 * time.Second
