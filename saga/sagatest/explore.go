package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Exploration plays a definition with its author's own participants: the real interpreter, the real rules of the row and a virtual clock,
// all in memory. It goes through schedules of trouble and holds every saga to this: it ends; CONFIRMED means that every step is
// in place; every other end means that nothing is.
type Exploration struct {
	Saga *saga.Definition
	// Participants makes the author's participants, by name. It is called anew for each schedule. Nil has a Memory for
	// each, so that the list alone is tried.
	Participants func() map[string]participant.Participant
	// Audit, where set, judges the author's own books once a saga has ended, given what Participants made: an error is a broken promise.
	// OnceOrNothing is one.
	Audit func(participants map[string]participant.Participant, ended journal.Status) error
	// Input is what the saga is started with. Nil starts it with nothing, whatever it takes.
	Input json.RawMessage
	// Pairs plays every two troubles together too. Without it, each trouble is played alone, after what turns the saga back, and
	// before what turns it back at once.
	Pairs bool
}

// Broken is a promise that was not kept.
type Broken struct {
	Schedule Schedule
	// What was promised and is not so.
	What string
	// Story tells the calls, and what became of each.
	Story []string
	// calls is how many there were.
	calls int
}

// Explore goes through the schedules, the shortest first, and fails the test with the first that breaks a promise.
func (e Exploration) Explore(t testing.TB) {
	t.Helper()
	played, broken := e.Find()
	if broken != nil {
		t.Fatalf("%s\n  %s\nTo see it again: exploration.Play(t, %s)", broken.What, strings.Join(broken.Story, "\n  "), broken.Schedule)
	}
	t.Logf("%d schedules were played", played)
}

// Play plays one schedule, and fails the test if it breaks a promise.
func (e Exploration) Play(t testing.TB, schedule Schedule) {
	t.Helper()
	if played := e.play(schedule); played.What != "" {
		t.Fatalf("%s\n  %s", played.What, strings.Join(played.Story, "\n  "))
	}
}

// Find is Explore without a test: how many schedules were played, and the first that breaks a promise; nil if none does.
func (e Exploration) Find() (played int, broken *Broken) {
	try := func(schedule ...At) (calls int, isBroken bool) {
		played++
		b := e.play(schedule)
		if b.What != "" {
			broken = &b
		}
		return b.calls, b.What != ""
	}
	calls, isBroken := try()
	if isBroken {
		return played, broken
	}
	ends := make(map[At]int) // How many calls a saga makes with one trouble.
	var singles []At
	for call := 1; call <= calls; call++ {
		for _, trouble := range troubles {
			at := At{call, trouble}
			singles = append(singles, at)
			if ends[at], isBroken = try(at); isBroken {
				return played, broken
			}
		}
	}
	// What is quick to play and finds most stands first.
	for _, pairs := range []func(first, second At) bool{backAtOnce, onTheWayBack, e.further} {
		for _, first := range singles {
			for call := first.Call + 1; call <= ends[first]; call++ {
				for _, trouble := range troubles {
					if second := (At{call, trouble}); pairs(first, second) {
						if _, isBroken := try(first, second); isBroken {
							return played, broken
						}
					}
				}
			}
		}
	}
	return played, nil
}

// backAtOnce tells whether the second trouble turns the saga back right after a step of which nobody may know whether it was done.
func backAtOnce(first, second At) bool {
	return !slices.Contains(turning, first.Trouble) && second.Call == first.Call+1 && slices.Contains(turning, second.Trouble)
}

// onTheWayBack tells whether the first trouble turns the saga back.
func onTheWayBack(first, _ At) bool { return slices.Contains(turning, first.Trouble) }

// further tells whether the two are played only where all pairs are.
func (e Exploration) further(first, second At) bool {
	return e.Pairs && !backAtOnce(first, second) && !onTheWayBack(first, second)
}

// A saga may take so many runs of so many attempts each, that a trouble which passes has passed by then.
const (
	maxRuns     = 3
	maxAttempts = 20
	// downFor is how often a call does not arrive before it does again: more than the policy's patience.
	downFor = 14
)

// play plays one schedule; What is empty if every promise was kept.
func (e Exploration) play(schedule Schedule) Broken {
	p := &exploring{Exploration: e, schedule: schedule, refused: make(map[string]bool)}
	if e.Participants != nil {
		p.participants = e.Participants()
	} else {
		p.participants = memories(e.Saga.Plan())
	}
	err := p.accept()
	if err == nil {
		err = p.drive()
	}
	if err == nil {
		p.arriveLate()
		err = p.judge()
	}
	b := Broken{Schedule: schedule, calls: p.calls}
	for _, line := range p.story {
		b.Story = append(b.Story, line.String())
	}
	if err != nil {
		b.What = err.Error()
	}
	return b
}

// accept makes the row of a saga with the exploration's input.
func (p *exploring) accept() (err error) {
	p.accepted = saga.Accepted{Plan: p.Saga.Plan()}
	if p.Input != nil {
		if p.accepted, err = p.Saga.Accept(p.Input); err != nil {
			return err
		}
	}
	p.row = journal.Begin("key-1", p.accepted.Plan, start, 15*time.Minute)
	p.row.ApprovalWait = time.Hour
	return nil
}

// exploring is one saga under way.
type exploring struct {
	Exploration
	accepted     saga.Accepted
	schedule     Schedule
	participants map[string]participant.Participant
	row          *journal.Row
	calls        int
	// down is how often the calls of a step still do not arrive.
	down int
	// late are the calls that are still on their way, refused the steps that were refused for good.
	late    []lateCall
	refused map[string]bool
	story   []told
	// wrong is the first thing that no participant may do.
	wrong error
}

// drive has runs carry the saga to its end, as the sweeper does: each goes on in the row's phase.
func (p *exploring) drive() error {
	for range maxRuns {
		played, err := Scenario{
			Saga: p.Saga, Policy: saga.Policy{MaxAttemptsPerRun: maxAttempts}, Input: saga.Input{Key: p.row.Key, Run: p.row.Run, Phase: p.row.RunPhase()}, does: p.attempt,
		}.Play()
		switch {
		case p.wrong != nil:
			return p.wrong
		case err != nil:
			return err
		case played.Failure != "":
			return errors.New(played.Failure)
		case p.row.Phase == journal.Final:
			return nil
		}
		p.row.NextRun("the run ended")
	}
	why := ""
	if a := p.row.Attention; a != nil {
		why = ": " + a.Cause + " (" + a.LastError + ")"
	}
	return fmt.Errorf("the saga does not end: it is %s at %s%s", p.row.Status, p.row.AtStep(), why)
}

// attempt is the activity of every step and compensation: fence, call, record.
func (p *exploring) attempt(call saga.Call, now time.Time) Answer {
	p.row.Now = now
	a := journal.Attempt{Call: call}
	trouble := p.next()
	switch trouble {
	case Cancelled:
		p.row.Cancel("the exploration cancels")
	case Expired:
		p.row.PastDeadline = true
	}
	pass, _ := p.row.Fence(a)
	if pass.Leave == journal.Hold && p.row.Decision() != nil {
		// Somebody says yes; that it may be no is the same to the steps as a refusal.
		if _, err := p.row.Approve("the exploration"); err == nil {
			pass, _ = p.row.Fence(a)
		}
	}
	reply, mayGo := pass.Reply(a)
	if !mayGo {
		p.tell(call, trouble, string(reply.Outcome)+" without a call")
		return Answer{Reply: reply}
	}
	if trouble == CancelledMeanwhile {
		p.row.Cancel("the exploration cancels")
	}
	learned := p.call(call, trouble)
	if trouble == Killed {
		return Answer{Err: "killed"}
	}
	return Answer{Reply: p.row.Record(a, learned).Reply(a, learned)}
}

// next counts a call, and is the trouble with it.
func (p *exploring) next() Trouble {
	p.calls++
	for _, at := range p.schedule {
		if at.Call == p.calls {
			return at.Trouble
		}
	}
	return ""
}

// call asks the participant, and tells what was learned.
func (p *exploring) call(call saga.Call, trouble Trouble) journal.Learned {
	step := p.row.Plan.Steps[p.row.Plan.Index(call.Step)]
	who, ok := p.participants[step.Participant]
	if !ok {
		p.wrong = fmt.Errorf("step %s is done by %s, of which there is no participant", step.Name, step.Participant)
		return journal.Learned{Outcome: saga.Unknown}
	}
	ask := func() (participant.Result, error) {
		id, direction, ask := p.id(call.Step), participant.Doing, who.Do
		if call.Undo {
			direction, ask = participant.Undoing, who.Undo
		}
		return ask(context.Background(), participant.Request{
			Definition: id.Definition, Key: id.Key, Step: id.Step, Attempt: call.Round, IdempotencyKey: id.IdempotencyKey(direction), Input: p.accepted.Request(id.Step),
		})
	}
	away := func(why string) journal.Learned {
		p.tell(call, trouble, why)
		return journal.Learned{Outcome: saga.Unknown, Detail: why}
	}
	switch {
	case trouble == Down:
		p.down = downFor
	case trouble == Late:
		p.late = append(p.late, lateCall{call, ask})
		return away("it is on its way")
	case trouble == Refused && !call.Undo && !p.hasDone(who, call.Step):
		// Who has refused a step refuses it for good, but for one behind the pivot, which somebody mends.
		p.refused[call.Step] = p.row.Phase != saga.Pivoted || step.Pivot
		p.tell(call, trouble, "rejected")
		return journal.Learned{Outcome: saga.Rejected, Reason: "explored"}
	case trouble == Failing:
		return away("it did not arrive")
	}
	if p.down > 0 {
		p.down--
		return away("it did not arrive")
	}
	result, err := ask()
	if trouble == Twice {
		again, againErr := ask()
		if err == nil && againErr == nil && again.Outcome != result.Outcome {
			p.wrong = fmt.Errorf("%s answered %s to %s, and %s to the same call again", step.Participant, result.Outcome, nameOf(call), again.Outcome)
		}
		result, err = again, againErr
	}
	p.tell(call, trouble, describe(result, err))
	switch {
	case trouble == Lost:
		return journal.Learned{Outcome: saga.Unknown, Detail: "its answer was lost"}
	case err != nil:
		return journal.Learned{Outcome: saga.Unknown, Detail: err.Error()}
	}
	switch result.Outcome {
	case participant.Applied:
		return journal.Learned{Outcome: saga.Applied, Reason: result.Reason}
	case participant.Rejected:
		return journal.Learned{Outcome: saga.Rejected, Reason: result.Reason}
	case participant.UndoneBefore:
		return journal.Learned{Outcome: saga.Rejected, Reason: "undone_before"}
	}
	return journal.Learned{Outcome: saga.Unknown, Reason: result.Reason}
}

// id names the operation of a step.
func (p *exploring) id(step string) participant.ID {
	return participant.ID{Definition: p.row.Plan.Definition, Key: p.row.Key, Step: step}
}

// lateCall is a call that arrives when all is over.
type lateCall struct {
	call saga.Call
	ask  func() (participant.Result, error)
}

// hasDone tells whether the participant has done the step already, so that it can refuse it no more.
func (p *exploring) hasDone(who participant.Participant, step string) bool {
	op, err := who.Get(context.Background(), p.id(step))
	return err != nil || op.Do != ""
}

// arriveLate delivers what was on its way.
func (p *exploring) arriveLate() {
	for _, l := range p.late {
		if l.call.Undo || !p.refused[l.call.Step] {
			p.tell(l.call, "arrives late", describe(l.ask()))
		}
	}
}

// judge holds what the participants have on record to how the saga ended.
func (p *exploring) judge() error {
	for _, step := range p.row.Plan.Steps {
		if step.Decision {
			continue
		}
		op, err := p.participants[step.Participant].Get(context.Background(), p.id(step.Name))
		if err != nil {
			return fmt.Errorf("%s cannot tell of %s: %w", step.Participant, step.Name, err)
		}
		switch {
		case p.row.Status == journal.Confirmed && !op.InPlace():
			return fmt.Errorf("it is CONFIRMED, and %s is not in place at %s (%s)", step.Name, step.Participant, recorded(op))
		case p.row.Status != journal.Confirmed && op.InPlace() && step.Compensation != "":
			return fmt.Errorf("it is %s, and %s is in place at %s (%s)", p.row.Status, step.Name, step.Participant, recorded(op))
		}
	}
	if p.Audit == nil {
		return nil
	}
	if err := p.Audit(p.participants, p.row.Status); err != nil {
		return fmt.Errorf("it is %s, and the books say: %w", p.row.Status, err)
	}
	return nil
}

func (p *exploring) tell(call saga.Call, trouble Trouble, became string) {
	line := nameOf(call)
	if trouble != "" {
		line += " (" + string(trouble) + ")"
	}
	line += ": " + became
	if n := len(p.story); n > 0 && p.story[n-1].line == line {
		p.story[n-1].times++
		return
	}
	p.story = append(p.story, told{line, 1})
}

// told is a line of the story, and how often it was so in a row.
type told struct {
	line  string
	times int
}

func (t told) String() string {
	if t.times == 1 {
		return t.line
	}
	return fmt.Sprintf("%s (%d times)", t.line, t.times)
}

func nameOf(call saga.Call) string {
	if call.Undo {
		return "undo " + call.Step
	}
	return call.Step
}

func describe(r participant.Result, err error) string {
	switch {
	case err != nil:
		return "error: " + err.Error()
	case r.Reason != "":
		return string(r.Outcome) + ", " + r.Reason
	}
	return string(r.Outcome)
}

func recorded(op participant.Operation) string {
	or := func(o participant.Outcome) string {
		if o == "" {
			return "nothing"
		}
		return string(o)
	}
	return "do: " + or(op.Do) + ", undo: " + or(op.Undo)
}
