package api

import (
	"testing"

	"github.com/bojanz/currency"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
)

const most = 1_000_000_000_000

// name draws what may be a name, and now and then anything.
func name() *rapid.Generator[string] {
	short, long := rapid.StringMatching(`[A-Z]{1,8}`), rapid.StringMatching(`[A-Za-z0-9._ßé茶-]{1,40}`)
	return rapid.OneOf(short, short, short, short, long, long, long, rapid.String())
}

// amount draws between the limits, around them, and anything.
func amount() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64Range(1, 10_000), rapid.Int64Range(1, 10_000), rapid.Int64Range(1, most/30_000), rapid.Int64Range(most-2, most+2), rapid.Int64Range(most/10_001, most/9_999), rapid.Int64())
}

func quantity() *rapid.Generator[int32] {
	return rapid.OneOf(rapid.Int32Range(1, 3), rapid.Int32Range(1, 3), rapid.Int32Range(1, 10_000), rapid.Int32Range(9_999, 10_001), rapid.Int32())
}

// An accepted order that a participant will not even read could never end: its requests and events are written here as those who send
// them do, and held to the rules of those who receive them.
func TestI9WhatStartAcceptsEveryParticipantAccepts(t *testing.T) {
	s := &Service{engine: named{}, definition: checkouttest.Definition()}
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		req := &checkoutv1.StartRequest{
			OrderId: rapid.OneOf(rapid.Just("ord-1"), name()).Draw(t, "order id"), CustomerId: name().Draw(t, "customer"), Currency: "EUR",
			PaymentMethod: name().Draw(t, "payment method"), Coordination: rapid.SampledFrom([]string{"", "orchestrated", "choreographed"}).Draw(t, "coordination"),
		}
		list := priceList{currencies: []string{"EUR"}, known: make(map[string]bool), prices: make(map[string]int64)}
		for range rapid.IntRange(1, 4).Draw(t, "lines") {
			item := &checkoutv1.Item{Sku: name().Draw(t, "article"), Quantity: quantity().Draw(t, "quantity")}
			req.Items = append(req.Items, item)
			list.known[item.Sku], list.prices[item.Sku] = true, amount().Draw(t, "price")
		}
		if len(contract.Check(req)) > 0 {
			return
		}
		start, err := s.priceBy(list, req, "")
		if err != nil {
			return
		}
		order, err := checkout.OrderOf(start.Key, start.Input)
		if err != nil {
			t.Fatalf("what was accepted cannot be read: %v", err)
		}
		coordination := orders.Coordination(store.Saga{Elsewhere: start.Elsewhere})
		accepted++

		money := &operationv1.Money{Currency: order.Amount.Currency, MinorUnits: order.Amount.MinorUnits}
		var lines []*warehousev1.Line
		for _, item := range req.Items {
			lines = append(lines, &warehousev1.Line{Sku: item.Sku, Quantity: item.Quantity})
		}
		told := &checkoutv1.Order{CustomerId: req.CustomerId, Items: req.Items, Amount: money, PaymentMethod: req.PaymentMethod}
		// The inputs of the steps have the fields of the typed requests, and participants hold them to the same rules.
		for step, want := range map[string]proto.Message{
			checkout.ReserveStock:     &warehousev1.ReserveRequest{OrderId: order.ID, Lines: lines},
			checkout.CommitStock:      &warehousev1.CommitRequest{OrderId: order.ID},
			checkout.AuthorizePayment: &paymentv1.AuthorizeRequest{OrderId: order.ID, CustomerId: req.CustomerId, Amount: money, PaymentMethod: req.PaymentMethod},
			checkout.CapturePayment:   &paymentv1.CaptureRequest{OrderId: order.ID, Amount: money},
		} {
			got := want.ProtoReflect().New().Interface()
			if err := protojson.Unmarshal(start.Requests[step], got); err != nil {
				t.Fatalf("%s cannot be asked for: %v", step, err)
			}
			got.ProtoReflect().Set(got.ProtoReflect().Descriptor().Fields().ByName("order_id"), protoreflect.ValueOfString(order.ID))
			if !proto.Equal(want, got) {
				t.Fatalf("%s is asked with %s", step, start.Requests[step])
			}
			if bad := contract.Check(want); len(bad) > 0 {
				t.Fatalf("%T is refused: %s", want, contract.Sentence(bad))
			}
		}
		for _, m := range []event.Message{
			&checkoutv1.OrderCreated{Order: told}, &checkoutv1.OrderConfirmed{Order: told},
			&checkoutv1.OrderCancelled{Order: told, Status: "REJECTED", Reason: "card_declined"},
			&warehousev1.InventoryReserved{Lines: lines, Payment: &warehousev1.PaymentRequest{
				CustomerId: req.CustomerId, Amount: money, PaymentMethod: req.PaymentMethod,
			}},
			&warehousev1.InventoryReleased{Lines: lines}, &warehousev1.InventoryCommitted{Lines: lines},
			&paymentv1.PaymentAuthorized{Amount: money}, &paymentv1.PaymentCompleted{Amount: money}, &paymentv1.PaymentVoided{Amount: money},
			&paymentv1.PaymentFailed{Amount: money, Step: "authorize-payment", Reason: "card_declined"},
			&ordersv1.OrderStatusChanged{CustomerId: req.CustomerId, Status: "placed", Amount: money},
		} {
			if err := arrives(m, &eventv1.Header{OrderId: order.ID, Coordination: coordination}); err != nil {
				t.Fatalf("%T is refused: %v", m, err)
			}
		}
	})
	t.Logf("%d orders were accepted", accepted)
	require.Positive(t, accepted, "nothing was accepted, so nothing was learned")
}

func TestI9WhatPricingAcceptsCanBeOrdered(t *testing.T) {
	s := &Service{engine: named{}, definition: checkouttest.Definition()}
	priced := 0
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.OneOf(rapid.SampledFrom([]string{"EUR", "JPY", "KWD"}), rapid.StringMatching(`[A-Z]{3}`)).Draw(t, "currency")
		set := &pricingv1.SetPriceRequest{Sku: name().Draw(t, "article"), UnitPrice: &operationv1.Money{Currency: code, MinorUnits: amount().Draw(t, "price")}}
		if len(contract.Check(set)) > 0 || !currency.IsValid(code) {
			return
		}
		priced++
		if err := arrives(&pricingv1.PriceUpdated{UnitPrice: set.UnitPrice}, &eventv1.Header{Sku: set.Sku}); err != nil {
			t.Fatalf("the event of the price is refused: %v", err)
		}
		req := &checkoutv1.StartRequest{
			OrderId: "ord-1", CustomerId: "cus-1", Currency: code, Items: []*checkoutv1.Item{{Sku: set.Sku, Quantity: 1}}, PaymentMethod: "tok_visa",
		}
		if bad := contract.Check(req); len(bad) > 0 {
			t.Fatalf("the order is refused: %s", contract.Sentence(bad))
		}
		list := priceList{currencies: []string{code}, known: map[string]bool{set.Sku: true}, prices: map[string]int64{set.Sku: set.UnitPrice.MinorUnits}}
		if _, err := s.priceBy(list, req, ""); err != nil {
			t.Fatalf("the order is refused: %v", err)
		}
	})
	require.Positive(t, priced, "nothing was priced, so nothing was learned")
}

func TestI9WhatCostsMoreThanCanBePaidIsToldByLine(t *testing.T) {
	s := &Service{engine: named{}, definition: checkouttest.Definition()}
	for name, c := range map[string]struct {
		prices     map[string]int64
		quantities []int32
		want       string
	}{
		"one line": {map[string]int64{"A": most, "B": 1}, []int32{2, 1},
			"items[0].quantity: 2 of A cost more EUR than can be paid for an order: minor units must be 1 to 1000000000000, not 2000000000000"},
		"both lines": {map[string]int64{"A": most, "B": most}, []int32{2, 3},
			"items[0].quantity: 2 of A cost more EUR than can be paid for an order: minor units must be 1 to 1000000000000, not 2000000000000; " +
				"items[1].quantity: 3 of B cost more EUR than can be paid for an order: minor units must be 1 to 1000000000000, not 3000000000000"},
		"only all together": {map[string]int64{"A": most, "B": 1}, []int32{1, 1},
			"items: together they cost more EUR than can be paid for an order: minor units must be 1 to 1000000000000, not 1000000000001"},
		"a price that no product of stays within 64 bits": {map[string]int64{"A": 1 << 62, "B": 1}, []int32{4, 1},
			"items[0].sku: the price of A is no price that can be paid in EUR: minor units must be 1 to 1000000000000, not 4611686018427387904"},
	} {
		t.Run(name, func(t *testing.T) {
			req := &checkoutv1.StartRequest{OrderId: "ord-1", CustomerId: "cus-1", Currency: "EUR", PaymentMethod: "tok_visa", Items: []*checkoutv1.Item{
				{Sku: "A", Quantity: c.quantities[0]}, {Sku: "B", Quantity: c.quantities[1]},
			}}
			_, err := s.priceBy(priceList{currencies: []string{"EUR"}, known: map[string]bool{"A": true, "B": true}, prices: c.prices}, req, "")
			require.EqualError(t, err, "invalid_argument: "+c.want)
		})
	}
}

func TestI9APriceInACurrencyThatIsNoneIsNotLearned(t *testing.T) {
	_, err := setPrice(nil)(t.Context(), nil, &pricingv1.PriceUpdated{
		Header: &eventv1.Header{Sku: "A"}, UnitPrice: &operationv1.Money{Currency: "ZZZ", MinorUnits: 1},
	})
	require.ErrorIs(t, err, event.ErrBad)
	require.ErrorContains(t, err, `unit_price.currency: there is no currency "ZZZ"`)
}

// named is an engine of which no more is asked than its name.
type named struct{ engine.Engine }

func (named) Name() string { return "embedded" }

// arrives is an event as its consumers read it.
func arrives(m event.Message, h *eventv1.Header) error {
	topic := event.Of(m)
	h.EventId, h.Topic, h.Producer, h.Seq, h.SchemaVersion, h.OccurredAt = "evt-1", topic.Name, topic.Owner, 1, 1, timestamppb.Now()
	m.ProtoReflect().Set(m.ProtoReflect().Descriptor().Fields().ByName("header"), protoreflect.ValueOfMessage(h.ProtoReflect()))
	data, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	_, err = event.Decode(topic.Name, data)
	return err
}
