package judge_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// A judge who never finds anything proves nothing: each wrong row must be found, by its invariant.
func TestTheJudgeFindsEachWrongRow(t *testing.T) {
	n := harness.StartInProcess(t, harness.InProcess{})
	for order, method := range map[string]string{
		"ord-ok": "tok_visa", "ord-other": "tok_visa", "ord-declined": "tok_declined", "ord-expires": "tok_expires",
	} {
		n.Start(t, harness.Order{ID: order, Method: method})
	}
	n.Start(t, harness.Order{ID: "ord-danced", Coordination: "choreographed"})
	_, err := n.Pricing.SetPrice(t.Context(), connect.NewRequest(&pricingv1.SetPriceRequest{
		Sku: "BOWL-OLIVE", UnitPrice: &operationv1.Money{Currency: "EUR", MinorUnits: 2399},
	}))
	require.NoError(t, err)
	n.AwaitEnd(t, "ord-danced", harness.Confirmed)
	n.AwaitEnd(t, "ord-ok", harness.Confirmed)
	n.AwaitEnd(t, "ord-other", harness.Confirmed)
	n.AwaitEnd(t, "ord-declined", harness.Rejected)
	n.AwaitEnd(t, "ord-expires", harness.Rejected)
	n.Audit(t) // As it is, all is well.

	const (
		orchestrator, warehouse, payment = "orchestrator", "warehouse", "payment"
		orders, notification, pricing    = "orders", "notification", "pricing"
	)
	cases := []struct {
		name      string
		database  string
		sql       string
		invariant string
		subject   string
	}{
		{"a confirmed checkout whose reservation is only reserved", warehouse,
			`UPDATE reservations SET state = 'reserved' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a confirmed checkout whose stock was released", warehouse,
			`UPDATE reservations SET state = 'released' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a confirmed checkout without a reservation", warehouse,
			`DELETE FROM reservation_lines WHERE order_id = 'ord-ok'; DELETE FROM reservations WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a shipment of more than was ordered", warehouse,
			`UPDATE reservation_lines SET quantity = 2 WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a shipment of another article", warehouse,
			`UPDATE reservation_lines SET sku = 'SOFA-LINEN' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a commit that is not on record", warehouse,
			`DELETE FROM operations WHERE key = 'ord-ok' AND step = 'commit-stock'`, "I1", "ord-ok"},
		{"a confirmed checkout that was captured and is voiding", payment,
			`UPDATE payments SET state = 'voiding' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a capture of one cent more", payment,
			`UPDATE payments SET minor_units = minor_units + 1 WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a capture in another currency", payment,
			`UPDATE payments SET currency = 'USD' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a charge of one cent less", payment,
			`UPDATE sandbox.charges SET minor_units = minor_units - 1 WHERE order_id = 'ord-ok' AND kind = 'capture'`, "I1", "ord-ok"},
		{"a capture that the network does not know", payment,
			`DELETE FROM sandbox.charges WHERE order_id = 'ord-ok' AND kind = 'capture'`, "I1", "ord-ok"},
		{"a capture by two keys", payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 SELECT 'another', order_id, kind, payment_method, currency, minor_units FROM sandbox.charges
			 WHERE order_id = 'ord-ok' AND kind = 'capture'`, "I2", "ord-ok"},
		{"an authorization by two keys, of a checkout that is undone", payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 SELECT 'another', order_id, kind, payment_method, currency, minor_units FROM sandbox.charges
			 WHERE order_id = 'ord-expires' AND kind = 'authorize'`, "I2", "ord-expires"},
		{"a void of a confirmed checkout", payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 VALUES ('v', 'ord-ok', 'void', 'tok_visa', 'EUR', 4999)`, "I1", "ord-ok"},
		{"a confirmed checkout in whose book the money is still held", payment,
			`DELETE FROM entries WHERE order_id = 'ord-ok' AND movement = 'capture'`, "I1", "ord-ok"},
		{"a declined checkout that holds stock", warehouse,
			`UPDATE reservations SET state = 'reserved' WHERE order_id = 'ord-declined'`, "I1", "ord-declined"},
		{"a declined checkout that was shipped", warehouse,
			`UPDATE reservations SET state = 'committed' WHERE order_id = 'ord-declined'`, "I1", "ord-declined"},
		{"a declined checkout whose reservation is not undone on record", warehouse,
			`UPDATE operations SET undo_state = 'none' WHERE key = 'ord-declined' AND step = 'reserve-stock'`, "I1", "ord-declined"},
		{"a declined checkout that the network holds money of", payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 VALUES ('a', 'ord-declined', 'authorize', 'tok_visa', 'EUR', 4999)`, "I1", "ord-declined"},
		{"an undone checkout that the network took money of", payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 VALUES ('c', 'ord-expires', 'capture', 'tok_expires', 'EUR', 4999)`, "I1", "ord-expires"},
		{"an undone checkout whose payment is authorized", payment,
			`UPDATE payments SET state = 'authorized' WHERE order_id = 'ord-expires'`, "I1", "ord-expires"},
		{"an undone checkout whose payment is at the network", payment,
			`UPDATE operations SET undo_state = 'started', undo_key = 'k', ask_at = now()
			 WHERE key = 'ord-expires' AND step = 'authorize-payment'`, "I1", "ord-expires"},
		{"an undone checkout with money held in the book", payment,
			`DELETE FROM entries WHERE order_id = 'ord-expires' AND movement = 'expire'`, "I1", "ord-expires"},
		{"a confirmed checkout with a step that is not done", orchestrator,
			`UPDATE checkouts SET progress = jsonb_set(progress, '{3,state}', '"running"') WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"an undone checkout with a compensation that is not done", orchestrator,
			`UPDATE checkouts SET progress = jsonb_set(progress, '{0,compensation}', '"pending"') WHERE order_id = 'ord-declined'`, "I1", "ord-declined"},
		{"a confirmed checkout of another amount than its lines", orchestrator,
			`UPDATE sagas SET input = jsonb_set(input, '{items,0,unit_price}', '1') WHERE key = 'ord-ok'`, "I1", "ord-ok"},
		{"a checkout that says rejected and was confirmed", orchestrator,
			`UPDATE checkouts SET status = 'REJECTED', verdict = 'REJECTED' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a checkout that says confirmed and was rejected", orchestrator,
			`UPDATE checkouts SET status = 'CONFIRMED', verdict = NULL WHERE order_id = 'ord-declined'`, "I1", "ord-declined"},
		{"a checkout that is still running", orchestrator,
			`UPDATE checkouts SET status = 'RUNNING', phase = 'forward', ended_at = NULL, check_at = now() WHERE order_id = 'ord-ok'`, "I3", "ord-ok"},
		{"a checkout that was lost", orchestrator,
			`DELETE FROM entries WHERE key = 'ord-ok'; DELETE FROM sagas WHERE key = 'ord-ok'`,
			"I3", "ord-ok"},
		{"a piece that came from nowhere", warehouse, `UPDATE stock SET on_hand = on_hand + 1 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
		{"a piece reserved for nobody", warehouse, `UPDATE stock SET reserved = 1 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
		{"a piece shipped to nobody", warehouse,
			`UPDATE stock SET on_hand = on_hand - 1, committed = committed + 1 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
		{"a shipment that was committed twice", warehouse,
			`UPDATE stock SET on_hand = on_hand - 2, committed = committed + 2 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
		{"more promised than there is", warehouse,
			`ALTER TABLE stock DROP CONSTRAINT stock_check; UPDATE stock SET reserved = on_hand + 1 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
		{"an entry without its counterpart", payment,
			`DELETE FROM entries WHERE order_id = 'ord-ok' AND movement = 'capture' AND account = 'held'`, "I4", "ord-ok"},
		{"an event that was not published", orchestrator,
			`UPDATE outbox SET published_at = NULL WHERE key = 'ord-ok' AND topic = 'checkout.order.confirmed'`, "I5", "ord-ok"},
		{"an event that was lost before its outbox", warehouse,
			`DELETE FROM outbox WHERE key = 'ord-ok' AND topic = 'warehouse.inventory.committed'`, "I5", "ord-ok"},
		{"an event without its change", payment,
			`DELETE FROM operations WHERE key = 'ord-ok' AND step = 'capture-payment'`, "I5", "ord-ok"},
		{"a change whose event was never written", orchestrator,
			`DELETE FROM outbox WHERE key = 'ord-declined' AND seq = 2; UPDATE outbox_counters SET seq = 1 WHERE key = 'ord-declined'`, "I5", "ord-declined"},
		{"an event that a consumer never received", orders,
			`DELETE FROM inbox WHERE key = 'ord-ok' AND topic = 'checkout.order.created'`, "I5", "ord-ok"},
		{"an event of a choreographed checkout that payment never received", payment,
			`DELETE FROM inbox WHERE key = 'ord-danced'`, "I5", "ord-danced"},
		{"an event that nobody wrote", orders, `UPDATE inbox SET event_id = 'made-up' WHERE key = 'ord-ok' AND seq = 1`, "I5", "made-up"},
		{"an older event that has undone a newer one's status", orders, `UPDATE orders SET status = 'placed' WHERE order_id = 'ord-ok'`, "I6", "ord-ok"},
		{"an older price over a newer one", orchestrator, `UPDATE prices SET minor_units = 1 WHERE sku = 'BOWL-OLIVE' AND currency = 'EUR'`, "I6", "BOWL-OLIVE EUR"},
		{"a customer who was not told", notification,
			`UPDATE notifications SET state = 'failed', error = 'x', sent_at = NULL WHERE order_id = 'ord-ok'`, "I5", "ord-ok"},
		{"a price that pricing has taken back unseen", pricing, `UPDATE prices SET minor_units = 1 WHERE sku = 'BOWL-OLIVE' AND currency = 'EUR'`, "I6", "BOWL-OLIVE EUR"},
		{"money that the network never took", payment,
			`DELETE FROM sandbox.charges WHERE kind = 'capture'`, "I4", "EUR"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			requireFound(t, judged(t, n, changes{c.database: c.sql}), c.invariant, c.subject)
		})
	}

	// As these are, all is well; and what is wrong with them is found.
	refunded := changes{
		orchestrator: `
			UPDATE checkouts SET status = 'CANCELLED', verdict = 'CANCELLED', reason_code = 'refunded', progress = jsonb_set(jsonb_set(jsonb_set(
				progress, '{0,compensation}', '"done"'), '{2,compensation}', '"done"'), '{3,state}', '"skipped"') WHERE order_id = 'ord-ok';
			UPDATE outbox SET topic = 'checkout.order.cancelled' WHERE key = 'ord-ok' AND seq = 2`,
		warehouse: `
			UPDATE reservations SET state = 'released' WHERE order_id = 'ord-ok';
			UPDATE stock SET on_hand = on_hand + 1, committed = committed - 1 WHERE sku = 'CHAIR-OAK';
			UPDATE operations SET undo_state = 'applied' WHERE key = 'ord-ok' AND step = 'reserve-stock';
			DELETE FROM operations WHERE key = 'ord-ok' AND step = 'commit-stock';
			UPDATE outbox SET topic = 'warehouse.inventory.released' WHERE key = 'ord-ok' AND topic = 'warehouse.inventory.committed'`,
		payment: `
			UPDATE payments SET state = 'refunded' WHERE order_id = 'ord-ok';
			UPDATE operations SET undo_state = 'applied' WHERE key = 'ord-ok' AND step = 'capture-payment';
			INSERT INTO entries (order_id, movement, account, currency, minor_units)
			VALUES ('ord-ok', 'refund', 'merchant', 'EUR', -4999), ('ord-ok', 'refund', 'customer', 'EUR', 4999);
			INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			VALUES ('r', 'ord-ok', 'refund', 'tok_visa', 'EUR', 4999);
			UPDATE outbox_counters SET seq = 3 WHERE key = 'ord-ok';
			INSERT INTO outbox (event_id, topic, about, key, seq, schema_version, coordination, payload, published_at)
			VALUES ('payment:order:ord-ok:3', 'payments.payment.refunded', 'order', 'ord-ok', 3, 1, 'orchestrated', '{}', now())`,
		orders: `UPDATE orders SET status = 'cancelled' WHERE order_id = 'ord-ok'`,
	}
	awaiting := changes{
		orchestrator: `
			UPDATE checkouts SET status = 'AWAITING_APPROVAL', phase = 'forward', ended_at = NULL, check_at = now(), at_step = 'approval',
			       approval_deadline = now() + interval '1 day' WHERE order_id = 'ord-ok';
			DELETE FROM outbox WHERE key = 'ord-ok' AND seq = 2; UPDATE outbox_counters SET seq = 1 WHERE key = 'ord-ok'`,
		orders: `
			UPDATE orders SET status = 'placed' WHERE order_id = 'ord-ok'; DELETE FROM inbox WHERE event_id = 'orchestrator:order:ord-ok:2'`,
	}
	vouched := changes{
		orchestrator: `INSERT INTO commands (definition, key, kind, step, actor, reason, outcome, without_proof)
			VALUES ('checkout', 'ord-ok', 'resolve done', 'commit-stock', 'ann', 'counted by hand', 'done', true)`,
		warehouse: `DELETE FROM operations WHERE key = 'ord-ok' AND step = 'commit-stock'`,
	}
	const noteForgotten = `INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) VALUES ('checkout', 'ord-ok', 'ord-ok', 'CONFIRMED', now());`
	forgotten := changes{
		orchestrator: noteForgotten + `DELETE FROM entries WHERE key = 'ord-ok'; DELETE FROM sagas WHERE key = 'ord-ok';
			DELETE FROM outbox WHERE key = 'ord-ok' AND seq = 1`,
		warehouse: `DELETE FROM operations WHERE key = 'ord-ok'`,
		payment:   `DELETE FROM operations WHERE key = 'ord-ok'`,
	}
	for name, right := range map[string]changes{
		"an order whose money was refunded":   refunded,
		"an order that awaits approval":       awaiting,
		"a step that an operator vouched for": vouched,
		"an order that is no longer kept":     forgotten,
		"an order that is being forgotten":    {orchestrator: noteForgotten, warehouse: forgotten[warehouse]},
		"an order that was approved": {orchestrator: `UPDATE checkouts SET progress = jsonb_insert(progress, '{2}',
			'{"name": "approval", "state": "done", "attempts": 1, "compensation": "not-needed", "compensation_tries": 0}') WHERE order_id = 'ord-ok'`},
		"a step that was resolved": {
			orchestrator: `UPDATE checkouts SET progress = jsonb_set(progress, '{3,state}', '"resolved"') WHERE order_id = 'ord-ok'`},
		"a compensation that was resolved": {
			orchestrator: `UPDATE checkouts SET progress = jsonb_set(progress, '{0,compensation}', '"resolved"') WHERE order_id = 'ord-declined'`},
		"an order that was to be refunded and turned out to be shipped": {
			warehouse: `UPDATE operations SET undo_state = 'rejected', undo_reason = 'already_committed' WHERE key = 'ord-ok' AND step = 'reserve-stock'`},
	} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, judged(t, n, right))
		})
	}
	for _, c := range []struct {
		name      string
		of        changes
		database  string
		sql       string
		invariant string
		subject   string
	}{
		{"a refund that the network never did", refunded, payment,
			`DELETE FROM sandbox.charges WHERE order_id = 'ord-ok' AND kind = 'refund'`, "I1", "ord-ok"},
		{"a refund of one cent less", refunded, payment,
			`UPDATE sandbox.charges SET minor_units = minor_units - 1 WHERE order_id = 'ord-ok' AND kind = 'refund'`, "I1", "ord-ok"},
		{"a refund by two keys", refunded, payment,
			`INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			 VALUES ('another', 'ord-ok', 'refund', 'tok_visa', 'EUR', 4999)`, "I2", "ord-ok"},
		{"a refund that is not in the book", refunded, payment,
			`DELETE FROM entries WHERE order_id = 'ord-ok' AND movement = 'refund'`, "I1", "ord-ok"},
		{"a refund that is not on record", refunded, payment,
			`UPDATE operations SET undo_state = 'none' WHERE key = 'ord-ok' AND step = 'capture-payment'`, "I1", "ord-ok"},
		{"a refund that is at the network", refunded, payment,
			`UPDATE payments SET state = 'refunding' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a refund that was not told", refunded, payment,
			`DELETE FROM outbox WHERE event_id = 'payment:order:ord-ok:3'; UPDATE outbox_counters SET seq = 2 WHERE key = 'ord-ok'`, "I5", "ord-ok"},
		{"a refunded order whose stock is still reserved", refunded, warehouse,
			`UPDATE reservations SET state = 'reserved' WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"a refunded order whose refund the row does not know", refunded, orchestrator,
			`UPDATE checkouts SET progress = jsonb_set(progress, '{2,compensation}', '"failing"') WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"an order whose time for approval is up", awaiting, orchestrator,
			`UPDATE checkouts SET approval_deadline = now() - interval '1 second' WHERE order_id = 'ord-ok'`, "I3", "ord-ok"},
		{"an order of which something else was vouched for", vouched, payment,
			`UPDATE payments SET minor_units = minor_units + 1 WHERE order_id = 'ord-ok'`, "I1", "ord-ok"},
		{"what was vouched for of another order", changes{
			orchestrator: vouched[orchestrator], warehouse: `UPDATE reservations SET state = 'reserved' WHERE order_id = 'ord-other'`,
		}, warehouse, `SELECT`, "I1", "ord-other"},
		{"an order that was lost while another is no longer kept", forgotten, orchestrator,
			`DELETE FROM entries WHERE key = 'ord-other'; DELETE FROM sagas WHERE key = 'ord-other'`, "I3", "ord-other"},
		{"a shipment that is counted no more with an order that is no longer kept", forgotten, warehouse,
			`UPDATE stock SET on_hand = on_hand + 1, committed = committed - 1 WHERE sku = 'CHAIR-OAK'`, "I4", "CHAIR-OAK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireFound(t, judged(t, n, c.of, changes{c.database: c.sql}), c.invariant, c.subject)
		})
	}
}

// changes are SQL by database.
type changes map[string]string

// judged is what the judge finds once changes were made, which nobody else sees.
func judged(t *testing.T, n *harness.System, all ...changes) []judge.Violation {
	t.Helper()
	txs := make(map[string]pgx.Tx)
	for name, url := range n.Databases {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		txs[name], err = conn.Begin(t.Context()) // Never committed.
		require.NoError(t, err)
	}
	for _, some := range all {
		for database, sql := range some {
			_, err := txs[database].Exec(t.Context(), sql)
			require.NoError(t, err)
		}
	}
	found, err := judge.Of(txs).Judge(t.Context())
	require.NoError(t, err)
	return found
}

func requireFound(t *testing.T, found []judge.Violation, invariant, subject string) {
	t.Helper()
	for _, v := range found {
		if v.Invariant == invariant && v.Subject == subject {
			return
		}
	}
	t.Errorf("the judge found %v, not that %s is broken for %s", found, invariant, subject)
}
