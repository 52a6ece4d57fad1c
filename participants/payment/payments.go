package payment

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// payments are the payments as a table of shared transactions (package commit): their rows, the book and their events are read and
// written with one statement for all that a transaction changes.
//
// A change of a payment comes after those of its operations in the same transaction. Their table (ledger.Table) holds the saga alone,
// and nobody writes a payment without: so the saga's lock is the payment's, too, and is always the first that is taken.
type payments struct{ outbox *outbox.Outbox }

// move is what one request, or one answer of the card network, makes of a payment.
type move struct {
	// ctx is its caller's, for the trace that events are in.
	ctx context.Context
	// decide sees the payment, and the operations of the same party, as they stand. It changes them, or refuses.
	decide func(p *payment) error

	payment payment
}

// moveOf is a move, and the change that it is in a transaction.
func (t *payments) moveOf(ctx context.Context, of payer, decide func(p *payment) error) (*move, *commit.Change) {
	m := &move{ctx: ctx, decide: decide, payment: payment{payer: of}}
	return m, &commit.Change{Of: t, What: m}
}

// Read implements commit.Table. It waits for nobody: the saga's lock is taken before.
func (t *payments) Read(batch *pgx.Batch, changes []*commit.Change, _ bool) {
	const query = `
		SELECT ` + paymentColumns + `, n
		FROM unnest($1::text[]) WITH ORDINALITY AS wanted (order_id, n) JOIN payments USING (order_id)`
	moves := movesOf(changes)
	for _, m := range moves {
		m.payment = payment{payer: m.payment.payer, state: none, coordination: event.Orchestrated} // Unless it is found.
	}
	batch.Queue(query, pg.Column(moves, func(m *move) string { return m.payment.payer.name() })).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			p, err := scanPayment(rows, &n)
			if err != nil {
				return fmt.Errorf("read payment: %w", err)
			}
			p.payer = moves[n-1].payment.payer
			moves[n-1].payment = p
		}
		return rows.Err()
	})
}

// Decide implements commit.Table.
func (t *payments) Decide(changes []*commit.Change) {
	for _, c := range changes {
		m := c.What.(*move)
		c.Err = m.decide(&m.payment)
	}
}

// Write implements commit.Table. What of a payment did not move is not written.
func (t *payments) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	moves := movesOf(changes)
	var moved []payment
	var booked []transfer
	var told []outbox.Told
	for _, m := range moves {
		if m.payment.moved {
			moved = append(moved, m.payment)
		}
		for _, b := range m.payment.booked {
			booked = append(booked, transfer{b, m.payment})
		}
		if m.payment.payer.definition != checkout { // Of another payer no event tells: their topics are about orders.
			continue
		}
		for _, message := range m.payment.told {
			told = append(told, outbox.Told{
				Subject: outbox.Order(m.payment.payer.key, m.payment.coordination), Message: message, Trace: event.TraceOf(m.ctx),
			})
		}
	}
	savePayments(batch, moved)
	book(batch, booked)
	return t.outbox.QueueAll(batch, told)
}

func movesOf(changes []*commit.Change) []*move {
	return pg.Column(changes, func(c *commit.Change) *move { return c.What.(*move) })
}

// The database's clock judges whether an authorization has lapsed.
const paymentColumns = `
	state, coordination, customer_id, payment_method, currency, minor_units,
	authorized_until, coalesce(authorized_until <= clock_timestamp(), false), refused_step, refused_reason, clock_timestamp()`

// scanPayment reads the columns, and further ones of the query.
func scanPayment(row pgx.Row, more ...any) (p payment, err error) {
	err = row.Scan(append([]any{&p.state, &p.coordination, &p.customerID, &p.method, &p.amount.Currency, &p.amount.MinorUnits,
		&p.authorizedUntil, &p.lapsed, &p.refusedStep, &p.refusedReason, &p.now}, more...)...)
	return p, err
}

// savePayments queues the writing of payments, also of such as had no row.
func savePayments(batch *pgx.Batch, moved []payment) {
	const query = `
		INSERT INTO payments (order_id, state, coordination, customer_id, payment_method, currency, minor_units,
		                      authorized_until, refused_step, refused_reason)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
		                     $8::timestamptz[], $9::text[], $10::text[])
		ON CONFLICT (order_id) DO UPDATE
		SET state = excluded.state, coordination = excluded.coordination, customer_id = excluded.customer_id,
		    payment_method = excluded.payment_method, currency = excluded.currency, minor_units = excluded.minor_units,
		    authorized_until = excluded.authorized_until, refused_step = excluded.refused_step, refused_reason = excluded.refused_reason,
		    updated_at = clock_timestamp()`
	if len(moved) == 0 {
		return
	}
	batch.Queue(query,
		pg.Column(moved, func(p payment) string { return p.payer.name() }),
		pg.Column(moved, func(p payment) string { return string(p.state) }),
		pg.Column(moved, func(p payment) string { return p.coordination }),
		pg.Column(moved, func(p payment) string { return p.customerID }),
		pg.Column(moved, func(p payment) string { return p.method }),
		pg.Column(moved, func(p payment) string { return p.amount.Currency }),
		pg.Column(moved, func(p payment) int64 { return p.amount.MinorUnits }),
		pg.Column(moved, func(p payment) *time.Time { return p.authorizedUntil }),
		pg.Column(moved, func(p payment) string { return p.refusedStep }),
		pg.Column(moved, func(p payment) string { return p.refusedReason }))
}

// transfer is a movement of a payment's money.
type transfer struct {
	movement
	of payment
}

// book queues the entries of movements. Both of a movement are in the one statement: a trigger refuses entries that do not sum to zero.
func book(batch *pgx.Batch, booked []transfer) {
	const query = `
		INSERT INTO entries (order_id, movement, account, currency, minor_units)
		SELECT order_id, movement, account, currency, units
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
		     AS booked (order_id, movement, source, destination, currency, minor_units),
		     LATERAL (VALUES (source, -minor_units), (destination, minor_units)) AS both_sides (account, units)`
	if len(booked) == 0 {
		return
	}
	from := func(t transfer) string { from, _ := t.accounts(); return from }
	to := func(t transfer) string { _, to := t.accounts(); return to }
	batch.Queue(query,
		pg.Column(booked, func(t transfer) string { return t.of.payer.name() }),
		pg.Column(booked, func(t transfer) string { return string(t.movement) }),
		pg.Column(booked, from), pg.Column(booked, to),
		pg.Column(booked, func(t transfer) string { return t.of.amount.Currency }),
		pg.Column(booked, func(t transfer) int64 { return t.of.amount.MinorUnits }))
}
