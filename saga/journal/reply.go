package journal

import (
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Begin is the row of a saga that is accepted now: its first step is the next to be tried.
func Begin(key string, plan saga.Plan, now time.Time, deadline time.Duration) *Row {
	r := &Row{Now: now, CheckAt: now.Add(StartPatience)}
	r.Key, r.Plan, r.Steps = key, plan, FirstSteps(plan)
	r.Phase, r.Status, r.Run = saga.Forward, Running, 1
	r.StartedAt, r.Deadline = now, now.Add(deadline)
	return r
}

// FirstSteps are the steps of a saga that was just accepted.
func FirstSteps(plan saga.Plan) []Step {
	steps := make([]Step, len(plan.Steps))
	for i, planned := range plan.Steps {
		steps[i] = Step{Step: planned, State: StatePending, CompensationState: CompensationNotNeeded}
	}
	steps[0].State = StateRunning
	return steps
}

// Reply is what a run is told whose attempt may not go ahead; mayGo where it may.
func (p Pass) Reply() (reply saga.Reply, mayGo bool) {
	switch p.Leave {
	case Superseded:
		return saga.Reply{Outcome: saga.Superseded, Reason: p.Reason}, false
	case TurnBack:
		return saga.Reply{Outcome: saga.TurnedBack, Reason: p.Reason}, false
	case Hold:
		return saga.Reply{Outcome: saga.Held, Reason: p.Reason, HoldMS: p.Wait.Milliseconds()}, false
	case Known:
		return GoOn.Reply(p.Learned), false
	}
	return saga.Reply{}, true
}

// Reply is what a run is told of what its attempt taught, once that is recorded.
func (s Standing) Reply(l Learned) saga.Reply {
	switch {
	case s == Over:
		return saga.Reply{Outcome: saga.Superseded}
	case s == Doubted:
		return saga.Reply{Outcome: saga.Unknown, Reason: l.Reason}
	}
	return saga.Reply{Outcome: l.Outcome, Reason: l.Reason, TurnBack: s == GoBack && l.Outcome == saga.Applied}
}
