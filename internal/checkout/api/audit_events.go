package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

const (
	// youngFor is how long after it was published an event may well be on its way.
	youngFor = 10 * time.Second
	// retriedFor is how long after its last failure a consumer may well be tried again, by the broker's policy.
	retriedFor = time.Minute
)

// The topics that the audit knows the cause of.
var (
	orderCreated        = event.Of(&checkoutv1.OrderCreated{}).Name
	orderConfirmed      = event.Of(&checkoutv1.OrderConfirmed{}).Name
	orderCancelled      = event.Of(&checkoutv1.OrderCancelled{}).Name
	paymentFailed       = event.Of(&paymentv1.PaymentFailed{}).Name
	paymentCompleted    = event.Of(&paymentv1.PaymentCompleted{}).Name
	paymentAuthorized   = event.Of(&paymentv1.PaymentAuthorized{}).Name
	paymentVoided       = event.Of(&paymentv1.PaymentVoided{}).Name
	paymentRefunded     = event.Of(&paymentv1.PaymentRefunded{}).Name
	stockReserved       = event.Of(&warehousev1.InventoryReserved{}).Name
	reservationRejected = event.Of(&warehousev1.InventoryReservationRejected{}).Name
	stockReleased       = event.Of(&warehousev1.InventoryReleased{}).Name
	stockCommitted      = event.Of(&warehousev1.InventoryCommitted{}).Name
)

// stepsToldBy are the steps whose outcome each topic tells.
var stepsToldBy = map[string][]string{
	stockReserved:       {checkout.ReserveStock},
	reservationRejected: {checkout.ReserveStock},
	stockReleased:       {checkout.ReserveStock},
	stockCommitted:      {checkout.CommitStock},
	paymentAuthorized:   {checkout.AuthorizePayment},
	paymentVoided:       {checkout.AuthorizePayment},
	paymentCompleted:    {checkout.CapturePayment},
	paymentRefunded:     {checkout.CapturePayment},
	paymentFailed:       {checkout.AuthorizePayment, checkout.CapturePayment},
}

// told are the events about some orders, by producer and order, and the producers that could not be asked.
type told struct {
	events map[string]map[string][]*eventv1.Event
	away   map[string]string
}

// eventsOf asks every app that writes events about orders for all of some orders.
func (a *audit) eventsOf(ctx context.Context, ids []string) told {
	t := told{events: make(map[string]map[string][]*eventv1.Event)}
	var mu sync.Mutex
	t.away = a.askApps(ctx, auditTimeout, aboutOrders(), func(ctx context.Context, name string, app eventv1connect.EventServiceClient) error {
		byOrder := make(map[string][]*eventv1.Event)
		req := &eventv1.ListEventsRequest{Selection: &eventv1.Selection{OrderIds: ids}}
		for {
			answer, err := app.ListEvents(ctx, connect.NewRequest(req))
			if err != nil {
				return err
			}
			for _, e := range answer.Msg.Events {
				byOrder[e.Header.OrderId] = append(byOrder[e.Header.OrderId], e)
			}
			if req.PageToken = answer.Msg.NextPageToken; req.PageToken == "" {
				break
			}
		}
		mu.Lock()
		defer mu.Unlock()
		t.events[name] = byOrder
		return nil
	})
	return t
}

// aboutOrders are the apps that write events about orders.
func aboutOrders() []string {
	var apps []string
	for _, t := range event.Topics() {
		if t.About == eventv1.Key_KEY_ORDER {
			apps = append(apps, t.Owner)
		}
	}
	slices.Sort(apps)
	return slices.Compact(apps)
}

// compareEvents adds to what was found what is wrong with the events of a page, given what the participants recorded.
func (a *audit) compareEvents(ctx context.Context, page []orders.Checkout, books books, found findings) error {
	if len(a.events) == 0 {
		a.note("events", "events were not looked at: this orchestrator was told of no app that it could ask")
		return nil
	}
	ids := make([]string, len(page))
	for i, c := range page {
		ids[i] = c.Key
	}
	t := a.eventsOf(ctx, ids)
	for app, why := range t.away {
		a.note("events of "+app, "%s cannot be asked which events it wrote (%s), so nothing is said of them", app, why)
	}
	var all []*eventv1.Event
	for _, byOrder := range t.events {
		for _, events := range byOrder {
			all = append(all, events...)
		}
	}
	deliveries, away, err := a.deliveries(ctx, auditTimeout, all)
	if err != nil {
		return err
	}
	for app, why := range away {
		a.note("receipts of "+app, "%s cannot be asked which events it received (%s), so nothing is said of that", app, why)
	}
	for _, c := range page {
		for _, producer := range aboutOrders() {
			if _, isAway := t.away[producer]; isAway {
				continue
			}
			written := t.events[producer][c.Key]
			found[c.Key] = append(found[c.Key], a.writtenWrong(c, producer, written, books)...)
			found[c.Key] = append(found[c.Key], a.notReceived(c.Key, producer, written, deliveries)...)
		}
		if len(found[c.Key]) == 0 {
			delete(found, c.Key)
		}
	}
	return nil
}

// writtenWrong compares what a producer told of a checkout with what is so.
func (a *audit) writtenWrong(c orders.Checkout, producer string, written []*eventv1.Event, b books) []finding {
	var wrong []finding
	// A finding about a topic concerns the steps whose outcome the topic tells.
	differs := func(invariant, topic, format string, args ...any) {
		wrong = append(wrong, finding{invariant: invariant, steps: stepsToldBy[topic], what: fmt.Sprintf(format, args...)})
	}
	count := make(map[string]int)
	var numbers []string
	gap := false
	for i, e := range written {
		count[e.Header.Topic]++
		numbers = append(numbers, fmt.Sprint(e.Header.Seq))
		if i > 0 {
			gap = gap || e.Header.Seq != written[i-1].Header.Seq+1
		} else if a.keptFromTheFirst(c) {
			gap = e.Header.Seq != 1
		}
		if what := contradicts(c, e); what != "" {
			differs(invariantTold, e.Header.Topic, "%s (%s) %s", e.Header.Topic, e.Header.EventId, what)
		}
	}
	if gap {
		differs(invariantOrdered, "", "%s's events of it are numbered %s, not 1 to %d without a gap: some were removed, or the outbox was restored from a backup",
			producer, strings.Join(numbers, ", "), len(written))
	}
	for _, topic := range event.Topics() {
		if topic.Owner != producer || topic.About != eventv1.Key_KEY_ORDER {
			continue
		}
		is, because := demands(topic.Name, c, b)
		switch n := count[topic.Name]; {
		case is == mustBe && n == 0 && a.keptFromTheFirst(c):
			differs(invariantTold, topic.Name, "%s, and %s has written no %s among its %d events of it: nothing can send it again; was its outbox restored from a backup?",
				because, producer, topic.Name, len(written))
		case is == mustNotBe && n > 0:
			differs(invariantTold, topic.Name, "%s, and %s has written %s all the same", because, producer, topic.Name)
		case is != unasked && n > 1 && topic.Name != paymentFailed: // Both of payment's steps can be refused.
			differs(invariantTold, topic.Name, "%s, and %s has written %s %d times", because, producer, topic.Name, n)
		}
	}
	return wrong
}

// keptFromTheFirst tells whether all events of a checkout must still be there: it is young enough, and was accepted after events
// began to be written.
func (a *audit) keptFromTheFirst(c orders.Checkout) bool {
	const early = time.Hour // Before it is pruned, because clocks differ.
	return c.StartedAt.After(a.eventsBegan) && time.Since(c.StartedAt) < outbox.Keep-early
}

// truth says whether an event must have been written.
type truth int

const (
	unasked   truth = iota // It follows from nothing that the audit looks at.
	may                    // Both is right.
	mustBe                 // Once.
	mustNotBe              // Never.
)

// demands tells whether what is on record demands an event of a topic, and what that is in words.
func demands(topic string, c orders.Checkout, b books) (is truth, because string) {
	warehouse, payment := b.warehouse[c.Key], b.payment[c.Key]
	reserve, commit := warehouse[checkout.ReserveStock], warehouse[checkout.CommitStock]
	authorize, capture := payment[checkout.AuthorizePayment], payment[checkout.CapturePayment]
	says := func(step string, op *operationv1.Operation) string { return step + " is " + describe(op) }
	const applied, rejected = operationv1.Outcome_OUTCOME_APPLIED, operationv1.Outcome_OUTCOME_REJECTED
	switch topic {
	case orderCreated:
		return mustBe, "it was accepted"
	case orderConfirmed:
		return only(c.Status == journal.Confirmed), "it ended " + string(c.Status)
	case orderCancelled:
		return only(c.Status != journal.Confirmed), "it ended " + string(c.Status)
	case stockReserved:
		return did(reserve, applied), says(checkout.ReserveStock, reserve)
	case reservationRejected:
		return did(reserve, rejected), says(checkout.ReserveStock, reserve)
	case stockReleased:
		return undid(reserve), says(checkout.ReserveStock, reserve)
	case stockCommitted:
		return did(commit, applied), says(checkout.CommitStock, commit)
	case paymentAuthorized:
		return did(authorize, applied), says(checkout.AuthorizePayment, authorize)
	case paymentCompleted:
		return did(capture, applied), says(checkout.CapturePayment, capture)
	case paymentFailed:
		because = says(checkout.AuthorizePayment, authorize) + " and " + says(checkout.CapturePayment, capture)
		// A refused capture is told once nothing is held; one without an authorization never held anything.
		if is = did(authorize, rejected); is != mustNotBe || did(capture, rejected) == mustNotBe {
			return is, because
		}
		if undid(authorize) == mustBe || authorize.GetDo() == applied && lapsed(capture) {
			return did(capture, rejected), because
		}
		return may, because
	case paymentVoided:
		return undid(authorize), says(checkout.AuthorizePayment, authorize)
	case paymentRefunded:
		return undid(capture), says(checkout.CapturePayment, capture)
	}
	return unasked, ""
}

func only(is bool) truth {
	if is {
		return mustBe
	}
	return mustNotBe
}

// did tells whether an outcome of doing is on record, and so must be told.
func did(op *operationv1.Operation, outcome operationv1.Outcome) truth {
	if op.GetDo() == operationv1.Outcome_OUTCOME_UNKNOWN {
		return may
	}
	return only(op.GetDo() == outcome)
}

// undid tells whether an effect is on record as undone. Undoing what never was need not be told.
func undid(op *operationv1.Operation) truth {
	if op.GetUndo() != operationv1.Outcome_OUTCOME_APPLIED {
		return mustNotBe
	}
	if op.GetDo() != operationv1.Outcome_OUTCOME_APPLIED {
		return may
	}
	return mustBe
}

// contradicts tells in what an event says other than the checkout; empty if in nothing.
func contradicts(c orders.Checkout, e *eventv1.Event) string {
	m, err := event.Decode(e.Header.Topic, []byte(e.Data))
	if errors.Is(err, event.ErrBad) {
		if topic, known := event.Find(e.Header.Topic); !known || e.Header.SchemaVersion > topic.Version {
			return "" // Of a newer build of its producer.
		}
		return "is one that no consumer can take: " + err.Error()
	}
	var amount *operationv1.Money
	switch m := m.(type) {
	case *checkoutv1.OrderCreated:
		amount = m.Order.GetAmount()
	case *checkoutv1.OrderConfirmed:
		amount = m.Order.GetAmount()
	case *checkoutv1.OrderCancelled:
		if m.Status != string(c.Status) {
			return fmt.Sprintf("says %s, and it ended %s", m.Status, c.Status)
		}
		amount = m.Order.GetAmount()
	case *paymentv1.PaymentCompleted:
		amount = m.Amount
	case *paymentv1.PaymentRefunded:
		amount = m.Amount
	default:
		return ""
	}
	if says := (checkout.Money{Currency: amount.GetCurrency(), MinorUnits: amount.GetMinorUnits()}); says != c.Amount {
		return fmt.Sprintf("says %s, and the order is for %s", inWords(says), inWords(c.Amount))
	}
	return ""
}

// notReceived tells which events of a producer are not published, or not received by everybody who must have them. What is among
// the dead letters, and what is being tried again, is noted only: somebody is called for it already.
func (a *audit) notReceived(orderID, producer string, written []*eventv1.Event, deliveries map[string][]delivery) []finding {
	var wrong []finding
	var waiting []string
	expected, lacking := make(map[string]int), make(map[string][]string)
	young := make(map[string]bool)
	now := time.Now()
	for _, e := range written {
		switch {
		case e.PublishedAt != nil:
		case !a.hasBus:
			a.note("bus", "%s: what is not published yet is no violation, and who received what cannot be judged", noBus)
		default:
			waiting = append(waiting, fmt.Sprintf("%s (%s, written %s ago)", e.Header.Topic, e.Header.EventId, ago(now, e.Header.OccurredAt.AsTime())))
			young[""] = young[""] || now.Sub(e.Header.OccurredAt.AsTime()) < youngFor
		}
		for _, d := range deliveries[e.Header.EventId] {
			expected[d.consumer]++
			why := ""
			switch {
			case d.outcome == outcomeDeadLetter && d.archived:
				a.mention("archived", orderID)
				continue
			case d.outcome == outcomeDeadLetter:
				a.mention("open", orderID)
				continue
			case d.outcome == outcomeFailed && !d.failure.Dropped && now.Sub(d.failure.LastAt.AsTime()) < retriedFor:
				a.mention("retried", orderID)
				continue
			case d.outcome == outcomeFailed:
				why = fmt.Sprintf(", failed %d times: %s", d.failure.Attempts, d.failure.Error)
			case d.outcome != outcomeMissing || e.PublishedAt == nil:
				continue
			}
			if e.PublishedAt != nil {
				why = fmt.Sprintf(", published %s ago%s", ago(now, e.PublishedAt.AsTime()), why)
				young[d.consumer] = young[d.consumer] || now.Sub(e.PublishedAt.AsTime()) < youngFor
			}
			lacking[d.consumer] = append(lacking[d.consumer], fmt.Sprintf("%s (%s%s)", e.Header.Topic, e.Header.EventId, why))
		}
	}
	if len(waiting) > 0 {
		wrong = append(wrong, finding{invariant: invariantTold, settling: true, young: young[""], what: fmt.Sprintf(
			"%s has not published %d of its %d events of it: %s; look at its log and at the broker, its relay goes on by itself",
			producer, len(waiting), len(written), strings.Join(waiting, ", "))})
	}
	for _, consumer := range slices.Sorted(maps.Keys(lacking)) {
		missing := lacking[consumer]
		wrong = append(wrong, finding{invariant: invariantTold, settling: true, young: young[consumer], what: fmt.Sprintf(
			"%s has %d of the %d events of it that %s wrote for it, and lacks %s; `orchestrator event republish --order-id %s` sends them again",
			consumer, expected[consumer]-len(missing), expected[consumer], producer, strings.Join(missing, ", "), orderID)})
	}
	return wrong
}

func ago(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Second) }
