// Package checkout holds the words that the parts of a checkout share: the names of its workflow, steps and commands, the
// order, and what passes between activities and the orchestrator's journal. It is the leaf of the import graph: it knows
// the standard library only, and nobody's database, wire format or engine.
package checkout

import "time"

// Names that live in stored histories and rows. Renaming one is a migration.
const (
	// Definition is the name of the checkout saga.
	Definition = "checkout"

	ReserveStock     = "reserve-stock"
	AuthorizePayment = "authorize-payment"
	Approval         = "approval"
	CapturePayment   = "capture-payment"
	CommitStock      = "commit-stock"

	ReleaseStock      = "release-stock"
	VoidAuthorization = "void-authorization"
	RefundPayment     = "refund-payment"

	Warehouse = "warehouse"
	Payment   = "payment"
)

// Phase tells which way a checkout can go. Legal moves: forward → pivoted → final, forward → undoing → final, and
// pivoted → undoing where the pivot's own refusal is recorded or an operator has the money refunded.
type Phase string

// The phases.
const (
	Forward Phase = "forward"
	Pivoted Phase = "pivoted"
	Undoing Phase = "undoing"
	Final   Phase = "final"
	// Reversing is no phase of a checkout but of its run: undoing, the captured money included.
	Reversing Phase = "reversing"
)

// Status is what people see of a checkout.
type Status string

// The statuses; the last four are final.
const (
	Running          Status = "RUNNING"
	AwaitingApproval Status = "AWAITING_APPROVAL"
	Compensating     Status = "COMPENSATING"
	NeedsAttention   Status = "NEEDS_ATTENTION"
	Confirmed        Status = "CONFIRMED"
	Rejected         Status = "REJECTED"
	Cancelled        Status = "CANCELLED"
	Expired          Status = "EXPIRED"
)

// IsFinal tells whether a checkout with this status can change no more.
func (s Status) IsFinal() bool {
	return s == Confirmed || s == Rejected || s == Cancelled || s == Expired
}

// CommandEvent is the one name that a run listens to. Its payload is a Command.
const CommandEvent = "command"

// Command is what a person or the sweeper asks of a run. It only wakes the run: what it means stands in the row, and the
// next fence reads it there.
type Command struct {
	// ID is unique; a run ignores one that it has seen.
	ID string `json:"id"`
	// Kind is one of the Command… constants.
	Kind string `json:"kind"`
	// Step is empty unless the command concerns one step.
	Step string `json:"step,omitempty"`
}

// Kinds of commands.
const (
	CommandCancel  = "cancel"
	CommandRetry   = "retry"
	CommandApprove = "approve"
	CommandReject  = "reject"
	CommandResolve = "resolve"
	CommandRedrive = "redrive"
)

// AttentionCode says as a word why a checkout waits for an operator.
type AttentionCode string

// The codes.
const (
	// AttentionFailing: a step or compensation has been tried for long without an answer.
	AttentionFailing AttentionCode = "failing"
	// AttentionRefused: it is refused, and there is no other way on.
	AttentionRefused AttentionCode = "refused"
	// AttentionConflict: the participant knows the order with other contents.
	AttentionConflict AttentionCode = "conflict"
	// AttentionBadRequest: the participant does not accept the request.
	AttentionBadRequest AttentionCode = "bad_request"
	// AttentionForgotten: the participant does not know what it once confirmed.
	AttentionForgotten AttentionCode = "forgotten"
	// AttentionNoProgress: several runs got nowhere.
	AttentionNoProgress AttentionCode = "no_progress"
	// AttentionStopped: a run stopped, because its code panicked or does not fit its history.
	AttentionStopped AttentionCode = "stopped"
)

// Money is an amount in minor units (cents) of an ISO 4217 currency.
type Money struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

// Item is a number of pieces of one article.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
}

// Order is what the participants are asked for.
type Order struct {
	ID            string
	CustomerID    string
	Items         []Item
	Amount        Money
	PaymentMethod string
	// TraceParent is the W3C trace context of the checkout's start.
	TraceParent string
}

// Attempt identifies one attempt of a run at a step, or at undoing it.
type Attempt struct {
	OrderID string
	Run     int
	// Step is the step's name in both directions.
	Step string
	// Undo is true for the step's compensation.
	Undo bool
	// Round counts this run's attempts at it, from 1.
	Round int
	// Wait is how long the run will wait after this attempt if the outcome stays unknown.
	Wait time.Duration
	// Claims says that it is likely to claim something: it is the first at the first step, or at the pivot.
	Claims bool
	// Stuck says that the saga has tried for so long that a person should know.
	Stuck bool
	// HeldBack says why the participant is not to be called now, as when it answers nobody; empty if it may be.
	HeldBack string
}

// Leave is the fence's answer to an attempt.
type Leave string

// What a fence can answer.
const (
	// Go: call the participant.
	Go Leave = "go"
	// Known: the outcome is on record already; call nobody.
	Known Leave = "known"
	// TurnBack: the checkout is being undone (cancelled, expired, refused); call nobody and undo what was begun.
	TurnBack Leave = "turn-back"
	// Hold: call nobody yet, and ask again after Pass.Wait or when a command comes: a person has to decide, or the participant is
	// held back.
	Hold Leave = "hold"
	// Superseded: this run no longer drives the checkout, or the checkout is final; call nobody and end the run.
	Superseded Leave = "superseded"
)

// Pass is what a fence hands out.
type Pass struct {
	Leave Leave
	// Order is set with Go.
	Order Order
	// Learned is the recorded outcome, with Known.
	Learned Learned
	// Reason says why, with TurnBack, Hold and Superseded.
	Reason string
	// Wait is set with Hold.
	Wait time.Duration
}

// Outcome is what an attempt taught.
type Outcome string

// The outcomes.
const (
	// Applied: the effect is in place; of a compensation: it is gone and stays gone.
	Applied Outcome = "applied"
	// Refused: a recorded business refusal; nothing was applied.
	Refused Outcome = "rejected"
	// Unknown: no answer, or "not known yet".
	Unknown Outcome = "unknown"
)

// Learned is what an attempt taught about its step.
type Learned struct {
	Outcome Outcome
	// Reason is the participant's word for a refusal, or what is waited for.
	Reason string
	// Detail is a sentence, or the error, of at most MaxDetail bytes.
	Detail string
	// Reference is the participant's own.
	Reference string
	// Attention, where set, says why a person must look at once, such as a key met with another digest.
	Attention AttentionCode
	// ValidUntil is until when the effect lasts by itself; zero where it has no such end.
	ValidUntil time.Time
	Took       time.Duration
}

// MaxDetail is where error texts are cut, in bytes, so that histories and rows stay small.
const MaxDetail = 200

// Standing is how the checkout stands once an outcome is recorded.
type Standing string

// The standings.
const (
	// GoOn: the saga goes on as the outcome says.
	GoOn Standing = "go-on"
	// GoBack: a cancel stands or the deadline has passed; the saga turns back without trying the next step.
	GoBack Standing = "go-back"
	// Doubted: the outcome cannot be, so it is not believed; the saga tries again.
	Doubted Standing = "doubted"
	// Over: the run was superseded; what it learned was not recorded.
	Over Standing = "over"
)
