package saga

import (
	"errors"
	"fmt"
	"time"
)

// Policy says how a saga tries again. A zero field takes its default.
//
// A changed policy holds for runs under way too. For the waits and for Patience that is harmless.
type Policy struct {
	// FirstWait is the wait after the first attempt at a step; each further wait is twice as long. Default 250ms. Too short presses
	// a participant that is in trouble; too long makes a lost answer cost a customer's time.
	FirstWait time.Duration
	// LongestWait is where the doubling ends while the saga has patience. Default 8s.
	LongestWait time.Duration
	// Patience is the round from which a step counts as stuck. Default 12: about a minute with the other defaults.
	Patience int
	// FirstStuckWait is the wait after round Patience; each further wait is twice as long. Default 16s.
	FirstStuckWait time.Duration
	// LongestStuckWait is where that doubling ends. Default 1h. Too short makes the history grow; too long leaves a saga open after
	// its participant is well again, unless a command wakes it.
	LongestStuckWait time.Duration
	// MaxAttemptsPerRun bounds a run's history: after so many attempts the run ends with Continue. Default 50. A plan that needs
	// more without any trouble gets one more than it needs. Lowering it is a change of workflow code: a run already past the new
	// bound does not replay.
	MaxAttemptsPerRun int
}

func (p Policy) withDefaults() Policy {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&p.FirstWait, 250*time.Millisecond)
	set(&p.LongestWait, 8*time.Second)
	set(&p.FirstStuckWait, 16*time.Second)
	set(&p.LongestStuckWait, time.Hour)
	if p.Patience == 0 {
		p.Patience = 12
	}
	if p.MaxAttemptsPerRun == 0 {
		p.MaxAttemptsPerRun = 50
	}
	return p
}

func (p Policy) validate() error {
	var wrong []error
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if p.FirstWait < time.Millisecond {
		say("FirstWait is %s, the least is 1ms", p.FirstWait)
	}
	if p.LongestWait < p.FirstWait {
		say("LongestWait %s is less than FirstWait %s", p.LongestWait, p.FirstWait)
	}
	if p.Patience < 1 {
		say("Patience is %d, the least is 1", p.Patience)
	}
	if p.FirstStuckWait < time.Millisecond {
		say("FirstStuckWait is %s, the least is 1ms", p.FirstStuckWait)
	}
	if p.LongestStuckWait < p.FirstStuckWait {
		say("LongestStuckWait %s is less than FirstStuckWait %s", p.LongestStuckWait, p.FirstStuckWait)
	}
	if p.MaxAttemptsPerRun < 1 {
		say("MaxAttemptsPerRun is %d, the least is 1", p.MaxAttemptsPerRun)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("policy: %w", errors.Join(wrong...))
	}
	return nil
}

// stuck tells whether a step in this round has been tried for too long.
func (p Policy) stuck(round int) bool { return round >= p.Patience }

// wait is how long to wait after a round whose outcome is not known.
func (p Policy) wait(round int) time.Duration {
	if p.stuck(round) {
		return doubled(p.FirstStuckWait, round-p.Patience, p.LongestStuckWait)
	}
	return doubled(p.FirstWait, round-1, p.LongestWait)
}

func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	for ; times > 0 && d < most; times-- {
		d *= 2
	}
	return min(d, most)
}
