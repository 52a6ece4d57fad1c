package saga_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The mailbox stands on this: the timer of a wait that an event has ended fires all the same, later, and must neither
// cancel what was delivered nor drop a newer wait. durabletask-go before #114 did both; go.mod pins a commit that does
// not, and a tag that sorts above that commit lacks the fix.
func TestTheLateTimerOfASatisfiedWaitLosesNothing(t *testing.T) {
	registry := task.NewTaskRegistry()
	require.NoError(t, registry.AddWorkflowN("two-waits", func(ctx *task.WorkflowContext) (any, error) {
		first, second := ctx.WaitForSingleEvent("command", time.Second), ctx.WaitForSingleEvent("command", time.Hour)
		if err := ctx.CreateTimer(time.Minute).Await(nil); err != nil {
			return nil, err
		}
		var a, b string
		if err := first.Await(&a); err != nil {
			return nil, fmt.Errorf("first wait: %w", err)
		}
		if err := second.Await(&b); err != nil {
			return nil, fmt.Errorf("second wait: %w", err)
		}
		return a + b, nil
	}))
	fired := func(id int32) *protos.HistoryEvent {
		return &protos.HistoryEvent{EventId: -1, EventType: &protos.HistoryEvent_TimerFired{TimerFired: &protos.TimerFiredEvent{TimerId: id}}}
	}
	raised := func(payload string) *protos.HistoryEvent {
		return &protos.HistoryEvent{EventId: -1, EventType: &protos.HistoryEvent_EventRaised{EventRaised: &protos.EventRaisedEvent{Name: "command", Input: wrapperspb.String(payload)}}}
	}
	tests := map[string][]*protos.HistoryEvent{
		"fired before its result is looked at":           {raised(`"a"`), fired(0), fired(2), raised(`"b"`)},
		"fired while a newer wait stands":                {raised(`"a"`), fired(2), fired(0), raised(`"b"`)},
		"fired twice":                                    {raised(`"a"`), fired(0), fired(0), fired(2), raised(`"b"`)},
		"fired after both, with the newer one's as well": {raised(`"a"`), raised(`"b"`), fired(0), fired(1), fired(2)},
	}
	for name, events := range tests {
		t.Run(name, func(t *testing.T) {
			history := append([]*protos.HistoryEvent{
				{EventId: -1, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_WorkflowStarted{WorkflowStarted: &protos.WorkflowStartedEvent{}}},
				{EventId: -1, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_ExecutionStarted{ExecutionStarted: &protos.ExecutionStartedEvent{Name: "two-waits"}}},
			}, events...)
			response, err := task.NewTaskExecutor(registry).ExecuteWorkflow(context.Background(), "i", nil, history, backend.ExecuteOptions{})
			require.NoError(t, err)
			var ended *protos.CompleteWorkflowAction
			for _, a := range response.GetActions() {
				if a.GetCompleteWorkflow() != nil {
					ended = a.GetCompleteWorkflow()
				}
			}
			require.NotNil(t, ended, "the run hangs: a newer wait was dropped")
			require.Equal(t, `"ab"`, ended.GetResult().GetValue(), "%v", ended.GetFailureDetails())
		})
	}
}
