package journal

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Attempt is one attempt of a run at a step, or at undoing it.
type Attempt struct {
	saga.Call
	// HeldBack says why the participant is not to be called now, as when it answers nobody; empty if it may be.
	HeldBack string
}

// Leave is the fence's answer to an attempt.
type Leave string

// What a fence can answer.
const (
	// Go: call the participant.
	Go Leave = "go"
	// Known: the outcome is recorded already; call nobody.
	Known Leave = "known"
	// TurnBack: the saga is being undone (cancelled, expired, refused); call nobody and undo what was begun.
	TurnBack Leave = "turn-back"
	// Hold: call nobody yet, and ask again after Pass.Wait or when a command comes: a person has to decide, or the participant is
	// held back.
	Hold Leave = "hold"
	// Superseded: this run no longer drives the saga, or the saga is final; call nobody and end the run.
	Superseded Leave = "superseded"
)

// Pass is a fence's whole answer.
type Pass struct {
	Leave Leave
	// Learned is the recorded outcome, with Known.
	Learned Learned
	// Reason says why, with TurnBack, Hold and Superseded.
	Reason string
	// Wait is set with Hold.
	Wait time.Duration
	// Input is the participant's request, and TraceParent the W3C trace context of the saga's start. The keeper of the row adds
	// them, with Go.
	Input       json.RawMessage
	TraceParent string
}

// Learned is what an attempt found out about its step.
type Learned struct {
	// Outcome is saga.Applied, saga.Rejected or saga.Unknown.
	Outcome saga.Outcome
	// Reason is the participant's word for a refusal, or what is waited for.
	Reason string
	// Detail is a sentence, or the error, of at most MaxDetail bytes.
	Detail string
	// Reference is the participant's own.
	Reference string
	// Attention, where set, says why a person must look at once, for instance because a key was used with another digest.
	Attention AttentionCode
	// ValidUntil is when the effect ends by itself; zero if it does not.
	ValidUntil time.Time
	// Output is what the participant gave back, as JSON; nil for nothing.
	Output json.RawMessage
	Took   time.Duration
}

// MaxDetail is where error texts are cut, in bytes, so that histories and rows stay small.
const MaxDetail = 200

// Standing is what the run does once an outcome is recorded.
type Standing string

// The standings.
const (
	// GoOn: the saga goes on as the outcome says.
	GoOn Standing = "go-on"
	// GoBack: a cancel stands or the deadline has passed. The saga turns back without trying the next step.
	GoBack Standing = "go-back"
	// Doubted: the outcome cannot be, so it is not believed; the saga tries again.
	Doubted Standing = "doubted"
	// Over: the run was superseded; its outcome was not recorded.
	Over Standing = "over"
)

// Fence decides whether an attempt may call its participant. claimed says that a claim changed the row.
func (r *Row) Fence(a Attempt) (pass Pass, claimed bool) {
	if a.Run != r.Run {
		return superseded("run %d drives this saga", r.Run), false
	}
	if r.Phase == Final {
		return superseded("the saga is %s", r.Status), false
	}
	i := r.Plan.Index(a.Step)
	if i < 0 {
		return superseded("this saga has no step %s", a.Step), false
	}
	if a.Undo {
		return r.fenceUndo(i, a)
	}
	return r.fenceDo(i, a)
}

func (r *Row) fenceDo(i int, a Attempt) (pass Pass, claimed bool) {
	s := &r.Steps[i]
	switch {
	case s.IsDone():
		return known(Learned{Outcome: saga.Applied, Reference: s.Reference}), false
	case s.State == StateRejected:
		return known(Learned{Outcome: saga.Rejected, Reason: s.Error}), false
	case r.Phase == saga.Undoing:
		return Pass{Leave: TurnBack, Reason: r.Reason}, false
	case i > 0 && !r.Steps[i-1].IsDone() && !r.awaitsApproval():
		// The run believes in a step that the row does not know of, as when its code does not fit its history. The next run begins
		// from the row.
		return superseded("step %s comes after %s, which is not done", s.Name, r.Steps[i-1].Name), false
	case r.Phase == saga.Pivoted && a.HeldBack != "":
		return r.holdBack(&s.State, &s.Error, a)
	case r.Phase == saga.Pivoted:
		return Pass{Leave: Go}, false
	}

	if b := r.wayBarred(); b != nil {
		if !r.Touched {
			r.finish(b.verdict, b.code, b.reason)
			return superseded("the saga is %s", b.verdict), true
		}
		if !s.Pivot {
			// This step counts as tried: an earlier attempt at it may have been killed before it recorded anything. The pivot does
			// not: its claim would have changed the phase.
			s.State = StateUnknown
		}
		r.turnBack(*b)
		return Pass{Leave: TurnBack, Reason: b.reason}, true
	}
	switch {
	case r.awaitsApproval():
		return r.holdForApproval()
	case a.HeldBack != "":
		return r.holdBack(&s.State, &s.Error, a)
	}
	claimed = !r.Touched || s.Pivot
	if !r.Touched {
		r.Touched, r.StartedRun = true, r.Run
	}
	if s.StartedAt == nil {
		s.StartedAt = r.moment()
	}
	if s.Pivot {
		r.setPhase(saga.Pivoted)
	}
	if claimed {
		r.expectNews(0)
	}
	return Pass{Leave: Go}, claimed
}

func (r *Row) fenceUndo(i int, a Attempt) (pass Pass, held bool) {
	s := &r.Steps[i]
	switch {
	case r.Phase != saga.Undoing:
		// Nothing is undone unless the row says so.
		return superseded("the saga is not being undone: it is in phase %s", r.Phase), false
	case s.CompensationState == CompensationNotNeeded, s.IsUndone():
		return known(Learned{Outcome: saga.Applied}), false
	case s.CompensationState == CompensationPending:
		// Another effect must be gone first: what could still be shipped is not refunded.
		return superseded("%s is not next", s.Compensation), false
	case a.HeldBack != "":
		return r.holdBack(&s.CompensationState, &s.Error, a)
	}
	return Pass{Leave: Go}, false
}

// holdForApproval makes the step after the approval wait until somebody has decided or the time for it is up.
func (r *Row) holdForApproval() (pass Pass, changed bool) {
	if due := r.ApprovalDeadline.Add(deadlineSlack); !r.CheckAt.Equal(due) || r.Pokes != 0 || r.FruitlessRuns != 0 {
		r.CheckAt, r.Pokes, r.FruitlessRuns, changed = due, 0, 0, true
	}
	// After the wait the database's clock must be past the deadline.
	wait := r.ApprovalDeadline.Sub(r.Now) + deadlineSlack/2
	return Pass{Leave: Hold, Reason: "it awaits approval", Wait: wait}, changed
}

// holdBack makes a step or compensation wait because its participant answers nobody. That is not this saga's fault, so it calls no
// operator and spends no run.
func (r *Row) holdBack(state, text *string, a Attempt) (pass Pass, changed bool) {
	if why := "held back: " + a.HeldBack; *text != why {
		*text = why
		r.Entries = append(r.Entries, Entry{Kind: "attempt", Step: r.AtStep(), Attempt: a.Round, Outcome: "held-back", Error: why})
	}
	if *state == StateRunning && r.Touched { // The word is that of compensations too.
		*state = StateFailing
	}
	r.Pokes, r.FruitlessRuns = 0, 0
	r.expectNews(heldBackFor)
	return Pass{Leave: Hold, Reason: *text, Wait: heldBackFor}, true
}

// heldBackFor is how long a saga whose participant answers nobody waits before it asks again. It is woken as soon as the
// participant answers. Too short costs turns for nothing; too long delays a saga whose wake-up was lost, which must go
// on within 60 s (I8).
const heldBackFor = 30 * time.Second

// Record takes in the outcome of an attempt.
func (r *Row) Record(a Attempt, l Learned) Standing {
	i := r.Plan.Index(a.Step)
	if a.Run != r.Run || r.Phase == Final || i < 0 {
		return Over
	}
	s := &r.Steps[i]
	name := s.Name
	if a.Undo {
		name = s.Compensation
	}
	r.Entries = append(r.Entries, Entry{
		Kind: "attempt", Step: name, Attempt: a.Round, Outcome: string(l.Outcome), Reason: l.Reason,
		Error: l.Text(), Duration: l.Took,
	})
	r.Pokes = 0
	if l.Outcome == saga.Unknown {
		r.expectNews(a.Wait())
	} else {
		r.expectNews(0)
	}
	if r.forgets(s, a, l) {
		l.Outcome, l.Attention = saga.Unknown, AttentionForgotten
		r.expectNews(a.Wait())
		r.recordUnknown(i, a, l)
		return Doubted
	}
	if a.Undo {
		return r.recordUndo(i, a, l)
	}
	return r.recordDo(i, a, l)
}

// Next is the attempt that a's run makes after a, if that is the first at another step or compensation and nobody has to decide before.
func (r *Row) Next(a Attempt) (next Attempt, has bool) {
	next.Call = saga.Call{Definition: a.Definition, Key: a.Key, Run: a.Run, Round: 1}
	for i := range r.Steps {
		switch s := &r.Steps[i]; {
		case r.Phase == Final || r.Run != a.Run || s.Decision:
		case s.CompensationState == CompensationRunning && s.CompensationTries == 0:
			next.Step, next.Participant, next.Undo = s.Name, s.Participant, true
			return next, true
		case s.State == StateRunning && s.Attempts == 0 && r.Phase != saga.Undoing && !r.awaitsApproval():
			next.Step, next.Participant, next.Claims = s.Name, s.Participant, s.Pivot
			return next, true
		}
	}
	return Attempt{}, false
}

// forgets tells whether an answer shows that the participant no longer knows what it once confirmed, as one that was restored from
// a backup. Going on as if nothing had been held would leave whoever does remember, such as the card network, holding it.
func (r *Row) forgets(s *Step, a Attempt, l Learned) bool {
	if a.Undo {
		return s.State == StateDone && s.CompensationState != CompensationNotNeeded && !s.IsUndone() &&
			l.Outcome == saga.Applied && l.Reason == reasonUnseen
	}
	if l.Outcome != saga.Rejected || s.IsDone() || s.State == StateRejected {
		return false
	}
	i := r.Plan.Index(s.Denials[l.Reason])
	return i >= 0 && r.Steps[i].State == StateDone && !r.Steps[i].IsUndone()
}

// Reasons of participants that mean the same in every saga.
const (
	// reasonStarted: an effect outside of the participant's database is under way.
	reasonStarted = "started"
	// reasonUnseen: the step to undo never came.
	reasonUnseen = "unseen"
)

// tooLate tells whether a compensation is refused because its participant has done the pivot, or a step after it.
func (r *Row) tooLate(s *Step, l Learned) bool {
	return l.Outcome == saga.Rejected && s.TooLate != "" && l.Reason == s.TooLate && r.pivot() != nil
}

func (r *Row) recordDo(i int, a Attempt, l Learned) Standing {
	s := &r.Steps[i]
	if s.IsDone() || s.State == StateRejected {
		return r.standing() // An activity that ran twice.
	}
	switch {
	case l.Outcome == saga.Applied:
		s.Attempts++
		s.State, s.Error, s.Reference = StateDone, "", l.Reference
		s.Output = l.Output
		if !l.ValidUntil.IsZero() {
			s.ValidUntil = &l.ValidUntil
		}
		r.stepEnded(i)
	case l.Outcome == saga.Rejected && r.Phase != saga.Pivoted, l.Outcome == saga.Rejected && s.Pivot:
		s.Attempts++
		s.State, s.Error = StateRejected, l.Text()
		s.EndedAt = r.moment()
		r.progress()
		if r.Phase != saga.Undoing {
			r.turnBack(bar{Rejected, Word(l.Reason, "rejected"), s.Name + ": " + l.Text()})
		}
	default:
		r.recordUnknown(i, a, l)
	}
	return r.standing()
}

// recordUnknown records an attempt without an outcome.
func (r *Row) recordUnknown(i int, a Attempt, l Learned) {
	s := &r.Steps[i]
	if a.Undo {
		s.CompensationTries++
		s.CompensationState, s.Error = CompensationFailing, l.Text()
		r.callForAttention(s.Compensation, s.CompensationTries, a, l)
		return
	}
	s.Attempts++
	s.State, s.Error = StateFailing, l.Text()
	if l.Reason == reasonStarted {
		s.State = StateUnknown
	}
	r.callForAttention(s.Name, s.Attempts, a, l)
}

// stepEnded moves on from a step that is done.
func (r *Row) stepEnded(i int) {
	r.Steps[i].EndedAt = r.moment()
	r.progress()
	r.afterDone(i)
}

// afterDone moves on from step i, which is done.
func (r *Row) afterDone(i int) {
	if r.Phase == saga.Undoing {
		return // A late answer; the compensation that waits for this step will undo it.
	}
	if i == len(r.Steps)-1 {
		r.finish(Confirmed, "", "")
		return
	}
	if b := r.wayBarred(); b != nil && r.Phase == saga.Forward {
		r.turnBack(*b)
		return
	}
	next := &r.Steps[i+1]
	next.State, next.StartedAt = StateRunning, r.moment()
	if !next.Decision {
		return
	}
	until := r.Now.Add(r.ApprovalWait)
	r.ApprovalDeadline = &until
	r.CheckAt = until.Add(deadlineSlack)
	r.setStatus(r.statusOfPhase())
}

func (r *Row) recordUndo(i int, a Attempt, l Learned) Standing {
	s := &r.Steps[i]
	if r.Phase != saga.Undoing {
		return Over
	}
	if s.CompensationState == CompensationNotNeeded || s.IsUndone() {
		return GoOn
	}
	switch {
	case l.Outcome == saga.Applied:
		s.CompensationTries++
		s.CompensationState = CompensationDone
		r.progress()
		r.nextCompensation()
	case r.tooLate(s, l) && r.Elsewhere && s.Participant == r.pivot().Participant:
		r.HeardPivot()
		return Over
	case r.tooLate(s, l) && r.refunding() && s.Participant != r.pivot().Participant:
		r.completedAfterAll()
		return Over
	default:
		r.recordUnknown(i, a, l)
	}
	return GoOn
}

func known(l Learned) Pass {
	return Pass{Leave: Known, Learned: l}
}

func superseded(format string, args ...any) Pass {
	return Pass{Leave: Superseded, Reason: fmt.Sprintf(format, args...)}
}

// Text tells people what went wrong: the reason, the sentence, or both.
func (l Learned) Text() string {
	switch {
	case l.Outcome == saga.Applied:
		return ""
	case l.Reason == "":
		return l.Detail
	case l.Detail == "":
		return l.Reason
	}
	return l.Reason + ": " + l.Detail
}
