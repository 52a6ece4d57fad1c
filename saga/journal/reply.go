package journal

import "github.com/checkoutsaga/orchestrator/saga"

// Reply is what a run is told whose attempt may not go ahead; mayGo where it may.
func (p Pass) Reply(a Attempt) (reply saga.Reply, mayGo bool) {
	reply = saga.Reply{Step: a.Step, Reason: p.Reason}
	switch p.Leave {
	case Superseded:
		reply.Outcome = saga.Superseded
	case TurnBack:
		reply.Outcome = saga.TurnedBack
	case Hold:
		reply.Outcome, reply.HoldMS = saga.Held, p.Wait.Milliseconds()
	case Known:
		return GoOn.Reply(a, p.Learned), false
	default:
		return saga.Reply{}, true
	}
	return reply, false
}

// Reply is what a run is told of what its attempt taught, once that is recorded.
func (s Standing) Reply(a Attempt, l Learned) saga.Reply {
	reply := saga.Reply{Step: a.Step, Outcome: l.Outcome, Reason: l.Reason}
	switch s {
	case Over:
		reply.Outcome, reply.Reason = saga.Superseded, ""
	case Doubted:
		reply.Outcome = saga.Unknown
	case GoBack:
		reply.TurnBack = l.Outcome == saga.Applied
	}
	return reply
}
