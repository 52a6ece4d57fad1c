package orders

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/gen/orders/v1/ordersv1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAnOrderIsPlacedAndThenConfirmed(t *testing.T) {
	t.Parallel()
	o := start(t)
	require.Equal(t, bus.Success, o.deliver(t, created("ord-1", 1)))
	want := &ordersv1.Order{
		OrderId: "ord-1", CustomerId: "cus-1", Status: "placed", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 12997},
		Lines:    []*ordersv1.Line{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
		PlacedAt: at(1), UpdatedAt: at(1),
	}
	require.Empty(t, cmp.Diff(want, o.get(t, "ord-1"), protocmp.Transform()))

	require.Equal(t, bus.Success, o.deliver(t, ended("ord-1", 2)))
	want.Status, want.UpdatedAt = "confirmed", at(2)
	require.Empty(t, cmp.Diff(want, o.get(t, "ord-1"), protocmp.Transform()))
	require.Equal(t, []string{"→ placed", "placed → confirmed"}, o.told(t, "ord-1"))
	require.Equal(t, "applied applied", o.received(t, "ord-1"))
}

func TestACancelledOrderSaysWhy(t *testing.T) {
	t.Parallel()
	o := start(t)
	for reason, want := range map[string]string{"reserve-stock: out_of_stock": "reserve-stock: out_of_stock", "": "expired"} {
		order := "ord-" + want[:3]
		require.Equal(t, bus.Success, o.deliver(t, created(order, 1)))
		require.Equal(t, bus.Success, o.deliver(t, &checkoutv1.OrderCancelled{
			Header: header(order, "checkout.order.cancelled", 2), Order: content(), Status: "EXPIRED", Reason: reason,
		}))
		got := o.get(t, order)
		require.Equal(t, "cancelled", got.Status)
		require.Equal(t, want, got.Reason)
		changed := o.changes(t, order)[1]
		require.Equal(t, want, changed.Reason)
		require.Equal(t, "cus-1", changed.CustomerId)
		require.Equal(t, int64(12997), changed.Amount.MinorUnits)
	}
}

func TestTheChangeOfStatusHandsTheCoordinationOn(t *testing.T) {
	t.Parallel()
	o := start(t)
	for order, coordination := range map[string]string{"ord-1": event.Orchestrated, "ord-2": event.Choreographed} {
		m := created(order, 1)
		m.Header.Coordination = coordination
		require.Equal(t, bus.Success, o.deliver(t, m))
		require.Equal(t, coordination, o.changes(t, order)[0].Header.Coordination)
	}
}

func TestI2ARepeatedEventChangesNothingAndTellsNobody(t *testing.T) {
	t.Parallel()
	o := start(t)
	for _, m := range []event.Message{created("ord-1", 1), ended("ord-1", 2)} {
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { assert.Equal(t, bus.Success, o.deliver(t, m)) })
		}
		all.Wait()
	}
	require.Equal(t, bus.Success, o.deliver(t, created("ord-1", 1)), "also one of before")
	require.Equal(t, "confirmed", o.get(t, "ord-1").Status)
	require.Equal(t, []string{"→ placed", "placed → confirmed"}, o.told(t, "ord-1"))
}

func TestI6AnEventThatComesLateUndoesNothing(t *testing.T) {
	t.Parallel()
	o := start(t)
	require.Equal(t, bus.Success, o.deliver(t, ended("ord-1", 2)))
	got := o.get(t, "ord-1")
	require.Equal(t, "confirmed", got.Status)
	require.Len(t, got.Lines, 2, "the whole order is there")

	require.Equal(t, bus.Success, o.deliver(t, created("ord-1", 1)))
	got = o.get(t, "ord-1")
	require.Equal(t, "confirmed", got.Status)
	require.Equal(t, at(2).AsTime(), got.UpdatedAt.AsTime())
	require.Equal(t, at(1).AsTime(), got.PlacedAt.AsTime(), "when it was placed the older event knows better")
	require.Equal(t, []string{"→ confirmed"}, o.told(t, "ord-1"))
	require.Equal(t, "late applied", o.received(t, "ord-1"))
}

func TestANewerEventOfTheSameStatusTellsNobody(t *testing.T) {
	t.Parallel()
	o := start(t)
	require.Equal(t, bus.Success, o.deliver(t, created("ord-1", 1)))
	again := created("ord-1", 2)
	again.Order.Items[0].Quantity = 3
	require.Equal(t, bus.Success, o.deliver(t, again))
	require.Equal(t, int32(3), o.get(t, "ord-1").Lines[0].Quantity)
	require.Equal(t, []string{"→ placed"}, o.told(t, "ord-1"))
}

func TestI6EventsOfManyOrdersInAnyOrderAndTwiceEndWithTheNewest(t *testing.T) {
	t.Parallel()
	o := start(t)
	var events []event.Message
	for i := range 30 {
		order := fmt.Sprintf("ord-%d", i)
		events = append(events, created(order, 1), ended(order, 2), &checkoutv1.OrderCancelled{
			Header: header(order, "checkout.order.cancelled", 3), Order: content(), Status: "CANCELLED",
		})
	}
	events = append(events, events...)
	rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	queue := make(chan event.Message)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for m := range queue {
				assert.Equal(t, bus.Success, o.deliver(t, m))
			}
		})
	}
	for _, m := range events {
		queue <- m
	}
	close(queue)
	all.Wait()

	for i := range 30 {
		order := fmt.Sprintf("ord-%d", i)
		require.Equal(t, "cancelled", o.get(t, order).Status)
		require.Equal(t, at(1).AsTime(), o.get(t, order).PlacedAt.AsTime())
		before := ""
		for n, change := range o.changes(t, order) {
			require.Equal(t, int64(n+1), change.Header.Seq)
			require.Equal(t, before, change.PreviousStatus, "each change begins where the one before ended")
			before = change.Status
		}
		require.Equal(t, "cancelled", before)
	}
}

func TestI5AChangeOfStatusIsToldIfAndOnlyIfItWasCommitted(t *testing.T) {
	t.Parallel()
	o := start(t)
	require.Equal(t, bus.Success, o.deliver(t, created("ord-1", 1)))
	// Fails at the commit, when the handler has done all that it does.
	const fail = `
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
		CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()`
	_, err := o.service.store.pool.Exec(t.Context(), fail)
	require.NoError(t, err)
	require.Equal(t, bus.Retry, o.deliver(t, ended("ord-1", 2)))
	require.Equal(t, bus.Retry, o.deliver(t, created("ord-2", 1)))
	require.Equal(t, "placed", o.get(t, "ord-1").Status)
	require.Equal(t, []string{"→ placed"}, o.told(t, "ord-1"))
	require.Empty(t, o.told(t, "ord-2"))
	require.Equal(t, "applied", o.received(t, "ord-1"))
	failures, err := o.service.inbox.Failures(t.Context(), []string{"orchestrator:order:ord-1:2"})
	require.NoError(t, err)
	require.Contains(t, failures[0].Error, "the disk is full")

	_, err = o.service.store.pool.Exec(t.Context(), `DROP TRIGGER fail ON orders`)
	require.NoError(t, err)
	require.Equal(t, bus.Success, o.deliver(t, ended("ord-1", 2)))
	require.Equal(t, []string{"→ placed", "placed → confirmed"}, o.told(t, "ord-1"))
}

func TestAnEventThatCanNeverBeTakenIsDroppedWithItsCause(t *testing.T) {
	t.Parallel()
	o := start(t)
	with := func(change func(*checkoutv1.OrderCreated)) *checkoutv1.OrderCreated {
		m := created("ord-1", 1)
		change(m)
		return m
	}
	for name, c := range map[string]struct {
		m    event.Message
		says string
	}{
		"no order":              {with(func(m *checkoutv1.OrderCreated) { m.Order = nil }), "order: is missing"},
		"an impossible id":      {with(func(m *checkoutv1.OrderCreated) { m.Header.OrderId = "ord 1" }), "header.order_id: "},
		"a customer of control": {with(func(m *checkoutv1.OrderCreated) { m.Order.CustomerId = "c\x00" }), "order.customer_id: "},
		"a negative quantity":   {with(func(m *checkoutv1.OrderCreated) { m.Order.Items[1].Quantity = -1 }), "order.items[1].quantity: must be 1 to 10000, not -1"},
		"a reason with a zero": {&checkoutv1.OrderCancelled{
			Header: header("ord-1", "checkout.order.cancelled", 1), Order: content(), Status: "CANCELLED", Reason: "\x00",
		}, "reason: "},
	} {
		id := strings.ReplaceAll(name, " ", "-")
		c.m.GetHeader().EventId = id
		require.Equal(t, bus.Drop, o.deliver(t, c.m), name)
		failures, err := o.service.inbox.Failures(t.Context(), []string{id})
		require.NoError(t, err)
		require.Len(t, failures, 1, name)
		require.Contains(t, failures[0].Error, c.says, name)
	}
	_, err := o.client.GetOrder(t.Context(), connect.NewRequest(&ordersv1.GetOrderRequest{OrderId: "ord-1"}))
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestOrdersOfACustomerAreListedPageByPageNewestFirst(t *testing.T) {
	t.Parallel()
	o := start(t)
	var want []string
	for i := range 7 {
		m := created(fmt.Sprintf("ord-%d", i), 1)
		m.Header.OccurredAt = at(10 + int64(i/2)) // Two at a time at the same moment.
		require.Equal(t, bus.Success, o.deliver(t, m))
		want = append([]string{m.Header.OrderId}, want...)
	}
	other := created("ord-other", 1)
	other.Order.CustomerId = "cus-2"
	require.Equal(t, bus.Success, o.deliver(t, other))

	list := func(size int32) (ids []string, pages int) {
		req := &ordersv1.ListOrdersRequest{CustomerId: "cus-1", PageSize: size}
		for {
			res, err := o.client.ListOrders(t.Context(), connect.NewRequest(req))
			require.NoError(t, err)
			pages++
			for _, found := range res.Msg.Orders {
				ids = append(ids, found.OrderId)
			}
			if res.Msg.NextPageToken == "" {
				return ids, pages
			}
			req.PageToken = res.Msg.NextPageToken
		}
	}
	for size, wantPages := range map[int32]int{0: 1, 1: 7, 3: 3, 7: 1} {
		ids, pages := list(size)
		require.Equal(t, want, ids)
		require.Equal(t, wantPages, pages)
	}
	res, err := o.client.ListOrders(t.Context(), connect.NewRequest(&ordersv1.ListOrdersRequest{CustomerId: "nobody"}))
	require.NoError(t, err)
	require.Empty(t, res.Msg.Orders)
}

func TestI9BadInputIsRefusedWithItsField(t *testing.T) {
	t.Parallel()
	o := start(t)
	for _, id := range []string{"", "-", "a b", strings.Repeat("a", 65)} {
		_, err := o.client.GetOrder(t.Context(), connect.NewRequest(&ordersv1.GetOrderRequest{OrderId: id}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), id)
		require.ErrorContains(t, err, "order_id: ")
	}
	elsewhere := place{placedAt: time.Unix(0, 0), orderID: "-"}.token()
	for _, c := range []struct {
		req  *ordersv1.ListOrdersRequest
		says string
	}{
		{&ordersv1.ListOrdersRequest{}, "customer_id: is missing"},
		{&ordersv1.ListOrdersRequest{CustomerId: "a\nb"}, "customer_id: must not contain spaces or control characters"},
		{&ordersv1.ListOrdersRequest{CustomerId: "c", PageSize: 1001}, "page_size: must be 0 to 1000"},
		{&ordersv1.ListOrdersRequest{CustomerId: "c", PageSize: -1}, "page_size: must be 0 to 1000"},
		{&ordersv1.ListOrdersRequest{CustomerId: "c", PageToken: "?"}, "page_token: must be one that a page ended with"},
		{&ordersv1.ListOrdersRequest{CustomerId: "c", PageToken: "YWJj"}, "page_token: must be one that a page ended with"},
		{&ordersv1.ListOrdersRequest{CustomerId: "c", PageToken: elsewhere}, "page_token: must be one that a page ended with"},
	} {
		_, err := o.client.ListOrders(t.Context(), connect.NewRequest(c.req))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), c.says)
		require.ErrorContains(t, err, c.says)
	}
}

func TestAsAProcessItTellsOnTheBusWhatItLearnsThere(t *testing.T) {
	t.Parallel()
	carrier := embedded.New()
	heard := make(chan bus.Delivery, 10)
	carrier.Subscribe(bus.Subscription{Topic: "orders.order.status_changed", Handle: func(_ context.Context, d bus.Delivery) bus.Answer {
		heard <- d
		return bus.Success
	}})
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := process.Open(t.Context(), Kind, process.Settings{DatabaseURL: pgtest.URL(t), Listen: "127.0.0.1:0"}, log)
	require.NoError(t, err)
	p.UseEmbedded(carrier)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- process.RunParts(ctx, log, p.Parts()...) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ran)
		p.Close()
	})
	m := created("ord-1", 1)
	require.NoError(t, carrier.Publish(t.Context(), []bus.Event{{ID: m.Header.EventId, Topic: m.Header.Topic, Key: "ord-1", Data: encode(t, m)}})[0])
	select {
	case d := <-heard:
		told, err := event.Decode(d.Topic, d.Data)
		require.NoError(t, err)
		require.Equal(t, "placed", told.(*ordersv1.OrderStatusChanged).Status)
		require.Equal(t, "orders", told.GetHeader().Producer)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
}

// fixture is the participant on a real server and a database of its own.
type fixture struct {
	service  *Service
	client   ordersv1connect.OrdersServiceClient
	handlers map[string]bus.Handler
}

func start(t *testing.T) *fixture {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := open(t.Context(), pgtest.URL(t), log)
	require.NoError(t, err)
	t.Cleanup(service.Close)
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	require.NoError(t, err)
	service.Mount(server)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-served)
	})
	f := &fixture{service: service, client: ordersv1connect.NewOrdersServiceClient(http.DefaultClient, server.URL()), handlers: make(map[string]bus.Handler)}
	subscriptions, err := service.inbox.Subscriptions()
	require.NoError(t, err)
	for _, s := range subscriptions {
		f.handlers[s.Topic] = s.Handle
	}
	return f
}

// deliver hands an event over as a carrier does.
func (f *fixture) deliver(t *testing.T, m event.Message) bus.Answer {
	t.Helper()
	h := m.GetHeader()
	return f.handlers[h.Topic](t.Context(), bus.Delivery{Topic: h.Topic, ID: h.EventId, Data: encode(t, m)})
}

func (f *fixture) get(t *testing.T, order string) *ordersv1.Order {
	t.Helper()
	res, err := f.client.GetOrder(t.Context(), connect.NewRequest(&ordersv1.GetOrderRequest{OrderId: order}))
	require.NoError(t, err)
	return res.Msg.Order
}

// changes are the events that were written about an order, in their order.
func (f *fixture) changes(t *testing.T, order string) (changes []*ordersv1.OrderStatusChanged) {
	t.Helper()
	listed, err := f.service.outbox.List(t.Context(), outbox.Selection{OrderIDs: []string{order}}, 0, 100)
	require.NoError(t, err)
	for _, e := range listed {
		m, err := event.Decode(e.Header.Topic, e.Data)
		require.NoError(t, err)
		changes = append(changes, m.(*ordersv1.OrderStatusChanged))
	}
	return changes
}

func (f *fixture) told(t *testing.T, order string) (changes []string) {
	t.Helper()
	for _, c := range f.changes(t, order) {
		changes = append(changes, strings.TrimSpace(c.PreviousStatus+" → "+c.Status))
	}
	return changes
}

// received is what the inbox says of an order's events, by their numbers.
func (f *fixture) received(t *testing.T, order string) (outcomes string) {
	t.Helper()
	const query = `SELECT coalesce(string_agg(outcome, ' ' ORDER BY seq), '') FROM inbox WHERE key = $1`
	require.NoError(t, f.service.store.pool.QueryRow(t.Context(), query, order).Scan(&outcomes))
	return outcomes
}

var began = time.Now().Add(-time.Hour).Truncate(time.Second)

func at(seq int64) *timestamppb.Timestamp {
	return timestamppb.New(began.Add(time.Duration(seq) * time.Second))
}

func header(order, topic string, seq int64) *eventv1.Header {
	return &eventv1.Header{
		EventId: fmt.Sprintf("orchestrator:order:%s:%d", order, seq), Topic: topic, Producer: "orchestrator", OrderId: order, Seq: seq,
		SchemaVersion: 1, Coordination: event.Orchestrated, OccurredAt: at(seq),
	}
}

func content() *checkoutv1.Order {
	return &checkoutv1.Order{
		CustomerId: "cus-1", Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
		Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 12997}, PaymentMethod: "card",
	}
}

func created(order string, seq int64) *checkoutv1.OrderCreated {
	return &checkoutv1.OrderCreated{Header: header(order, "checkout.order.created", seq), Order: content()}
}

func ended(order string, seq int64) *checkoutv1.OrderConfirmed {
	return &checkoutv1.OrderConfirmed{Header: header(order, "checkout.order.confirmed", seq), Order: content()}
}

func encode(t testing.TB, m event.Message) []byte {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	require.NoError(t, err)
	return data
}
