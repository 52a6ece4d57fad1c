package store

import (
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/event"
)

// patience is how long the sweeper leaves a checkout alone in which nothing is written: an attempt takes at most 9 s
// (activities: fence, call, record) and the engine some more to deliver it. Too short pokes what is merely slow, too long delays what was lost.
const patience = 20 * time.Second

// startPatience is how long it leaves alone a run that the engine is not known to have started. Starting it again is harmless,
// and nothing else would start it.
const startPatience = 5 * time.Second

// maxFruitlessRuns is how many runs the sweeper starts without any progress before it calls for a person.
const maxFruitlessRuns = 3

// row is one checkout as a transaction sees it, and the only place where its phase and status change:
//
//	forward ──pivot claimed──► pivoted ──last step──► final (CONFIRMED)
//	   │                          │ pivot's recorded refusal
//	   └─cancel, deadline, refusal┴────► undoing ──last compensation──► final (verdict)
//
// Its methods are pure: they decide and change the struct; the store reads and writes it.
type row struct {
	Checkout
	verdict       checkout.Status
	touched       bool
	cancelled     bool
	cancelReason  string
	pastDeadline  bool      // by the database's clock
	now           time.Time // the database's clock
	startedRun    int
	pokes         int
	fruitlessRuns int
	checkAt       time.Time // zero once final
	trace         string    // W3C trace context of the start
	ended         bool      // by this transaction

	// entries and commands are written with the row.
	entries  []Entry
	commands []command
}

// command is what somebody asked of a checkout.
type command struct{ id, kind, actor, reason, outcome string }

// expectNews lets the sweeper look again when nothing has come for its patience after a wait. A time that is nearly that
// already stays: a checkout that goes on quickly then changes no index.
func (r *row) expectNews(wait time.Duration) {
	due := r.now.Add(wait + patience)
	if early := due.Sub(r.checkAt); early < 0 || early > patience/4 {
		r.checkAt = due
	}
}

// lookAgain lets the sweeper look again after its patience, which is shorter for a run that may not have been started.
func (r *row) lookAgain() {
	wait := patience
	if r.startedRun < r.Run {
		wait = startPatience
	}
	r.checkAt = r.now.Add(wait)
}

// fence decides whether an attempt may call its participant. It says whether the row was changed by a claim.
func (r *row) fence(a checkout.Attempt) (pass checkout.Pass, claimed bool) {
	if a.Run != r.Run {
		return superseded("run %d drives this checkout", r.Run), false
	}
	if r.Phase == checkout.Final {
		return superseded("the checkout is %s", r.Status), false
	}
	i := r.index(a.Step)
	if i < 0 {
		return superseded("this checkout has no step %s", a.Step), false
	}
	if a.Undo {
		return r.fenceUndo(i), false
	}
	return r.fenceDo(i)
}

func (r *row) fenceDo(i int) (pass checkout.Pass, claimed bool) {
	s := &r.Steps[i]
	switch {
	case s.State == StateDone:
		return known(checkout.Learned{Outcome: checkout.Applied, Reference: s.Reference}), false
	case s.State == StateRejected:
		return known(checkout.Learned{Outcome: checkout.Refused, Reason: s.Error}), false
	case r.Phase == checkout.Undoing:
		return checkout.Pass{Leave: checkout.TurnBack, Reason: r.Reason}, false
	case i > 0 && r.Steps[i-1].State != StateDone:
		// The run believes in a step that the row knows nothing of, as when its code does not fit its history. The next run
		// begins from the row.
		return superseded("step %s comes after %s, which is not done", s.Name, r.Steps[i-1].Name), false
	case r.Phase == checkout.Pivoted:
		return r.goAhead(), false
	}

	if verdict, reason, turn := r.wayBarred(); turn {
		if !r.touched {
			r.finish(verdict, reason)
			return superseded("the checkout is %s", verdict), true
		}
		// This step counts as tried: an earlier attempt at it may have been killed before it could record anything.
		s.State = StateUnknown
		r.turnBack(verdict, reason)
		return checkout.Pass{Leave: checkout.TurnBack, Reason: reason}, true
	}
	claimed = !r.touched || i == pivot()
	if !r.touched {
		r.touched, r.startedRun = true, r.Run
	}
	if s.StartedAt == nil {
		s.StartedAt = &r.now
	}
	if i == pivot() {
		r.setPhase(checkout.Pivoted)
	}
	if claimed {
		r.expectNews(0)
	}
	return r.goAhead(), claimed
}

func (r *row) fenceUndo(i int) checkout.Pass {
	s := &r.Steps[i]
	switch {
	case r.Phase != checkout.Undoing:
		// Nothing is ever undone that the row has not given up.
		return superseded("the checkout is not being undone: it is in phase %s", r.Phase)
	case s.CompensationState == CompensationDone, s.CompensationState == CompensationNotNeeded:
		return known(checkout.Learned{Outcome: checkout.Applied})
	}
	return r.goAhead()
}

// record takes in what an attempt taught.
func (r *row) record(a checkout.Attempt, l checkout.Learned) checkout.Standing {
	i := r.index(a.Step)
	if a.Run != r.Run || r.Phase == checkout.Final || i < 0 {
		return checkout.Over
	}
	s := &r.Steps[i]
	name := s.Name
	if a.Undo {
		name = s.Compensation
	}
	r.entries = append(r.entries, Entry{
		Kind: "attempt", Step: name, Attempt: a.Round, Outcome: string(l.Outcome), Reason: l.Reason,
		Error: learned(l).errorText(), Duration: l.Took,
	})
	r.pokes = 0
	if l.Outcome == checkout.Unknown {
		r.expectNews(a.Wait)
	} else {
		r.expectNews(0)
	}
	if a.Undo {
		return r.recordUndo(i, a, learned(l))
	}
	return r.recordDo(i, a, learned(l))
}

func (r *row) recordDo(i int, a checkout.Attempt, l learned) checkout.Standing {
	s := &r.Steps[i]
	if s.State == StateDone || s.State == StateRejected {
		return r.standing() // An activity that ran twice.
	}
	s.Attempts++
	switch {
	case l.Outcome == checkout.Applied:
		s.State, s.Error, s.Reference = StateDone, "", l.Reference
		s.EndedAt = &r.now
		r.progress()
		r.afterDone(i)
	case l.Outcome == checkout.Refused && i <= pivot():
		s.State, s.Error = StateRejected, l.errorText()
		s.EndedAt = &r.now
		r.progress()
		if r.Phase != checkout.Undoing {
			r.turnBack(checkout.Rejected, s.Name+": "+l.errorText())
		}
	default:
		s.State, s.Error = StateFailing, l.errorText()
		if l.Reason == reasonStarted {
			s.State = StateUnknown
		}
		r.callForAttention(s.Name, s.Attempts, a, l)
	}
	return r.standing()
}

// reasonStarted is a participant's word for "an effect outside of my database is under way".
const reasonStarted = "started"

// reasonCaptured is payment's word for "too late to void".
const reasonCaptured = "already_captured"

// afterDone moves on from step i, which is done.
func (r *row) afterDone(i int) {
	if r.Phase == checkout.Undoing {
		return // A late answer; the compensation that waits for this step will undo it.
	}
	if i == len(r.Steps)-1 {
		r.finish(checkout.Confirmed, "")
		return
	}
	if verdict, reason, turn := r.wayBarred(); turn && r.Phase == checkout.Forward {
		r.turnBack(verdict, reason)
		return
	}
	next := &r.Steps[i+1]
	next.State, next.StartedAt = StateRunning, &r.now
}

func (r *row) recordUndo(i int, a checkout.Attempt, l learned) checkout.Standing {
	s := &r.Steps[i]
	if r.Phase != checkout.Undoing {
		return checkout.Over
	}
	if s.CompensationState == CompensationDone || s.CompensationState == CompensationNotNeeded {
		return checkout.GoOn
	}
	s.compensationTries++
	if r.Coordination == event.Choreographed && l.Outcome == checkout.Refused && l.Reason == reasonCaptured {
		r.captured()
		return checkout.Over
	}
	if l.Outcome != checkout.Applied {
		s.CompensationState = CompensationFailing
		r.callForAttention(s.Compensation, s.compensationTries, a, l)
		return checkout.GoOn
	}
	s.CompensationState = CompensationDone
	r.progress()
	r.nextCompensation()
	return checkout.GoOn
}

// turnBack begins undoing what was done or tried; where there is nothing to undo the checkout is final at once.
func (r *row) turnBack(verdict checkout.Status, reason string) {
	r.verdict, r.Reason = verdict, reason
	r.Attention = nil
	r.setPhase(checkout.Undoing)
	for i := range r.Steps {
		s := &r.Steps[i]
		switch s.State {
		case StateDone, StateFailing, StateUnknown:
			if s.Compensation != "" {
				s.CompensationState = CompensationPending
			}
		case StatePending, StateRunning:
			s.State, s.StartedAt = StateSkipped, nil
		}
	}
	r.nextCompensation()
}

// nextCompensation marks the compensation that comes next, or ends the checkout after the last.
func (r *row) nextCompensation() {
	for i := len(r.Steps) - 1; i >= 0; i-- {
		s := &r.Steps[i]
		switch s.CompensationState {
		case CompensationPending:
			s.CompensationState = CompensationRunning
			return
		case CompensationRunning, CompensationFailing:
			return
		}
	}
	r.finish(r.verdict, r.Reason)
}

func (r *row) finish(status checkout.Status, reason string) {
	if status != checkout.Confirmed {
		r.verdict = status
		for i := range r.Steps {
			if s := &r.Steps[i]; s.State == StatePending || s.State == StateRunning {
				s.State, s.StartedAt = StateSkipped, nil
			}
		}
	}
	r.Reason = reason
	r.Attention = nil
	r.Phase = checkout.Final
	r.setStatus(status)
	r.EndedAt = &r.now
	r.ended = true
	r.checkAt = time.Time{}
}

// wayBarred tells whether something that stands against going forward has been learned.
func (r *row) wayBarred() (verdict checkout.Status, reason string, barred bool) {
	switch {
	case r.cancelled:
		return checkout.Cancelled, r.cancelReason, true
	case r.pastDeadline:
		return checkout.Expired, "the deadline has passed", true
	}
	return "", "", false
}

// callForAttention makes the checkout one that waits for an operator, if its patience is at an end or waiting is no use.
func (r *row) callForAttention(step string, attempts int, a checkout.Attempt, l learned) {
	cause := l.Attention
	switch {
	case cause != "":
	case l.Outcome == checkout.Refused:
		cause = step + " is refused, and there is no other way on"
	case a.Stuck:
		cause = fmt.Sprintf("%s has failed %d times", step, attempts)
	case r.Attention == nil || r.Attention.Step != step:
		return
	default:
		cause = r.Attention.Cause
	}
	since := r.now
	if r.Attention != nil && r.Attention.Step == step {
		since = r.Attention.Since
	}
	r.Attention = &Attention{
		Step: step, Cause: cause, Since: since, Attempts: attempts, LastError: l.errorText(), Next: r.now.Add(a.Wait),
	}
	r.setStatus(checkout.NeedsAttention)
}

// progress notes that something was learned for good.
func (r *row) progress() {
	r.fruitlessRuns = 0
	r.Attention = nil
	r.setStatus(r.statusOfPhase())
}

// nextRun hands the checkout to a new run, which continues in the row's phase.
func (r *row) nextRun(why string) {
	r.Run++
	r.fruitlessRuns++
	r.pokes = 0
	r.lookAgain()
	r.entries = append(r.entries, Entry{Kind: "status", Attempt: r.Run, Actor: actorSweeper, Outcome: "run", Reason: why})
	if r.fruitlessRuns <= maxFruitlessRuns {
		return
	}
	// It is tried on, ever more seldom: what was wrong may be mended without anybody thinking of this checkout.
	wait := min(time.Hour, 5*time.Minute<<min(r.fruitlessRuns-maxFruitlessRuns-1, 6))
	r.checkAt = r.now.Add(wait)
	since := r.now
	if r.Attention != nil {
		since = r.Attention.Since
	}
	r.Attention = &Attention{
		Cause: fmt.Sprintf("%d runs made no progress", r.fruitlessRuns-1), Since: since, Attempts: r.fruitlessRuns,
		LastError: why, Next: r.checkAt,
	}
	r.setStatus(checkout.NeedsAttention)
}

// actorSweeper stands for the sweeper where people are named.
const actorSweeper = "sweeper"

// cancel asks that the checkout be undone; it says what became of the wish.
func (r *row) cancel(reason string) CancelOutcome {
	switch {
	case r.Status == checkout.Cancelled:
		return CancelDone
	case r.Phase == checkout.Undoing:
		return CancelUnderWay
	case r.Phase != checkout.Forward:
		return CancelTooLate
	case r.cancelled:
		return CancelUnderWay
	}
	r.cancelled, r.cancelReason = true, reason
	if !r.touched {
		r.finish(checkout.Cancelled, reason)
		return CancelDone
	}
	r.expectNews(0)
	if r.Coordination == event.Choreographed {
		r.checkAt = r.now // There is no run that would see the cancel: the orchestrator takes over.
	}
	return CancelAccepted
}

// settleUntouched ends a checkout that nobody was ever asked about, if something stands against going forward.
func (r *row) settleUntouched() bool {
	verdict, reason, barred := r.wayBarred()
	if r.touched || r.Phase != checkout.Forward || !barred {
		return false
	}
	r.finish(verdict, reason)
	return true
}

func (r *row) setPhase(p checkout.Phase) {
	r.Phase = p
	if r.Attention == nil {
		r.setStatus(r.statusOfPhase())
	}
}

func (r *row) statusOfPhase() checkout.Status {
	if r.Phase == checkout.Undoing {
		return checkout.Compensating
	}
	return checkout.Running
}

func (r *row) setStatus(s checkout.Status) {
	if r.Status == s {
		return
	}
	r.Status = s
	reason := r.Reason
	if r.Attention != nil {
		reason = r.Attention.Cause
	}
	r.entries = append(r.entries, Entry{Kind: "status", Outcome: string(s), Reason: reason})
}

func (r *row) standing() checkout.Standing {
	if r.Phase == checkout.Undoing || r.Phase == checkout.Final && r.Status != checkout.Confirmed {
		return checkout.GoBack
	}
	return checkout.GoOn
}

func (r *row) goAhead() checkout.Pass {
	return checkout.Pass{Leave: checkout.Go, Order: checkout.Order{
		ID: r.OrderID, CustomerID: r.CustomerID, Items: r.Items, Amount: r.Amount, PaymentMethod: r.PaymentMethod,
		TraceParent: r.trace,
	}}
}

func (r *row) index(step string) int {
	for i := range r.Steps {
		if r.Steps[i].Name == step {
			return i
		}
	}
	return -1
}

// pivot is the position of the pivot among the steps.
func pivot() int {
	for i, s := range checkout.Steps() {
		if s.Pivot {
			return i
		}
	}
	panic("the checkout has no pivot")
}

func known(l checkout.Learned) checkout.Pass {
	return checkout.Pass{Leave: checkout.Known, Learned: l}
}

func superseded(format string, args ...any) checkout.Pass {
	return checkout.Pass{Leave: checkout.Superseded, Reason: fmt.Sprintf(format, args...)}
}
