package saga

import (
	"errors"
	"fmt"
	"time"

	"github.com/dapr/durabletask-go/task"
)

// run is one workflow instance at work. Every replay makes it anew; all that it holds follows from the history.
type run struct {
	ctx    *task.WorkflowContext
	policy Policy
	input  Input

	// undo are the steps to undo if the run turns back, in the order in which they were begun.
	undo []Step
	// pivoted is true once the pivot is applied: from then on nothing turns the run back.
	pivoted bool
	// spent counts what made the history longer; the run ends with Continue once it reaches attempts.
	spent, attempts int
	// seen holds the ids of the commands that were read.
	seen map[string]bool
}

// way is where an answered step leaves the run.
type way string

const (
	onward   way = "onward"
	back     way = "back"
	replaced way = "replaced"
	pause    way = "pause"
)

// drive does the steps in order. If one turns the run back, it undoes what was begun.
func (r *run) drive() (End, error) {
	done, todo, err := r.input.Plan.from(r.input.Phase)
	if err != nil {
		return "", err
	}
	r.undo = append(r.undo, done...)
	if r.input.Phase == Undoing || r.input.Phase == Reversing {
		return r.turnBack()
	}
	for _, step := range todo {
		if step.Decision {
			continue // The next step waits.
		}
		if !step.Pivot {
			// Before the step is tried: an answer that never comes may hide an effect. The pivot is not undone by itself.
			r.undo = append(r.undo, step)
		}
		w, err := r.do(step)
		switch {
		case err != nil:
			return "", err
		case w == back:
			return r.turnBack()
		case w != onward:
			return w.end(), nil
		}
	}
	return Completed, nil
}

// do tries a step until its outcome is known.
func (r *run) do(step Step) (way, error) {
	refused := false
	for round := 1; ; round++ {
		call := r.call(step, round)
		call.Claims = round == 1 && (step.Pivot || step.Name == r.input.Plan.Steps[0].Name)
		// After the pivot a refusal is no way out: a person should look at it.
		call.Stuck = call.Stuck || refused
		reply, woken, w, err := r.attempt(step.Name, call)
		if err != nil || w != onward {
			return w, err
		}
		switch reply.Outcome {
		case Applied:
			r.pivoted = r.pivoted || step.Pivot
			if reply.TurnBack && !r.pivoted {
				return back, nil
			}
			return onward, nil
		case Superseded:
			return replaced, nil
		case Rejected:
			if !r.pivoted {
				if !step.Pivot {
					r.undo = r.undo[:len(r.undo)-1] // refused is known not to be there
				}
				return back, nil
			}
			refused = true
		case Held:
			round--
			call.WaitMS = r.hold(reply)
		case TurnedBack:
			if !r.pivoted {
				return back, nil
			}
			refused = true
		}
		if err := r.rest(call, woken); err != nil {
			return "", err
		}
	}
}

// turnBack undoes what was begun, last to first.
func (r *run) turnBack() (End, error) {
	for i := len(r.undo) - 1; i >= 0; i-- {
		if r.undo[i].Compensation == "" {
			continue
		}
		if w, err := r.takeBack(r.undo[i]); err != nil || w != onward {
			return w.end(), err
		}
	}
	return Undone, nil
}

// takeBack undoes one step and ends only when the effect is known to be gone. A refusal to undo is tried again like an error.
func (r *run) takeBack(step Step) (way, error) {
	for round := 1; ; round++ {
		call := r.call(step, round)
		call.Undo = true
		reply, woken, w, err := r.attempt(step.Compensation, call)
		if err != nil || w != onward {
			return w, err
		}
		switch reply.Outcome {
		case Applied:
			return onward, nil
		case Superseded:
			return replaced, nil
		case Held:
			round--
			call.WaitMS = r.hold(reply)
		}
		if err := r.rest(call, woken); err != nil {
			return "", err
		}
	}
}

func (r *run) call(step Step, round int) Call {
	return Call{
		Definition:  r.input.Plan.Definition,
		Key:         r.input.Key,
		Run:         r.input.Run,
		Step:        step.Name,
		Participant: step.Participant,
		Round:       round,
		WaitMS:      r.policy.wait(round).Milliseconds(),
		Stuck:       r.policy.stuck(round),
	}
}

// hold is how long a held step waits: at least as long as after a first attempt, so that no answer can make the run spin.
func (r *run) hold(reply Reply) int64 {
	return max(reply.HoldMS, r.policy.FirstWait.Milliseconds())
}

// attempt calls an activity once and empties the mailbox. The way is onward if there is a reply to look at. woken says that a
// command came meanwhile, which the activity may not have seen.
func (r *run) attempt(activity string, call Call) (reply Reply, woken bool, w way, err error) {
	if r.spent >= r.attempts {
		return Reply{}, false, pause, nil
	}
	r.spent++
	err = r.ctx.CallActivity(activity, task.WithActivityInput(call)).Await(&reply)
	switch {
	case err != nil && !fromTask(err):
		return Reply{}, false, "", stop(ErrReplay, err.Error())
	case err != nil:
		reply = Reply{Outcome: Unknown}
	case reply.Step != call.Step:
		return Reply{}, false, "", stop(ErrReply, fmt.Sprintf("%s was asked for step %q and answered for %q", activity, call.Step, reply.Step))
	}
	woken, err = r.drain()
	return reply, woken, onward, err
}

// drain reads the commands that are there and tells whether there was a new one.
func (r *run) drain() (woken bool, err error) {
	for {
		l, err := r.read(0)
		if err != nil || l == none {
			return woken, err
		}
		woken = woken || l == fresh
	}
}

// rest waits for the call's backoff, or for a new command.
func (r *run) rest(call Call, woken bool) error {
	if woken {
		return nil
	}
	until := r.ctx.CurrentTimeUtc.Add(time.Duration(call.WaitMS) * time.Millisecond)
	for {
		left := until.Sub(r.ctx.CurrentTimeUtc)
		if left <= 0 {
			return nil
		}
		l, err := r.read(left)
		if err != nil || l != stale {
			return err
		}
		// The wait begins anew, with a timer of its own: that costs history like an attempt.
		r.spent++
		if r.spent >= r.attempts {
			return nil
		}
	}
}

// letter is what came from the mailbox.
type letter string

const (
	// none: no command within the time.
	none letter = "none"
	// fresh: a command that was not seen before.
	fresh letter = "fresh"
	// stale: a command that was seen before, or no command at all.
	stale letter = "stale"
)

func (r *run) read(timeout time.Duration) (letter, error) {
	var c Command
	err := r.ctx.WaitForSingleEvent(CommandEvent, timeout).Await(&c)
	switch {
	case errors.Is(err, task.ErrTaskCanceled):
		return none, nil
	case err != nil && !fromTask(err):
		return "", stop(ErrReplay, err.Error())
	case err != nil, c.ID == "", c.Kind == "", r.seen[c.ID]:
		return stale, nil
	}
	r.seen[c.ID] = true
	return fresh, nil
}

// end is how a run ends on this way.
func (w way) end() End {
	switch w {
	case replaced:
		return Replaced
	case pause:
		return Continue
	}
	return ""
}
