package saga

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dapr/durabletask-go/task"
)

// Why a run stopped with an error. Nothing was undone: the next run, or a person, goes on from what the activities
// recorded. Engines keep an error as text, which begins with one of these.
var (
	// ErrInput: no saga can begin with the workflow's input.
	ErrInput = errors.New("saga stopped: bad input")
	// ErrPanic: the workflow's code panicked.
	ErrPanic = errors.New("saga stopped: panic")
	// ErrReplay: this code did not make the history, or the engine's library does not know it. An activity that the code asked for
	// in that very turn is still sent, because the library takes nothing back: activities must look at their own record of the run
	// before they act.
	ErrReplay = errors.New("saga stopped: code does not fit history")
	// ErrReply: an activity answered for another step than it was asked for.
	ErrReply = errors.New("saga stopped: reply to another step")
)

// maxError is where error texts are cut, in bytes: they stay in histories for months.
const maxError = 200

func stop(why error, detail string) error {
	return fmt.Errorf("%w: %s", why, cut(detail, maxError-len(why.Error())-len(": ")))
}

// cut shortens s to at most n bytes of valid UTF-8; protobuf refuses to store anything else.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}

// guard turns a panic into an error of the run. Nothing else would: the panic would kill the process, and the instance would be
// delivered to the next one. A yield is a panic too and is passed on. That is why no other code of a workflow may recover or defer.
func guard(w task.Workflow) task.Workflow {
	return func(ctx *task.WorkflowContext) (output any, err error) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case task.ErrTaskBlocked:
				panic(p)
			default:
				output, err = nil, stop(ErrPanic, fmt.Sprint(p))
			}
		}()
		return w(ctx)
	}
}

// fromTask tells whether an error of Await is the task's own: the activity failed, its answer cannot be read, or the wait is over.
// Every other error comes from the engine's library while it goes through the history, as when "a previous execution called"
// something else. Those must never pass for a failed step. The library gives only text. A text that is not known here stops the
// run, which is the safe side.
func fromTask(err error) bool {
	text := err.Error()
	return errors.Is(err, task.ErrTaskCanceled) ||
		strings.HasPrefix(text, "task failed with an error: ") ||
		strings.HasPrefix(text, "failed to decode task result: ")
}
