package journal

import (
	"encoding/json"
	"time"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Saga is what readers see of one saga.
type Saga struct {
	// Key is unique for ever within the plan's definition.
	Key    string
	Status Status
	Phase  saga.Phase
	// Engine is the name of the engine that drives it.
	Engine    string
	Run       int
	StartedAt time.Time
	UpdatedAt time.Time
	Deadline  time.Time
	// ApprovalDeadline is when the time to approve ends; nil until it begins.
	ApprovalDeadline *time.Time
	EndedAt          *time.Time
	// ReasonCode is the reason as a word.
	ReasonCode string
	// Reason says why it did not, or will not, end confirmed.
	Reason    string
	Attention *Attention
	// Plan is the list with which it was accepted; Steps has the state of each.
	Plan  saga.Plan
	Steps []Step
}

// Row is a saga as a transaction sees it. Its phase and status change only here. Its methods decide and change the struct; whoever
// stores it reads and writes it.
type Row struct {
	Saga
	// Verdict is how it ends once it is undone; empty while it goes forward.
	Verdict Status
	// Touched says that a participant may have been asked.
	Touched      bool
	Cancelled    bool
	CancelReason string
	// PastDeadline, PastApproval and Now go by the database's clock, the only judge of deadlines.
	PastDeadline bool
	PastApproval bool
	Now          time.Time
	// ApprovalWait is how long it may await approval; zero if its plan has no decision.
	ApprovalWait time.Duration
	// StartedRun is the newest run that the engine is known to have started.
	StartedRun int
	// Pokes counts the wake-up calls without an effect, FruitlessRuns the runs without progress.
	Pokes         int
	FruitlessRuns int
	// CheckAt is when the sweeper looks at it; zero once it is final.
	CheckAt time.Time
	// Elsewhere says that its participants drive it, by events; see HeardDone.
	Elsewhere bool

	// Ended says that this transaction ended it. Entries and Commands are written with the row.
	Ended    bool
	Entries  []Entry
	Commands []Command
}

// Command is what somebody asked of a saga, and what became of it.
type Command struct {
	ID, Kind, Step, Actor, Reason, Outcome string
	// WithoutProof: an operator's word was taken.
	WithoutProof bool
}

// Entry is one thing that happened to a saga.
type Entry struct {
	At time.Time
	// Kind is "attempt", "command" or "status".
	Kind     string
	Step     string
	Attempt  int
	Actor    string
	Reason   string
	Duration time.Duration
	Outcome  string
	Error    string
}

// Step is a step of the plan and its state.
type Step struct {
	saga.Step
	// State is one of the State… constants.
	State     string
	Attempts  int
	StartedAt *time.Time
	EndedAt   *time.Time
	Error     string
	// Reference is the participant's own.
	Reference string
	// ValidUntil is when the effect ends by itself; nil if it does not.
	ValidUntil *time.Time
	// Output is what the participant gave back, as JSON; nil for nothing.
	Output json.RawMessage
	// CompensationState is one of the Compensation… constants.
	CompensationState string

	// CompensationTries counts the attempts at the compensation.
	CompensationTries int
}

// IsDone tells whether the step's effect is in place, as far as the row knows.
func (s *Step) IsDone() bool { return s.State == StateDone || s.State == StateResolved }

// IsUndone tells whether the step's effect is gone for good.
func (s *Step) IsUndone() bool {
	return s.CompensationState == CompensationDone || s.CompensationState == CompensationResolved
}

// InPlace tells whether the step has an effect at its participant, as far as the row knows.
func (s *Step) InPlace() bool { return s.IsDone() && !s.IsUndone() }

// AtStep is the step or compensation that the saga is at; empty once it is final.
func (s *Saga) AtStep() string {
	if s.Phase == Final {
		return ""
	}
	for _, step := range s.Steps {
		if step.CompensationState == CompensationRunning || step.CompensationState == CompensationFailing {
			return step.Compensation
		}
	}
	for _, step := range s.Steps {
		if step.State == StateRunning || step.State == StateFailing || step.State == StateUnknown {
			return step.Name
		}
	}
	return ""
}

// RunPhase is the phase in which a run of the saga begins.
func (s *Saga) RunPhase() saga.Phase {
	if i := s.Plan.Pivot(); i >= 0 && s.Phase == saga.Undoing && s.Steps[i].CompensationState != CompensationNotNeeded {
		return saga.Reversing
	}
	return s.Phase
}

// ID names the saga.
func (s *Saga) ID() saga.ID { return saga.ID{Definition: s.Plan.Definition, Key: s.Key} }

// Begin is the row of a saga that is accepted now. Its first step is next.
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

// Driven tells whether a run drives the saga. One that is Elsewhere is driven by events until its time is up.
func (r *Row) Driven() bool { return !r.Elsewhere || r.StartedRun > 0 }

// Decision is the step that a person decides; nil if the plan has none.
func (r *Row) Decision() *Step {
	for i := range r.Steps {
		if r.Steps[i].Decision {
			return &r.Steps[i]
		}
	}
	return nil
}

// pivot is the step that ends every way back; nil if the plan has none.
func (r *Row) pivot() *Step {
	if i := r.Plan.Pivot(); i >= 0 {
		return &r.Steps[i]
	}
	return nil
}

// awaitsApproval tells whether a person has to decide before the saga goes on.
func (r *Row) awaitsApproval() bool {
	s := r.Decision()
	return s != nil && s.State == StateRunning && r.Phase == saga.Forward
}

func (r *Row) setPhase(p saga.Phase) {
	r.Phase = p
	if r.Attention == nil {
		r.setStatus(r.statusOfPhase())
	}
}

func (r *Row) statusOfPhase() Status {
	switch {
	case r.Phase == saga.Undoing:
		return Compensating
	case r.awaitsApproval():
		return AwaitingApproval
	}
	return Running
}

func (r *Row) setStatus(s Status) {
	if r.Status == s {
		return
	}
	r.Status = s
	reason := r.Reason
	if r.Attention != nil {
		reason = r.Attention.Cause
	}
	r.Entries = append(r.Entries, Entry{Kind: "status", Outcome: string(s), Reason: reason})
}

func (r *Row) standing() Standing {
	if r.Phase == saga.Undoing || r.Phase == Final && r.Status != Confirmed {
		return GoBack
	}
	return GoOn
}

// moment is a copy of the row's time.
func (r *Row) moment() *time.Time {
	now := r.Now
	return &now
}
