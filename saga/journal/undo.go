package journal

import (
	"slices"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// bar is a reason not to go forward: how the saga ends once it is undone, and why, as a word and in words.
type bar struct {
	verdict      Status
	code, reason string
}

// Reason codes of ours; the others are participants' words.
const (
	codeCancelled        = "cancelled"
	codeDeadline         = "deadline"
	codeApprovalDeadline = "approval_deadline"
	codeApprovalRejected = "approval_rejected"
	codeRefunded         = "refunded"
)

// wayBarred returns the reason not to go forward; nil if there is none.
func (r *Row) wayBarred() *bar {
	switch {
	case r.Cancelled:
		return &bar{Cancelled, codeCancelled, r.CancelReason}
	case r.awaitsApproval() && r.PastApproval:
		return &bar{Expired, codeApprovalDeadline, "nobody approved it in time"}
	case r.awaitsApproval():
		return nil // Its deadline rests until somebody has decided.
	case r.PastDeadline:
		return &bar{Expired, codeDeadline, "the deadline has passed"}
	}
	return nil
}

// turnBack begins to undo what was done or tried. If there is nothing to undo, the saga is final at once.
func (r *Row) turnBack(because bar) {
	r.Verdict, r.Reason, r.ReasonCode = because.verdict, because.reason, because.code
	r.Attention = nil
	r.setPhase(saga.Undoing)
	for i := range r.Steps {
		s := &r.Steps[i]
		switch {
		case s.State == StateRejected || s.State == StateSkipped:
		case s.Pivot, s.State == StatePending, s.State == StateRunning:
			// The pivot was never claimed; one that was tried and refused is rejected.
			s.State, s.StartedAt = StateSkipped, nil
		case s.Compensation != "":
			s.CompensationState = CompensationPending
		}
	}
	r.nextCompensation()
}

// nextCompensation marks the next compensation, or ends the saga after the last. The pivot's comes last: a step before it may be
// what somebody gets for the pivot, and must be gone for good first.
func (r *Row) nextCompensation() {
	var order []*Step
	for i := range r.Steps {
		if s := &r.Steps[i]; s.Pivot {
			order = append([]*Step{s}, order...)
		} else {
			order = append(order, s)
		}
	}
	for _, s := range slices.Backward(order) {
		switch s.CompensationState {
		case CompensationPending:
			s.CompensationState = CompensationRunning
			return
		case CompensationRunning, CompensationFailing:
			return
		}
	}
	r.finish(r.Verdict, r.ReasonCode, r.Reason)
}

func (r *Row) finish(status Status, code, reason string) {
	if status != Confirmed {
		r.Verdict = status
		for i := range r.Steps {
			if s := &r.Steps[i]; s.State == StatePending || s.State == StateRunning {
				s.State, s.StartedAt = StateSkipped, nil
			}
		}
	}
	r.Reason, r.ReasonCode = reason, code
	r.Attention = nil
	r.Phase = Final
	r.setStatus(status)
	r.EndedAt = r.moment()
	r.Ended = true
	r.CheckAt = time.Time{}
}

// refunding tells whether the saga is being undone although its pivot was applied.
func (r *Row) refunding() bool {
	return r.RunPhase() == saga.Reversing
}

// completedAfterAll ends a saga whose pivot was to be taken back, but whose steps after the pivot turn out to be done. Both sides
// have what they wanted, so the pivot stays.
func (r *Row) completedAfterAll() {
	for i := range r.Steps {
		s := &r.Steps[i]
		s.CompensationState = CompensationNotNeeded
		if !s.IsDone() {
			s.State, s.Error, s.EndedAt = StateDone, "", r.moment()
		}
	}
	r.Entries = append(r.Entries, Entry{
		Kind: "status", Step: r.pivot().Compensation, Outcome: "refused", Reason: "the saga was completed meanwhile, so its pivot stays",
	})
	r.Verdict = ""
	r.finish(Confirmed, "", "")
}

// Word is a participant's reason as a word to count by, or fallback if it is none.
func Word(reason, fallback string) string {
	if reason == "" || len(reason) > 64 || strings.ContainsFunc(reason, func(c rune) bool {
		return c != '_' && c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9')
	}) {
		return fallback
	}
	return reason
}
