package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/saga"
)

const (
	// took is how long an activity takes on the virtual clock.
	took = 10 * time.Millisecond
	// maxTurns is far beyond what MaxAttemptsPerRun allows.
	maxTurns = 5000
)

// start is when every play begins, so that the same scenario gives the same history.
var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// Play runs the scenario to its end on a virtual clock. An error means that it has no end, because the run waits for what never
// comes, or that the scenario is wrong. What happened until then is returned, too.
func (s Scenario) Play() (Played, error) {
	run, err := s.prepare()
	if err != nil {
		return Played{}, fmt.Errorf("prepare scenario: %w", err)
	}
	input, err := json.Marshal(run.input)
	if err != nil {
		return Played{}, fmt.Errorf("prepare scenario: %w", err)
	}
	p := &player{scenario: s, run: run, executor: task.NewTaskExecutor(run.registry), now: start, asked: make(map[string]int)}
	err = p.turn(p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_ExecutionStarted{ExecutionStarted: &protos.ExecutionStartedEvent{
		Name:             saga.WorkflowName,
		Input:            wrapperspb.String(string(input)),
		WorkflowInstance: &protos.WorkflowInstance{InstanceId: string(run.id)},
	}}}))
	for turns := 0; err == nil && !p.done; turns++ {
		if turns == maxTurns {
			err = errors.New("the run does not end")
			break
		}
		err = p.next()
	}
	if err != nil {
		return Played{History: p.history}, fmt.Errorf("play %s: %w", run.id, err)
	}
	return ended(p.history), nil
}

// player does what a backend does: it keeps the history, runs what a turn schedules, and delivers what comes of it.
type player struct {
	scenario Scenario
	run      prepared
	executor backend.Executor
	now      time.Time
	history  []*protos.HistoryEvent
	// tasks wait to be answered, and timers to fire; timers are in the order in which they fire.
	tasks  []*protos.HistoryEvent
	timers []*protos.TimerFiredEvent
	asked  map[string]int
	done   bool
}

// next delivers what happens next: an answer if an activity is at work, else the next timer.
func (p *player) next() error {
	if len(p.tasks) > 0 {
		scheduled := p.tasks[0]
		p.tasks = p.tasks[1:]
		return p.answer(scheduled)
	}
	if len(p.timers) == 0 {
		return errors.New("the run waits for nothing that could come")
	}
	p.now = p.timers[0].GetFireAt().AsTime()
	return p.fire()
}

func (p *player) answer(scheduled *protos.HistoryEvent) error {
	called := scheduled.GetTaskScheduled()
	var call saga.Call
	decode(called.GetInput().GetValue(), &call)
	a := p.scenario.answer(called.GetName(), p.asked[called.GetName()], call, p.now)
	p.scenario.answered(called.GetName(), call, a)
	p.asked[called.GetName()]++
	p.now = p.now.Add(took)
	if err := p.fire(); err != nil {
		return err
	}
	var batches [][]*protos.HistoryEvent
	for _, payload := range a.Meanwhile {
		batches = append(batches, []*protos.HistoryEvent{p.raised(payload)})
	}
	batches = append(batches, []*protos.HistoryEvent{p.answered(scheduled, a)})
	for _, payload := range a.Then {
		batches = append(batches, []*protos.HistoryEvent{p.raised(payload)})
	}
	if p.scenario.Together {
		var all []*protos.HistoryEvent
		for _, b := range batches {
			all = append(all, b...)
		}
		return p.turn(all...)
	}
	for _, b := range batches {
		if p.done {
			return nil
		}
		if err := p.turn(b...); err != nil {
			return err
		}
	}
	return nil
}

// fire delivers the timers that are due, also those of waits that ended long ago, as real engines do.
func (p *player) fire() error {
	for len(p.timers) > 0 && !p.timers[0].GetFireAt().AsTime().After(p.now) && !p.done {
		fired := p.timers[0]
		p.timers = p.timers[1:]
		if err := p.turn(p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TimerFired{TimerFired: fired}})); err != nil {
			return err
		}
	}
	return nil
}

// turn delivers events to the workflow and applies what it schedules.
func (p *player) turn(incoming ...*protos.HistoryEvent) error {
	began := p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_WorkflowStarted{WorkflowStarted: &protos.WorkflowStartedEvent{}}})
	incoming = append([]*protos.HistoryEvent{began}, incoming...)
	response, err := p.executor.ExecuteWorkflow(context.Background(), p.run.id, p.history, incoming, backend.ExecuteOptions{})
	if err != nil {
		return fmt.Errorf("execute turn: %w", err)
	}
	p.history = append(p.history, incoming...)
	actions := response.GetActions()
	sort.Slice(actions, func(i, j int) bool { return actions[i].GetId() < actions[j].GetId() })
	for _, action := range actions {
		if err := p.apply(action); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) apply(action *protos.WorkflowAction) error {
	e := p.event(&protos.HistoryEvent{})
	e.EventId = action.GetId()
	switch {
	case action.GetScheduleTask() != nil:
		scheduled := action.GetScheduleTask()
		e.EventType = &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{
			Name:  scheduled.GetName(),
			Input: scheduled.GetInput(),
		}}
		p.tasks = append(p.tasks, e)
	case action.GetCreateTimer() != nil:
		timer := action.GetCreateTimer()
		created := &protos.TimerCreatedEvent{FireAt: timer.GetFireAt(), Name: timer.Name}
		if o := timer.GetExternalEvent(); o != nil {
			created.Origin = &protos.TimerCreatedEvent_ExternalEvent{ExternalEvent: o}
		}
		e.EventType = &protos.HistoryEvent_TimerCreated{TimerCreated: created}
		p.timers = append(p.timers, &protos.TimerFiredEvent{TimerId: action.GetId(), FireAt: timer.GetFireAt()})
		sort.SliceStable(p.timers, func(i, j int) bool {
			return p.timers[i].GetFireAt().AsTime().Before(p.timers[j].GetFireAt().AsTime())
		})
	case action.GetCompleteWorkflow() != nil:
		completed := action.GetCompleteWorkflow()
		e.EventType = &protos.HistoryEvent_ExecutionCompleted{ExecutionCompleted: &protos.ExecutionCompletedEvent{
			WorkflowStatus: completed.GetWorkflowStatus(),
			Result:         completed.GetResult(),
			FailureDetails: completed.GetFailureDetails(),
		}}
		p.done = true
	default:
		return fmt.Errorf("a saga does not do %v", action)
	}
	p.history = append(p.history, e)
	return nil
}

func (p *player) answered(scheduled *protos.HistoryEvent, a Answer) *protos.HistoryEvent {
	if a.Err != "" {
		return p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TaskFailed{TaskFailed: &protos.TaskFailedEvent{
			TaskScheduledId: scheduled.GetEventId(),
			FailureDetails:  &protos.TaskFailureDetails{ErrorType: "*errors.errorString", ErrorMessage: a.Err},
		}}})
	}
	return p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TaskCompleted{TaskCompleted: &protos.TaskCompletedEvent{
		TaskScheduledId: scheduled.GetEventId(),
		Result:          wrapperspb.String(encode(a.Reply)),
	}}})
}

func (p *player) raised(payload any) *protos.HistoryEvent {
	return p.event(&protos.HistoryEvent{EventType: &protos.HistoryEvent_EventRaised{EventRaised: &protos.EventRaisedEvent{
		Name:  eventName,
		Input: wrapperspb.String(encode(payload)),
	}}})
}

// event dates an event. One that answers no action has the id -1.
func (p *player) event(e *protos.HistoryEvent) *protos.HistoryEvent {
	e.EventId = -1
	e.Timestamp = timestamppb.New(p.now)
	return e
}
