package sagatest

import (
	"fmt"
	"time"

	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/task"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Scenario is a saga with what its activities will answer.
type Scenario struct {
	Saga   *saga.Definition
	Policy saga.Policy
	// Input is the run's input. Play and Start fill in a key, a run number and the saga's plan if it has none.
	Input  saga.Input
	Script Script
	// Together delivers what came during an attempt, its answer, and what came right after it in one turn of the workflow.
	// Otherwise Play takes a turn for each.
	Together bool
	// Answered, where set, gets each call right before its answer goes to the saga. On a hub it is called from the activities'
	// goroutines.
	Answered func(Call)

	// does, where set, answers instead of the script, at a time of the virtual clock.
	does func(call saga.Call, now time.Time) Answer
}

// Script tells what each activity answers, attempt by attempt. Without a list, or past its end, it answers Applied.
type Script map[string][]Answer

// Answer is one answer of an activity.
type Answer struct {
	// Reply is the answer. An empty Step becomes the step that was asked for.
	Reply saga.Reply
	// Err, where set, is the error that the activity fails with instead.
	Err string
	// Meanwhile are payloads of events that arrive while the activity works: commands, or Raw.
	Meanwhile []any
	// Then are payloads of events that arrive right after its answer.
	Then []any
}

// Applied answers that it is done.
func Applied() Answer { return Answer{Reply: saga.Reply{Outcome: saga.Applied}} }

// AppliedTurnBack answers that it is done, and that the saga is to be undone.
func AppliedTurnBack() Answer {
	return Answer{Reply: saga.Reply{Outcome: saga.Applied, TurnBack: true}}
}

// Rejected answers with a refusal.
func Rejected(reason string) Answer {
	return Answer{Reply: saga.Reply{Outcome: saga.Rejected, Reason: reason}}
}

// Unknown answers that nothing is known yet.
func Unknown() Answer { return Answer{Reply: saga.Reply{Outcome: saga.Unknown}} }

// Held answers that nobody was called yet, and when to ask again.
func Held(wait time.Duration) Answer {
	return Answer{Reply: saga.Reply{Outcome: saga.Held, HoldMS: wait.Milliseconds()}}
}

// TurnedBack answers that nobody was called because the saga is to be undone.
func TurnedBack() Answer { return Answer{Reply: saga.Reply{Outcome: saga.TurnedBack}} }

// Superseded answers that another run drives the key.
func Superseded() Answer { return Answer{Reply: saga.Reply{Outcome: saga.Superseded}} }

// Fails is an attempt that ends with an error.
func Fails(text string) Answer { return Answer{Err: text} }

// Times repeats an answer.
func (a Answer) Times(n int) []Answer {
	list := make([]Answer, n)
	for i := range list {
		list[i] = a
	}
	return list
}

// Then joins lists of answers.
func Then(lists ...[]Answer) []Answer {
	var all []Answer
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// prepared is a scenario with its gaps filled.
type prepared struct {
	registry *task.TaskRegistry
	input    saga.Input
	id       api.InstanceID
}

func (s Scenario) prepare() (prepared, error) {
	p := prepared{registry: task.NewTaskRegistry(), input: s.Input}
	if err := saga.Register(p.registry, s.Policy); err != nil {
		return prepared{}, err
	}
	known := make(map[string]bool)
	for _, name := range s.Saga.Plan().Activities() {
		known[name] = true
	}
	for name := range s.Script {
		if !known[name] {
			return prepared{}, fmt.Errorf("script: the saga calls no activity %q", name)
		}
	}
	if len(p.input.Plan.Steps) == 0 {
		p.input.Plan = s.Saga.Plan()
	}
	if p.input.Key == "" {
		p.input.Key = "key-1"
	}
	if p.input.Run == 0 {
		p.input.Run = 1
	}
	p.id = api.InstanceID(fmt.Sprintf("%s-%d", p.input.Key, p.input.Run))
	return p, nil
}

func (s Scenario) answer(activity string, n int, call saga.Call, now time.Time) Answer {
	if s.does != nil {
		return s.does(call, now)
	}
	return s.Script.answer(activity, n, call)
}

// answer gives the n-th answer (from 0) of an activity.
func (s Script) answer(activity string, n int, call saga.Call) Answer {
	a := Applied()
	if list := s[activity]; n < len(list) {
		a = list[n]
	}
	if a.Reply.Step == "" {
		a.Reply.Step = call.Step
	}
	return a
}

func (s Scenario) answered(activity string, call saga.Call, a Answer) {
	if s.Answered != nil {
		s.Answered(Call{Activity: activity, Input: call, Reply: a.Reply, Err: a.Err})
	}
}
