package orders

import (
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// A choreographed checkout is driven by the participants themselves, by events. The orchestrator looks on: it learns from their
// events how far the checkout is and ends it. Only when the deadline has passed, when somebody cancels, or when the events do
// not come does it take over, with a run of the same saga: back from the phase undoing, forward from the phase pivoted. Going
// back it asks payment first and the warehouse only when payment says that there will be no charge; if payment says that it has
// captured, the checkout goes forward.

// Fact is what a participant's event says of a checkout.
type Fact string

// The facts.
const (
	StockReserved      Fact = "stock reserved"
	ReservationRefused Fact = "reservation refused"
	StockReleased      Fact = "stock released"
	StockCommitted     Fact = "stock committed"
	PaymentAuthorized  Fact = "payment authorized"
	PaymentCompleted   Fact = "payment completed"
	PaymentFailed      Fact = "payment failed"
)

// Learn takes in what a participant's event says of a choreographed checkout, with its reason where it is bad news. Facts come in any
// order, and what a later one has told includes what an earlier one would have.
func (f Fact) Learn(r *journal.Row, reason string) (news bool) {
	if r.Phase == journal.Final {
		return false
	}
	before := r.Stands()
	switch f {
	case StockReserved:
		r.HeardDone(checkout.ReserveStock)
	case ReservationRefused:
		r.HeardRefused(checkout.ReserveStock, reason)
	case PaymentAuthorized:
		r.HeardDone(checkout.ReserveStock, checkout.AuthorizePayment)
	case PaymentCompleted:
		r.HeardPivot()
	case PaymentFailed:
		paymentFailed(r, reason)
	case StockReleased:
		released(r, reason)
	case StockCommitted:
		r.HeardCompleted()
	}
	return r.Phase == journal.Final || r.Stands() != before
}

// paymentFailed notes that there will be no charge; the warehouse hears of it too and gives the stock back.
func paymentFailed(r *journal.Row, reason string) {
	r.HeardDone(checkout.ReserveStock)
	r.HeardRefused(checkout.AuthorizePayment, reason)
}

// released notes that the warehouse has given the stock back: it does so only when there will be no charge.
func released(r *journal.Row, reason string) {
	if r.Phase == saga.Pivoted {
		return // Nothing that was captured is released. The audit would tell.
	}
	if r.Phase == saga.Forward {
		paymentFailed(r, reason)
	}
	r.HeardUndone()
}
