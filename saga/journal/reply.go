package journal

import "github.com/checkoutsaga/orchestrator/saga"

// Reply is what the run is told if its attempt may not go ahead; mayGo says that it may.
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

// Reply is what the run is told once an outcome is recorded.
func (s Standing) Reply(l Learned) saga.Reply {
	switch {
	case s == Over:
		return saga.Reply{Outcome: saga.Superseded}
	case s == Doubted:
		return saga.Reply{Outcome: saga.Unknown, Reason: l.Reason}
	}
	return saga.Reply{Outcome: l.Outcome, Reason: l.Reason, TurnBack: s == GoBack && l.Outcome == saga.Applied}
}
