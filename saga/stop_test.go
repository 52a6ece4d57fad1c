package saga

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// turn executes one turn of a workflow with a hand-made history.
func turn(t *testing.T, w task.Workflow, input string, events ...*protos.HistoryEvent) []*protos.WorkflowAction {
	t.Helper()
	registry := task.NewTaskRegistry()
	require.NoError(t, registry.AddWorkflowN("w", w))
	all := append([]*protos.HistoryEvent{
		{EventId: -1, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_WorkflowStarted{WorkflowStarted: &protos.WorkflowStartedEvent{}}},
		{EventId: -1, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_ExecutionStarted{
			ExecutionStarted: &protos.ExecutionStartedEvent{Name: "w", Input: wrapperspb.String(input)}}},
	}, events...)
	response, err := task.NewTaskExecutor(registry).ExecuteWorkflow(context.Background(), "i", nil, all, backend.ExecuteOptions{})
	require.NoError(t, err)
	return response.GetActions()
}

// failure is the error of a run that ended in this turn.
func failure(t *testing.T, actions []*protos.WorkflowAction) string {
	t.Helper()
	for _, a := range actions {
		if c := a.GetCompleteWorkflow(); c != nil {
			require.Equal(t, protos.OrchestrationStatus_ORCHESTRATION_STATUS_FAILED, c.GetWorkflowStatus())
			return c.GetFailureDetails().GetErrorMessage()
		}
	}
	t.Fatalf("the run did not end: %v", actions)
	return ""
}

// interpret executes one turn of a run with a plan of two steps; the input is without its plan.
func interpret(t *testing.T, input string, events ...*protos.HistoryEvent) []*protos.WorkflowAction {
	t.Helper()
	s, err := Define("trip", 1, Do("a").At("somewhere").UndoneBy("no-a"), Do("b").At("somewhere").UndoneBy("no-b"))
	require.NoError(t, err)
	plan, err := json.Marshal(s.Plan())
	require.NoError(t, err)
	w, err := interpreter(Policy{})
	require.NoError(t, err)
	if open, ok := strings.CutSuffix(input, "}"); ok && open != "{" {
		input = open + `,"plan":` + string(plan) + "}"
	}
	return turn(t, w, input, events...)
}

func TestAPanicStopsTheRunWithAnError(t *testing.T) {
	for name, value := range map[string]any{
		"an error":                errors.New("boom"),
		"a text":                  "boom",
		"what cannot be compared": []string{"boom"},
		"long and not UTF-8":      "boom\xff" + strings.Repeat("ä", 500),
	} {
		t.Run(name, func(t *testing.T) {
			text := failure(t, turn(t, guard(func(*task.WorkflowContext) (any, error) { panic(value) }), "{}"))
			require.Contains(t, text, "saga stopped: panic: ")
			require.Contains(t, text, "boom")
			require.LessOrEqual(t, len(text), 200)
			require.True(t, utf8.ValidString(text), "protobuf stores nothing else")
		})
	}
}

func TestAYieldIsPassedOn(t *testing.T) {
	actions := turn(t, guard(func(ctx *task.WorkflowContext) (any, error) {
		return nil, ctx.CallActivity("a").Await(nil)
	}), "{}")
	require.Len(t, actions, 1)
	require.Equal(t, "a", actions[0].GetScheduleTask().GetName())
}

func TestBadInputStopsTheRunBeforeAnythingIsCalled(t *testing.T) {
	for input, want := range map[string]string{
		`{}`:                            "saga stopped: bad input: no key",
		`nonsense`:                      "saga stopped: bad input: invalid character",
		`"text"`:                        "saga stopped: bad input: json: cannot unmarshal",
		`{"key":"k","phase":"pivoted"}`: "saga stopped: bad input: phase is pivoted, but the saga has no pivot",
		`{"key":"k","phase":"final"}`:   `saga stopped: bad input: unknown phase "final"`,
		`{"key":"k"} `:                  "saga stopped: bad input: no steps",
	} {
		t.Run(input, func(t *testing.T) {
			actions := interpret(t, input)
			require.Len(t, actions, 1)
			require.Contains(t, failure(t, actions), want)
		})
	}
}

func TestAHistoryThatTheCodeDoesNotFitStopsTheRunAndUndoesNothing(t *testing.T) {
	scheduled := &protos.HistoryEvent{EventId: 0, EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "a"}}}
	done := func(id int32, reply string) *protos.HistoryEvent {
		return &protos.HistoryEvent{EventId: -1, EventType: &protos.HistoryEvent_TaskCompleted{
			TaskCompleted: &protos.TaskCompletedEvent{TaskScheduledId: id, Result: wrapperspb.String(reply)}}}
	}
	timer := func(id int32) *protos.HistoryEvent {
		return &protos.HistoryEvent{EventId: id, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_TimerCreated{TimerCreated: &protos.TimerCreatedEvent{}}}
	}
	tests := map[string][]*protos.HistoryEvent{
		"a timer where the code calls an activity": {scheduled, done(0, `{"step":"a","outcome":"applied"}`), timer(1)},
		"an activity where the code waits":         {scheduled, done(0, `{"step":"a","outcome":"unknown"}`), {EventId: 1, EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "b"}}}},
		"an event that this library does not know": {scheduled, {EventId: 1}},
	}
	for name, events := range tests {
		t.Run(name, func(t *testing.T) {
			actions := interpret(t, `{"key":"k"}`, events...)
			require.Contains(t, failure(t, actions), ErrReplay.Error())
			for _, a := range actions {
				require.NotContains(t, a.GetScheduleTask().GetName(), "no-", "nothing is undone")
			}
		})
	}
}

func TestAnActivityThatSpeaksLikeAReplayMismatchIsOnlyAFailedAttempt(t *testing.T) {
	actions := interpret(t, `{"key":"k"}`,
		&protos.HistoryEvent{EventId: 0, EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "a"}}},
		&protos.HistoryEvent{EventId: -1, EventType: &protos.HistoryEvent_TaskFailed{TaskFailed: &protos.TaskFailedEvent{
			FailureDetails: &protos.TaskFailureDetails{ErrorMessage: "a previous execution called me names"}}}})
	require.Len(t, actions, 1)
	require.NotNil(t, actions[0].GetCreateTimer(), "it waits for its next attempt")
}

func TestAnAnswerThatCannotBeReadCountsAsUnknown(t *testing.T) {
	actions := interpret(t, `{"key":"k"}`,
		&protos.HistoryEvent{EventId: 0, EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "a"}}},
		&protos.HistoryEvent{EventId: -1, EventType: &protos.HistoryEvent_TaskCompleted{TaskCompleted: &protos.TaskCompletedEvent{Result: wrapperspb.String("42")}}})
	require.Len(t, actions, 1)
	require.NotNil(t, actions[0].GetCreateTimer(), "it waits for its next attempt")
}

func TestErrorTextsAreCutBetweenRunes(t *testing.T) {
	require.Equal(t, "short", cut("short", 200))
	require.Equal(t, "ää", cut("äää", 5))
	require.Equal(t, "a?b", cut("a\xffb", 200))
	require.Empty(t, cut("ä", 1))
	require.ErrorIs(t, stop(ErrReplay, strings.Repeat("x", 500)), ErrReplay)
	require.Len(t, stop(ErrReplay, strings.Repeat("x", 500)).Error(), 200)
}
