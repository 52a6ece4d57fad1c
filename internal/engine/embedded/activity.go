package embedded

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pause"
)

// perform carries out an activity, commits its outcome with the turn that it causes, and returns the activities that follow. If the
// activity took the turn along when it committed its answer, that is all done.
func (r *runner) perform(j job) []job {
	ride := &rider{runner: r, job: j}
	outcome, err := r.code.executor.ExecuteActivity(commit.WithRider(r.work, ride), api.InstanceID(j.instance.id), j.task, backend.ExecuteOptions{})
	if err != nil {
		outcome = outcomeOf(j.task, nil, err)
	}
	if failed := outcome.GetTaskFailed().GetFailureDetails(); failed != nil {
		failed.ErrorMessage = strings.ToValidUTF8(failed.ErrorMessage, "?")
	}
	i := j.instance
	if ride.turn != nil {
		defer r.letGo(i)
		switch {
		case ride.change.Committed:
			return r.settle(ride.turn)
		case r.work.Err() != nil, ride.turn.isOpen(ride.change) && !r.rebuild(i):
			return nil
		}
	} else {
		// What is abandoned has no outcome. It is carried out again by whoever runs the engine next.
		if r.work.Err() != nil || i.hold(r.work) != nil {
			return nil
		}
		defer r.letGo(i)
	}
	return r.record(j, outcome)
}

// record commits the outcome of an activity with the turn that it causes, and returns the activities that follow. The caller holds
// the instance.
func (r *runner) record(j job, outcome *protos.HistoryEvent) []job {
	// An outcome that the log has, or that nobody waits for any more, causes nothing.
	for j.instance.history.awaits(j.task.GetEventId()) {
		t := &turn{runner: r, instance: j.instance, happened: []*protos.HistoryEvent{outcome}}
		if err := t.take(); err != nil {
			r.Log.Error("embedded engine cannot take in the outcome of an activity", "workflow_id", j.instance.id, "error", err)
			return nil
		}
		isOpen, err := r.commit(r.work, t)
		switch {
		case err == nil:
			return r.settle(t)
		case errors.Is(err, ErrLost), r.work.Err() != nil, isOpen && !r.rebuild(j.instance), !isOpen && !pause.For(r.work, askAgain):
			return nil
		}
	}
	return nil
}

// rider is the turn that an activity's answer causes, which may go along in the transaction of the answer.
type rider struct {
	runner *runner
	job    job

	change   *commit.Change
	turn     *turn // nil until it is taken along; from then on, the rider holds the instance
	answered *protos.HistoryEvent
}

// Answered implements commit.Rider.
func (r *rider) Answered(answer any) { r.answered = outcomeOf(r.job.task, answer, nil) }

// Change implements commit.Rider.
func (r *rider) Change() *commit.Change {
	t := &turn{runner: r.runner, instance: r.job.instance, answer: r.answer}
	r.change = &commit.Change{Of: r.runner.table, What: t}
	if err := t.instance.hold(r.runner.work); err != nil {
		t.answer = func() (*protos.HistoryEvent, error) { return nil, err }
		return r.change
	}
	r.turn = t
	return r.change
}

// errUnanswered means that a transaction took a rider along and decided no answer.
var errUnanswered = errors.New("the transaction has no answer for the workflow")

// answer is the answer of the transaction that is being decided.
func (r *rider) answer() (*protos.HistoryEvent, error) {
	answered := r.answered
	r.answered = nil // When it is decided again, the answer may be another one.
	switch {
	case answered == nil:
		return nil, errUnanswered
	case !r.job.instance.history.awaits(r.job.task.GetEventId()):
		return nil, errors.New("nobody waits for the activity any more")
	}
	return answered, nil
}

// outcomeOf is what an activity's answer or error looks like in a history: as the executor would write it.
func outcomeOf(scheduled *protos.HistoryEvent, answer any, err error) *protos.HistoryEvent {
	id, execution := scheduled.GetEventId(), scheduled.GetTaskScheduled().GetTaskExecutionId()
	var result []byte
	if err == nil {
		result, err = marshal(answer)
	}
	if err != nil {
		return newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TaskFailed{TaskFailed: &protos.TaskFailedEvent{
			TaskScheduledId: id, TaskExecutionId: execution, FailureDetails: failure(err),
		}}})
	}
	done := &protos.TaskCompletedEvent{TaskScheduledId: id, TaskExecutionId: execution}
	if len(result) > 0 {
		done.Result = wrapperspb.String(string(result))
	}
	return newEvent(&protos.HistoryEvent{EventType: &protos.HistoryEvent_TaskCompleted{TaskCompleted: done}})
}

func marshal(answer any) ([]byte, error) {
	switch answer := answer.(type) {
	case nil:
		return nil, nil
	case proto.Message:
		return protojson.Marshal(answer)
	default:
		return json.Marshal(answer)
	}
}
