// Package participanttest is the conformance kit. It proves of a running participant what docs/design.md demands of every one: each
// step may be asked for any number of times, by many at once, undone before it arrives, cut off at any moment, and asked about
// afterwards.
//
// The kit knows a participant only by an Adapter, one for each step: four functions, and further ones by which it is tried harder.
// So it proves participants in any language, with any database, over any wire:
//
//	report, err := participanttest.Check(ctx, participanttest.Adapter{
//		Step:  "book-courier",
//		Do:    func(ctx context.Context, orderID string, _ participanttest.Variant) (*operationv1.Result, error) { ... },
//		Undo:  func(ctx context.Context, orderID string) (*operationv1.Result, error) { ... },
//		Get:   func(ctx context.Context, orderID string) (*operationv1.Operation, error) { ... },
//		State: func(ctx context.Context, orderID string) (string, error) { ... }, // "0 vans", "1 vans"
//		None:  "0 vans", Done: "1 vans", Undone: "0 vans",
//	})
//
// A participant that keeps the contract of package participant needs no adapter of its own: Of makes it.
//
// A test calls Prove, which makes each rule a subtest; a program calls Check and prints the report, or writes it as JSON.
package participanttest

import (
	"context"
	"errors"
	"slices"
	"time"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// Variant is a kind of request for a step. All are about the same order id; they differ in content.
type Variant string

// The variants.
const (
	// Plain is done.
	Plain Variant = "plain"
	// Other is for the same order with other content, such as another amount.
	Other Variant = "other"
	// Refused is refused for a business reason, such as a card that is declined.
	Refused Variant = "refused"
	// Lost is done by the outer system, whose first answer does not arrive: neither to doing nor, if the order's content decides
	// that too, to undoing.
	Lost Variant = "lost"
)

// Call asks the participant for something about an order.
type Call func(ctx context.Context, orderID string) (*operationv1.Result, error)

// Adapter is one step of a participant as the kit reaches it. Its functions are called by many goroutines at once.
//
// An undoing whose step never came, and no other, is answered as applied with the reason "unseen" (see operation.v1.Result).
//
// Errors are Connect's. Code already_exists is a conflict (the step was asked for with other content). Code not_found, from Get,
// means that nothing is known of the order. Other codes that say that asking again is no use fail the rule. Any other error means
// "not known", and the kit asks again. An adapter for another protocol makes them with connect.NewError.
type Adapter struct {
	// Step is the step's name, such as "reserve-stock".
	Step string

	// Do asks for the step in a variant that the adapter offers.
	Do func(ctx context.Context, orderID string, v Variant) (*operationv1.Result, error)
	// Undo undoes the step. Nil for a step that nothing undoes.
	Undo Call
	// Get returns the recorded operation.
	Get func(ctx context.Context, orderID string) (*operationv1.Operation, error)
	// State tells in one line what is in effect for the order: pieces held, money held, or how many effects there are. Read it from
	// the effect itself, never from the recorded operation. Make it show what is there twice: read sums or counts, not a status. If
	// the effect is in an outer system, State tells what the participant's own books say of it.
	State func(ctx context.Context, orderID string) (string, error)
	// NotProven says, for the report, what these functions cannot show.
	NotProven []string
	// State's answers before the step was done, once it is done, and once that is undone.
	None, Done, Undone string

	// Prepare makes an order ready for the step in a variant; nil if nothing is needed.
	Prepare func(ctx context.Context, orderID string, v Variant) error
	// Variants are those that Do offers beside Plain. Lost needs Outer.
	Variants []Variant

	// Outer lists what an outer system, such as a card network, did for the order by this step. Nil if all of the effect is in the
	// participant's own database.
	Outer func(ctx context.Context, orderID string) ([]OuterEffect, error)

	// FailCommits makes every commit that records an outcome fail, until mend is called. Nil if that cannot be done.
	FailCommits func(ctx context.Context) (mend func(context.Context) error, err error)

	// Crash kills the participant as SIGKILL does and returns when it is dead; Restart starts it again on the same data and returns
	// when it serves. Calls fail meanwhile. Both are nil if that cannot be done; see Process.
	Crash, Restart func(ctx context.Context) error

	// Patience is how long the participant may take to give a known answer, and to finish by itself what a crash left. Zero means
	// 30 s. Too little fails a participant that is only slow; too much makes a failing run long.
	Patience time.Duration
}

// OuterEffect is one effect that an outer system has applied.
type OuterEffect struct {
	// Undoes says that it undoes the step, as a void does; otherwise it does the step.
	Undoes bool
	// Key is the idempotency key that it was asked for with.
	Key string
}

func (a Adapter) offers(v Variant) bool { return slices.Contains(a.Variants, v) }

func (a Adapter) doing(v Variant) Call {
	return func(ctx context.Context, orderID string) (*operationv1.Result, error) { return a.Do(ctx, orderID, v) }
}

func (a Adapter) validate() error {
	var bad []error
	say := func(wrong bool, text string) {
		if wrong {
			bad = append(bad, errors.New("adapter: "+text))
		}
	}
	say(a.Step == "", "Step is missing")
	say(a.Do == nil, "Do is missing")
	say(a.Get == nil, "Get is missing")
	say(a.State == nil, "State is missing")
	say(a.Done == a.None, "Done must differ from None, or nobody could see that the step was done")
	say(a.Undo != nil && a.Done == a.Undone, "Undone must differ from Done, or nobody could see that the step was undone")
	say((a.Crash == nil) != (a.Restart == nil), "Crash and Restart go together")
	say(a.offers(Lost) && a.Outer == nil, "the variant Lost needs Outer")
	return errors.Join(bad...)
}
