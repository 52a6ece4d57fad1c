package payment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

func TestI5EachMoveOfMoneyTellsOneEventAndARepeatNone(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	lapse := func(ctx context.Context, order string) (*operationv1.Result, error) {
		_, err := p.pool.Exec(ctx, `UPDATE payments SET authorized_until = clock_timestamp() - interval '1 second' WHERE order_id = $1`, order)
		return nil, err
	}
	for name, tc := range map[string]struct {
		method string
		calls  []participanttest.Call
		want   []string
	}{
		"taken":                       {"tok_visa", []participanttest.Call{p.capturing(100)}, []string{"authorized", "completed"}},
		"taken and given back":        {"tok_visa", []participanttest.Call{p.capturing(100), p.refunding}, []string{"authorized", "completed", "refunded"}},
		"taken, so not voided":        {"tok_visa", []participanttest.Call{p.capturing(100), p.voiding}, []string{"authorized", "completed"}},
		"given up":                    {"tok_visa", []participanttest.Call{p.voiding, p.capturing(100)}, []string{"authorized", "voided"}},
		"declined":                    {"tok_declined", []participanttest.Call{p.capturing(100), p.voiding}, []string{"failed authorize-payment card_declined"}},
		"run out when it was taken":   {"tok_expires", []participanttest.Call{p.capturing(100)}, []string{"authorized", "failed capture-payment authorization_expired"}},
		"run out and given up":        {"tok_expires", []participanttest.Call{p.capturing(100), p.voiding}, []string{"authorized", "failed capture-payment authorization_expired", "voided"}},
		"lapsed when it was taken":    {"tok_visa", []participanttest.Call{lapse, p.capturing(100)}, []string{"authorized", "failed capture-payment authorization_expired"}},
		"lapsed when it was given up": {"tok_visa", []participanttest.Call{lapse, p.voiding, p.capturing(100)}, []string{"authorized", "voided"}},
	} {
		order := strings.NewReplacer(" ", "-", ",", "").Replace(name)
		for _, call := range append([]participanttest.Call{p.authorizing(tc.method, 100)}, tc.calls...) {
			for range 3 {
				_, err := call(t.Context(), order)
				require.NoError(t, err, name)
			}
		}
		require.Equal(t, orchestrated(tc.want...), p.told(t, order), name)
	}

	t.Run("nothing of what was not there", func(t *testing.T) {
		require.Equal(t, "no_authorization", p.capture(t, "ord-1", 100).Reason)
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, undoneBefore, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
		require.Equal(t, applied, p.refund(t, "ord-2").Outcome)
		require.Empty(t, p.told(t, "ord-1"))
		require.Empty(t, p.told(t, "ord-2"))
	})
	t.Run("nothing of a conflict", func(t *testing.T) {
		require.Equal(t, applied, p.authorize(t, "ord-3", "tok_visa", 100).Outcome)
		_, err := p.authorizing("tok_visa", 101)(t.Context(), "ord-3")
		require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
		require.Equal(t, orchestrated("authorized"), p.told(t, "ord-3"))
	})
	t.Run("nothing before the outcome is known", func(t *testing.T) {
		require.Equal(t, unknown, p.authorize(t, "ord-4", "tok_timeout", 100).Outcome)
		require.Empty(t, p.told(t, "ord-4"))
		require.Equal(t, applied, p.authorize(t, "ord-4", "tok_timeout", 100).Outcome)
		require.Equal(t, orchestrated("authorized"), p.told(t, "ord-4"))
	})
	t.Run("with what it is about", func(t *testing.T) {
		require.Equal(t, applied, p.authorize(t, "ord-5", "tok_visa", 100).Outcome)
		var m paymentv1.PaymentAuthorized
		require.NoError(t, protojson.Unmarshal(p.events(t, "ord-5")[0].Data, &m))
		require.EqualValues(t, 100, m.Amount.MinorUnits)
		res, err := p.client.GetPayment(t.Context(), connect.NewRequest(&paymentv1.GetPaymentRequest{OrderId: "ord-5"}))
		require.NoError(t, err)
		require.True(t, res.Msg.AuthorizedUntil.AsTime().Equal(m.AuthorizedUntil.AsTime()), "%v, %v", res.Msg.AuthorizedUntil, m.AuthorizedUntil)
	})
}

// The contract says of a failed payment that nothing is held: while an authorization stands, it has not failed yet.
func TestI5ARefusedCaptureHasFailedOnceItsAuthorizationIsGone(t *testing.T) {
	t.Parallel()
	gate := newGate()
	p := start(t, pgtest.URL(t), gate)
	gate.open()
	gate.refuse("fraud_suspected")
	gate.troubles(Capture)
	p.authorize(t, "ord-1", "tok_visa", 100)
	require.Equal(t, "fraud_suspected", p.capture(t, "ord-1", 100).Reason)
	require.Equal(t, orchestrated("authorized"), p.told(t, "ord-1"))
	require.Equal(t, applied, p.void(t, "ord-1").Outcome)
	require.Equal(t, orchestrated("authorized", "voided", "failed capture-payment fraud_suspected"), p.told(t, "ord-1"))

	p.authorize(t, "ord-2", "tok_visa", 100)
	p.capture(t, "ord-2", 100)
	_, err := p.pool.Exec(t.Context(), `UPDATE payments SET authorized_until = clock_timestamp() WHERE order_id = 'ord-2'`)
	require.NoError(t, err)
	require.Equal(t, applied, p.void(t, "ord-2").Outcome)
	require.Equal(t, orchestrated("authorized", "voided", "failed capture-payment fraud_suspected"), p.told(t, "ord-2"), "it had lapsed meanwhile")
	p.requireBookBalances(t)
}

func TestI5RacingCallsAboutOneOrderTellWhatBecameOfItOnce(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	for i := range 10 {
		order := fmt.Sprintf("ord-%d", i)
		var all sync.WaitGroup
		for _, call := range []participanttest.Call{p.authorizing("tok_visa", 100), p.capturing(100), p.voiding} {
			for range 5 {
				all.Go(func() { _, err := call(t.Context(), order); assert.NoError(t, err) })
			}
		}
		all.Wait()
		p.letTimePass(t)
		require.NoError(t, p.service.recoverAll(t.Context()))
		want := map[string][]string{
			"book [] network []":                                  nil,
			"book [held 100] network [authorize×1]":               orchestrated("authorized"),
			"book [] network [authorize×1 void×1]":                orchestrated("authorized", "voided"),
			"book [merchant 100] network [authorize×1 capture×1]": orchestrated("authorized", "completed"),
		}[p.effect(t, order)]
		require.Equal(t, want, p.told(t, order), p.effect(t, order))
	}
}

func TestI5ACommitThatFailsLeavesNoEventAndTheNextTellsIt(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	var told []string
	for _, step := range []struct {
		call participanttest.Call
		told string
	}{{p.authorizing("tok_visa", 100), "authorized"}, {p.capturing(100), "completed"}, {p.refunding, "refunded"}} {
		mend, err := ledgertest.FailCommits(p.pool)(t.Context())
		require.NoError(t, err)
		_, err = step.call(t.Context(), "ord-1")
		require.Error(t, err)
		require.Equal(t, orchestrated(told...), p.told(t, "ord-1"), "told, and never recorded")
		require.NoError(t, mend(t.Context()))
		_, err = step.call(t.Context(), "ord-1")
		require.NoError(t, err)
		told = append(told, step.told)
		require.Equal(t, orchestrated(told...), p.told(t, "ord-1"))
	}
	for i, e := range p.events(t, "ord-1") {
		require.EqualValues(t, i+1, e.Header.Seq, "numbers have no gap, whatever was rolled back")
	}
}

func TestAChoreographedOrderIsPaidOrFailsByItself(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, refusal string
		want            []string
		effect          string
	}{
		"success":  {"tok_visa", "", []string{"authorized", "completed"}, "book [merchant 4999] network [authorize×1 capture×1]"},
		"declined": {"tok_declined", "", []string{"failed authorize-payment card_declined"}, "book [] network []"},
		"expired when it was to be taken": {
			"tok_expires", "", []string{"authorized", "failed capture-payment authorization_expired"}, "book [] network [authorize×1]"},
		"capture refused, so the authorization is voided first": {
			"tok_visa", "fraud_suspected", []string{"authorized", "voided", "failed capture-payment fraud_suspected"}, "book [] network [authorize×1 void×1]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := newGate()
			p := start(t, pgtest.URL(t), gate)
			gate.open()
			gate.refuse(tc.refusal)
			gate.troubles(Capture)
			require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", tc.method)))
			require.Equal(t, choreographed(tc.want...), p.told(t, "ord-1"))
			require.Equal(t, tc.effect, p.effect(t, "ord-1"))
			p.requireBookBalances(t)
		})
	}
}

func TestWhatComesOfAReservationBelongsToItsTrace(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	m := reserved("ord-1", "tok_visa")
	m.Header.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	require.Equal(t, bus.Success, p.deliver(t, m))
	for _, e := range p.events(t, "ord-1") {
		require.Contains(t, e.Header.Traceparent, "4bf92f3577b34da6a3ce929d0e0e4736", e.Header.Topic)
	}
}

func TestAnOrchestratedReservationCapturesNothingThoughItIsDelivered(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	// All that a choreographed one has, but for the word.
	m := reserved("ord-1", "tok_visa")
	m.Header.Coordination = event.Orchestrated
	require.Equal(t, bus.Success, p.deliver(t, m))
	require.Equal(t, "book [] network []", p.effect(t, "ord-1"))
	_, err := p.get(t.Context(), "ord-1", stepAuthorize)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))

	// Nor is it captured once somebody authorizes it by a call, whatever is delivered then.
	require.Equal(t, applied, p.authorize(t, "ord-1", "tok_visa", 4999).Outcome)
	m.Header.EventId = "warehouse:order:ord-1:2"
	require.Equal(t, bus.Success, p.deliver(t, m))
	require.Equal(t, "book [held 4999] network [authorize×1]", p.effect(t, "ord-1"))
	require.Equal(t, orchestrated("authorized"), p.told(t, "ord-1"))
}

func TestACallAboutAChoreographedOrderTellsChoreographedEvents(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_visa")))
	require.Equal(t, applied, p.refund(t, "ord-1").Outcome)
	require.Equal(t, choreographed("authorized", "completed", "refunded"), p.told(t, "ord-1"))
}

func TestI2AReservationThatIsToldTwiceOrAtOnceIsPaidOnce(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	first, second := reserved("ord-1", "tok_visa"), reserved("ord-1", "tok_visa")
	second.Header.EventId = "warehouse:order:ord-1:2"
	var all sync.WaitGroup
	for i := range 16 {
		m := first
		if i%2 == 1 {
			m = second
		}
		all.Go(func() { assert.Equal(t, bus.Success, p.deliver(t, m)) })
	}
	all.Wait()
	require.Equal(t, "book [merchant 4999] network [authorize×1 capture×1]", p.effect(t, "ord-1"))
	require.Equal(t, choreographed("authorized", "completed"), p.told(t, "ord-1"))
}

func TestI8WhatACrashCutsOffOfAChoreographedPaymentIsFinishedByRecovery(t *testing.T) {
	t.Parallel()
	t.Run("between the inbox's commit and the network", func(t *testing.T) {
		t.Parallel()
		database := pgtest.URL(t)
		p := start(t, database, nil)
		// What the inbox does, but for what it does then.
		require.NoError(t, pg.InTx(t.Context(), p.pool, func(tx pgx.Tx) error {
			result, err := p.service.onInventoryReserved(t.Context(), tx, reserved("ord-1", "tok_visa"))
			require.NotNil(t, result.Then)
			return err
		}))
		require.Equal(t, "book [] network []", p.effect(t, "ord-1"))
		p.letTimePass(t)
		require.NoError(t, start(t, database, nil).service.recoverAll(t.Context()))
		require.Equal(t, "book [merchant 4999] network [authorize×1 capture×1]", p.effect(t, "ord-1"))
		require.Equal(t, choreographed("authorized", "completed"), p.told(t, "ord-1"))
	})
	for _, point := range []string{"before", "after"} {
		for action, tc := range map[Action]struct {
			refusal string
			left    []string
			want    []string
		}{
			Authorize: {"", nil, []string{"authorized", "completed"}},
			Capture:   {"", []string{"authorized"}, []string{"authorized", "completed"}},
			Void:      {"fraud_suspected", []string{"authorized"}, []string{"authorized", "voided", "failed capture-payment fraud_suspected"}},
		} {
			t.Run(fmt.Sprintf("%s the network's %s", point, action), func(t *testing.T) {
				t.Parallel()
				database := pgtest.URL(t)
				doomed := newGate()
				p := start(t, database, doomed)
				doomed.open()
				doomed.dieAt(point)
				doomed.troubles(action)
				if tc.refusal != "" {
					p.service.network = refusingCaptures{p.service.network, tc.refusal}
				}
				require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_visa")))
				require.Equal(t, choreographed(tc.left...), p.told(t, "ord-1"))
				p.letTimePass(t)
				require.NoError(t, start(t, database, nil).service.recoverAll(t.Context()))
				require.Equal(t, choreographed(tc.want...), p.told(t, "ord-1"))
				p.requireBookBalances(t)
			})
		}
	}
	t.Run("when the authorization could not be recorded", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		mend, err := ledgertest.FailCommits(p.pool)(t.Context())
		require.NoError(t, err)
		require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_visa")), "the event is taken: recovery has the rest")
		require.NoError(t, mend(t.Context()))
		_, err = p.get(t.Context(), "ord-1", stepCapture)
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), "the capture is begun with the authorization's record or not at all")
		p.letTimePass(t)
		require.NoError(t, p.service.recoverAll(t.Context()))
		require.Equal(t, choreographed("authorized", "completed"), p.told(t, "ord-1"))
	})
}

func TestAChoreographedPaymentIsVoidedInAnyStateOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	t.Run("before it was made: it never is", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		late := reserved("ord-1", "tok_visa")
		require.Equal(t, bus.Success, p.deliver(t, late))
		require.Equal(t, "book [] network []", p.effect(t, "ord-1"))
		require.Empty(t, p.told(t, "ord-1"))
		received, err := p.service.Inbox().Received(t.Context(), []string{late.Header.EventId})
		require.NoError(t, err)
		require.Equal(t, "late", received[0].Outcome)
	})
	t.Run("while it is authorized: not known yet, then voided and never captured", func(t *testing.T) {
		t.Parallel()
		gate := newGate()
		p := start(t, pgtest.URL(t), gate)
		delivered := p.delivering(t, reserved("ord-1", "tok_visa"))
		gate.waitForCaller(t)
		require.Equal(t, unknown, p.void(t, "ord-1").Outcome)
		gate.open()
		require.Equal(t, bus.Success, <-delivered)
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, "ord-1"))
		require.Equal(t, choreographed("authorized", "voided"), p.told(t, "ord-1"))
	})
	t.Run("while it is captured: not known yet, then refused", func(t *testing.T) {
		t.Parallel()
		gate := newGate()
		p := start(t, pgtest.URL(t), gate)
		gate.open()
		gate.dieAt("after")
		gate.troubles(Capture)
		require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_visa")))
		require.Equal(t, unknown, p.void(t, "ord-1").Outcome)
		gate.dieAt("")
		p.letTimePass(t)
		require.NoError(t, p.service.recoverAll(t.Context()))
		require.Equal(t, "already_captured", p.void(t, "ord-1").Reason)
		require.Equal(t, choreographed("authorized", "completed"), p.told(t, "ord-1"))
	})
	t.Run("while it is voided by itself: whoever asks helps", func(t *testing.T) {
		t.Parallel()
		gate := newGate()
		p := start(t, pgtest.URL(t), gate)
		gate.open()
		gate.dieAt("before")
		gate.troubles(Void)
		p.service.network = refusingCaptures{gate, "fraud_suspected"}
		require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_visa")))
		require.Equal(t, unknown, p.void(t, "ord-1").Outcome)
		gate.dieAt("")
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, choreographed("authorized", "voided", "failed capture-payment fraud_suspected"), p.told(t, "ord-1"))
	})
	t.Run("when it has failed: it is gone", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		require.Equal(t, bus.Success, p.deliver(t, reserved("ord-1", "tok_declined")))
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, choreographed("failed authorize-payment card_declined"), p.told(t, "ord-1"))
	})
}

func TestAChoreographedOrderWhoseCaptureIsNoLongerToBeHadIsVoided(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, "no_authorization", p.capture(t, "ord-1", 4999).Reason)
	require.Equal(t, "no_authorization", p.capture(t, "ord-2", 1).Reason, "a conflict later")
	require.Equal(t, applied, p.refund(t, "ord-3").Outcome)
	for _, order := range []string{"ord-1", "ord-2", "ord-3"} {
		require.Equal(t, bus.Success, p.deliver(t, reserved(order, "tok_visa")))
		require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, order))
		require.Equal(t, choreographed("authorized", "voided", "failed capture-payment no_authorization"), p.told(t, order))
	}
}

func TestI9AReservationThatCanNeverBePaidIsDroppedWithItsCause(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, bus.Success, p.deliver(t, reserved("ord-known", "tok_visa")))
	_, err := p.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key) VALUES ('checkout', 'ord-forgotten')`)
	require.NoError(t, err)
	spoilt := func(spoil func(*warehousev1.InventoryReserved)) *warehousev1.InventoryReserved {
		m := reserved("ord-1", "tok_visa")
		spoil(m)
		return m
	}
	for name, tc := range map[string]struct {
		m     *warehousev1.InventoryReserved
		cause string
	}{
		"no-payment":           {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment = nil }), "payment: is missing in a choreographed checkout"},
		"no-customer":          {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment.CustomerId = "" }), "payment.customer_id: is missing"},
		"no-method":            {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment.PaymentMethod = "" }), "payment.payment_method: is missing"},
		"no-amount":            {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment.Amount = nil }), "payment.amount: is missing"},
		"a-negative-amount":    {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment.Amount.MinorUnits = -1 }), "payment.amount.minor_units:"},
		"a-strange-currency":   {spoilt(func(m *warehousev1.InventoryReserved) { m.Payment.Amount.Currency = "euro" }), "payment.amount.currency:"},
		"no-order-id":          {reserved("-ord", "tok_visa"), "header.order_id: must be"},
		"another-card":         {reserved("ord-known", "tok_flaky"), "other content"},
		"of-a-forgotten-order": {reserved("ord-forgotten", "tok_visa"), "no longer kept"},
	} {
		tc.m.Header.EventId = name
		require.Equal(t, bus.Drop, p.deliver(t, tc.m), name)
		failures, err := p.service.Inbox().Failures(t.Context(), []string{name})
		require.NoError(t, err)
		require.Contains(t, failures[0].Error, tc.cause, name)
	}
	var payments int
	require.NoError(t, p.pool.QueryRow(t.Context(), `SELECT count(*) FROM payments`).Scan(&payments))
	require.Equal(t, 1, payments)
	require.Equal(t, choreographed("authorized", "completed"), p.told(t, "ord-known"))
}

// refusingCaptures is a network that captures nothing: it authorizes, and thinks better of it.
type refusingCaptures struct {
	Network
	reason string
}

func (n refusingCaptures) Ask(ctx context.Context, c Charge) (string, error) {
	if c.Action == Capture {
		return n.reason, nil
	}
	return n.Network.Ask(ctx, c)
}

// reserved is what the warehouse tells of a choreographed order.
func reserved(order, method string) *warehousev1.InventoryReserved {
	return &warehousev1.InventoryReserved{
		Header: &eventv1.Header{
			EventId: "warehouse:order:" + order + ":1", Topic: "warehouse.inventory.reserved", Producer: "warehouse", OrderId: order, Seq: 1,
			SchemaVersion: 1, Coordination: event.Choreographed, OccurredAt: timestamppb.New(time.Now()),
		},
		Lines: []*warehousev1.Line{{Sku: "CHAIR-OAK", Quantity: 1}},
		Payment: &warehousev1.PaymentRequest{
			CustomerId: "cus-1", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4999}, PaymentMethod: method,
		},
	}
}

// deliver hands an event to payment, as a bus does.
func (p *fixture) deliver(t *testing.T, m *warehousev1.InventoryReserved) bus.Answer {
	t.Helper()
	data, err := protojson.Marshal(m)
	assert.NoError(t, err)
	subscriptions, err := p.service.Inbox().Subscriptions()
	assert.NoError(t, err)
	i := slices.IndexFunc(subscriptions, func(s bus.Subscription) bool { return s.Topic == m.Header.Topic })
	return subscriptions[i].Handle(context.Background(), bus.Delivery{Topic: m.Header.Topic, ID: m.Header.EventId, Data: data})
}

func (p *fixture) delivering(t *testing.T, m *warehousev1.InventoryReserved) <-chan bus.Answer {
	answer := make(chan bus.Answer, 1)
	go func() { answer <- p.deliver(t, m) }()
	return answer
}

func (p *fixture) events(t *testing.T, order string) []outbox.Listed {
	t.Helper()
	events, err := p.service.Outbox().List(t.Context(), outbox.Selection{OrderIDs: []string{order}}, 0, 100)
	require.NoError(t, err)
	return events
}

// told are the coordination and the action of each event about an order, and of a failure the step and the reason.
func (p *fixture) told(t *testing.T, order string) (told []string) {
	t.Helper()
	for _, e := range p.events(t, order) {
		text := e.Header.Coordination + " " + strings.TrimPrefix(e.Header.Topic, "payments.payment.")
		if m := (&paymentv1.PaymentFailed{}); e.Header.Topic == "payments.payment.failed" {
			require.NoError(t, protojson.Unmarshal(e.Data, m))
			text += " " + m.Step + " " + m.Reason
		}
		told = append(told, text)
	}
	return told
}

func orchestrated(told ...string) []string  { return prefixed("orchestrated ", told) }
func choreographed(told ...string) []string { return prefixed("choreographed ", told) }

func prefixed(prefix string, told []string) (all []string) {
	for _, s := range told {
		all = append(all, prefix+s)
	}
	return all
}
