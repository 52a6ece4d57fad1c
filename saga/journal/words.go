package journal

import "github.com/checkoutsaga/orchestrator/saga"

// Final is the phase of a saga that cannot change any more; the others are those that a run can begin in. Legal moves: forward →
// pivoted → final, forward → undoing → final, and pivoted → undoing when the pivot's own refusal is recorded or an operator has it
// refunded.
const Final saga.Phase = "final"

// Status is what people see of a saga.
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

// IsFinal tells whether a saga with this status cannot change any more.
func (s Status) IsFinal() bool {
	return s == Confirmed || s == Rejected || s == Cancelled || s == Expired
}

// IsSettled tells whether the saga has ended or waits for a person: it does not go on by itself.
func (s Status) IsSettled() bool { return s.IsFinal() || s == NeedsAttention }

// Kinds of commands.
const (
	CommandCancel  = "cancel"
	CommandRetry   = "retry"
	CommandApprove = "approve"
	CommandReject  = "reject"
	CommandResolve = "resolve"
	CommandRedrive = "redrive"
)

// AttentionCode is a word for why a saga waits for an operator.
type AttentionCode string

// The codes.
const (
	// AttentionFailing: a step or compensation has been tried for long without an answer.
	AttentionFailing AttentionCode = "failing"
	// AttentionRefused: it is refused, and there is no other way on.
	AttentionRefused AttentionCode = "refused"
	// AttentionConflict: the participant knows the key with other content.
	AttentionConflict AttentionCode = "conflict"
	// AttentionBadRequest: the participant does not accept the request.
	AttentionBadRequest AttentionCode = "bad_request"
	// AttentionBadAnswer: the participant's answer is not one of its contract.
	AttentionBadAnswer AttentionCode = "bad_answer"
	// AttentionForgotten: the participant does not know what it once confirmed.
	AttentionForgotten AttentionCode = "forgotten"
	// AttentionNoProgress: several runs made no progress.
	AttentionNoProgress AttentionCode = "no_progress"
	// AttentionStopped: a run stopped, because its code panicked or does not fit its history.
	AttentionStopped AttentionCode = "stopped"
)

// States of a step.
const (
	StatePending  = "pending"
	StateRunning  = "running"
	StateDone     = "done"
	StateRejected = "rejected"
	// StateFailing: the participant gave no answer; it is tried again.
	StateFailing = "failing"
	// StateUnknown: the participant does not know yet, or it was given up before its outcome was known.
	StateUnknown = "unknown"
	StateSkipped = "skipped"
	// StateResolved: an operator took it as done.
	StateResolved = "resolved"
)

// States of a compensation.
const (
	CompensationNotNeeded = "not-needed"
	CompensationPending   = "pending"
	CompensationRunning   = "running"
	CompensationDone      = "done"
	CompensationFailing   = "failing"
	// CompensationResolved: an operator took it as done.
	CompensationResolved = "resolved"
)
