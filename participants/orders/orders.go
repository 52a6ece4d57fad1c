// Package orders is the participant that keeps orders as the customer sees them: placed, then confirmed or cancelled. It learns
// that from the orchestrator's events, tells each change of status by an event of its own, and answers questions. It takes part in
// no checkout: while it is down checkouts go on, and it learns later what it missed.
//
// Events arrive in any order. Each carries the whole order and its number, so the newest one alone says all, and a late one changes
// nothing that a newer one has set. The package must not know how a checkout works, what its steps are, or who is told of a change.
package orders

import (
	"cmp"
	"strings"
	"time"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
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
	// seq is the orchestrator's number of the event that set the status.
	seq int64
	// placedAt is when the oldest known event occurred, updatedAt when the one that set the status did.
	placedAt, updatedAt time.Time
}

// line is a number of pieces of one article.
type line struct {
	sku      string
	quantity int32
}

// toldBy is what an event tells of an order.
func toldBy(h *eventv1.Header, o *checkoutv1.Order, now status, reason string) order {
	told := order{
		id: h.OrderId, customerID: o.CustomerId, status: now, reason: reason,
		currency: o.Amount.Currency, minorUnits: o.Amount.MinorUnits,
		seq: h.Seq, placedAt: h.OccurredAt.AsTime(), updatedAt: h.OccurredAt.AsTime(),
	}
	for _, item := range o.Items {
		told.lines = append(told.lines, line{sku: item.Sku, quantity: item.Quantity})
	}
	return told
}

// whyCancelled is the event's reason or, without one, how the checkout ended: "expired".
func whyCancelled(m *checkoutv1.OrderCancelled) string {
	return cmp.Or(m.Reason, strings.ToLower(m.Status))
}
