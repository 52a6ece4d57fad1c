package journal

import (
	"fmt"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// patience is how long the sweeper leaves a saga alone that writes nothing: an attempt takes at most 9 s (fence, call, record), and
// the engine needs some time to deliver it. Too short pokes what is merely slow; too long delays what was lost.
const patience = 20 * time.Second

// StartPatience is the same for a run that the engine is not known to have started. Starting it again is harmless, and nothing else
// would start it.
const StartPatience = 5 * time.Second

// deadlineSlack is how long after a deadline the sweeper looks whether the run has seen it. The run's own timer may be lost or
// late.
const deadlineSlack = time.Second

// expectNews makes the sweeper look again when nothing has come for its patience after a wait. A time close enough stays, so that a
// quick saga changes no index.
func (r *Row) expectNews(wait time.Duration) {
	due := r.Now.Add(wait + patience)
	if end := r.Deadline.Add(deadlineSlack); r.Phase == saga.Forward && !r.awaitsApproval() && end.After(r.Now) && end.Before(due) {
		due = end
	}
	if early := due.Sub(r.CheckAt); early < 0 || early > patience/4 {
		r.CheckAt = due
	}
}

// LookAgain makes the sweeper look again after its patience, which is shorter for a run that may not have been started.
func (r *Row) LookAgain() {
	wait := patience
	if r.StartedRun < r.Run {
		wait = StartPatience
	}
	r.CheckAt = r.Now.Add(wait)
}

// SettleUntouched ends a saga about which nobody was asked, if it must not go forward.
func (r *Row) SettleUntouched() bool {
	b := r.wayBarred()
	if r.Touched || r.Phase != saga.Forward || b == nil {
		return false
	}
	r.finish(b.verdict, b.code, b.reason)
	return true
}

// maxFruitlessRuns is how many runs without progress the sweeper starts before it calls an operator.
const maxFruitlessRuns = 3

// NextRun gives the saga a new run, which goes on in the row's phase.
func (r *Row) NextRun(why string) {
	r.FruitlessRuns++
	r.newRun(ActorSweeper, why)
	if r.FruitlessRuns <= maxFruitlessRuns {
		return
	}
	// Runs go on, ever more seldom: what was wrong may be mended without anybody thinking of this saga.
	r.CheckAt = r.Now.Add(seldom(r.FruitlessRuns - maxFruitlessRuns))
	r.attend(Attention{
		Code: AttentionNoProgress, Cause: fmt.Sprintf("%d runs made no progress", r.FruitlessRuns-1),
		Attempts: r.FruitlessRuns, LastError: why, Next: r.CheckAt,
	})
}

// seldom is how long to wait before the n-th repeat of what did not help before.
func seldom(n int) time.Duration { return min(time.Hour, 5*time.Minute<<min(n-1, 6)) }

// newRun makes a new run the only one that may act.
func (r *Row) newRun(actor, why string) {
	r.Run++
	r.Pokes = 0
	r.LookAgain()
	r.Entries = append(r.Entries, Entry{Kind: "status", Attempt: r.Run, Actor: actor, Outcome: "run", Reason: why})
}

// ActorSweeper is the sweeper's name where others are people's.
const ActorSweeper = "sweeper"

// stoppedPause is how long after its first run stopped a saga gets the next one. Dapr 1.18.2 now and then garbles the history of a
// run whose store goes away in the middle of a turn (docs/decisions/0019), and the next run does well. Together with patience it is
// less than the 60 s in which work must go on (I8).
const stoppedPause = 15 * time.Second

// Stopped calls an operator because the run stopped: its code panicked, or does not fit its history. Nothing was undone. A new run
// may fare better, but must not become a loop: the first comes soon, the others seldom. It returns false if that was called for
// before and the time for the new run has come.
func (r *Row) Stopped(why string) (news bool) {
	if r.Attention != nil && r.Attention.Code == AttentionStopped && r.Attention.Run == r.Run {
		return false
	}
	again := stoppedPause
	if r.FruitlessRuns > 0 {
		again = seldom(r.FruitlessRuns)
	}
	r.CheckAt = r.Now.Add(again)
	r.attend(Attention{
		Code: AttentionStopped, Run: r.Run, Cause: fmt.Sprintf("run %d stopped, and nothing was undone", r.Run),
		Attempts: r.FruitlessRuns + 1, LastError: why, Next: r.CheckAt,
	})
	return true
}
