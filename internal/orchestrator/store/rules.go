package store

import (
	"fmt"
	"slices"
	"strings"
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

// deadlineSlack is how long after a deadline the sweeper looks whether the run has seen it. The run has a timer of its own, which
// may be lost or far behind.
const deadlineSlack = time.Second

// heldBackFor is how long a checkout whose participant answers nobody waits until it asks again by itself. It is woken as soon as
// the participant answers; too short costs turns for nothing, too long delays the one whose wake-up was lost, which I8 wants to go on within 60 s.
const heldBackFor = 30 * time.Second

// retryAgain is when the sweeper looks whether a run has followed an operator's wish to try again, and takes over if it has not.
const retryAgain = 3 * time.Second

// maxFruitlessRuns is how many runs the sweeper starts without any progress before it calls for a person.
const maxFruitlessRuns = 3

// row is one checkout as a transaction sees it, and the only place where its phase and status change:
//
//	forward ──pivot claimed──► pivoted ──last step──► final (CONFIRMED)
//	   │                          │ pivot's recorded refusal, or an operator's refund
//	   └─cancel, deadline, refusal┴────► undoing ──last compensation──► final (verdict)
//
// Its methods are pure: they decide and change the struct; the store reads and writes it.
type row struct {
	Checkout
	verdict       checkout.Status
	touched       bool
	cancelled     bool
	cancelReason  string
	pastDeadline  bool // by the database's clock, as all that follows
	pastApproval  bool
	approvalWait  time.Duration // how long it may await approval; zero where it needs none
	now           time.Time     // the database's clock
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
type command struct {
	id, kind, step, actor, reason, outcome string
	withoutProof                           bool
}

// expectNews lets the sweeper look again when nothing has come for its patience after a wait. A time that is nearly that
// already stays: a checkout that goes on quickly then changes no index.
func (r *row) expectNews(wait time.Duration) {
	due := r.now.Add(wait + patience)
	if end := r.Deadline.Add(deadlineSlack); r.Phase == checkout.Forward && !r.awaitsApproval() && end.After(r.now) && end.Before(due) {
		due = end
	}
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
		return r.fenceUndo(i, a)
	}
	return r.fenceDo(i, a)
}

func (r *row) fenceDo(i int, a checkout.Attempt) (pass checkout.Pass, claimed bool) {
	s := &r.Steps[i]
	switch {
	case s.done():
		return known(checkout.Learned{Outcome: checkout.Applied, Reference: s.Reference}), false
	case s.State == StateRejected:
		return known(checkout.Learned{Outcome: checkout.Refused, Reason: s.Error}), false
	case r.Phase == checkout.Undoing:
		return checkout.Pass{Leave: checkout.TurnBack, Reason: r.Reason}, false
	case i > 0 && !r.Steps[i-1].done() && !r.awaitsApproval():
		// The run believes in a step that the row knows nothing of, as when its code does not fit its history. The next run
		// begins from the row.
		return superseded("step %s comes after %s, which is not done", s.Name, r.Steps[i-1].Name), false
	case r.Phase == checkout.Pivoted && a.HeldBack != "":
		return r.holdBack(&s.State, &s.Error, a)
	case r.Phase == checkout.Pivoted:
		return r.goAhead(), false
	}

	if b := r.wayBarred(); b != nil {
		if !r.touched {
			r.finish(b.verdict, b.code, b.reason)
			return superseded("the checkout is %s", b.verdict), true
		}
		if !s.Pivot {
			// This step counts as tried: an earlier attempt at it may have been killed before it could record anything. The
			// pivot does not: its claim would have left the phase.
			s.State = StateUnknown
		}
		r.turnBack(*b)
		return checkout.Pass{Leave: checkout.TurnBack, Reason: b.reason}, true
	}
	switch {
	case r.awaitsApproval():
		return r.holdForApproval()
	case a.HeldBack != "":
		return r.holdBack(&s.State, &s.Error, a)
	}
	claimed = !r.touched || s.Pivot
	if !r.touched {
		r.touched, r.startedRun = true, r.Run
	}
	if s.StartedAt == nil {
		s.StartedAt = &r.now
	}
	if s.Pivot {
		r.setPhase(checkout.Pivoted)
	}
	if claimed {
		r.expectNews(0)
	}
	return r.goAhead(), claimed
}

func (r *row) fenceUndo(i int, a checkout.Attempt) (pass checkout.Pass, held bool) {
	s := &r.Steps[i]
	switch {
	case r.Phase != checkout.Undoing:
		// Nothing is ever undone that the row has not given up.
		return superseded("the checkout is not being undone: it is in phase %s", r.Phase), false
	case s.CompensationState == CompensationNotNeeded, s.undone():
		return known(checkout.Learned{Outcome: checkout.Applied}), false
	case s.CompensationState == CompensationPending:
		// Some other effect has to be gone first: nothing is refunded that could still be shipped.
		return superseded("%s is not next", s.Compensation), false
	case a.HeldBack != "":
		return r.holdBack(&s.CompensationState, &s.Error, a)
	}
	return r.goAhead(), false
}

// holdForApproval lets the step behind the approval wait until somebody has decided, or the time for it is up.
func (r *row) holdForApproval() (pass checkout.Pass, changed bool) {
	if due := r.ApprovalDeadline.Add(deadlineSlack); !r.checkAt.Equal(due) || r.pokes != 0 || r.fruitlessRuns != 0 {
		r.checkAt, r.pokes, r.fruitlessRuns, changed = due, 0, 0, true
	}
	// By the time the wait is over the database's clock must be past the deadline.
	wait := r.ApprovalDeadline.Sub(r.now) + deadlineSlack/2
	return checkout.Pass{Leave: checkout.Hold, Reason: "it awaits approval", Wait: wait}, changed
}

// holdBack lets a step or compensation wait because its participant answers nobody. That is no fault of this checkout's, so it
// calls for nobody and spends no run.
func (r *row) holdBack(state, text *string, a checkout.Attempt) (pass checkout.Pass, changed bool) {
	if why := "held back: " + a.HeldBack; *text != why {
		*text = why
		r.entries = append(r.entries, Entry{Kind: "attempt", Step: r.AtStep(), Attempt: a.Round, Outcome: "held-back", Error: why})
	}
	if *state == StateRunning && r.touched { // The word is that of compensations too.
		*state = StateFailing
	}
	r.pokes, r.fruitlessRuns = 0, 0
	r.expectNews(heldBackFor)
	return checkout.Pass{Leave: checkout.Hold, Reason: *text, Wait: heldBackFor}, true
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
	if r.forgets(s, a, l) {
		l.Outcome, l.Attention = checkout.Unknown, checkout.AttentionForgotten
		r.expectNews(a.Wait)
		r.recordUnknown(i, a, learned(l))
		return checkout.Doubted
	}
	if a.Undo {
		return r.recordUndo(i, a, learned(l))
	}
	return r.recordDo(i, a, learned(l))
}

// forgets tells whether an answer shows that the participant no longer knows what it once confirmed, as one that was restored from
// a backup. Going on as if nothing had been held would leave whoever does remember, such as the card network, holding it.
func (r *row) forgets(s *Step, a checkout.Attempt, l checkout.Learned) bool {
	if a.Undo {
		return s.State == StateDone && s.CompensationState != CompensationNotNeeded && !s.undone() &&
			l.Outcome == checkout.Applied && l.Reason == reasonUnseen
	}
	if l.Outcome != checkout.Refused || s.done() || s.State == StateRejected {
		return false
	}
	i := r.index(s.Denials[l.Reason])
	return i >= 0 && r.Steps[i].State == StateDone && !r.Steps[i].undone()
}

// Participants' words that mean something to the rules.
const (
	// reasonStarted: an effect outside of the participant's database is under way.
	reasonStarted = "started"
	// reasonCaptured: payment is too late to void.
	reasonCaptured = "already_captured"
	// reasonCommitted: the warehouse is too late to release.
	reasonCommitted = "already_committed"
	// reasonUnseen: what is to be undone never came.
	reasonUnseen = "unseen"
)

func (r *row) recordDo(i int, a checkout.Attempt, l learned) checkout.Standing {
	s := &r.Steps[i]
	if s.done() || s.State == StateRejected {
		return r.standing() // An activity that ran twice.
	}
	switch {
	case l.Outcome == checkout.Applied:
		s.Attempts++
		s.State, s.Error, s.Reference = StateDone, "", l.Reference
		if !l.ValidUntil.IsZero() {
			s.ValidUntil = &l.ValidUntil
		}
		r.stepEnded(i)
	case l.Outcome == checkout.Refused && r.Phase != checkout.Pivoted, l.Outcome == checkout.Refused && s.Pivot:
		s.Attempts++
		s.State, s.Error = StateRejected, l.errorText()
		s.EndedAt = &r.now
		r.progress()
		if r.Phase != checkout.Undoing {
			r.turnBack(bar{checkout.Rejected, word(l.Reason, "rejected"), s.Name + ": " + l.errorText()})
		}
	default:
		r.recordUnknown(i, a, l)
	}
	return r.standing()
}

// recordUnknown notes an attempt that brought no outcome to go on with.
func (r *row) recordUnknown(i int, a checkout.Attempt, l learned) {
	s := &r.Steps[i]
	if a.Undo {
		s.compensationTries++
		s.CompensationState, s.Error = CompensationFailing, l.errorText()
		r.callForAttention(s.Compensation, s.compensationTries, a, l)
		return
	}
	s.Attempts++
	s.State, s.Error = StateFailing, l.errorText()
	if l.Reason == reasonStarted {
		s.State = StateUnknown
	}
	r.callForAttention(s.Name, s.Attempts, a, l)
}

// stepEnded goes on from a step that is done.
func (r *row) stepEnded(i int) {
	r.Steps[i].EndedAt = &r.now
	r.progress()
	r.afterDone(i)
}

// afterDone moves on from step i, which is done.
func (r *row) afterDone(i int) {
	if r.Phase == checkout.Undoing {
		return // A late answer; the compensation that waits for this step will undo it.
	}
	if i == len(r.Steps)-1 {
		r.finish(checkout.Confirmed, "", "")
		return
	}
	if b := r.wayBarred(); b != nil && r.Phase == checkout.Forward {
		r.turnBack(*b)
		return
	}
	next := &r.Steps[i+1]
	next.State, next.StartedAt = StateRunning, &r.now
	if !next.Decision {
		return
	}
	until := r.now.Add(r.approvalWait)
	r.ApprovalDeadline = &until
	r.checkAt = until.Add(deadlineSlack)
	r.setStatus(r.statusOfPhase())
}

// decision is the step that a person decides; nil if the plan has none.
func (r *row) decision() *Step {
	for i := range r.Steps {
		if r.Steps[i].Decision {
			return &r.Steps[i]
		}
	}
	return nil
}

// pivot is the step that ends every way back; nil if the plan has none.
func (r *row) pivot() *Step {
	for i := range r.Steps {
		if r.Steps[i].Pivot {
			return &r.Steps[i]
		}
	}
	return nil
}

// awaitsApproval tells whether a person has to decide before the checkout goes on.
func (r *row) awaitsApproval() bool {
	s := r.decision()
	return s != nil && s.State == StateRunning && r.Phase == checkout.Forward
}

func (r *row) recordUndo(i int, a checkout.Attempt, l learned) checkout.Standing {
	s := &r.Steps[i]
	if r.Phase != checkout.Undoing {
		return checkout.Over
	}
	if s.CompensationState == CompensationNotNeeded || s.undone() {
		return checkout.GoOn
	}
	switch {
	case l.Outcome == checkout.Applied:
		s.compensationTries++
		s.CompensationState = CompensationDone
		r.progress()
		r.nextCompensation()
	case r.Coordination == event.Choreographed && l.Outcome == checkout.Refused && l.Reason == reasonCaptured:
		r.captured()
		return checkout.Over
	case r.refunding() && l.Outcome == checkout.Refused && l.Reason == reasonCommitted:
		r.shippedAfterAll()
		return checkout.Over
	default:
		r.recordUnknown(i, a, l)
	}
	return checkout.GoOn
}

// refunding tells whether the checkout is being undone although the money was captured.
func (r *row) refunding() bool {
	return r.RunPhase() == checkout.Reversing
}

// shippedAfterAll ends a checkout whose money was to be refunded and whose stock turns out to be committed: the customer has the
// goods, so we keep the money.
func (r *row) shippedAfterAll() {
	for i := range r.Steps {
		s := &r.Steps[i]
		s.CompensationState = CompensationNotNeeded
		if !s.done() {
			s.State, s.Error, s.EndedAt = StateDone, "", &r.now
		}
	}
	r.entries = append(r.entries, Entry{
		Kind: "status", Step: r.pivot().Compensation, Outcome: "refused", Reason: "the stock was shipped meanwhile, so nothing is refunded",
	})
	r.verdict = ""
	r.finish(checkout.Confirmed, "", "")
}

// turnBack begins undoing what was done or tried; where there is nothing to undo the checkout is final at once.
func (r *row) turnBack(because bar) {
	r.verdict, r.Reason, r.ReasonCode = because.verdict, because.reason, because.code
	r.Attention = nil
	r.setPhase(checkout.Undoing)
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

// nextCompensation marks the compensation that comes next, or ends the checkout after the last. The pivot's comes last: what
// stands before it may be what somebody gets for it, and must be gone for good first.
func (r *row) nextCompensation() {
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
	r.finish(r.verdict, r.ReasonCode, r.Reason)
}

func (r *row) finish(status checkout.Status, code, reason string) {
	if status != checkout.Confirmed {
		r.verdict = status
		for i := range r.Steps {
			if s := &r.Steps[i]; s.State == StatePending || s.State == StateRunning {
				s.State, s.StartedAt = StateSkipped, nil
			}
		}
	}
	r.Reason, r.ReasonCode = reason, code
	r.Attention = nil
	r.Phase = checkout.Final
	r.setStatus(status)
	r.EndedAt = &r.now
	r.ended = true
	r.checkAt = time.Time{}
}

// bar is what stands against going forward: how the checkout ends once it is undone, and why, as a word and in words.
type bar struct {
	verdict      checkout.Status
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

// wayBarred tells what has been learned that stands against going forward; nil if nothing does.
func (r *row) wayBarred() *bar {
	switch {
	case r.cancelled:
		return &bar{checkout.Cancelled, codeCancelled, r.cancelReason}
	case r.awaitsApproval() && r.pastApproval:
		return &bar{checkout.Expired, codeApprovalDeadline, "nobody approved it in time"}
	case r.awaitsApproval():
		return nil // Its own deadline rests until somebody has decided.
	case r.pastDeadline:
		return &bar{checkout.Expired, codeDeadline, "the deadline has passed"}
	}
	return nil
}

// word is a participant's reason as a word to count by; fallback where it is none.
func word(reason, fallback string) string {
	if reason == "" || len(reason) > 64 || strings.ContainsFunc(reason, func(c rune) bool {
		return c != '_' && c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9')
	}) {
		return fallback
	}
	return reason
}

// callForAttention makes the checkout one that waits for an operator, if its patience is at an end or waiting is no use.
func (r *row) callForAttention(step string, attempts int, a checkout.Attempt, l learned) {
	code := l.Attention
	switch {
	case code != "":
	case l.Outcome == checkout.Refused:
		code = checkout.AttentionRefused
	case a.Stuck:
		code = checkout.AttentionFailing
	case r.Attention == nil || r.Attention.Step != step:
		return
	default:
		code = r.Attention.Code
	}
	r.attend(Attention{
		Step: step, Code: code, Cause: cause(code, step, attempts, r.Steps[r.index(a.Step)].Participant),
		Attempts: attempts, LastError: l.errorText(), Next: r.now.Add(a.Wait),
	})
}

// cause says in words why a step or compensation calls for an operator.
func cause(code checkout.AttentionCode, step string, attempts int, participant string) string {
	switch code {
	case checkout.AttentionRefused:
		return step + " is refused, and there is no other way on"
	case checkout.AttentionConflict:
		return participant + " knows this order with other contents, so it does not do " + step
	case checkout.AttentionBadRequest:
		return participant + " does not accept the request to do " + step
	case checkout.AttentionForgotten:
		return participant + " no longer knows what it confirmed for this order, as after a restore from a backup"
	}
	return fmt.Sprintf("%s has failed %d times", step, attempts)
}

// attend sets the attention that the checkout needs; what was called for before keeps its time.
func (r *row) attend(a Attention) {
	a.Since = r.now
	if r.Attention != nil && r.Attention.Step == a.Step {
		a.Since = r.Attention.Since
	}
	r.Attention = &a
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
	r.fruitlessRuns++
	r.newRun(actorSweeper, why)
	if r.fruitlessRuns <= maxFruitlessRuns {
		return
	}
	// It is tried on, ever more seldom: what was wrong may be mended without anybody thinking of this checkout.
	r.checkAt = r.now.Add(seldom(r.fruitlessRuns - maxFruitlessRuns))
	r.attend(Attention{
		Code: checkout.AttentionNoProgress, Cause: fmt.Sprintf("%d runs made no progress", r.fruitlessRuns-1),
		Attempts: r.fruitlessRuns, LastError: why, Next: r.checkAt,
	})
}

// seldom is how long to wait before the n-th try of something that did not help before.
func seldom(n int) time.Duration { return min(time.Hour, 5*time.Minute<<min(n-1, 6)) }

// newRun makes a new run the only one that is listened to.
func (r *row) newRun(actor, why string) {
	r.Run++
	r.pokes = 0
	r.lookAgain()
	r.entries = append(r.entries, Entry{Kind: "status", Attempt: r.Run, Actor: actor, Outcome: "run", Reason: why})
}

// stoppedPause is how long after its first run stopped a checkout gets the next one: Dapr 1.18.2 garbles the history of a run now and then
// whose store goes away in the middle of a turn (docs/decisions/0019), and the next run does well. With patience it stays below the
// 60 s in which work goes on (I8).
const stoppedPause = 15 * time.Second

// stopped calls for an operator because the run stopped: its code panicked, or does not fit its history. Nothing was undone. A new
// run may fare better, but what stops every run must not become a loop: the first comes soon, the others seldom. It returns
// false if that was called for before and the time for the new run has come.
func (r *row) stopped(why string) (news bool) {
	if r.Attention != nil && r.Attention.Code == checkout.AttentionStopped && r.Attention.Run == r.Run {
		return false
	}
	again := stoppedPause
	if r.fruitlessRuns > 0 {
		again = seldom(r.fruitlessRuns)
	}
	r.checkAt = r.now.Add(again)
	r.attend(Attention{
		Code: checkout.AttentionStopped, Run: r.Run, Cause: fmt.Sprintf("run %d stopped, and nothing was undone", r.Run),
		Attempts: r.fruitlessRuns + 1, LastError: why, Next: r.checkAt,
	})
	return true
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
		r.finish(checkout.Cancelled, codeCancelled, reason)
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
	b := r.wayBarred()
	if r.touched || r.Phase != checkout.Forward || b == nil {
		return false
	}
	r.finish(b.verdict, b.code, b.reason)
	return true
}

func (r *row) setPhase(p checkout.Phase) {
	r.Phase = p
	if r.Attention == nil {
		r.setStatus(r.statusOfPhase())
	}
}

func (r *row) statusOfPhase() checkout.Status {
	switch {
	case r.Phase == checkout.Undoing:
		return checkout.Compensating
	case r.awaitsApproval():
		return checkout.AwaitingApproval
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

func known(l checkout.Learned) checkout.Pass {
	return checkout.Pass{Leave: checkout.Known, Learned: l}
}

func superseded(format string, args ...any) checkout.Pass {
	return checkout.Pass{Leave: checkout.Superseded, Reason: fmt.Sprintf(format, args...)}
}
