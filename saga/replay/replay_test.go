package replay_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/replay"
	"github.com/checkoutsaga/orchestrator/saga/sagatest"
)

// recorded is a history with a failed attempt, a wait, a command, a refusal and an undo.
func recorded(t *testing.T) []*protos.HistoryEvent {
	t.Helper()
	played, err := sagatest.Scenario{Saga: trip(t), Script: sagatest.Script{
		"room":   {sagatest.Fails("down"), {Reply: saga.Reply{Outcome: saga.Unknown}, Then: []any{saga.Command{ID: "c1", Kind: "retry"}}}},
		"charge": {sagatest.Rejected("declined")},
	}}.Play()
	require.NoError(t, err)
	return played.History
}

func trip(t *testing.T) *saga.Definition {
	t.Helper()
	s, err := saga.Define("trip", 1, saga.Do("room").At("somewhere").UndoneBy("no-room"), saga.Pivot("charge").At("somewhere"))
	require.NoError(t, err)
	return s
}

func registry(t *testing.T, workflow task.Workflow) *task.TaskRegistry {
	t.Helper()
	r := task.NewTaskRegistry()
	require.NoError(t, r.AddWorkflowN(saga.WorkflowName, workflow))
	return r
}

func tripRegistry(t *testing.T) *task.TaskRegistry {
	t.Helper()
	r := task.NewTaskRegistry()
	require.NoError(t, saga.Register(r, saga.Policy{}))
	return r
}

func TestTheCodeThatWroteAHistoryFitsItAndAllItsBeginnings(t *testing.T) {
	history := recorded(t)
	require.NoError(t, replay.Check(tripRegistry(t), "key-1-1", history))
	for i := range history {
		// A history is committed a turn at a time.
		if i > 0 && history[i].GetWorkflowStarted() != nil {
			require.NoError(t, replay.Check(tripRegistry(t), "key-1-1", history[:i]), "the first %d events", i)
		}
	}
}

func TestCheckTellsWhatDiffers(t *testing.T) {
	find := func(history []*protos.HistoryEvent, is func(*protos.HistoryEvent) bool) *protos.HistoryEvent {
		for _, e := range history {
			if is(e) {
				return e
			}
		}
		t.Fatal("no such event")
		return nil
	}
	tests := []struct {
		name   string
		change func(history []*protos.HistoryEvent) []*protos.HistoryEvent
		want   string
	}{
		{
			name: "another activity",
			change: func(h []*protos.HistoryEvent) []*protos.HistoryEvent {
				find(h, func(e *protos.HistoryEvent) bool { return e.GetTaskScheduled() != nil }).GetTaskScheduled().Name = "suite"
				return h
			},
			want: "turn 1 (on ExecutionStarted): action 0: expected activity suite {",
		},
		{
			name: "another input",
			change: func(h []*protos.HistoryEvent) []*protos.HistoryEvent {
				find(h, func(e *protos.HistoryEvent) bool { return e.GetTaskScheduled() != nil }).GetTaskScheduled().Input = wrapperspb.String(`{"key":"other"}`)
				return h
			},
			want: `action 0: expected activity room {"key":"other"}, got activity room {"definition":"trip","key":"key-1",`,
		},
		{
			name: "a timer that is missing",
			change: func(h []*protos.HistoryEvent) []*protos.HistoryEvent {
				var rest []*protos.HistoryEvent
				for _, e := range h {
					if e.GetTimerCreated() == nil {
						rest = append(rest, e)
					}
				}
				return rest
			},
			want: "turn 2 (on TaskFailed): action 1: expected nothing, got timer command",
		},
		{
			name: "another end",
			change: func(h []*protos.HistoryEvent) []*protos.HistoryEvent {
				find(h, func(e *protos.HistoryEvent) bool { return e.GetExecutionCompleted() != nil }).GetExecutionCompleted().Result = wrapperspb.String(`{"end":"completed"}`)
				return h
			},
			want: `expected end COMPLETED {"end":"completed"}, got end COMPLETED {"end":"undone"}`,
		},
		{
			name:   "no history",
			change: func([]*protos.HistoryEvent) []*protos.HistoryEvent { return nil },
			want:   "the history is empty",
		},
		{
			name:   "a history without its first event",
			change: func(h []*protos.HistoryEvent) []*protos.HistoryEvent { return h[1:] },
			want:   "begins with ExecutionStarted, not with a turn",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorContains(t, replay.Check(tripRegistry(t), "key-1-1", test.change(recorded(t))), test.want)
		})
	}
}

func TestSpacesAndTheOrderOfFieldsDoNotMatterButNumbersDo(t *testing.T) {
	input := func(text string) error {
		history := recorded(t)
		for _, e := range history {
			if e.GetTaskScheduled() != nil {
				e.GetTaskScheduled().Input = wrapperspb.String(text)
				break
			}
		}
		return replay.Check(tripRegistry(t), "key-1-1", history)
	}
	require.NoError(t, input(`{ "wait_ms": 250, "round": 1, "step": "room", "run": 1, "key": "key-1", "participant": "somewhere", "definition": "trip" }`))
	require.ErrorContains(t, input(`{ "wait_ms": 250, "round": 1.0000000000000001, "step": "room", "run": 1, "key": "key-1", "participant": "somewhere", "definition": "trip" }`), "expected activity room")
}

func TestHowLongTheSagaWaitsMayChange(t *testing.T) {
	history := recorded(t)
	for _, e := range history {
		if e.GetTaskScheduled() != nil {
			e.GetTaskScheduled().Input = wrapperspb.String(`{"definition":"trip","key":"key-1","run":1,"step":"room","participant":"somewhere","round":1,"wait_ms":9000,"stuck":true}`)
			break
		}
	}
	require.NoError(t, replay.Check(tripRegistry(t), "key-1-1", history))
}

func TestCodeThatPanicsOrIsNotThereIsTold(t *testing.T) {
	panics := registry(t, func(*task.WorkflowContext) (any, error) { panic("boom") })
	require.ErrorContains(t, replay.Check(panics, "key-1-1", recorded(t)), "turn 1: the code panics: boom")
	require.ErrorContains(t, replay.Check(task.NewTaskRegistry(), "key-1-1", recorded(t)), "got end FAILED workflow named 'saga' is not registered")
}

func TestAHistoryIsLoadedAsItWasSaved(t *testing.T) {
	history := recorded(t)
	path := filepath.Join(t.TempDir(), "h.json")
	require.NoError(t, replay.Save(path, history))
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	loaded, err := replay.Load(path)
	require.NoError(t, err)
	if diff := cmp.Diff(messages(history), messages(loaded), protocmp.Transform()); diff != "" {
		t.Fatalf("loaded (-saved +loaded):\n%s", diff)
	}
	require.NoError(t, replay.Save(path, loaded))
	second, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(first), string(second))

	require.NoError(t, os.WriteFile(path, []byte(`[{"nonsense": 1}]`), 0o600))
	_, err = replay.Load(path)
	require.ErrorContains(t, err, "event 1")
}

func messages(history []*protos.HistoryEvent) []proto.Message {
	list := make([]proto.Message, len(history))
	for i := range history {
		list[i] = history[i]
	}
	return list
}
