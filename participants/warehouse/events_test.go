package warehouse

import (
	"context"
	"fmt"
	"slices"
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
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
)

func TestI5EachChangeTellsOneEventAndARepeatNone(t *testing.T) {
	t.Parallel()
	w := open(t)
	reserve := func(pieces ...*warehousev1.Line) func(order string) {
		return func(order string) { _, _ = w.reserve(t.Context(), order, pieces...) }
	}
	commit := func(order string) { _, err := w.commit(t.Context(), order); require.NoError(t, err) }
	release := func(order string) { _, err := w.release(t.Context(), order); require.NoError(t, err) }
	two, three, none := reserve(pieces("CHAIR-OAK", 2)), reserve(pieces("CHAIR-OAK", 3)), reserve(pieces("NO-SUCH-CHAIR", 1))

	for name, tc := range map[string]struct {
		calls []func(order string)
		want  []string
	}{
		"reserved and committed":                    {[]func(string){two, two, commit, commit, two}, []string{"reserved", "committed"}},
		"reserved and released":                     {[]func(string){two, release, release, two}, []string{"reserved", "released"}},
		"refused, and there was nothing to release": {[]func(string){none, none, release}, []string{"reservation_rejected"}},
		"released before it was reserved":           {[]func(string){release, two, two}, nil},
		"nothing there to commit":                   {[]func(string){commit, commit}, nil},
		"committed, so not released":                {[]func(string){two, commit, release, release}, []string{"reserved", "committed"}},
		"asked for again with other content":        {[]func(string){two, three}, []string{"reserved"}},
	} {
		order := strings.NewReplacer(" ", "-", ",", "").Replace(name)
		for _, call := range tc.calls {
			call(order)
		}
		var want []string
		for _, action := range tc.want {
			want = append(want, "orchestrated "+action)
		}
		require.Equal(t, want, w.told(t, order), name)
	}

	events := w.events(t, "reserved-and-committed")
	var first warehousev1.InventoryReserved
	require.NoError(t, protojson.Unmarshal(events[0].Data, &first))
	require.EqualValues(t, 1, first.Header.Seq)
	first.Header = nil
	require.Empty(t, cmp.Diff(&warehousev1.InventoryReserved{Lines: []*warehousev1.Line{pieces("CHAIR-OAK", 2)}}, &first, protocmp.Transform()))
	var refused warehousev1.InventoryReservationRejected
	require.NoError(t, protojson.Unmarshal(w.events(t, "refused-and-there-was-nothing-to-release")[0].Data, &refused))
	require.Equal(t, "unknown_article", refused.Reason)
	require.Equal(t, "there is no article NO-SUCH-CHAIR", refused.Detail)
}

func TestI5StockChangedIsToldWhenAnArticleWasCountedAnewAndDiffers(t *testing.T) {
	t.Parallel()
	w := open(t)
	set := func(sku string, onHand int32) error {
		_, err := w.client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku, OnHand: onHand}))
		return err
	}
	_, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 7))
	require.NoError(t, err)
	require.NoError(t, set("NEW-CHAIR", 0))
	require.NoError(t, set("NEW-CHAIR", 0))
	require.NoError(t, set("CHAIR-OAK", 1000))
	require.Error(t, set("CHAIR-OAK", 6), "7 are reserved")
	require.NoError(t, set("CHAIR-OAK", 7))
	require.NoError(t, set("CHAIR-OAK", 7))

	listed, err := w.service.Outbox().List(t.Context(), outbox.Selection{Topic: "warehouse.inventory.stock_changed"}, 0, 10)
	require.NoError(t, err)
	var told []string
	for _, e := range listed {
		var m warehousev1.InventoryStockChanged
		require.NoError(t, protojson.Unmarshal(e.Data, &m))
		told = append(told, fmt.Sprintf("%s#%d: %d on hand, %d reserved, %d committed", m.Header.Sku, m.Header.Seq, m.OnHand, m.Reserved, m.Committed))
	}
	require.Equal(t, []string{"NEW-CHAIR#1: 0 on hand, 0 reserved, 0 committed", "CHAIR-OAK#1: 7 on hand, 7 reserved, 0 committed"}, told)
}

func TestI5RacingCallsAboutOneOrderTellWhatBecameOfItOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	for i := range 10 {
		order := fmt.Sprintf("ord-%d", i)
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() { _, err := w.reserve(t.Context(), order, pieces("CHAIR-OAK", 1)); assert.NoError(t, err) })
			all.Go(func() { _, err := w.release(t.Context(), order); assert.NoError(t, err) })
			all.Go(func() { _, err := w.commit(t.Context(), order); assert.NoError(t, err) })
		}
		all.Wait()
		want := map[string][]string{
			"holds nothing":         nil,
			"released CHAIR-OAK×1":  {"orchestrated reserved", "orchestrated released"},
			"committed CHAIR-OAK×1": {"orchestrated reserved", "orchestrated committed"},
		}[w.effect(t, order)]
		require.Equal(t, want, w.told(t, order), w.effect(t, order))
	}
}

func TestI5ACommitThatFailsLeavesNoEventAndTheNextTellsIt(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, step := range []struct {
		call func(order string) error
		told []string
	}{
		{func(order string) error { _, err := w.reserve(t.Context(), order, pieces("CHAIR-OAK", 2)); return err }, []string{"orchestrated reserved"}},
		{func(order string) error { _, err := w.commit(t.Context(), order); return err }, []string{"orchestrated reserved", "orchestrated committed"}},
	} {
		before := w.told(t, "ord-1")
		mend, err := ledgertest.FailCommits(w.pool)(t.Context())
		require.NoError(t, err)
		require.Error(t, step.call("ord-1"))
		require.Equal(t, before, w.told(t, "ord-1"), "told, and never happened")
		require.NoError(t, mend(t.Context()))
		require.NoError(t, step.call("ord-1"))
		require.Equal(t, step.told, w.told(t, "ord-1"))
	}
	for i, e := range w.events(t, "ord-1") {
		require.EqualValues(t, i+1, e.Header.Seq, "numbers have no gap, whatever was rolled back")
	}
}

func TestAChoreographedOrderIsReservedAndShippedOrReleasedByEvents(t *testing.T) {
	t.Parallel()
	w := open(t)
	require.Equal(t, bus.Success, w.deliver(t, created("ord-1", pieces("CHAIR-OAK", 2))))
	require.Equal(t, "reserved CHAIR-OAK×2", w.effect(t, "ord-1"))
	var told warehousev1.InventoryReserved
	require.NoError(t, protojson.Unmarshal(w.events(t, "ord-1")[0].Data, &told))
	require.Empty(t, cmp.Diff(&warehousev1.PaymentRequest{
		CustomerId: "cus-1", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4999}, PaymentMethod: "tok_visa",
	}, told.Payment, protocmp.Transform()), "what is to be paid is handed on")

	require.Equal(t, bus.Success, w.deliver(t, paid("ord-1", 3)))
	require.Equal(t, "committed CHAIR-OAK×2", w.effect(t, "ord-1"))
	require.Equal(t, []string{"choreographed reserved", "choreographed committed"}, w.told(t, "ord-1"))

	require.Equal(t, bus.Success, w.deliver(t, created("ord-2", pieces("CHAIR-OAK", 2))))
	require.Equal(t, bus.Success, w.deliver(t, unpaid("ord-2", 1)))
	require.Equal(t, "released CHAIR-OAK×2", w.effect(t, "ord-2"))
	var released warehousev1.InventoryReleased
	require.NoError(t, protojson.Unmarshal(w.events(t, "ord-2")[1].Data, &released))
	require.Equal(t, "card_declined", released.Reason)
	require.Empty(t, cmp.Diff([]*warehousev1.Line{pieces("CHAIR-OAK", 2)}, released.Lines, protocmp.Transform()))

	require.Equal(t, bus.Success, w.deliver(t, created("ord-3", pieces("CHAIR-OAK", 5000))))
	require.Equal(t, []string{"choreographed reservation_rejected"}, w.told(t, "ord-3"))
	w.requireBooksBalance(t)
}

func TestACallAboutAChoreographedOrderTellsChoreographedEvents(t *testing.T) {
	t.Parallel()
	w := open(t)
	require.Equal(t, bus.Success, w.deliver(t, created("ord-1", pieces("CHAIR-OAK", 2))))
	_, err := w.release(t.Context(), "ord-1")
	require.NoError(t, err)
	require.Equal(t, []string{"choreographed reserved", "choreographed released"}, w.told(t, "ord-1"))
	require.Equal(t, bus.Success, w.deliver(t, created("ord-2", pieces("CHAIR-OAK", 2))))
	_, err = w.commit(t.Context(), "ord-2")
	require.NoError(t, err)
	require.Equal(t, []string{"choreographed reserved", "choreographed committed"}, w.told(t, "ord-2"))
}

func TestAnOrchestratedOrdersEventsLeadToNothing(t *testing.T) {
	t.Parallel()
	w := open(t)
	order := created("ord-1", pieces("CHAIR-OAK", 2))
	order.Header.Coordination = event.Orchestrated
	require.Equal(t, bus.Success, w.deliver(t, order))
	require.Equal(t, "holds nothing", w.effect(t, "ord-1"))

	_, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
	require.NoError(t, err)
	for _, m := range []event.Message{paid("ord-1", 1), unpaid("ord-1", 2)} {
		m.GetHeader().Coordination = event.Orchestrated
		require.Equal(t, bus.Success, w.deliver(t, m))
	}
	require.Equal(t, "reserved CHAIR-OAK×2", w.effect(t, "ord-1"))
}

func TestI2EventsThatComeTwiceOrAtOnceAreAppliedOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	// Every message comes eight times, half of them as another event that says the same.
	many := func(first, second event.Message) {
		var all sync.WaitGroup
		for i := range 8 {
			m := first
			if i%2 == 1 {
				m = second
			}
			all.Go(func() { assert.Equal(t, bus.Success, w.deliver(t, m)) })
		}
		all.Wait()
	}
	again := created("ord-1", pieces("CHAIR-OAK", 2))
	again.Header.EventId, again.Header.Seq = "another", 9
	many(created("ord-1", pieces("CHAIR-OAK", 2)), again)
	many(paid("ord-1", 2), paid("ord-1", 3))
	require.Equal(t, stock{"CHAIR-OAK", 998, 0, 2}, w.stock(t, "CHAIR-OAK"))
	require.Equal(t, []string{"choreographed reserved", "choreographed committed"}, w.told(t, "ord-1"))

	require.Equal(t, bus.Success, w.deliver(t, created("ord-2", pieces("CHAIR-OAK", 2))))
	many(unpaid("ord-2", 2), unpaid("ord-2", 3))
	require.Equal(t, stock{"CHAIR-OAK", 998, 0, 2}, w.stock(t, "CHAIR-OAK"))
	require.Equal(t, []string{"choreographed reserved", "choreographed released"}, w.told(t, "ord-2"))
	w.requireBooksBalance(t)
}

func TestI6ARefusedPaymentThatOvertakesItsOrderIsRememberedAndTheOrderComesTooLate(t *testing.T) {
	t.Parallel()
	w := open(t)
	require.Equal(t, bus.Success, w.deliver(t, unpaid("ord-1", 1)))
	late := created("ord-1", pieces("CHAIR-OAK", 2))
	require.Equal(t, bus.Success, w.deliver(t, late))
	require.Equal(t, "holds nothing", w.effect(t, "ord-1"))
	require.Empty(t, w.told(t, "ord-1"))
	received, err := w.service.Inbox().Received(t.Context(), []string{late.Header.EventId})
	require.NoError(t, err)
	require.Equal(t, "late", received[0].Outcome)
}

func TestWhatIsPaidAndNotReservedIsTriedAgainAndNeverForgotten(t *testing.T) {
	t.Parallel()
	w := open(t)
	early := paid("ord-1", 3)
	for range 2 {
		require.Equal(t, bus.Retry, w.deliver(t, early))
	}
	require.Contains(t, w.failure(t, early), "ord-1 is paid and cannot be shipped: no_reservation")
	require.Equal(t, bus.Success, w.deliver(t, created("ord-1", pieces("CHAIR-OAK", 2))))
	require.Equal(t, bus.Success, w.deliver(t, early), "once it is reserved it is shipped: no refusal was recorded")
	require.Equal(t, "committed CHAIR-OAK×2", w.effect(t, "ord-1"))

	contrary := unpaid("ord-1", 4)
	require.Equal(t, bus.Retry, w.deliver(t, contrary))
	require.Contains(t, w.failure(t, contrary), "ord-1 is not paid and cannot be released: already_committed")
	require.Equal(t, "committed CHAIR-OAK×2", w.effect(t, "ord-1"))
}

func TestI9AnEventThatCanNeverBeTakenIsDroppedWithItsCause(t *testing.T) {
	t.Parallel()
	w := open(t)
	require.Equal(t, bus.Success, w.deliver(t, created("ord-known", pieces("CHAIR-OAK", 2))))
	_, err := w.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key) VALUES ('checkout', 'ord-forgotten')`)
	require.NoError(t, err)
	spoilt := func(spoil func(*checkoutv1.OrderCreated)) *checkoutv1.OrderCreated {
		m := created("ord-1", pieces("CHAIR-OAK", 2))
		spoil(m)
		return m
	}
	for name, tc := range map[string]struct {
		m     event.Message
		cause string
	}{
		"no order":          {spoilt(func(m *checkoutv1.OrderCreated) { m.Order = nil }), "order: is missing"},
		"no lines":          {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.Items = nil }), "order.items: is missing"},
		"no pieces":         {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.Items[0].Quantity = 0 }), "order.items[0].quantity: must be 1 to 10000, not 0"},
		"no customer":       {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.CustomerId = "" }), "order.customer_id: is missing"},
		"no payment method": {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.PaymentMethod = "" }), "order.payment_method: is missing"},
		"no amount":         {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.Amount = nil }), "order.amount: is missing"},
		"a negative amount": {spoilt(func(m *checkoutv1.OrderCreated) { m.Order.Amount.MinorUnits = -1 }), "order.amount.minor_units:"},
		"no order id":       {created("-ord", pieces("CHAIR-OAK", 2)), "header.order_id: must be"},
		"other lines":       {created("ord-known", pieces("CHAIR-OAK", 3)), "other content"},
		"a forgotten order": {created("ord-forgotten", pieces("CHAIR-OAK", 3)), "no longer kept"},
	} {
		tc.m.GetHeader().EventId = strings.ReplaceAll(name, " ", "-")
		require.Equal(t, bus.Drop, w.deliver(t, tc.m), name)
		require.Contains(t, w.failure(t, tc.m), tc.cause, name)
	}
	require.Equal(t, stock{"CHAIR-OAK", 1000, 2, 0}, w.stock(t, "CHAIR-OAK"))
	require.Equal(t, []string{"choreographed reserved"}, w.told(t, "ord-known"))
	_, err = w.get(t.Context(), "ord-1", stepReserve)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestI2AnEventAndItsOperationAreOneCommit(t *testing.T) {
	t.Parallel()
	w := open(t)
	mend, err := ledgertest.FailCommits(w.pool)(t.Context())
	require.NoError(t, err)
	m := created("ord-1", pieces("CHAIR-OAK", 2))
	require.Equal(t, bus.Retry, w.deliver(t, m))
	received, err := w.service.Inbox().Received(t.Context(), []string{m.Header.EventId})
	require.NoError(t, err)
	require.Empty(t, received)
	require.Empty(t, w.told(t, "ord-1"))
	require.NoError(t, mend(t.Context()))
	require.Equal(t, bus.Success, w.deliver(t, m))
	op, err := ledger.Get(t.Context(), w.pool, order("ord-1").operation(stepReserve))
	require.NoError(t, err)
	require.Equal(t, ledger.Applied, op.Do.State)
	require.Equal(t, []string{"choreographed reserved"}, w.told(t, "ord-1"))
}

// created is the event of a choreographed order.
func created(order string, lines ...*warehousev1.Line) *checkoutv1.OrderCreated {
	m := &checkoutv1.OrderCreated{Header: header("checkout.order.created", order, 1), Order: &checkoutv1.Order{
		CustomerId: "cus-1", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4999}, PaymentMethod: "tok_visa",
	}}
	for _, l := range lines {
		m.Order.Items = append(m.Order.Items, &checkoutv1.Item{Sku: l.Sku, Quantity: l.Quantity})
	}
	return m
}

// paid and unpaid are what payment tells of a choreographed order.
func paid(order string, seq int64) *paymentv1.PaymentCompleted {
	return &paymentv1.PaymentCompleted{Header: header("payments.payment.completed", order, seq)}
}

func unpaid(order string, seq int64) *paymentv1.PaymentFailed {
	return &paymentv1.PaymentFailed{
		Header: header("payments.payment.failed", order, seq), Step: "authorize-payment", Reason: "card_declined",
	}
}

func header(topic, order string, seq int64) *eventv1.Header {
	t, _ := event.Find(topic)
	return &eventv1.Header{
		EventId: fmt.Sprintf("%s:order:%s:%d", t.Owner, order, seq), Topic: topic, Producer: t.Owner, OrderId: order, Seq: seq,
		SchemaVersion: 1, Coordination: event.Choreographed, OccurredAt: timestamppb.New(time.Now()),
	}
}

// deliver hands an event to the warehouse, as a bus does.
func (w *fixture) deliver(t *testing.T, m event.Message) bus.Answer {
	t.Helper()
	data, err := protojson.Marshal(m)
	assert.NoError(t, err)
	subscriptions, err := w.service.Inbox().Subscriptions()
	assert.NoError(t, err)
	topic := event.Of(m).Name
	i := slices.IndexFunc(subscriptions, func(s bus.Subscription) bool { return s.Topic == topic })
	return subscriptions[i].Handle(context.Background(), bus.Delivery{Topic: topic, ID: m.GetHeader().EventId, Data: data})
}

// failure tells why deliveries of an event failed.
func (w *fixture) failure(t *testing.T, m event.Message) string {
	t.Helper()
	failures, err := w.service.Inbox().Failures(t.Context(), []string{m.GetHeader().EventId})
	require.NoError(t, err)
	require.Len(t, failures, 1)
	return failures[0].Error
}

func (w *fixture) events(t *testing.T, order string) []outbox.Listed {
	t.Helper()
	events, err := w.service.Outbox().List(t.Context(), outbox.Selection{OrderIDs: []string{order}}, 0, 100)
	require.NoError(t, err)
	return events
}

// told are the coordination and the action of each event about an order, such as "orchestrated reserved".
func (w *fixture) told(t *testing.T, order string) (told []string) {
	t.Helper()
	for _, e := range w.events(t, order) {
		told = append(told, e.Header.Coordination+" "+strings.TrimPrefix(e.Header.Topic, "warehouse.inventory."))
	}
	return told
}
