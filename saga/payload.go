package saga

import "time"

// Input is the input of a saga's workflow: the key and the plan, never the data itself. All payloads here are a stored format:
// fields are only added, and the zero value of a new one means what was meant before.
type Input struct {
	// Key names what the saga is about, such as an order id. The same for every run.
	Key string `json:"key"`
	// Run counts the workflow instances that drive this key, from 1.
	Run int `json:"run"`
	// Phase is where the run continues; empty means Forward.
	Phase Phase `json:"phase,omitempty"`
	// Plan is what the run carries out.
	Plan Plan `json:"plan"`
}

// Phase tells where a run begins.
type Phase string

// The phases a run can begin in.
const (
	// Forward begins with the first step.
	Forward Phase = "forward"
	// Pivoted begins with the pivot: what comes before it is done, and there is no way back but the pivot's refusal.
	Pivoted Phase = "pivoted"
	// Undoing only undoes, last step first.
	Undoing Phase = "undoing"
	// Reversing is Undoing after the pivot was applied, because a person decided so. What comes before the pivot goes first, last
	// step first, and then the pivot's own effect. See Pivot.
	Reversing Phase = "reversing"
)

// Call is the input of an activity that does or undoes a step.
type Call struct {
	// Definition and Key name the saga.
	Definition string `json:"definition"`
	Key        string `json:"key"`
	Run        int    `json:"run"`
	// Step is the step's name in both directions, Participant who does it.
	Step        string `json:"step"`
	Participant string `json:"participant"`
	// Undo says that the activity undoes the step.
	Undo bool `json:"undo,omitempty"`
	// Round counts this run's attempts at it, from 1.
	Round int `json:"round"`
	// WaitMS is how long the saga will wait, in milliseconds, before the next attempt if the outcome stays unknown.
	WaitMS int64 `json:"wait_ms"`
	// Claims says that it is the first attempt at the plan's first step or at its pivot. By these a saga claims the way forward, so
	// the activity's record is likely to change before it calls anybody.
	Claims bool `json:"claims,omitempty"`
	// Stuck says that the policy's patience is at its end: a person should be told.
	Stuck bool `json:"stuck,omitempty"`
}

// Saga is what the call is about.
func (c Call) Saga() ID { return ID{c.Definition, c.Key} }

// Wait is WaitMS as a duration.
func (c Call) Wait() time.Duration { return time.Duration(c.WaitMS) * time.Millisecond }

// Reply is what such an activity returns. A refusal is a Reply; an error from an activity means Unknown.
type Reply struct {
	// Step echoes Call.Step, so that the saga notices a reply that belongs to another step.
	Step    string  `json:"step"`
	Outcome Outcome `json:"outcome"`
	// Reason is for people, at most 200 bytes.
	Reason string `json:"reason,omitempty"`
	// TurnBack, with Applied, tells the saga to undo instead of trying the next step.
	TurnBack bool `json:"turn_back,omitempty"`
	// HoldMS, with Held, is how long to wait for a command, in milliseconds, before asking again.
	HoldMS int64 `json:"hold_ms,omitempty"`
}

// Outcome is what an activity learned.
type Outcome string

// The outcomes.
const (
	// Applied: the effect is in place; of an undo: it is gone and stays gone.
	Applied Outcome = "applied"
	// Rejected: refused for a business reason; there is nothing to undo.
	Rejected Outcome = "rejected"
	// Unknown: nothing is known; the saga tries again.
	Unknown Outcome = "unknown"
	// Held: nobody was called yet, because a person has to decide first or the participant is held back. The attempt does not
	// count; the saga asks again after Reply.HoldMS, or when a command comes.
	Held Outcome = "held"
	// TurnedBack: nobody was called in this attempt because the saga is to be undone.
	TurnedBack Outcome = "turned-back"
	// Superseded: another run drives this key, or it is settled; the saga ends and touches nothing.
	Superseded Outcome = "superseded"
)

// Command is the payload of the one event that a saga listens to. It wakes a waiting saga; the activities know what it means.
type Command struct {
	// ID is unique; an id that was seen is ignored.
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Step string `json:"step,omitempty"`
}

// CommandEvent is the one event name a saga listens to: a wait listens to one name only.
const CommandEvent = "command"

// Result is what a saga's workflow returns.
type Result struct {
	End End `json:"end"`
}

// End tells how a run ended.
type End string

// The ends.
const (
	// Completed: every step is done.
	Completed End = "completed"
	// Undone: every effect is gone.
	Undone End = "undone"
	// Continue: the run's history grew long; the next run goes on in the same phase.
	Continue End = "continue"
	// Replaced: another run drives this key, or it is settled.
	Replaced End = "replaced"
)
