package judge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// hearers says which apps must hear which events. It repeats the contracts on purpose: a judge that read them would not notice what
// they leave out. A star means choreographed checkouts only.
var hearers = map[string][]string{
	"checkout.order.created":                   {"warehouse*", "orders"},
	"checkout.order.confirmed":                 {"orders"},
	"checkout.order.cancelled":                 {"orders"},
	"warehouse.inventory.reserved":             {"payment*", "orchestrator*"},
	"warehouse.inventory.reservation_rejected": {"orchestrator*"},
	"warehouse.inventory.released":             {"orchestrator*"},
	"warehouse.inventory.committed":            {"orchestrator*"},
	"warehouse.inventory.stock_changed":        nil,
	"payments.payment.authorized":              {"orchestrator*"},
	"payments.payment.completed":               {"warehouse*", "orchestrator*"},
	"payments.payment.failed":                  {"warehouse*", "orchestrator*"},
	"payments.payment.voided":                  nil,
	"payments.payment.refunded":                nil,
	"orders.order.status_changed":              {"notification"},
	"pricing.price.updated":                    {"orchestrator"},
}

// toldEvent is a row of an outbox.
type toldEvent struct {
	id, producer, topic, about, key, coordination string
	seq                                           int64
	published                                     bool
}

func (e toldEvent) String() string { return fmt.Sprintf("%s (%s)", e.topic, e.id) }

// hearers are the apps that must hear of it.
func (e toldEvent) hearers() []string {
	var apps []string
	for _, hearer := range hearers[e.topic] {
		app, choreographedOnly := strings.CutSuffix(hearer, "*")
		if !choreographedOnly || e.coordination == "choreographed" {
			apps = append(apps, app)
		}
	}
	return apps
}

// events is what all outboxes, inboxes and the dead letters hold.
type events struct {
	told []toldEvent
	// counted is how many events each producer has written about each subject: "producer about key".
	counted map[string]int64
	// heard are the event ids in each app's inbox, with the subject that each is about.
	heard map[string]map[string]string
	// dead are the event ids among the open dead letters.
	dead map[string]bool
	// orders is the customer's view, status by order.
	orders map[string]string
	// notified are the notifications by event id: their state.
	notified map[string]string
	// prices are pricing's, and copied those of the orchestrator's copy that an event has set: "sku currency".
	prices, copied map[string]int64
	// operations are outcomes, "order step": "do/undo".
	operations map[string]string
	checkouts  map[string]string
	// forgotten are the orders whose checkouts are no longer kept: some of their events may be gone.
	forgotten map[string]bool
	// vouched are the orders for which an operator took something as done without proof, by whose topics tell of it.
	vouched map[string]map[string]bool
}

// topicsOf is how the topics begin that tell of a step or compensation.
var topicsOf = map[string]string{
	"reserve-stock": "warehouse.", "release-stock": "warehouse.", "commit-stock": "warehouse.",
	"authorize-payment": "payments.", "void-authorization": "payments.", "capture-payment": "payments.", "refund-payment": "payments.",
}

// hearsEvents tells whether any app receives events.
func (j *Judge) hearsEvents() bool { return j.databases["orders"] != nil }

// EventsUnderWay counts the events that were not published, that not all their consumers received, or that the customer was not
// told yet. Two looks in a row must agree. After a kill, the next notification process tells the customer a while later.
func (j *Judge) EventsUnderWay(ctx context.Context) (int, error) {
	if !j.hearsEvents() {
		return 0, nil
	}
	// An event that was received may have caused another one, in a database that was already looked at. So two looks in a row must
	// see nothing under way.
	for range 2 {
		e, err := j.events(ctx)
		if err != nil {
			return 0, err
		}
		underWay := len(e.missing())
		for _, state := range e.notified {
			if state == "waiting" {
				underWay++
			}
		}
		if underWay > 0 {
			return underWay, nil
		}
	}
	return 0, nil
}

// EventsMissing are the events that were not published, or that not all their consumers received.
func (j *Judge) EventsMissing(ctx context.Context) ([]Violation, error) {
	e, err := j.events(ctx)
	if err != nil {
		return nil, err
	}
	return e.missing(), nil
}

func (j *Judge) events(ctx context.Context) (*events, error) {
	e := &events{
		counted: make(map[string]int64), heard: make(map[string]map[string]string), dead: make(map[string]bool), orders: make(map[string]string),
		notified: make(map[string]string), prices: make(map[string]int64), copied: make(map[string]int64),
		operations: make(map[string]string), checkouts: make(map[string]string), forgotten: make(map[string]bool),
		vouched: make(map[string]map[string]bool),
	}
	pairs := func(app, sql string, into map[string]string) error {
		return each(ctx, j.databases[app], sql, func(row pgx.CollectableRow) error {
			var key, value string
			err := row.Scan(&key, &value)
			into[key] = value
			return err
		})
	}
	numbers := func(app, sql string, into map[string]int64, prefix string) error {
		return each(ctx, j.databases[app], sql, func(row pgx.CollectableRow) error {
			var key string
			var n int64
			err := row.Scan(&key, &n)
			into[prefix+key] = n
			return err
		})
	}
	for _, app := range []string{"orchestrator", "warehouse", "payment", "orders", "pricing"} {
		if err := each(ctx, j.databases[app], `SELECT event_id, topic, about, key, coordination, seq, published_at IS NOT NULL FROM outbox`,
			func(row pgx.CollectableRow) error {
				t := toldEvent{producer: app}
				err := row.Scan(&t.id, &t.topic, &t.about, &t.key, &t.coordination, &t.seq, &t.published)
				e.told = append(e.told, t)
				return err
			}); err != nil {
			return nil, err
		}
		if err := numbers(app, `SELECT about || ' ' || key, seq FROM outbox_counters`, e.counted, app+" "); err != nil {
			return nil, err
		}
	}
	for _, app := range []string{"orchestrator", "warehouse", "payment", "orders", "notification"} {
		e.heard[app] = make(map[string]string)
		if err := each(ctx, j.databases[app], `SELECT event_id, key FROM inbox`, func(row pgx.CollectableRow) error {
			var id, key string
			err := row.Scan(&id, &key)
			e.heard[app][id] = key
			return err
		}); err != nil {
			return nil, err
		}
	}
	if err := each(ctx, j.databases["orchestrator"], `SELECT event_id FROM dead_letters WHERE state = 'open'`, func(row pgx.CollectableRow) error {
		var id *string
		err := row.Scan(&id)
		if id != nil {
			e.dead[*id] = true
		}
		return err
	}); err != nil {
		return nil, err
	}
	if err := each(ctx, j.databases["orchestrator"], selectForgotten, func(row pgx.CollectableRow) error {
		var orderID string
		err := row.Scan(&orderID)
		e.forgotten[orderID] = true
		return err
	}); err != nil {
		return nil, err
	}
	if err := each(ctx, j.databases["orchestrator"], `SELECT key, step FROM commands WHERE without_proof`, func(row pgx.CollectableRow) error {
		var orderID, step string
		err := row.Scan(&orderID, &step)
		if e.vouched[orderID] == nil {
			e.vouched[orderID] = make(map[string]bool)
		}
		e.vouched[orderID][topicsOf[step]] = true
		return err
	}); err != nil {
		return nil, err
	}
	for _, read := range []func() error{
		func() error { return pairs("orders", `SELECT order_id, status FROM orders`, e.orders) },
		func() error { return pairs("notification", `SELECT event_id, state FROM notifications`, e.notified) },
		func() error {
			return numbers("pricing", `SELECT sku || ' ' || currency, minor_units FROM prices`, e.prices, "")
		},
		func() error {
			return numbers("orchestrator", `SELECT sku || ' ' || currency, minor_units FROM prices WHERE seq > 0`, e.copied, "")
		},
		func() error {
			return pairs("orchestrator", `SELECT order_id, status FROM checkouts`, e.checkouts)
		},
		func() error {
			return pairs("warehouse", `SELECT key || ' ' || step, do_state || '/' || undo_state FROM operations`, e.operations)
		},
		func() error {
			return pairs("payment", `SELECT key || ' ' || step, do_state || '/' || undo_state FROM operations`, e.operations)
		},
	} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// missing are sentences about events that are under way, or lost.
func (e *events) missing() []Violation {
	var found []Violation
	for _, t := range e.told {
		if !t.published {
			found = append(found, Violation{"I5", t.key, fmt.Sprintf("%s was not published", t)})
			continue
		}
		for _, app := range t.hearers() {
			if _, heard := e.heard[app][t.id]; !heard && !e.dead[t.id] {
				found = append(found, Violation{"I5", t.key, fmt.Sprintf("%s was published, and %s has not received it", t, app)})
			}
		}
	}
	return found
}

// violations are what is wrong with events when none is under way.
func (e *events) violations() []Violation {
	found := e.missing()
	say := func(invariant, subject, format string, args ...any) {
		found = append(found, Violation{invariant, subject, fmt.Sprintf(format, args...)})
	}

	ids := make(map[string]bool)
	held := make(map[string]bool) // orders about which a consumer has not taken an event
	numbers := make(map[string][]int64)
	about := make(map[string]map[string]int) // events by topic, by order
	for _, t := range e.told {
		if ids[t.id] {
			say("I5", t.key, "%s was written twice", t)
		}
		ids[t.id] = true
		if e.dead[t.id] {
			held[t.key] = true
		}
		subject := t.producer + " " + t.about + " " + t.key
		numbers[subject] = append(numbers[subject], t.seq)
		if t.about == "order" {
			if about[t.key] == nil {
				about[t.key] = make(map[string]int)
			}
			about[t.key][t.topic]++
		}
	}
	for subject, counted := range e.counted {
		if e.forgotten[subject[strings.LastIndex(subject, " ")+1:]] {
			continue
		}
		seqs := slices.Sorted(slices.Values(numbers[subject]))
		for i, seq := range seqs {
			if seq != int64(i+1) {
				say("I5", subject[strings.LastIndex(subject, " ")+1:], "the events of %s are numbered %v", subject, seqs)
				break
			}
		}
		if int64(len(seqs)) != counted {
			say("I5", subject[strings.LastIndex(subject, " ")+1:], "%d events of %s were counted and %d are there", counted, subject, len(seqs))
		}
	}
	for app, heard := range e.heard {
		for id, key := range heard {
			if !ids[id] && !e.forgotten[key] {
				say("I5", id, "%s has received an event that nobody wrote", app)
			}
		}
	}

	// An event exists exactly if its change does.
	for orderID, status := range e.checkouts {
		if e.forgotten[orderID] {
			continue
		}
		want := map[string]int{"checkout.order.created": 1}
		switch status {
		case "CONFIRMED":
			want["checkout.order.confirmed"] = 1
		case "REJECTED", "CANCELLED", "EXPIRED":
			want["checkout.order.cancelled"] = 1
		}
		reserve, commit := e.operations[orderID+" reserve-stock"], e.operations[orderID+" commit-stock"]
		authorize, capture := e.operations[orderID+" authorize-payment"], e.operations[orderID+" capture-payment"]
		for topic, is := range map[string]bool{
			"warehouse.inventory.reserved":             strings.HasPrefix(reserve, "applied/"),
			"warehouse.inventory.reservation_rejected": strings.HasPrefix(reserve, "rejected/"),
			"warehouse.inventory.released":             reserve == "applied/applied",
			"warehouse.inventory.committed":            strings.HasPrefix(commit, "applied/"),
			"payments.payment.authorized":              strings.HasPrefix(authorize, "applied/"),
			"payments.payment.completed":               strings.HasPrefix(capture, "applied/"),
			"payments.payment.voided":                  authorize == "applied/applied",
			"payments.payment.refunded":                capture == "applied/applied",
		} {
			if is {
				want[topic] = 1
			}
		}
		for topic := range hearers {
			// A refusal is told in more than one way, and orders tells what it has heard: see below.
			if topic == "payments.payment.failed" || topic == "orders.order.status_changed" {
				continue
			}
			if prefix := topic[:strings.IndexByte(topic, '.')+1]; e.vouched[orderID][prefix] {
				continue
			}
			if have := about[orderID][topic]; have != want[topic] {
				say("I5", orderID, "it is %s (reserve %s, commit %s, authorize %s, capture %s), and there are %d events %s, not %d",
					status, reserve, commit, authorize, capture, have, topic, want[topic])
			}
		}

		// The customer sees what the newest event says.
		view := "placed"
		switch {
		case status == "CONFIRMED":
			view = "confirmed"
		case want["checkout.order.cancelled"] == 1:
			view = "cancelled"
		}
		if e.orders[orderID] != view && !held[orderID] {
			say("I6", orderID, "it is %s and its customer sees it as %q, not %q", status, e.orders[orderID], view)
		}
	}
	for _, t := range e.told {
		if t.topic == "orders.order.status_changed" && e.notified[t.id] != "sent" && e.notified[t.id] != "superseded" && !e.dead[t.id] {
			say("I5", t.key, "%s was heard of by notification, and what it sent is %q", t, e.notified[t.id])
		}
	}
	for _, article := range slices.Sorted(maps.Keys(e.copied)) {
		if e.copied[article] != e.prices[article] {
			say("I6", article, "pricing says %d and the orchestrator %d", e.prices[article], e.copied[article])
		}
	}
	return found
}
