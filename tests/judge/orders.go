package judge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// evidence is what the three sides have written, by order.
type evidence struct {
	checkouts map[string]*checkoutRow
	// forgotten are the checkouts that are no longer kept; what the participants still have of them is not judged.
	forgotten map[string]bool
	goods     map[string]*goods
	money     map[string]*money
}

type checkoutRow struct {
	status, phase, currency string
	amount, priced          int64             // priced is the sum of its lines
	lines                   string            // "CHAIR-OAK 2, LAMP-BRASS 1", by article
	steps                   map[string]string // state and compensation, by step
	mayWait                 bool              // an operator has time yet to approve it
	// vouched are the steps and compensations that an operator took as done without proof, and answers for.
	vouched []string
}

// goods is what the warehouse has of an order.
type goods struct {
	state, lines string
	operations   map[string]operation
}

// money is what payment, its book and the card network have of an order.
type money struct {
	state, currency string
	amount          int64
	operations      map[string]operation
	book            map[string]int64  // balance by account
	charges         map[string]charge // by kind
	strangeCurrency bool              // an entry or a charge is in another currency than the payment
}

type operation struct{ do, undo string }

type charge struct{ times, amount int64 }

const selectCheckouts = `
	SELECT order_id, status, phase, currency, amount,
	       (SELECT string_agg(i->>'sku' || ' ' || (i->>'quantity'), ', ' ORDER BY i->>'sku' COLLATE "C") FROM jsonb_array_elements(items) i),
	       (SELECT sum((i->>'quantity')::bigint * (i->>'unit_price')::bigint)::bigint FROM jsonb_array_elements(items) i),
	       (SELECT json_object_agg(name, state || '/' || compensation) FROM steps WHERE steps.definition = 'checkout' AND steps.key = checkouts.order_id),
	       coalesce(approval_deadline > clock_timestamp(), false),
	       ARRAY(SELECT step FROM commands WHERE without_proof AND commands.definition = 'checkout' AND commands.key = checkouts.order_id)
	FROM checkouts`

const selectForgotten = `SELECT key FROM forgotten_sagas WHERE definition = 'checkout'`

func (e *evidence) readCheckouts(ctx context.Context, q querier) error {
	e.checkouts, e.forgotten = make(map[string]*checkoutRow), make(map[string]bool)
	err := each(ctx, q, selectCheckouts, func(row pgx.CollectableRow) error {
		c, orderID := &checkoutRow{}, ""
		err := row.Scan(&orderID, &c.status, &c.phase, &c.currency, &c.amount, &c.lines, &c.priced, &c.steps, &c.mayWait, &c.vouched)
		e.checkouts[orderID] = c
		return err
	})
	if err != nil {
		return err
	}
	return each(ctx, q, selectForgotten, func(row pgx.CollectableRow) error {
		var orderID string
		err := row.Scan(&orderID)
		e.forgotten[orderID] = true
		return err
	})
}

const (
	selectReservations = `
		SELECT order_id, state,
		       coalesce((SELECT string_agg(sku || ' ' || quantity, ', ' ORDER BY sku COLLATE "C") FROM reservation_lines l WHERE l.order_id = r.order_id), '')
		FROM reservations r`
	selectOperations = `SELECT key, step, do_state, undo_state FROM operations`
)

func (e *evidence) readWarehouse(ctx context.Context, q querier) error {
	e.goods = make(map[string]*goods)
	of := func(orderID string) *goods {
		if e.goods[orderID] == nil {
			e.goods[orderID] = &goods{operations: make(map[string]operation)}
		}
		return e.goods[orderID]
	}
	err := each(ctx, q, selectReservations, func(row pgx.CollectableRow) error {
		var orderID, state, lines string
		err := row.Scan(&orderID, &state, &lines)
		of(orderID).state, of(orderID).lines = state, lines
		return err
	})
	if err != nil {
		return err
	}
	return each(ctx, q, selectOperations, func(row pgx.CollectableRow) error {
		var orderID, step string
		var op operation
		err := row.Scan(&orderID, &step, &op.do, &op.undo)
		of(orderID).operations[step] = op
		return err
	})
}

const (
	selectPayments = `SELECT order_id, state, currency, minor_units FROM payments`
	selectBook     = `SELECT order_id, account, currency, sum(minor_units)::bigint FROM entries GROUP BY 1, 2, 3`
	selectCharges  = `SELECT order_id, kind, currency, count(*), sum(minor_units)::bigint FROM sandbox.charges GROUP BY 1, 2, 3`
)

func (e *evidence) readPayment(ctx context.Context, q querier) error {
	e.money = make(map[string]*money)
	of := func(orderID string) *money {
		if e.money[orderID] == nil {
			e.money[orderID] = &money{
				operations: make(map[string]operation), book: make(map[string]int64), charges: make(map[string]charge),
			}
		}
		return e.money[orderID]
	}
	err := each(ctx, q, selectPayments, func(row pgx.CollectableRow) error {
		var orderID, state, currency string
		var amount int64
		err := row.Scan(&orderID, &state, &currency, &amount)
		m := of(orderID)
		m.state, m.currency, m.amount = state, currency, amount
		return err
	})
	if err != nil {
		return err
	}
	err = each(ctx, q, selectOperations, func(row pgx.CollectableRow) error {
		var orderID, step string
		var op operation
		err := row.Scan(&orderID, &step, &op.do, &op.undo)
		of(orderID).operations[step] = op
		return err
	})
	if err != nil {
		return err
	}
	err = each(ctx, q, selectBook, func(row pgx.CollectableRow) error {
		var orderID, account, currency string
		var balance int64
		err := row.Scan(&orderID, &account, &currency, &balance)
		m := of(orderID)
		m.book[account] += balance
		m.strangeCurrency = m.strangeCurrency || currency != m.currency
		return err
	})
	if err != nil {
		return err
	}
	return each(ctx, q, selectCharges, func(row pgx.CollectableRow) error {
		var orderID, kind, currency string
		var c charge
		err := row.Scan(&orderID, &kind, &currency, &c.times, &c.amount)
		m := of(orderID)
		m.strangeCurrency = m.strangeCurrency || currency != m.currency
		c.times, c.amount = c.times+m.charges[kind].times, c.amount+m.charges[kind].amount
		m.charges[kind] = c
		return err
	})
}

// verdicts collects what is wrong with one order.
type verdicts struct {
	orderID string
	found   []Violation
}

func (v *verdicts) say(invariant, format string, args ...any) {
	v.found = append(v.found, Violation{Invariant: invariant, Subject: v.orderID, What: fmt.Sprintf(format, args...)})
}

func (e *evidence) violations() []Violation {
	var all []Violation
	for _, orderID := range slices.Sorted(maps.Keys(e.checkouts)) {
		if e.forgotten[orderID] {
			continue // It is being forgotten, and the participants may have forgotten it.
		}
		v := &verdicts{orderID: orderID}
		v.judge(e.checkouts[orderID], e.goods[orderID], e.money[orderID])
		all = append(all, v.found...)
	}
	for _, orderID := range slices.Sorted(maps.Keys(e.goods)) {
		if e.checkouts[orderID] == nil && !e.forgotten[orderID] {
			all = append(all, Violation{"I3", orderID, "the warehouse knows it, and no checkout was accepted: one was lost"})
		}
	}
	for _, orderID := range slices.Sorted(maps.Keys(e.money)) {
		if e.checkouts[orderID] == nil && !e.forgotten[orderID] {
			all = append(all, Violation{"I3", orderID, "payment knows it, and no checkout was accepted: one was lost"})
		}
	}
	return all
}

func (v *verdicts) judge(c *checkoutRow, g *goods, m *money) {
	if g == nil {
		g = &goods{}
	}
	if m == nil {
		m = &money{currency: c.currency}
	}
	v.once(m)
	if c.vouchedAt("reserve-stock", "release-stock", "commit-stock") {
		g = nil
	}
	if c.vouchedAt("authorize-payment", "void-authorization", "capture-payment", "refund-payment") {
		m = nil
	}
	switch c.status {
	case "CONFIRMED":
		v.confirmed(c, g, m)
	case "REJECTED", "CANCELLED", "EXPIRED":
		v.undone(c, g, m)
	case "NEEDS_ATTENTION":
		return // A person sees it; what is held meanwhile breaks no promise.
	case "AWAITING_APPROVAL":
		if !c.mayWait {
			v.say("I3", "it is AWAITING_APPROVAL, and the time for that is up")
		}
		return // A person sees this one, too.
	default:
		v.say("I3", "it is %s in phase %s, and calls for nobody", c.status, c.phase)
		return
	}
	if c.phase != "final" {
		v.say("I3", "it is %s, and its phase is %s", c.status, c.phase)
	}
	if g != nil {
		for step, op := range g.operations {
			v.settled(step, op)
		}
	}
	if m != nil {
		for step, op := range m.operations {
			v.settled(step, op)
		}
	}
}

// vouchedAt tells whether an operator has vouched for one of some steps or compensations.
func (c *checkoutRow) vouchedAt(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(c.vouched, name) })
}

// once: the card network did nothing twice for an order. That always holds.
func (v *verdicts) once(m *money) {
	for _, kind := range slices.Sorted(maps.Keys(m.charges)) {
		if c := m.charges[kind]; c.times > 1 {
			v.say("I2", "the card network did %s %d times", kind, c.times)
		}
	}
}

// confirmed judges a checkout that ended well. g or m is nil if an operator has vouched for it.
func (v *verdicts) confirmed(c *checkoutRow, g *goods, m *money) {
	for step, state := range c.steps {
		if state != "done/not-needed" && state != "resolved/not-needed" {
			v.say("I1", "it is CONFIRMED and step %s is %s", step, state)
		}
	}
	if c.priced != c.amount {
		v.say("I1", "its amount is %d and its lines cost %d", c.amount, c.priced)
	}
	if g != nil {
		v.shipped(c, g)
	}
	if m != nil {
		v.paid(c, m)
	}
}

func (v *verdicts) shipped(c *checkoutRow, g *goods) {
	if g.state != "committed" {
		v.say("I1", "it is CONFIRMED and its reservation is %q", g.state)
	}
	if g.lines != c.lines {
		v.say("I1", "it is CONFIRMED for %q and the warehouse shipped %q", c.lines, g.lines)
	}
	// A refund by an operator first asks for a release, which committed stock refuses.
	if reserve := g.operations["reserve-stock"]; reserve.undo != "rejected" {
		v.op("reserve-stock", reserve, operation{"applied", "none"})
	}
	v.op("commit-stock", g.operations["commit-stock"], operation{"applied", "none"})
}

func (v *verdicts) paid(c *checkoutRow, m *money) {
	if m.state != "captured" || m.amount != c.amount || m.currency != c.currency {
		v.say("I1", "it is CONFIRMED for %d %s and its payment is %q, %d %s", c.amount, c.currency, m.state, m.amount, m.currency)
	}
	// The deadline of a choreographed checkout asks for a void, which a captured payment refuses.
	if authorize := m.operations["authorize-payment"]; authorize.undo != "rejected" {
		v.op("authorize-payment", authorize, operation{"applied", "none"})
	}
	v.op("capture-payment", m.operations["capture-payment"], operation{"applied", "none"})
	v.charged(m, "authorize", c.amount)
	v.charged(m, "capture", c.amount)
	v.charged(m, "void", 0)
	v.charged(m, "refund", 0)
	v.balances(m, c.amount)
	if m.strangeCurrency {
		v.say("I1", "money moved in another currency than %s", c.currency)
	}
}

// undone judges a checkout that must have nothing held and nothing charged: what was taken was given back.
func (v *verdicts) undone(c *checkoutRow, g *goods, m *money) {
	for step, state := range c.steps {
		compensation := state[strings.IndexByte(state, '/')+1:]
		if !slices.Contains([]string{"done", "not-needed", "resolved"}, compensation) {
			v.say("I1", "it is %s and step %s is %s", c.status, step, state)
		}
	}
	if g != nil {
		v.released(c, g)
	}
	if m != nil {
		v.givenBack(c, m)
	}
}

func (v *verdicts) released(c *checkoutRow, g *goods) {
	if g.state != "" && g.state != "released" {
		v.say("I1", "it is %s and its reservation is %q", c.status, g.state)
	}
	if op := g.operations["commit-stock"]; op.do == "applied" {
		v.say("I1", "it is %s and commit-stock is applied", c.status)
	}
	if op := g.operations["reserve-stock"]; op.do == "applied" && op.undo != "applied" {
		v.say("I1", "it is %s and reserve-stock is applied and not undone", c.status)
	}
}

func (v *verdicts) givenBack(c *checkoutRow, m *money) {
	if held := []string{"", "none", "declined", "voided", "expired", "refunded"}; !slices.Contains(held, m.state) {
		v.say("I1", "it is %s and its payment is %q", c.status, m.state)
	}
	if op := m.operations["capture-payment"]; op.do == "applied" && op.undo != "applied" {
		v.say("I1", "it is %s and capture-payment is applied and not undone", c.status)
	}
	if taken, given := m.charges["capture"].amount, m.charges["refund"].amount; taken != given {
		v.say("I1", "it is %s and the card network took %d and gave back %d", c.status, taken, given)
	}
	// What was authorized was voided, captured, or has run out at the network, which says nothing of that.
	held := m.charges["authorize"].amount - m.charges["void"].amount - m.charges["capture"].amount
	if held != 0 && m.state != "expired" {
		v.say("I1", "it is %s and the card network still holds %d", c.status, held)
	}
	v.balances(m, 0)
}

// settled: once a checkout is final, no participant has anything of it under way.
func (v *verdicts) settled(step string, op operation) {
	if op.do == "started" || op.undo == "started" || op.undo == "wanted" {
		v.say("I1", "it is final and operation %s is %s, its undoing %s", step, op.do, op.undo)
	}
}

func (v *verdicts) op(step string, is, want operation) {
	if is != want {
		v.say("I1", "it is CONFIRMED and operation %s is %q, its undoing %q", step, is.do, is.undo)
	}
}

func (v *verdicts) charged(m *money, kind string, want int64) {
	if is := m.charges[kind].amount; is != want {
		v.say("I1", "the card network has %d of %s and not %d", is, kind, want)
	}
}

// balances: by the book the merchant has this much of it, and nothing is held.
func (v *verdicts) balances(m *money, merchant int64) {
	for account, want := range map[string]int64{"merchant": merchant, "held": 0, "customer": -merchant} {
		if is := m.book[account]; is != want {
			v.say("I1", "the book has %d at %s and not %d", is, account, want)
		}
	}
}
