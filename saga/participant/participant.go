// Package participant is the contract of whoever does the steps of a saga, as a Go seam: what is asked, and what is answered. A
// participant keeps one record of each operation, which is one step of one saga, for doing and for undoing it, and promises:
//
//  1. The same operation again gives the recorded outcome; nothing is applied twice.
//  2. The same operation with other contents is a conflict, an error; nothing is applied.
//  3. Undo that comes before Do is recorded as done, and the late Do is then answered UndoneBefore, never Applied.
//  4. Undo of what was rejected is Applied: there is nothing to undo.
//  5. What happened can be asked for at any time later, by Get.
//  6. What can no longer be undone is rejected, with a reason.
package participant

import (
	"context"
	"encoding/json"
)

// Participant does and undoes steps. Its methods may be called from many goroutines, and again for the same operation. An error
// means "not known, ask again", never a refusal.
type Participant interface {
	Do(ctx context.Context, r Request) (Result, error)
	Undo(ctx context.Context, r Request) (Result, error)
	// Get tells what is recorded of an operation; the zero Operation where nothing is.
	Get(ctx context.Context, key, step string) (Operation, error)
}

// Request asks for one step of one saga to be done or undone.
type Request struct {
	// Key and Step together name the operation, in both directions.
	Key  string
	Step string
	// Input is what the saga was started with.
	Input json.RawMessage
}

// Result is what became of it.
type Result struct {
	Outcome Outcome
	// Reason is the participant's word for a refusal.
	Reason string
}

// Operation is what a participant has on record.
type Operation struct {
	// Do and Undo are empty where that direction was never asked for.
	Do, Undo Outcome
}

// InPlace tells whether the operation has an effect that nobody has undone.
func (o Operation) InPlace() bool { return o.Do == Applied && o.Undo != Applied }

// Outcome is how an operation stands in one direction.
type Outcome string

// The outcomes.
const (
	// Applied: the effect is in place; of an undo: it is gone and stays gone.
	Applied Outcome = "applied"
	// Rejected: refused for a business reason; nothing was applied.
	Rejected Outcome = "rejected"
	// UndoneBefore: the undo came first, so nothing was applied, and nothing will be.
	UndoneBefore Outcome = "undone-before"
	// NotKnown: it is under way, and not known yet.
	NotKnown Outcome = "not-known"
)
