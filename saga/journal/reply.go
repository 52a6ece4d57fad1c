package journal

import (
	"strings"
	"unicode/utf8"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Reply is what a run is told whose attempt may not go ahead; mayGo where it may.
func (p Pass) Reply(a Attempt) (reply saga.Reply, mayGo bool) {
	reply = saga.Reply{Step: a.Step, Reason: Cut(p.Reason)}
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
	reply := saga.Reply{Step: a.Step, Outcome: l.Outcome, Reason: Cut(l.Reason)}
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

// Cut shortens a text to MaxDetail bytes of valid UTF-8, so that histories and rows stay small and storable.
func Cut(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "")
	if len(text) <= MaxDetail {
		return text
	}
	text = text[:MaxDetail]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}
