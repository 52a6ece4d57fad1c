// Package participant is the contract of those that do the steps of a saga, as a Go seam: what is asked, and what is answered. A
// participant keeps one record of each operation, which is one step of one saga, for doing and for undoing it, and promises:
//
//  1. The same operation again gets the recorded answer; nothing is applied twice.
//  2. The same operation with another digest is a conflict, ErrConflict; nothing is applied.
//  3. Undo that comes before Do is recorded and answered Applied with the reason Unseen, and the late Do is then answered
//     UndoneBefore, never Applied.
//  4. Undo of what was rejected is Applied: there is nothing to undo.
//  5. What happened can be asked for by Get at any time later.
//  6. What can no longer be undone is Rejected, with a reason.
//
// A participant in Go implements Participant, or lets package ledger do so. It may run in the process of its caller. Otherwise
// Handler serves it and Client calls it, over the protocol that proto/saga/participant/v1 describes and any language can speak.
// Package participanttest proves one.
package participant

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// What a participant's errors can mean. Any other error means "not known, ask again". None is a refusal: a refusal is an answer.
var (
	// ErrConflict: the operation was asked for before with another digest. Nothing is applied.
	ErrConflict = errors.New("this operation was asked for before with other content")
	// ErrBadRequest: the participant will never accept this request, so asking again is no use. Nothing is applied.
	ErrBadRequest = errors.New("the participant cannot accept this request")
	// ErrForgotten: the saga was settled and its operations are no longer kept. Nothing is applied, because nobody knows whether it
	// is a repeat.
	ErrForgotten = errors.New("this saga was settled and its operations are no longer kept")
	// ErrBadAnswer: the answer breaks the contract, such as UndoneBefore as the answer to Undo. What has happened is not known, and
	// the participant's author has something to mend.
	ErrBadAnswer = errors.New("the participant's answer is not one of the contract")
)

// Participant does and undoes steps. Its methods may be called from many goroutines, and again for the same operation, even while
// the first call still runs. A known Result of Do or Undo is recorded for good.
type Participant interface {
	Do(ctx context.Context, r Request) (Result, error)
	Undo(ctx context.Context, r Request) (Result, error)
	// Get tells what is recorded of an operation; the zero Operation if nothing is.
	Get(ctx context.Context, id ID) (Operation, error)
}

// Keeper is a participant that can list and forget its records. Audits and retention need it.
type Keeper interface {
	// List returns a page of operations: those of the keys of one definition by key and step or, without keys, all by when they
	// last changed.
	List(ctx context.Context, q Query) (Page, error)
	// Forget removes the operations of settled sagas and remembers that these sagas once were: a late request for one of them ends
	// with ErrForgotten. The caller names sagas that are over. One that is open here all the same is kept, and the answer says why.
	Forget(ctx context.Context, definition string, keys []string) (Forgotten, error)
}

// Bound is a participant that can tell which steps it does and undoes. A program whose saga names another step refuses to start.
type Bound interface {
	// Does tells whether the participant does a step of a definition, and whether it undoes it.
	Does(definition, step string) (does, undoes bool)
}

// ID names an operation, in both directions.
type ID struct {
	// Definition is the name of the saga's definition, Key that of the saga within it, Step that of the step.
	Definition, Key, Step string
}

// IdempotencyKey is the same on every attempt at the operation in one direction, by every process. No other operation or direction
// has it.
func (id ID) IdempotencyKey(d Direction) string {
	return id.Definition + ":" + id.Key + ":" + id.Step + ":" + string(d)
}

// Request asks for one step of one saga to be done or undone.
type Request struct {
	// Definition, Key and Step together name the operation, in both directions: see ID.
	Definition, Key, Step string
	// Attempt is how often the caller has asked, this time included; 0 if it does not say. No answer may depend on it.
	Attempt int
	// IdempotencyKey is the same on every attempt of this step in this direction, and only there. It is for a system that the
	// participant calls in turn.
	IdempotencyKey string
	// Digest identifies what is asked for. If it is empty, the participant makes one of the input.
	Digest string
	// Input is what the step is to work with: any JSON of at most MaxInput bytes, or nil.
	Input json.RawMessage
}

// ID names the operation that r asks for.
func (r Request) ID() ID { return ID{r.Definition, r.Key, r.Step} }

// Result is what became of a request.
type Result struct {
	Outcome Outcome
	// Reason is the participant's word for a refusal, such as "sold_out". In an undoing that is Applied it is Unseen if the step
	// never came.
	Reason string
	// Detail is a sentence for people.
	Detail string
	// Reference is the participant's own name of the effect, for people to search by.
	Reference string
	// Output is what later steps may work with: any JSON of at most MaxOutput bytes, or nil. Only with a step that is Applied.
	Output json.RawMessage
	// ValidUntil is when the effect ends by itself; zero if it does not.
	ValidUntil time.Time
}

// Reject is the answer of a participant that refuses: a word for programs and a sentence for people.
func Reject(reason, detail string) Result {
	return Result{Outcome: Rejected, Reason: reason, Detail: detail}
}

// Operation is what a participant has on record.
type Operation struct {
	Definition, Key, Step string
	// Do and Undo are empty if that direction was never asked for.
	Do, Undo Outcome
	// Reason and Reference are those of doing; Reason is that of undoing if doing has none.
	Reason, Reference string
	// CreatedAt and UpdatedAt are when the record was made and when it last changed.
	CreatedAt, UpdatedAt time.Time
}

// InPlace tells whether the operation has an effect that nobody has undone.
func (o Operation) InPlace() bool { return o.Do == Applied && o.Undo != Applied }

// Outcome is the outcome of one direction of an operation.
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

// Unseen is the reason of an undoing that is Applied though its step never came. If the step was once confirmed, the participant
// has lost what it recorded.
const Unseen = "unseen"

// Query says which operations List is to return.
type Query struct {
	// Definition of the keys. Empty means every definition, and allows no keys.
	Definition string
	// Keys are at most 1,000.
	Keys []string
	// Since leaves out what changed earlier; zero means all.
	Since time.Time
	// PageSize is at most 1,000; 0 leaves it to the participant.
	PageSize int
	// PageToken is the NextPageToken of the page before; empty for the first page.
	PageToken string
}

// Page is a part of what List returns.
type Page struct {
	Operations []Operation
	// NextPageToken is empty on the last page.
	NextPageToken string
}

// Forgotten is what Forget has done.
type Forgotten struct {
	// Keys are those of which nothing is kept any more, or nothing ever was.
	Keys []string
	// Kept are the others.
	Kept []Kept
}

// Kept is a saga that is not forgotten.
type Kept struct {
	Key string
	// Why is a sentence for people.
	Why string
}
