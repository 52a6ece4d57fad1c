// Package activities does the steps of a checkout at the participants: fence, call, record. It knows the participants'
// contracts and the journal's; it knows neither SQL nor workflow code.
package activities

import (
	"context"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// Journal is what an activity needs of the orchestrator's database. The row of the checkout is the arbiter of every
// race: both methods take its lock.
type Journal interface {
	// Fence tells whether an attempt may call its participant now, and claims what the step claims: the pivot turns the
	// phase to pivoted where no cancel stands and the deadline has not passed by the database's clock; a forward step that
	// finds a cancel, or the deadline passed, turns the phase to undoing. An error means that nothing is known: call
	// nobody, try again later.
	Fence(ctx context.Context, a checkout.Attempt) (checkout.Pass, error)

	// Record writes what an attempt taught and all that follows from it in one transaction: the step, the next step, the
	// phase, attention, and with the last one the final status. Recording the same outcome again changes nothing.
	Record(ctx context.Context, a checkout.Attempt, l checkout.Learned) (checkout.Standing, error)
}
