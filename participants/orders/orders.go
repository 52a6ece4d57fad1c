// Package orders is the participant that keeps orders as the customer sees them: placed, then confirmed or cancelled. It learns
// that from the orchestrator's events, tells each change of status by an event of its own, and answers questions. It takes part
// in no checkout: while it is down checkouts go on, and what it missed it learns later.
//
// Events arrive in any order. Each carries the whole order and its number, so the newest one alone says all, and one that comes
// late changes nothing that a newer one has set. The package must not know how a checkout works, what its steps are, or who is
// told of a change.
package orders

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/event"
	"github.com/checkoutsaga/orchestrator/participants/internal/input"
)

// status is what the customer sees. It stands in rows and in events: renaming one is a migration.
type status string

// The statuses.
const (
	placed    status = "placed"
	confirmed status = "confirmed"
	cancelled status = "cancelled"
)

// order is an order as one event tells it, or as its row keeps it.
type order struct {
	id, customerID string
	status         status
	// reason says why it was cancelled.
	reason     string
	currency   string
	minorUnits int64
	lines      []line
	// seq is the orchestrator's number of the event that told the status.
	seq int64
	// placedAt is when the oldest event that is known of occurred, updatedAt when the one that told the status did.
	placedAt, updatedAt time.Time
}

// line is a number of pieces of one article.
type line struct {
	sku      string
	quantity int32
}

// toldBy reads what an event tells of an order. An error says that it can never be taken.
func toldBy(h *eventv1.Header, o *checkoutv1.Order, now status, reason string) (order, error) {
	var bad input.Problems
	bad.OrderID("header.order_id", h.OrderId)
	bad.Name("order.customer_id", o.GetCustomerId())
	// Not input.Money: what one order may come to is not for this participant to say.
	if o.GetAmount().GetCurrency() == "" || o.GetAmount().GetMinorUnits() < 1 {
		bad.Add("order.amount", "must be 1 minor unit of a currency or more")
	}
	if strings.ContainsRune(reason, 0) {
		bad.Add("reason", "must not contain a zero byte")
	}
	told := order{
		id: h.OrderId, customerID: o.GetCustomerId(), status: now, reason: reason,
		currency: o.GetAmount().GetCurrency(), minorUnits: o.GetAmount().GetMinorUnits(),
		seq: h.Seq, placedAt: h.OccurredAt.AsTime(), updatedAt: h.OccurredAt.AsTime(),
	}
	if len(o.GetItems()) == 0 {
		bad.Add("order.items", "is empty")
	}
	for i, item := range o.GetItems() {
		bad.Name(fmt.Sprintf("order.items[%d].sku", i), item.GetSku())
		if item.GetQuantity() < 1 {
			bad.Add(fmt.Sprintf("order.items[%d].quantity", i), "must be 1 or more, not %d", item.GetQuantity())
		}
		told.lines = append(told.lines, line{sku: item.GetSku(), quantity: item.GetQuantity()})
	}
	if len(bad) > 0 {
		return order{}, fmt.Errorf("%w: %s", event.ErrBad, strings.Join(bad, "; "))
	}
	return told, nil
}

// whyCancelled is the reason that an event gives or, where it gives none, how the checkout ended: "expired".
func whyCancelled(m *checkoutv1.OrderCancelled) string {
	return cmp.Or(m.Reason, strings.ToLower(m.Status))
}
