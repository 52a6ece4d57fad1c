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
	// Known: the outcome is on record already; call nobody.
	Known Leave = "known"
	// TurnBack: the saga is being undone (cancelled, expired, refused); call nobody and undo what was begun.
	TurnBack Leave = "turn-back"
	// Hold: call nobody yet, and ask again after Pass.Wait or when a command comes: a person has to decide, or the participant is
	// held back.
	Hold Leave = "hold"
	// Superseded: this run no longer drives the saga, or the saga is final; call nobody and end the run.
	Superseded Leave = "superseded"
)

// Pass is what a fence hands out.
type Pass struct {
	Leave Leave
	// Learned is the recorded outcome, with Known.
	Learned Learned
	// Reason says why, with TurnBack, Hold and Superseded.
	Reason string
	// Wait is set with Hold.
	Wait time.Duration
	// Input is what the participant is asked with, and TraceParent the W3C trace context of the saga's start. Whoever keeps the row
	// adds them, with Go.
	Input       json.RawMessage
	TraceParent string
}

// Learned is what an attempt taught about its step.
type Learned struct {
	// Outcome is saga.Applied, saga.Rejected or saga.Unknown.
	Outcome saga.Outcome
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
	// Output is what the participant gave back, as JSON; nil where it gave nothing.
	Output json.RawMessage
	Took   time.Duration
}

// MaxDetail is where error texts are cut, in bytes, so that histories and rows stay small.
const MaxDetail = 200

// Standing is how the saga stands once an outcome is recorded.
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

// Fence decides whether an attempt may call its participant. It says whether the row was changed by a claim.
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
		// The run believes in a step that the row knows nothing of, as when its code does not fit its history. The next run
		// begins from the row.
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
			// This step counts as tried: an earlier attempt at it may have been killed before it could record anything. The
			// pivot does not: its claim would have left the phase.
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
		// Nothing is ever undone that the row has not given up.
		return superseded("the saga is not being undone: it is in phase %s", r.Phase), false
	case s.CompensationState == CompensationNotNeeded, s.IsUndone():
		return known(Learned{Outcome: saga.Applied}), false
	case s.CompensationState == CompensationPending:
		// Some other effect has to be gone first: nothing is refunded that could still be shipped.
		return superseded("%s is not next", s.Compensation), false
	case a.HeldBack != "":
		return r.holdBack(&s.CompensationState, &s.Error, a)
	}
	return Pass{Leave: Go}, false
}

// holdForApproval lets the step behind the approval wait until somebody has decided, or the time for it is up.
func (r *Row) holdForApproval() (pass Pass, changed bool) {
	if due := r.ApprovalDeadline.Add(deadlineSlack); !r.CheckAt.Equal(due) || r.Pokes != 0 || r.FruitlessRuns != 0 {
		r.CheckAt, r.Pokes, r.FruitlessRuns, changed = due, 0, 0, true
	}
	// By the time the wait is over the database's clock must be past the deadline.
	wait := r.ApprovalDeadline.Sub(r.Now) + deadlineSlack/2
	return Pass{Leave: Hold, Reason: "it awaits approval", Wait: wait}, changed
}

// holdBack lets a step or compensation wait because its participant answers nobody. That is no fault of this saga's, so it
// calls for nobody and spends no run.
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

// heldBackFor is how long a saga whose participant answers nobody waits until it asks again by itself. It is woken as soon as
// the participant answers; too short costs turns for nothing, too long delays the one whose wake-up was lost, which I8 wants to go on within 60 s.
const heldBackFor = 30 * time.Second

// Record takes in what an attempt taught.
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
			next.Step, next.Participant = s.Name, s.Participant
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

// Participants' words that mean the same whatever the saga.
const (
	// reasonStarted: an effect outside of the participant's database is under way.
	reasonStarted = "started"
	// reasonUnseen: what is to be undone never came.
	reasonUnseen = "unseen"
)

// tooLate tells whether a compensation is refused because its participant has done the pivot, or what stands behind it.
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

// recordUnknown notes an attempt that brought no outcome to go on with.
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

// stepEnded goes on from a step that is done.
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

// Text tells people what went wrong: the participant's word, its sentence, or both.
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
