package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/backend/runtimestate"
	"google.golang.org/protobuf/proto"
)

// status is what a row of the log says of its instance.
type status int16

const (
	goesOn    status = 0
	completed status = 1
	failed    status = 2
)

// history is what has happened to an instance, and what follows from that. It is a value: a turn makes another one of it.
type history struct {
	id   string
	key  int64
	rows int32 // in the log

	events []*protos.HistoryEvent
	start  *protos.ExecutionStartedEvent
	end    *protos.ExecutionCompletedEvent
	tasks  []*protos.HistoryEvent // activities that were scheduled and have no outcome
	timers []*protos.HistoryEvent // that were created and have not fired
}

// never is the year in which a timer fires that is only there so that a wait without a limit looks like any other.
const never = 9999

// with is the history with more events.
func (h history) with(events []*protos.HistoryEvent) history {
	h.events = append(h.events, events...)
	h.tasks, h.timers = slices.Clone(h.tasks), slices.Clone(h.timers)
	without := func(from []*protos.HistoryEvent, id int32) []*protos.HistoryEvent {
		return slices.DeleteFunc(from, func(e *protos.HistoryEvent) bool { return e.GetEventId() == id })
	}
	for _, e := range events {
		switch e := e.GetEventType().(type) {
		case *protos.HistoryEvent_ExecutionStarted:
			h.start = e.ExecutionStarted
		case *protos.HistoryEvent_ExecutionCompleted:
			h.end = e.ExecutionCompleted
		case *protos.HistoryEvent_TaskCompleted:
			h.tasks = without(h.tasks, e.TaskCompleted.GetTaskScheduledId())
		case *protos.HistoryEvent_TaskFailed:
			h.tasks = without(h.tasks, e.TaskFailed.GetTaskScheduledId())
		case *protos.HistoryEvent_TimerFired:
			h.timers = without(h.timers, e.TimerFired.GetTimerId())
		}
		switch {
		case e.GetTaskScheduled() != nil:
			h.tasks = append(h.tasks, e)
		case e.GetTimerCreated() != nil && e.GetTimerCreated().GetFireAt().AsTime().Year() < never:
			h.timers = append(h.timers, e)
		}
	}
	if h.end != nil {
		h.tasks, h.timers = nil, nil
	}
	return h
}

func (h history) status() status {
	switch h.end.GetWorkflowStatus() {
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED:
		return completed
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_RUNNING: // Zero: there is no end.
		return goesOn
	default:
		return failed
	}
}

// awaits tells whether an activity has no outcome yet.
func (h history) awaits(task int32) bool {
	return slices.ContainsFunc(h.tasks, func(e *protos.HistoryEvent) bool { return e.GetEventId() == task })
}

// wake is when the next timer fires; zero where there is none.
func (h history) wake() (at time.Time) {
	for _, e := range h.timers {
		if fires := e.GetTimerCreated().GetFireAt().AsTime(); at.IsZero() || fires.Before(at) {
			at = fires
		}
	}
	return at
}

// due are the timers that fire by now.
func (h history) due(now time.Time) (fired []*protos.HistoryEvent) {
	for _, e := range h.timers {
		if fires := e.GetTimerCreated().GetFireAt(); !fires.AsTime().After(now) {
			fired = append(fired, newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TimerFired{
				TimerFired: &protos.TimerFiredEvent{TimerId: e.GetEventId(), FireAt: fires},
			}}))
		}
	}
	return fired
}

// errNothingNew means that an instance knows already what it is told.
var errNothingNew = errors.New("the instance knows that already")

// turn lets the workflow's code take in what happened, and returns the history with that and with what the code decided, and the same
// as a row of the log. It changes nothing, so it may be taken again.
func (h history) turn(code code, happened []*protos.HistoryEvent) (history, []byte, error) {
	if h.end != nil {
		return h, nil, errEnded
	}
	state := &protos.WorkflowRuntimeState{InstanceId: h.id, OldEvents: h.events, StartEvent: h.start}
	_ = runtimestate.AddEvent(state, newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_WorkflowStarted{
		WorkflowStarted: &protos.WorkflowStartedEvent{},
	}}))
	for _, e := range happened {
		_ = runtimestate.AddEvent(state, e) // It leaves out what it knows.
	}
	if len(state.NewEvents) == 1 {
		return h, nil, errNothingNew
	}
	taken := slices.Clip(state.NewEvents)
	err := code.decide(state)
	decided, row := state.NewEvents, []byte(nil)
	if err == nil {
		row, err = encode(decided)
	}
	if err != nil {
		decided = append(taken, newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_ExecutionCompleted{
			ExecutionCompleted: &protos.ExecutionCompletedEvent{
				WorkflowStatus: protos.OrchestrationStatus_ORCHESTRATION_STATUS_FAILED, FailureDetails: failure(err),
			},
		}}))
		if row, err = encode(decided); err != nil {
			return h, nil, err
		}
	}
	h = h.with(decided)
	h.rows++
	return h, row, nil
}

// failure is an error as histories tell it. Protobuf stores valid UTF-8 alone.
func failure(err error) *protos.TaskFailureDetails {
	return &protos.TaskFailureDetails{ErrorType: fmt.Sprintf("%T", err), ErrorMessage: strings.ToValidUTF8(fmt.Sprintf("%+v", err), "?")}
}

// code carries out workflows.
type code struct {
	executor backend.Executor
	applier  *runtimestate.Applier
}

// decide runs a workflow's code up to where it waits, and adds what it decided to the state. Any error is the end of the workflow.
func (c code) decide(state *protos.WorkflowRuntimeState) (err error) {
	defer func() {
		// It would end the process, and each one that takes over. That the code waits is a panic too, which the executor has caught.
		if p := recover(); p != nil {
			err = fmt.Errorf("the workflow panicked: %v", p)
		}
	}()
	response, err := c.executor.ExecuteWorkflow(context.Background(), api.InstanceID(state.InstanceId), state.OldEvents, state.NewEvents, backend.ExecuteOptions{})
	if err != nil {
		return err
	}
	result, err := c.applier.Actions(state, nil, response.Actions, nil, nil)
	if err != nil {
		return err
	}
	if result.ContinuedAsNew || len(state.PendingMessages) > 0 {
		return errors.New("the embedded engine knows activities, timers and events, and nothing else that a workflow can ask for")
	}
	return nil
}

// encode makes a row of the log of events, decode the reverse.
func encode(events []*protos.HistoryEvent) ([]byte, error) {
	row, err := proto.Marshal(&protos.GetInstanceHistoryResponse{Events: events})
	if err != nil {
		return nil, fmt.Errorf("encode events: %w", err)
	}
	return row, nil
}

func decode(row []byte) ([]*protos.HistoryEvent, error) {
	var events protos.GetInstanceHistoryResponse
	if err := proto.Unmarshal(row, &events); err != nil {
		return nil, fmt.Errorf("decode events: %w", err)
	}
	return events.GetEvents(), nil
}
