// Package workflows holds the checkout saga. It knows the names in internal/checkout, what participants are asked with (activities)
// and the saga library: no participant, no database, no clock.
package workflows

import (
	"github.com/checkoutsaga/orchestrator/activities"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Checkout is the checkout saga, first step first. A step stands with who does it, what undoes it, and what it is asked with. The
// saga turns back when a step is refused, or when its activity finds the checkout cancelled or its deadline passed; it then undoes
// what was begun, last step first, until all of it is known to be gone.
//
// A checkout keeps the list with which it was accepted. Whoever changes the list gives it the next version.
func Checkout() (*saga.Definition, error) {
	return saga.For[checkout.Order]{
		Name: checkout.Definition, Version: 1,
		Steps: []saga.Step{
			// All lines of the order or none. Released also where the answer was lost: it may hide a reservation.
			saga.Do(checkout.ReserveStock).At(checkout.Warehouse).UndoneBy(checkout.ReleaseStock).
				Asking(saga.From(activities.Reserve)).TooLateBy("already_committed"),
			// Declined: the stock is released. An authorization that has expired counts as voided.
			saga.Do(checkout.AuthorizePayment).At(checkout.Payment).UndoneBy(checkout.VoidAuthorization).
				Asking(saga.From(activities.Authorize)).TooLateBy("already_captured"),
			// Above a configured amount a person decides first. Whoever has to and has not yet, holds the next step.
			saga.Decision(checkout.Approval),
			// From here the money is taken, and nothing is undone any more. The one way back is a recorded refusal, as when the
			// authorization expired meanwhile: nothing was captured, so both steps above are undone. Giving the money back is for
			// an operator to decide; the stock is released first then, so that nothing can be shipped any more.
			saga.Pivot(checkout.CapturePayment).At(checkout.Payment).UndoneBy(checkout.RefundPayment).
				Asking(saga.From(activities.Take)).Denies("no_authorization", checkout.AuthorizePayment),
			// The reservation becomes a shipment. The customer has paid, so it is tried until it is done.
			saga.Do(checkout.CommitStock).At(checkout.Warehouse).NothingToUndo().
				Asking(saga.From(activities.Ship)).Denies("no_reservation", checkout.ReserveStock),
		},
		About: func(o checkout.Order) saga.About { return saga.About{Whom: o.CustomerID, Money: o.Amount} },
	}.Define()
}
