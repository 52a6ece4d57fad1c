package journal

import (
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Attention says why a saga waits for an operator.
type Attention struct {
	// Step is the step or compensation that is stuck; empty if the run itself is.
	Step string `json:"step"`
	// Code is the cause as a word.
	Code  AttentionCode `json:"code"`
	Cause string        `json:"cause"`
	// Run is the run that stopped; zero for other causes.
	Run       int       `json:"run,omitempty"`
	Since     time.Time `json:"since"`
	Attempts  int       `json:"attempts"`
	LastError string    `json:"last_error"`
	// Next is when it is tried again.
	Next time.Time `json:"next"`
}

// callForAttention calls an operator if patience is at its end or waiting is no use.
func (r *Row) callForAttention(step string, attempts int, a Attempt, l Learned) {
	code := l.Attention
	switch {
	case code != "":
	case l.Outcome == saga.Rejected:
		code = AttentionRefused
	case a.Stuck:
		code = AttentionFailing
	case r.Attention == nil || r.Attention.Step != step:
		return
	default:
		code = r.Attention.Code
	}
	r.attend(Attention{
		Step: step, Code: code, Cause: cause(code, step, attempts, r.Steps[r.Plan.Index(a.Step)].Participant),
		Attempts: attempts, LastError: l.Text(), Next: r.Now.Add(a.Wait()),
	})
}

// cause says in words why a step or compensation calls for an operator.
func cause(code AttentionCode, step string, attempts int, participant string) string {
	switch code {
	case AttentionRefused:
		return step + " is refused, and there is no other way on"
	case AttentionConflict:
		return participant + " knows it with other contents, so it does not do " + step
	case AttentionBadRequest:
		return participant + " does not accept the request to do " + step
	case AttentionBadAnswer:
		return participant + " answers " + step + " with what its contract does not have"
	case AttentionForgotten:
		return participant + " no longer knows what it confirmed, as after a restore from a backup"
	}
	return fmt.Sprintf("%s has failed %d times", step, attempts)
}

// attend sets the attention that the saga needs. An earlier attention keeps its time.
func (r *Row) attend(a Attention) {
	a.Since = r.Now
	if r.Attention != nil && r.Attention.Step == a.Step {
		a.Since = r.Attention.Since
	}
	r.Attention = &a
	r.setStatus(NeedsAttention)
}

// progress records that something is known for good.
func (r *Row) progress() {
	r.FruitlessRuns = 0
	r.Attention = nil
	r.setStatus(r.statusOfPhase())
}
