package sagatest

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/dapr/durabletask-go/api/protos"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Played is what became of a run.
type Played struct {
	// Result is what the workflow returned, if it did not fail.
	Result saga.Result
	// Failure is the error of a run that stopped, else empty.
	Failure string
	// History holds all events, oldest first.
	History []*protos.HistoryEvent
}

// Call is one call of an activity.
type Call struct {
	Activity string
	Input    saga.Call
	// Reply is the answer. Its Outcome is empty if Err is set, or if no answer came.
	Reply saga.Reply
	Err   string
}

// Calls lists the calls of activities in the order in which they were made.
func (p Played) Calls() []Call {
	var calls []Call
	byTask := make(map[int32]int)
	for _, e := range p.History {
		switch {
		case e.GetTaskScheduled() != nil:
			call := Call{Activity: e.GetTaskScheduled().GetName()}
			decode(e.GetTaskScheduled().GetInput().GetValue(), &call.Input)
			byTask[e.GetEventId()] = len(calls)
			calls = append(calls, call)
		case e.GetTaskCompleted() != nil:
			decode(e.GetTaskCompleted().GetResult().GetValue(), &calls[byTask[e.GetTaskCompleted().GetTaskScheduledId()]].Reply)
		case e.GetTaskFailed() != nil:
			calls[byTask[e.GetTaskFailed().GetTaskScheduledId()]].Err = e.GetTaskFailed().GetFailureDetails().GetErrorMessage()
		}
	}
	return calls
}

// Activities lists the names of the called activities in order, once for each call.
func (p Played) Activities() []string {
	var names []string
	for _, c := range p.Calls() {
		names = append(names, c.Activity)
	}
	return names
}

// Story tells the run line by line: what was called and its outcome, what came in, how long the saga meant to wait, and how it
// ended.
//
//	reserve-room: applied
//	hold-seat #1: error: no connection
//	wait 250ms
//	hold-seat #2: rejected, sold out
//	release-room: applied
//	end: undone
func (p Played) Story() []string {
	var (
		story []string
		now   time.Time
		calls = p.Calls()
		made  int
		line  = func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
	)
	for _, e := range p.History {
		switch {
		case e.GetWorkflowStarted() != nil:
			now = e.GetTimestamp().AsTime()
		case e.GetTaskScheduled() != nil:
			line("%s", calls[made])
			made++
		case e.GetEventRaised() != nil:
			line("event %s", e.GetEventRaised().GetInput().GetValue())
		case e.GetTimerCreated() != nil:
			line("wait %s", e.GetTimerCreated().GetFireAt().AsTime().Sub(now))
		}
	}
	if p.Failure != "" {
		line("failed: %s", p.Failure)
	} else {
		line("end: %s", p.Result.End)
	}
	return story
}

// String tells the call in one line. It counts rounds if there was trouble.
func (c Call) String() string {
	s := c.Activity
	if c.Input.Round > 1 || c.Err != "" || c.Reply.Outcome == saga.Unknown {
		s += fmt.Sprintf(" #%d", c.Input.Round)
	}
	if c.Input.Stuck {
		s += " (stuck)"
	}
	switch {
	case c.Err != "":
		return s + ": error: " + c.Err
	case c.Reply.Outcome == "":
		return s + ": no answer"
	}
	s += ": " + string(c.Reply.Outcome)
	if c.Reply.TurnBack {
		s += ", turn back"
	}
	if c.Reply.Reason != "" {
		s += ", " + c.Reply.Reason
	}
	return s
}

// ended reads a completed run's result from its last event.
func ended(history []*protos.HistoryEvent) Played {
	p := Played{History: history}
	for _, e := range history {
		if c := e.GetExecutionCompleted(); c != nil {
			p.Failure = c.GetFailureDetails().GetErrorMessage()
			decode(c.GetResult().GetValue(), &p.Result)
		}
	}
	return p
}

// decode leaves v as it is if the text is no JSON of its kind: a script may answer anything.
func decode(text string, v any) {
	_ = json.Unmarshal([]byte(text), v)
}
