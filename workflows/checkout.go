// Package workflows holds the checkout saga. It knows the names in internal/checkout and the saga library: no participant,
// no database, no clock.
package workflows

import (
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Checkout is the checkout saga, first step first. A step stands with what undoes it. The saga turns back when a step is
// refused, or when its activity finds the checkout cancelled or its deadline passed; it then undoes what was begun, last
// step first, until all of it is known to be gone.
//
// Instances that are under way replay this list. The golden histories in testdata hold it to what they recorded.
func Checkout() (*saga.Saga, error) {
	return saga.New(
		// All lines of the order or none. Released also where the answer was lost: it may hide a reservation.
		saga.Step(checkout.ReserveStock, saga.UndoneBy(checkout.ReleaseStock)),

		// Declined: the stock is released. An authorization that has expired counts as voided.
		saga.Step(checkout.AuthorizePayment, saga.UndoneBy(checkout.VoidAuthorization)),

		// Above a configured amount a person decides first. Whoever has to and has not yet, holds the next step.
		saga.Decision(checkout.Approval),

		// From here the money is taken, and nothing is undone any more. The one way back is a recorded refusal, as when the
		// authorization expired meanwhile: nothing was captured, so both steps above are undone. Giving the money back is for an
		// operator to decide; the stock is released first then, so that nothing can be shipped any more.
		saga.PivotUndoneBy(checkout.CapturePayment, checkout.RefundPayment),

		// The reservation becomes a shipment. The customer has paid, so it is tried until it is done.
		saga.Step(checkout.CommitStock, saga.NothingToUndo()),
	)
}
