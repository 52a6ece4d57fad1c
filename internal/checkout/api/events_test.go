package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// world is the API with apps that write and receive events around it, each with a database of its own, on one bus.
type world struct {
	*fixture
	bus     *embedded.Bus
	letters *deadletter.Service
	apps    map[string]*app
	server  *httptest.Server
}

// app is a process that writes and receives events, and the client by which it is asked about them.
type app struct {
	eventrpc.Service
	pool *pgxpool.Pool
	stop context.CancelFunc

	mu sync.Mutex
	// down says that it cannot be asked; failing is what its handlers answer, and deaf that they never hear of anything.
	down    bool
	failing error
	deaf    bool
	// asked counts how often it was asked, by method.
	asked map[string]int
}

func (a *app) set(change func(*app)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *app) ask(method string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[method]++
	if a.down {
		return connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))
	}
	return nil
}

func (a *app) ListEvents(ctx context.Context, req *connect.Request[eventv1.ListEventsRequest]) (*connect.Response[eventv1.ListEventsResponse], error) {
	if err := a.ask("ListEvents"); err != nil {
		return nil, err
	}
	return a.Service.ListEvents(ctx, req)
}

func (a *app) Republish(ctx context.Context, req *connect.Request[eventv1.RepublishRequest]) (*connect.Response[eventv1.RepublishResponse], error) {
	if err := a.ask("Republish"); err != nil {
		return nil, err
	}
	return a.Service.Republish(ctx, req)
}

func (a *app) CheckReceived(ctx context.Context, req *connect.Request[eventv1.CheckReceivedRequest]) (*connect.Response[eventv1.CheckReceivedResponse], error) {
	if err := a.ask("CheckReceived"); err != nil {
		return nil, err
	}
	return a.Service.CheckReceived(ctx, req)
}

func (a *app) ListFailures(ctx context.Context, req *connect.Request[eventv1.ListFailuresRequest]) (*connect.Response[eventv1.ListFailuresResponse], error) {
	if err := a.ask("ListFailures"); err != nil {
		return nil, err
	}
	return a.Service.ListFailures(ctx, req)
}

// effect is a handler that does nothing but what the test says.
func effect[M event.Message](a *app, then func(context.Context, pgx.Tx, M) error) func(context.Context, pgx.Tx, M) (inbox.Result, error) {
	return func(ctx context.Context, tx pgx.Tx, m M) (inbox.Result, error) {
		a.mu.Lock()
		failing := a.failing
		a.mu.Unlock()
		if failing == nil && then != nil {
			failing = then(ctx, tx, m)
		}
		return inbox.Applied, failing
	}
}

// newWorld has all apps on the bus, and their relays running.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{fixture: setup(t), bus: embedded.New(), apps: make(map[string]*app)}
	log := slog.New(slog.DiscardHandler)
	require.NoError(t, pg.Migrate(t.Context(), w.pool, deadletter.Migrations()))
	clients := make(map[string]eventv1connect.EventServiceClient)
	for _, name := range []string{"orchestrator", "warehouse", "payment", "orders", "notification", "pricing"} {
		a := &app{pool: w.pool, asked: make(map[string]int)}
		w.apps[name], clients[name] = a, a
		if name == "pricing" {
			continue // It has nothing to tell here.
		}
		if name != "orchestrator" {
			a.pool = pgtest.Pool(t)
			require.NoError(t, pg.Migrate(t.Context(), a.pool, outbox.Migrations(), inbox.Migrations()))
		}
		a.Service = eventrpc.Service{Outbox: outbox.New(name, a.pool, log), Inbox: inbox.New(name, a.pool, log)}
	}
	api.Hear(w.apps["orchestrator"].Inbox, w.store, checkouttest.Orders(w.pool))
	warehouse, payment, orders, notification := w.apps["warehouse"], w.apps["payment"], w.apps["orders"], w.apps["notification"]
	inbox.On(warehouse.Inbox, effect[*checkoutv1.OrderCreated](warehouse, nil))
	inbox.On(warehouse.Inbox, effect[*paymentv1.PaymentCompleted](warehouse, nil))
	inbox.On(warehouse.Inbox, effect[*paymentv1.PaymentFailed](warehouse, nil))
	inbox.On(payment.Inbox, effect[*warehousev1.InventoryReserved](payment, nil))
	tell := func(ctx context.Context, tx pgx.Tx, h *eventv1.Header, status string) error {
		return orders.Outbox.Write(ctx, tx, outbox.Order(h.OrderId, h.Coordination), &ordersv1.OrderStatusChanged{CustomerId: "cus-17", Status: status})
	}
	inbox.On(orders.Inbox, effect(orders, func(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCreated) error {
		return tell(ctx, tx, m.Header, "placed")
	}))
	inbox.On(orders.Inbox, effect(orders, func(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderConfirmed) error {
		return tell(ctx, tx, m.Header, "confirmed")
	}))
	inbox.On(orders.Inbox, effect(orders, func(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCancelled) error {
		return tell(ctx, tx, m.Header, "cancelled")
	}))
	inbox.On(notification.Inbox, effect[*ordersv1.OrderStatusChanged](notification, nil))
	for _, a := range w.apps {
		if a.Inbox == nil {
			continue
		}
		subscriptions, err := a.Inbox.Subscriptions()
		require.NoError(t, err)
		for _, s := range subscriptions {
			w.bus.Subscribe(bus.Subscription{Topic: s.Topic, Handle: func(ctx context.Context, d bus.Delivery) bus.Answer {
				a.mu.Lock()
				deaf := a.deaf
				a.mu.Unlock()
				if deaf {
					return bus.Success // As when a broker loses what it confirmed.
				}
				return s.Handle(ctx, d)
			}})
		}
	}
	w.letters = deadletter.New(deadletter.Config{Pool: w.pool, Publisher: w.bus, Consumers: clients, Log: log})
	w.bus.Subscribe(w.letters.Subscriptions()...)

	desk := checkouttest.Desk(w.store, w.engine, w.fixture.warehouse, w.fixture.payment)
	service := api.New(api.Config{
		Store: w.store, Orders: checkouttest.Orders(w.pool), Pool: w.pool, Engine: w.engine, Definition: checkouttest.Definition(), Warehouse: w.fixture.warehouse, Payment: w.fixture.payment,
		Desk: desk, Doctor: checkouttest.Doctor(t, w.pool, w.engine, desk),
		Events: clients, DeadLetters: w.letters, HasBus: true, Log: log, Metrics: prometheus.NewRegistry(),
	})
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(service))
	w.server = httptest.NewServer(mux)
	t.Cleanup(w.server.Close)
	w.api = checkoutv1connect.NewCheckoutServiceClient(w.server.Client(), w.server.URL, connect.WithHTTPGet())
	for _, a := range w.apps {
		if a.Outbox != nil {
			w.relay(t, a)
		}
	}
	return w
}

// relay runs an app's relay until the test ends or a.stop is called.
func (w *world) relay(t *testing.T, a *app) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Outbox.Relay(ctx, w.bus)
	}()
	a.stop = func() { cancel(); <-done }
	t.Cleanup(a.stop)
}

// say has an app write events about an order.
func (w *world) say(t *testing.T, name, orderID string, messages ...event.Message) {
	t.Helper()
	a := w.apps[name]
	require.NoError(t, pg.InTx(t.Context(), a.pool, func(tx pgx.Tx) error {
		for _, m := range messages {
			if err := a.Outbox.Write(t.Context(), tx, outbox.Order(orderID, event.Orchestrated), m); err != nil {
				return err
			}
		}
		return nil
	}))
	a.Outbox.Committed()
}

// ship is a checkout's good end, with all that the participants tell of it.
func (w *world) ship(t *testing.T, orderID string) {
	t.Helper()
	w.start(t, order(withID(orderID)))
	w.confirm(t, orderID)
	w.say(t, "warehouse", orderID, &warehousev1.InventoryReserved{}, &warehousev1.InventoryCommitted{})
	w.say(t, "payment", orderID, &paymentv1.PaymentAuthorized{}, &paymentv1.PaymentCompleted{Amount: price})
}

// price is that of order().
var price = &operationv1.Money{Currency: "EUR", MinorUnits: 12997}

// settle waits until every event was handed over. It looks twice: what one app publishes may make another write.
func (w *world) settle(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for range 2 {
			for name, a := range w.apps {
				if a.Outbox == nil {
					continue
				}
				a.Outbox.Committed() // The store has an outbox of its own on the same rows.
				backlog, err := a.Outbox.Backlog(t.Context())
				assert.NoError(c, err)
				assert.Zero(c, backlog.Events, name)
			}
		}
	}, 2*soon, 20*time.Millisecond)
}

// listed are the events of a selection as lines.
func (w *world) listed(t *testing.T, req *checkoutv1.ListEventsRequest) (lines []string, answer *checkoutv1.ListEventsResponse) {
	t.Helper()
	res, err := w.api.ListEvents(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	for _, e := range res.Msg.Events {
		line := fmt.Sprintf("%s %d", e.Event.Header.Topic, e.Event.Header.Seq)
		for _, d := range e.Deliveries {
			line += " " + d.Consumer + "=" + d.Outcome
		}
		lines = append(lines, line)
	}
	return lines, res.Msg
}

func about(ids ...string) *eventv1.Selection { return &eventv1.Selection{OrderIds: ids} }

func TestI5EventsOfAllAppsAreListedWithWhoReceivedThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ship(t, "ord-1")
	w.settle(t)
	w.ship(t, "ord-2")
	w.settle(t)
	lines, answer := w.listed(t, &checkoutv1.ListEventsRequest{Selection: about("ord-1")})
	require.ElementsMatch(t, []string{
		"checkout.order.created 1 orders=applied",
		"checkout.order.confirmed 2 orders=applied",
		"warehouse.inventory.reserved 1",
		"warehouse.inventory.committed 2",
		"payments.payment.authorized 1",
		"payments.payment.completed 2",
		"orders.order.status_changed 1 notification=applied",
		"orders.order.status_changed 2 notification=applied",
	}, lines)
	require.Empty(t, answer.Unreachable)
	require.False(t, answer.More)
	require.True(t, slices.IsSortedFunc(answer.Events, func(a, b *checkoutv1.TracedEvent) int {
		return a.Event.Header.OccurredAt.AsTime().Compare(b.Event.Header.OccurredAt.AsTime())
	}))
	created := answer.Events[0].Event
	require.Equal(t, "checkout.order.created", created.Header.Topic)
	require.NotNil(t, created.PublishedAt)
	require.Contains(t, created.Data, "cus-17")
	require.NotNil(t, answer.Events[0].Deliveries[0].ReceivedAt)

	lines, answer = w.listed(t, &checkoutv1.ListEventsRequest{Limit: 2})
	require.Len(t, lines, 2)
	require.True(t, answer.More, "only the newest")
	_, all := w.listed(t, &checkoutv1.ListEventsRequest{})
	require.Len(t, all.Events, 16)
	require.False(t, all.More)
	for i, e := range answer.Events {
		require.Equal(t, all.Events[14+i].Event.Header.EventId, e.Event.Header.EventId)
	}

	lines, _ = w.listed(t, &checkoutv1.ListEventsRequest{Selection: &eventv1.Selection{Topic: "payments.payment.completed"}})
	require.Len(t, lines, 2)
	require.Zero(t, w.apps["pricing"].asked["CheckReceived"], "who receives nothing is not asked")
	lines, _ = w.listed(t, &checkoutv1.ListEventsRequest{Selection: &eventv1.Selection{Since: timestamppb.New(time.Now().Add(time.Hour))}})
	require.Empty(t, lines)
}

func TestI5WhatWasNotReceivedIsToldApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	orders, notification := w.apps["orders"], w.apps["notification"]
	orders.set(func(a *app) { a.deaf = true })
	w.ship(t, "lost")
	w.settle(t)
	orders.set(func(a *app) { a.deaf, a.failing = false, fmt.Errorf("%w: poison", event.ErrBad) })
	w.ship(t, "poison")
	w.settle(t)
	orders.set(func(a *app) { a.failing = nil })
	w.ship(t, "unasked")
	w.settle(t)
	notification.set(func(a *app) { a.down = true })
	w.apps["pricing"].set(func(a *app) { a.down = true })
	created := &eventv1.Selection{OrderIds: []string{"lost", "poison", "unasked"}, Topic: "checkout.order.created"}
	lines, answer := w.listed(t, &checkoutv1.ListEventsRequest{Selection: created})
	require.Equal(t, []string{
		"checkout.order.created 1 orders=missing", "checkout.order.created 1 orders=dead-letter", "checkout.order.created 1 orders=applied",
	}, lines)
	require.Empty(t, answer.Unreachable, "nobody else was asked")

	lines, answer = w.listed(t, &checkoutv1.ListEventsRequest{Selection: about("unasked")})
	require.Contains(t, lines, "orders.order.status_changed 1 notification=unknown")
	require.Equal(t, []string{"notification: unavailable: connection refused", "pricing: unavailable: connection refused"}, answer.Unreachable)

	_, err := w.letters.Replay(t.Context(), connect.NewRequest(&deadletterv1.ReplayRequest{Reason: "r"}))
	require.NoError(t, err)
	lines, _ = w.listed(t, &checkoutv1.ListEventsRequest{Selection: created})
	require.Equal(t, "checkout.order.created 1 orders=applied", lines[1])
}

func TestI5ALostEventIsPublishedAgainAndReceived(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	orders := w.apps["orders"]
	orders.set(func(a *app) { a.deaf = true })
	w.ship(t, "ord-1")
	w.settle(t)
	orders.set(func(a *app) { a.deaf = false })
	republish := func(req *checkoutv1.RepublishEventsRequest) *checkoutv1.RepublishEventsResponse {
		answer, err := w.api.RepublishEvents(t.Context(), connect.NewRequest(req))
		require.NoError(t, err)
		return answer.Msg
	}
	require.EqualValues(t, 6, republish(&checkoutv1.RepublishEventsRequest{Selection: about("ord-1"), DryRun: true}).Events)
	lines, _ := w.listed(t, &checkoutv1.ListEventsRequest{Selection: about("ord-1")})
	require.Contains(t, lines, "checkout.order.created 1 orders=missing", "a dry run does nothing")

	w.apps["payment"].set(func(a *app) { a.down = true })
	answer := republish(&checkoutv1.RepublishEventsRequest{Selection: about("ord-1"), Reason: "the broker lost it", Actor: "ann"})
	require.EqualValues(t, 4, answer.Events)
	require.Equal(t, []string{"payment: unavailable: connection refused"}, answer.Unreachable)
	w.settle(t)
	lines, _ = w.listed(t, &checkoutv1.ListEventsRequest{Selection: about("ord-1")})
	require.Contains(t, lines, "checkout.order.created 1 orders=applied")
	require.Contains(t, lines, "checkout.order.confirmed 2 orders=applied")
	require.Contains(t, lines, "orders.order.status_changed 2 notification=applied")
}

func TestEventsCanBeListedByGET(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ship(t, "ord-1")
	query := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {`{"selection":{"order_ids":["ord-1"],"topic":"checkout.order.created"}}`}}
	got, err := w.server.Client().Get(w.server.URL + "/checkout.v1.CheckoutService/ListEvents?" + query.Encode())
	require.NoError(t, err)
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.StatusCode, string(text))
	require.Contains(t, string(text), "orchestrator:order:ord-1:1")
}

func TestI9ASelectionOfEventsIsHeldToWhatThereIs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for want, selection := range map[string]*eventv1.Selection{
		"selection.topic: ":        {Topic: "checkout.order.eaten"},
		"selection.order_ids[1]: ": {OrderIds: []string{"a", "no id"}},
		"selection.order_ids: ":    {OrderIds: slices.Repeat([]string{"a"}, 1001)},
		"selection.since: ":        {Topic: "checkout.order.created", Since: &timestamppb.Timestamp{Nanos: -1}},
	} {
		_, err := f.api.ListEvents(t.Context(), connect.NewRequest(&checkoutv1.ListEventsRequest{Selection: selection}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.ErrorContains(t, err, want)
		_, err = f.api.RepublishEvents(t.Context(), connect.NewRequest(&checkoutv1.RepublishEventsRequest{Selection: selection}))
		require.ErrorContains(t, err, want)
	}
	_, err := f.api.ListEvents(t.Context(), connect.NewRequest(&checkoutv1.ListEventsRequest{Limit: 1001}))
	require.ErrorContains(t, err, "limit: ")
	for want, req := range map[string]*checkoutv1.RepublishEventsRequest{
		"selection: selects nothing": {},
		"reason: ":                   {Selection: about("a"), Reason: "a\nb"},
		"actor: ":                    {Selection: about("a"), Actor: strings.Repeat("a", 200)},
	} {
		_, err := f.api.RepublishEvents(t.Context(), connect.NewRequest(req))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.ErrorContains(t, err, want)
	}
	answer, err := f.api.ListEvents(t.Context(), connect.NewRequest(&checkoutv1.ListEventsRequest{Selection: &eventv1.Selection{Topic: "pricing.price.updated"}}))
	require.NoError(t, err)
	require.Equal(t, []string{"pricing: this orchestrator was not told of it"}, answer.Msg.Unreachable)
}

func TestHistoryHasTheEventsOfEveryApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ship(t, "ord-1")
	w.settle(t)
	w.apps["payment"].set(func(a *app) { a.down = true })
	answer, err := w.api.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	var events []string
	for _, e := range answer.Msg.Entries {
		if e.Kind == "event" {
			events = append(events, e.Actor+" "+e.Topic+" "+e.Outcome)
			require.NotEmpty(t, e.EventId)
		}
	}
	require.Len(t, events, 6)
	require.Equal(t, "orchestrator checkout.order.created published", events[0])
	require.Equal(t, []string{"payment: unavailable: connection refused"}, answer.Msg.Unreachable)
	require.True(t, slices.IsSortedFunc(answer.Msg.Entries, func(a, b *checkoutv1.Entry) int { return a.At.AsTime().Compare(b.At.AsTime()) }))
	require.Greater(t, len(answer.Msg.Entries), len(events), "attempts and statuses stand between them")
}
