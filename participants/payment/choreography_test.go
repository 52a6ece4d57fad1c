package payment

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
)

func TestI1AChoreographedCheckoutOfBothParticipantsEndsWhole(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.payment.behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_timeout", Capture: "works"})
	for order, tc := range map[string]struct {
		quantity  int32
		method    string
		warehouse []string
		payment   []string
		network   string
	}{
		"success":      {2, "tok_visa", []string{"reserved", "committed"}, []string{"authorized", "completed"}, "book [merchant 4999] network [authorize×1 capture×1]"},
		"lost-answer":  {2, "tok_timeout", []string{"reserved", "committed"}, []string{"authorized", "completed"}, "book [merchant 4999] network [authorize×1 capture×1]"},
		"out-of-stock": {5000, "tok_visa", []string{"reservation_rejected"}, nil, "book [] network []"},
		"declined":     {2, "tok_declined", []string{"reserved", "released card_declined"}, []string{"failed authorize-payment card_declined"}, "book [] network []"},
		"expired": {2, "tok_expires", []string{"reserved", "released authorization_expired"},
			[]string{"authorized", "failed capture-payment authorization_expired"}, "book [] network [authorize×1]"},
	} {
		t.Run(order, func(t *testing.T) {
			s.create(t, order, tc.quantity, tc.method)
			s.waitForEnd(t, order)
			require.Equal(t, choreographed(tc.warehouse...), s.goods(t, order))
			require.Equal(t, choreographed(tc.payment...), s.payment.told(t, order))
			require.Equal(t, tc.network, s.payment.effect(t, order))
		})
	}
	s.requireStock(t, 4)
}

func TestI1AChoreographedCheckoutThatIsVoidedBeforeItBeganHoldsNothing(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	require.Equal(t, applied, s.payment.void(t, "ord-1").Outcome)
	s.create(t, "ord-1", 2, "tok_visa")
	s.waitFor(t, "ord-1", "reserved")
	s.release(t, "ord-1")
	require.Equal(t, choreographed("reserved", "released "), s.goods(t, "ord-1"))
	require.Empty(t, s.payment.told(t, "ord-1"))
	require.Equal(t, "book [] network []", s.payment.effect(t, "ord-1"))

	// And if the release overtakes the order, not even stock is reserved.
	require.Equal(t, applied, s.payment.void(t, "ord-2").Outcome)
	s.release(t, "ord-2")
	s.create(t, "ord-2", 2, "tok_visa")
	require.Empty(t, s.goods(t, "ord-2"))
	s.requireStock(t, 0)
}

// What the orchestrator does at a deadline, at any moment: it voids until it is told that the payment is gone, and only then
// releases; or it is told that the money was taken, and waits for the stock.
func TestI1AVoidThatRacesWithAChoreographedCaptureNeverLeavesBothCapturedAndReleased(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	const orders = 50
	var captured, released atomic.Int32
	var all sync.WaitGroup
	for i := range orders {
		order := fmt.Sprintf("ord-%d", i)
		all.Go(func() { assert.NoError(t, s.publish(order, 2, "tok_visa")) })
		all.Go(func() {
			// A third is voided at once, a third when it is about to be paid, a third when the capture has begun.
			s.waitFor(t, order, []string{"", "reserved", "reserved"}[i%3])
			if i%3 == 2 {
				assert.Eventually(t, func() bool { return len(s.payment.told(t, order)) > 0 }, time.Minute, time.Millisecond)
			}
			var result *operationv1.Result
			assert.Eventually(t, func() bool {
				res, err := s.payment.voiding(t.Context(), order)
				if !assert.NoError(t, err) {
					return true
				}
				result = res
				return res.Outcome != unknown
			}, time.Minute, time.Millisecond)
			if result.GetOutcome() != applied {
				assert.Equal(t, "already_captured", result.GetReason())
				captured.Add(1)
				return
			}
			released.Add(1)
			s.release(t, order)
		})
	}
	all.Wait()
	t.Logf("%d captured, %d released", captured.Load(), released.Load())
	for i := range orders {
		order := fmt.Sprintf("ord-%d", i)
		op, err := s.payment.get(t.Context(), order, stepAuthorize)
		require.NoError(t, err)
		if op.Undo == rejected {
			s.waitForEnd(t, order)
			require.Equal(t, choreographed("reserved", "committed"), s.goods(t, order))
			require.Equal(t, choreographed("authorized", "completed"), s.payment.told(t, order))
			require.Equal(t, "book [merchant 4999] network [authorize×1 capture×1]", s.payment.effect(t, order))
			continue
		}
		if goods := s.goods(t, order); len(goods) > 0 {
			require.Equal(t, choreographed("reserved", "released "), goods, order)
		}
		require.Contains(t, []string{"book [] network []", "book [] network [authorize×1 void×1]"}, s.payment.effect(t, order))
	}
	s.requireStock(t, 2*captured.Load())
	s.payment.requireBookBalances(t)
}

// shop is both participants, joined by a bus, with a test in the place of the orchestrator.
type shop struct {
	bus       *embedded.Bus
	warehouse *warehouse.Service
	payment   *fixture
}

func openShop(t *testing.T) *shop {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	goods, err := warehouse.Open(t.Context(), warehouse.Config{DatabaseURL: pgtest.URL(t)}, log)
	require.NoError(t, err)
	t.Cleanup(goods.Close)
	s := &shop{bus: embedded.New(), warehouse: goods, payment: start(t, pgtest.URL(t), nil)}
	for _, in := range []interface {
		Subscriptions() ([]bus.Subscription, error)
	}{goods.Inbox(), s.payment.service.Inbox()} {
		subscriptions, err := in.Subscriptions()
		require.NoError(t, err)
		s.bus.Subscribe(subscriptions...)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, s.payment.service.Run(ctx)) })
	running.Go(func() { assert.NoError(t, goods.Outbox().Relay(ctx, s.bus)) })
	running.Go(func() { assert.NoError(t, s.payment.service.Outbox().Relay(ctx, s.bus)) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return s
}

// create tells of an accepted order, as the orchestrator does.
func (s *shop) create(t *testing.T, order string, quantity int32, method string) {
	t.Helper()
	require.NoError(t, s.publish(order, quantity, method))
}

func (s *shop) publish(order string, quantity int32, method string) error {
	header := &eventv1.Header{
		EventId: "orchestrator:order:" + order + ":1", Topic: "checkout.order.created", Producer: "orchestrator", OrderId: order, Seq: 1,
		SchemaVersion: 1, Coordination: event.Choreographed, OccurredAt: timestamppb.New(time.Now()),
	}
	data, err := protojson.Marshal(&checkoutv1.OrderCreated{Header: header, Order: &checkoutv1.Order{
		CustomerId: "cus-1", Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: quantity}},
		Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4999}, PaymentMethod: method,
	}})
	if err != nil {
		return err
	}
	message, err := bus.Event{ID: header.EventId, Topic: header.Topic, Source: "orchestrator", Key: order, Time: time.Now(), Data: data}.CloudEvent()
	if err != nil {
		return err
	}
	return s.bus.PublishRaw(context.Background(), header.Topic, message)
}

func (s *shop) release(t *testing.T, order string) {
	t.Helper()
	res, err := s.warehouse.Release(t.Context(), connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: order}))
	if assert.NoError(t, err) {
		assert.Equal(t, applied, res.Msg.Result.Outcome)
	}
}

// goods is what the warehouse tells of an order, and of a release why.
func (s *shop) goods(t *testing.T, order string) (told []string) {
	t.Helper()
	events, err := s.warehouse.Outbox().List(t.Context(), outbox.Selection{OrderIDs: []string{order}}, 0, 100)
	assert.NoError(t, err)
	for _, e := range events {
		text := e.Header.Coordination + " " + e.Header.Topic[len("warehouse.inventory."):]
		if m := (&warehousev1.InventoryReleased{}); e.Header.Topic == "warehouse.inventory.released" {
			assert.NoError(t, protojson.Unmarshal(e.Data, m))
			text += " " + m.Reason
		}
		told = append(told, text)
	}
	return told
}

// waitFor waits until the warehouse has told something of an order; an empty word waits for nothing.
func (s *shop) waitFor(t *testing.T, order, word string) {
	t.Helper()
	if word == "" {
		return
	}
	assert.Eventually(t, func() bool {
		told := s.goods(t, order)
		return len(told) > 0 && told[0] == "choreographed "+word
	}, time.Minute, 5*time.Millisecond, "%s was never %s", order, word)
}

// waitForEnd waits until the warehouse has told the last thing of an order.
func (s *shop) waitForEnd(t *testing.T, order string) {
	t.Helper()
	require.Eventually(t, func() bool {
		told := s.goods(t, order)
		return len(told) == 2 || len(told) == 1 && told[0] == "choreographed reservation_rejected"
	}, time.Minute, 5*time.Millisecond, "%s never ended", order)
}

// requireStock demands that so many pieces were shipped and that nothing is reserved.
func (s *shop) requireStock(t *testing.T, shipped int32) {
	t.Helper()
	res, err := s.warehouse.GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "CHAIR-OAK"}))
	require.NoError(t, err)
	require.Equal(t, []int32{1000 - shipped, 0, shipped}, []int32{res.Msg.OnHand, res.Msg.Reserved, res.Msg.Committed})
}
