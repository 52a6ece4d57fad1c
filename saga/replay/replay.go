// Package replay tells whether workflow code still fits a recorded history. The engine's own check compares only the kind and
// number of an action, so code that calls another activity in the same place passes it and goes wrong. Check runs the code turn by
// turn and compares names and inputs. It knows only the engine's workflow API.
package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"google.golang.org/protobuf/encoding/protojson"
)

// Check runs the registered workflow against the history of an instance, turn by turn, as the engine did: the events before a turn
// are replayed and its own are new. The error is about the first turn in which the code does not do what the history says: which
// turn, what the history expects and what the code did. The time at which a timer fires is not compared: the length of a wait may
// change while instances run.
//
// The history may be that of an instance still under way.
func Check(registry *task.TaskRegistry, instanceID string, history []*protos.HistoryEvent) error {
	turns, err := split(history)
	if err != nil {
		return fmt.Errorf("check replay of %s: %w", instanceID, err)
	}
	executor := task.NewTaskExecutor(registry)
	for i, turn := range turns {
		got, err := execute(executor, instanceID, turn)
		if err != nil {
			return fmt.Errorf("check replay of %s: turn %d: %w", instanceID, i+1, err)
		}
		if err := compare(turn.did, got); err != nil {
			return fmt.Errorf("check replay of %s: turn %d (%s): %w", instanceID, i+1, turn, err)
		}
	}
	return nil
}

// Load reads a history that Save wrote.
func Load(path string) ([]*protos.HistoryEvent, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load history: %w", err)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("load history %s: %w", path, err)
	}
	history := make([]*protos.HistoryEvent, len(raw))
	for i := range raw {
		history[i] = &protos.HistoryEvent{}
		if err := protojson.Unmarshal(raw[i], history[i]); err != nil {
			return nil, fmt.Errorf("load history %s: event %d: %w", path, i+1, err)
		}
	}
	return history, nil
}

// Save writes a history as JSON, one event a line, the same bytes for the same events.
func Save(path string, history []*protos.HistoryEvent) error {
	text := bytes.NewBufferString("[\n")
	for i, e := range history {
		line, err := protojson.Marshal(e)
		if err != nil {
			return fmt.Errorf("save history %s: event %d: %w", path, i+1, err)
		}
		if i > 0 {
			text.WriteString(",\n")
		}
		// protojson adds random spaces, so that nobody compares its bytes.
		if err := json.Compact(text, line); err != nil {
			return fmt.Errorf("save history %s: event %d: %w", path, i+1, err)
		}
	}
	text.WriteString("\n]\n")
	if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("save history: %w", err)
	}
	return nil
}

// turn is one execution of the workflow's code.
type turn struct {
	// before and incoming are what the code was given.
	before, incoming []*protos.HistoryEvent
	// did is what the code did, by number.
	did map[int32]action
}

// action is what a turn schedules, in the form in which it is compared.
type action struct {
	kind string
	name string
	data string
}

func split(history []*protos.HistoryEvent) ([]turn, error) {
	if len(history) == 0 {
		return nil, errors.New("the history is empty")
	}
	var turns []turn
	for i, e := range history {
		if e.GetWorkflowStarted() != nil {
			turns = append(turns, turn{before: history[:i], did: make(map[int32]action)})
		}
		if len(turns) == 0 {
			return nil, fmt.Errorf("the history begins with %s, not with a turn", kind(e))
		}
		last := &turns[len(turns)-1]
		if a, ok := recorded(e); ok {
			last.did[e.GetEventId()] = a
		} else {
			last.incoming = append(last.incoming, e)
		}
	}
	return turns, nil
}

// recorded reads an event that its turn's code caused.
func recorded(e *protos.HistoryEvent) (action, bool) {
	switch {
	case e.GetTaskScheduled() != nil:
		return action{kind: "activity", name: e.GetTaskScheduled().GetName(), data: e.GetTaskScheduled().GetInput().GetValue()}, true
	case e.GetTimerCreated() != nil:
		return action{kind: "timer", name: e.GetTimerCreated().GetExternalEvent().GetName()}, true
	case e.GetChildWorkflowInstanceCreated() != nil:
		child := e.GetChildWorkflowInstanceCreated()
		return action{kind: "child workflow", name: child.GetName(), data: child.GetInput().GetValue()}, true
	case e.GetDetachedWorkflowInstanceCreated() != nil:
		return action{kind: "detached workflow", name: e.GetDetachedWorkflowInstanceCreated().GetInstanceId()}, true
	case e.GetEventSent() != nil:
		return action{kind: "event sent", name: e.GetEventSent().GetName(), data: e.GetEventSent().GetInput().GetValue()}, true
	case e.GetExecutionCompleted() != nil:
		c := e.GetExecutionCompleted()
		return completion(c.GetWorkflowStatus(), c.GetResult().GetValue(), c.GetFailureDetails()), true
	}
	return action{}, false
}

func execute(executor backend.Executor, id string, t turn) (did map[int32]action, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the code panics: %v", p)
		}
	}()
	response, err := executor.ExecuteWorkflow(context.Background(), api.InstanceID(id), t.before, t.incoming, backend.ExecuteOptions{})
	if err != nil {
		return nil, fmt.Errorf("execute workflow: %w", err)
	}
	did = make(map[int32]action)
	for _, a := range response.GetActions() {
		did[a.GetId()] = scheduled(a)
	}
	return did, nil
}

// scheduled reads what the code does now, in the form of recorded.
func scheduled(a *protos.WorkflowAction) action {
	switch {
	case a.GetScheduleTask() != nil:
		return action{kind: "activity", name: a.GetScheduleTask().GetName(), data: a.GetScheduleTask().GetInput().GetValue()}
	case a.GetCreateTimer() != nil:
		return action{kind: "timer", name: a.GetCreateTimer().GetExternalEvent().GetName()}
	case a.GetCreateChildWorkflow() != nil:
		return action{kind: "child workflow", name: a.GetCreateChildWorkflow().GetName(), data: a.GetCreateChildWorkflow().GetInput().GetValue()}
	case a.GetCreateDetachedWorkflow() != nil:
		return action{kind: "detached workflow", name: a.GetCreateDetachedWorkflow().GetInstanceId()}
	case a.GetSendEvent() != nil:
		return action{kind: "event sent", name: a.GetSendEvent().GetName(), data: a.GetSendEvent().GetData().GetValue()}
	case a.GetCompleteWorkflow() != nil:
		c := a.GetCompleteWorkflow()
		return completion(c.GetWorkflowStatus(), c.GetResult().GetValue(), c.GetFailureDetails())
	}
	return action{kind: fmt.Sprintf("%T", a.GetWorkflowActionType())}
}

func completion(status protos.OrchestrationStatus, result string, failure *protos.TaskFailureDetails) action {
	a := action{kind: "end", name: strings.TrimPrefix(status.String(), "ORCHESTRATION_STATUS_"), data: result}
	if failure != nil {
		a.data = failure.GetErrorMessage()
	}
	return a
}

// compare finds the first difference, by number.
func compare(want, got map[int32]action) error {
	numbers := make(map[int32]bool)
	for n := range want {
		numbers[n] = true
	}
	for n := range got {
		numbers[n] = true
	}
	ordered := make([]int32, 0, len(numbers))
	for n := range numbers {
		ordered = append(ordered, n)
	}
	sort.Slice(ordered, func(i, j int) bool { return ordered[i] < ordered[j] })
	for _, n := range ordered {
		w, wanted := want[n]
		g, there := got[n]
		if wanted != there || !same(w, g) {
			return fmt.Errorf("action %d: expected %s, got %s", n, w, g)
		}
	}
	return nil
}

func same(a, b action) bool {
	if a.kind != b.kind || a.name != b.name {
		return false
	}
	if a.data == b.data {
		return true
	}
	// Marshallers differ in spaces and in the order of fields.
	x, errX := parse(a.data)
	y, errY := parse(b.data)
	return errX == nil && errY == nil && reflect.DeepEqual(withoutPace(x), withoutPace(y))
}

// withoutPace removes from an activity's input what only says how the saga waits. saga.Policy may change that while runs are under
// way, like the times of timers.
func withoutPace(input any) any {
	if fields, is := input.(map[string]any); is {
		delete(fields, "wait_ms")
		delete(fields, "claims")
		delete(fields, "stuck")
	}
	return input
}

// parse keeps numbers as they are written: as floats two different large amounts could be equal.
func parse(text string) (v any, err error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func (a action) String() string {
	s := a.kind
	if s == "" {
		return "nothing"
	}
	if a.name != "" {
		s += " " + a.name
	}
	if a.data != "" {
		s += " " + a.data
	}
	return s
}

// String tells what the turn was given.
func (t turn) String() string {
	var kinds []string
	for _, e := range t.incoming {
		if e.GetWorkflowStarted() == nil {
			kinds = append(kinds, kind(e))
		}
	}
	return "on " + strings.Join(kinds, ", ")
}

func kind(e *protos.HistoryEvent) string {
	return strings.TrimPrefix(fmt.Sprintf("%T", e.GetEventType()), "*protos.HistoryEvent_")
}
