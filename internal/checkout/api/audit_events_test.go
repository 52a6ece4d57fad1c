package api_test

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// audited is what an audit of all found.
func (w *world) audited(t *testing.T) (violations, notes []string) {
	t.Helper()
	stream, err := w.api.Audit(t.Context(), connect.NewRequest(&checkoutv1.AuditRequest{}))
	require.NoError(t, err)
	for stream.Receive() {
		for _, v := range stream.Msg().Violations {
			violations = append(violations, v.OrderId+" "+v.Invariant+": "+v.What)
		}
		notes = append(notes, stream.Msg().Notes...)
	}
	require.NoError(t, stream.Err())
	return violations, notes
}

// endings is a world with a confirmed, a declined and a cancelled checkout, all told and received, long ago.
func endings(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.ship(t, "confirmed")
	w.start(t, order(withID("declined")))
	w.decline(t, "declined")
	w.say(t, "warehouse", "declined", &warehousev1.InventoryReserved{}, &warehousev1.InventoryReleased{})
	w.say(t, "payment", "declined", &paymentv1.PaymentFailed{Step: checkout.AuthorizePayment})
	w.start(t, order(withID("cancelled")))
	_, err := w.cancel(t, &checkoutv1.CancelRequest{OrderId: "cancelled", Reason: "r"})
	require.NoError(t, err)
	w.settle(t)
	w.longAgo(t)
	return w
}

// longAgo makes all that was published be published long enough ago that nobody waits for it.
func (w *world) longAgo(t *testing.T) {
	t.Helper()
	for _, a := range w.apps {
		_, err := a.pool.Exec(t.Context(), `UPDATE outbox SET occurred_at = occurred_at - interval '1 minute', published_at = published_at - interval '1 minute'`)
		require.NoError(t, err)
	}
}

func TestI5AuditFindsNothingWhereAllIsToldAndReceived(t *testing.T) {
	t.Parallel()
	w := endings(t)
	violations, notes := w.audited(t)
	require.Empty(t, violations)
	require.Empty(t, notes)
}

func TestI5AuditFindsEachWayInWhichEventsAreWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// breakIt is SQL on the database of an app, or something else.
		app, sql string
		breakIt  func(*testing.T, *world)
		want     []string
	}{
		"an end that was not told": {
			app: "orchestrator", sql: `DELETE FROM outbox WHERE topic = 'checkout.order.confirmed'`,
			want: []string{"confirmed I5: it ended CONFIRMED, and orchestrator has written no checkout.order.confirmed among its 1 events of it"},
		},
		"an accepted order that was not told": {
			app: "orchestrator", sql: `DELETE FROM outbox WHERE key = 'cancelled' AND seq = 1`,
			want: []string{
				"cancelled I6: orchestrator's events of it are numbered 2, not 1 to 1 without a gap",
				"cancelled I5: it was accepted, and orchestrator has written no checkout.order.created among its 1 events of it",
			},
		},
		"a participant's operation that was not told": {
			app: "warehouse", sql: `DELETE FROM outbox WHERE topic = 'warehouse.inventory.committed'`,
			want: []string{"confirmed I5: commit-stock is applied, and warehouse has written no warehouse.inventory.committed among its 1 events of it"},
		},
		"a refusal that was not told": {
			app: "payment", sql: `DELETE FROM outbox WHERE topic = 'payments.payment.failed'`,
			want: []string{"declined I5: authorize-payment is rejected and capture-payment is not on record, and payment has written no payments.payment.failed"},
		},
		"an undoing that was not told": {
			app: "warehouse", sql: `DELETE FROM outbox WHERE topic = 'warehouse.inventory.released'`,
			want: []string{"declined I5: reserve-stock is applied, undo applied, and warehouse has written no warehouse.inventory.released"},
		},
		"a gap": {
			app: "payment", sql: `UPDATE outbox SET seq = 3 WHERE topic = 'payments.payment.completed'`,
			want: []string{"confirmed I6: payment's events of it are numbered 1, 3, not 1 to 2 without a gap"},
		},
		"something told that is not so": {
			breakIt: func(t *testing.T, w *world) {
				w.say(t, "payment", "declined", &paymentv1.PaymentCompleted{Amount: price})
			},
			want: []string{"declined I5: capture-payment is not on record, and payment has written payments.payment.completed all the same"},
		},
		"something told twice": {
			breakIt: func(t *testing.T, w *world) { w.say(t, "warehouse", "confirmed", &warehousev1.InventoryCommitted{}) },
			want:    []string{"confirmed I5: commit-stock is applied, and warehouse has written warehouse.inventory.committed 2 times"},
		},
		"another end": {
			app: "orchestrator", sql: `UPDATE outbox SET payload = replace(payload::text, '"REJECTED"', '"EXPIRED"')::json WHERE key = 'declined' AND seq = 2`,
			want: []string{"declined I5: checkout.order.cancelled (orchestrator:order:declined:2) says EXPIRED, and it ended REJECTED"},
		},
		"another amount": {
			app: "payment", sql: `UPDATE outbox SET payload = replace(payload::text, '12997', '12998')::json WHERE topic = 'payments.payment.completed'`,
			want: []string{"confirmed I5: payments.payment.completed (payment:order:confirmed:2) says 129.98 EUR, and the order is for 129.97 EUR"},
		},
		"what no consumer can take": {
			app: "warehouse", sql: `UPDATE outbox SET payload = '{"lines": 7}' WHERE topic = 'warehouse.inventory.committed'`,
			want: []string{"confirmed I5: warehouse.inventory.committed (warehouse:order:confirmed:2) is one that no consumer can take: bad event: "},
		},
		"what is not published": {
			breakIt: func(t *testing.T, w *world) {
				w.apps["warehouse"].stop()
				_, err := w.apps["warehouse"].pool.Exec(t.Context(), `UPDATE outbox SET published_at = NULL WHERE topic = 'warehouse.inventory.committed'`)
				require.NoError(t, err)
			},
			want: []string{"confirmed I5: warehouse has not published 1 of its 2 events of it: warehouse.inventory.committed (warehouse:order:confirmed:2, written "},
		},
		"what a consumer has not received": {
			app: "notification", sql: `DELETE FROM inbox WHERE event_id = 'orders:order:cancelled:2'`,
			want: []string{"cancelled I5: notification has 1 of the 2 events of it that orders wrote for it, and lacks orders.order.status_changed " +
				"(orders:order:cancelled:2, published 1m"},
		},
		"what a consumer failed at and nobody has": {
			app: "notification", sql: `
				DELETE FROM inbox WHERE event_id = 'orders:order:cancelled:2';
				INSERT INTO delivery_failures (message_id, topic, attempts, error, dropped, last_at)
				VALUES ('orders:order:cancelled:2', 'orders.order.status_changed', 9, 'no mail server', false, now() - interval '2 minutes')`,
			want: []string{"cancelled I5: notification has 1 of the 2 events of it that orders wrote for it, and lacks orders.order.status_changed "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := endings(t)
			if c.breakIt != nil {
				c.breakIt(t, w)
				w.settleBut(t, "warehouse")
				w.longAgo(t)
			} else {
				_, err := w.apps[c.app].pool.Exec(t.Context(), c.sql)
				require.NoError(t, err)
			}
			violations, notes := w.audited(t)
			require.Len(t, violations, len(c.want), violations)
			for i, want := range c.want {
				require.Contains(t, violations[i], want)
			}
			require.Empty(t, notes)
		})
	}
}

// settleBut waits for the relays of all apps but one.
func (w *world) settleBut(t *testing.T, stopped string) {
	t.Helper()
	for name, a := range w.apps {
		if name == stopped || a.Outbox == nil {
			continue
		}
		require.Eventually(t, func() bool {
			backlog, err := a.Outbox.Backlog(t.Context())
			return err == nil && backlog.Events == 0
		}, soon, 20*time.Millisecond)
	}
}

func TestI5AuditSaysHowToMendALostEventAndThatMendsIt(t *testing.T) {
	t.Parallel()
	w := endings(t)
	w.apps["orders"].set(func(a *app) { a.deaf = true })
	w.ship(t, "lost")
	w.settle(t)
	w.apps["orders"].set(func(a *app) { a.deaf = false })
	w.longAgo(t)
	violations, _ := w.audited(t)
	require.Len(t, violations, 1)
	require.Contains(t, violations[0], "lost I5: orders has 0 of the 2 events of it that orchestrator wrote for it, and lacks checkout.order.created (orchestrator:order:lost:1, published ")
	require.Contains(t, violations[0], "`orchestrator event republish --order-id lost` sends them again")

	_, err := w.api.RepublishEvents(t.Context(), connect.NewRequest(&checkoutv1.RepublishEventsRequest{Selection: about("lost")}))
	require.NoError(t, err)
	violations, _ = w.audited(t)
	require.Empty(t, violations)
}

func TestI5AuditWaitsForWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apps["orchestrator"].stop()
	w.ship(t, "ord-1")
	began := time.Now()
	go func() {
		// Before the audit's patience is at its end, and after its first looks.
		timer := time.NewTimer(2 * time.Second)
		defer timer.Stop()
		<-timer.C
		w.relay(t, w.apps["orchestrator"])
	}()
	violations, _ := w.audited(t)
	require.Empty(t, violations)
	require.Greater(t, time.Since(began), 2*time.Second)
}

func TestI5AuditsPatienceHasAnEnd(t *testing.T) {
	t.Parallel()
	w := endings(t)
	w.apps["orchestrator"].stop()
	w.ship(t, "ord-1")
	began := time.Now()
	violations, _ := w.audited(t)
	require.Len(t, violations, 1)
	require.Contains(t, violations[0], "ord-1 I5: orchestrator has not published 2 of its 2 events of it")
	require.Greater(t, time.Since(began), 9*time.Second, "what is young is waited for")
	require.Less(t, time.Since(began), 20*time.Second)
}

func TestI5DeadLettersAreNotedAndNoViolation(t *testing.T) {
	t.Parallel()
	w := endings(t)
	w.apps["orders"].set(func(a *app) { a.failing = fmt.Errorf("%w: poison", event.ErrBad) })
	w.ship(t, "poisoned")
	w.settle(t)
	w.longAgo(t)
	violations, notes := w.audited(t)
	require.Empty(t, violations)
	require.Len(t, notes, 1)
	require.Contains(t, notes[0], "1 orders have events among the open dead letters")
	require.Contains(t, notes[0], "(poisoned)")

	_, err := w.letters.Archive(t.Context(), connect.NewRequest(&deadletterv1.ArchiveRequest{Reason: "never mind"}))
	require.NoError(t, err)
	violations, notes = w.audited(t)
	require.Empty(t, violations)
	require.Len(t, notes, 1)
	require.Contains(t, notes[0], "1 orders have events among the archived dead letters")

	// Replayed and yet not received, as when the broker lost it again: now it is nowhere.
	_, err = w.pool.Exec(t.Context(), `UPDATE dead_letters SET state = 'replayed'`)
	require.NoError(t, err)
	violations, _ = w.audited(t)
	require.Len(t, violations, 1)
	require.Contains(t, violations[0], "poisoned I5: orders has 0 of the 2 events")
	require.Contains(t, violations[0], "failed 1 times: bad event: poison")
}

func TestI5WhatIsTriedAgainAMomentAgoIsNoted(t *testing.T) {
	t.Parallel()
	w := endings(t)
	_, err := w.apps["notification"].pool.Exec(t.Context(), `
		DELETE FROM inbox WHERE event_id = 'orders:order:cancelled:2';
		INSERT INTO delivery_failures (message_id, topic, error, dropped) VALUES ('orders:order:cancelled:2', 'orders.order.status_changed', 'x', false)`)
	require.NoError(t, err)
	violations, notes := w.audited(t)
	require.Empty(t, violations)
	require.Equal(t, []string{"1 orders have events that a consumer failed at a moment ago and that are tried again (cancelled)"}, notes)
}

func TestI5WhoCannotBeAskedIsNotedAndTheRestIsJudged(t *testing.T) {
	t.Parallel()
	w := endings(t)
	w.apps["orders"].set(func(a *app) { a.down = true })
	w.apps["notification"].set(func(a *app) { a.down = true })
	_, err := w.apps["warehouse"].pool.Exec(t.Context(), `DELETE FROM outbox WHERE topic = 'warehouse.inventory.committed'`)
	require.NoError(t, err)
	violations, notes := w.audited(t)
	require.Len(t, violations, 1, "warehouse's is found all the same")
	require.Equal(t, []string{
		"orders cannot be asked which events it wrote (unavailable: connection refused), so nothing is said of them",
		"orders cannot be asked which events it received (unavailable: connection refused), so nothing is said of that",
	}, notes)
}

func TestI5AuditAsksEachAppOnceAPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 20 {
		w.ship(t, fmt.Sprintf("ord-%d", i))
	}
	w.settle(t)
	for _, a := range w.apps {
		a.set(func(a *app) { clear(a.asked) })
	}
	violations, _ := w.audited(t)
	require.Empty(t, violations)
	for _, name := range []string{"orchestrator", "warehouse", "payment", "orders"} {
		require.Equal(t, 1, w.apps[name].asked["ListEvents"], name)
	}
	require.Equal(t, 1, w.apps["orders"].asked["CheckReceived"])
	require.Equal(t, 1, w.apps["notification"].asked["CheckReceived"])
	require.Zero(t, w.apps["orders"].asked["ListFailures"], "nothing is missing")
}

func TestI5CheckoutsOfATimeWithoutEventsAreNotHeldToThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ship(t, "early")
	w.settle(t)
	for _, a := range w.apps {
		_, err := a.pool.Exec(t.Context(), `DELETE FROM outbox`)
		require.NoError(t, err)
	}
	violations, _ := w.audited(t)
	require.NotEmpty(t, violations, "it was accepted when events were written")
	_, err := w.pool.Exec(t.Context(), `UPDATE checkouts SET started_at = started_at - interval '1 hour'`)
	require.NoError(t, err)
	violations, _ = w.audited(t)
	require.Empty(t, violations, "it was accepted before this database had an outbox")
}

func TestI5ACaptureRefusedWithoutAnAuthorizationNeedNotBeTold(t *testing.T) {
	t.Parallel()
	w := endings(t)
	w.fixture.payment.operations[[2]string{"cancelled", checkout.CapturePayment}] = &operationv1.Operation{
		OrderId: "cancelled", Step: checkout.CapturePayment, Do: operationv1.Outcome_OUTCOME_REJECTED,
	}
	violations, _ := w.audited(t)
	require.Empty(t, violations)
}
