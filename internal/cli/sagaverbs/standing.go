package sagaverbs

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// Standing is how a saga stands: what the verbs look at, and what tables show.
type Standing struct {
	ID ID
	// Status and Phase are the words that people read.
	Status, Phase, Engine string
	Run                   int32
	About                 string
	Amount                *cli.MoneyView
	StartedAt, UpdatedAt  *time.Time
	EndedAt               *time.Time
	Deadline              *time.Time
	ApprovalDeadline      *time.Time
	Reason, ReasonCode    string
	Attention             *AttentionView
	Steps                 []StepView
	// Held says in words what the participants hold for it; empty where nobody can tell.
	Held string
	// Columns are below the headings that only the kind has.
	Columns []string
	// View is the saga in json and yaml, and, after a verb, what that did.
	View func(*Done) any
}

// Done is what a verb did to a saga. A view embeds a pointer to it, so that it is left out where nothing was done.
type Done struct {
	DryRun bool   `json:"dry_run"`
	What   string `json:"what"`
}

// AttentionView is why a saga waits for an operator, in json and yaml.
type AttentionView struct {
	Step      string     `json:"step"`
	Cause     string     `json:"cause"`
	Since     *time.Time `json:"since"`
	Attempts  int32      `json:"attempts"`
	LastError string     `json:"last_error"`
	// Next is what an operator can do, in words; NextAttempt is when it is tried again by itself.
	Next        string     `json:"next"`
	NextAttempt *time.Time `json:"next_attempt"`
	Code        string     `json:"code"`
}

// StepView is a step of a saga in json and yaml.
type StepView struct {
	Name         string     `json:"name"`
	Participant  string     `json:"participant"`
	State        string     `json:"state"`
	Attempts     int32      `json:"attempts"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
	Error        string     `json:"error"`
	Compensation string     `json:"compensation"`
}

// StandingOf is what the messages of all kinds of saga have alike. The rest is the kind's to add.
func StandingOf(m interface {
	GetPhase() string
	GetEngine() string
	GetRun() int32
	GetStartedAt() *timestamppb.Timestamp
	GetUpdatedAt() *timestamppb.Timestamp
	GetEndedAt() *timestamppb.Timestamp
	GetDeadline() *timestamppb.Timestamp
	GetApprovalDeadline() *timestamppb.Timestamp
	GetReason() string
	GetReasonCode() string
}, status fmt.Stringer) *Standing {
	return &Standing{
		Status: StatusWord(status), Phase: m.GetPhase(), Engine: m.GetEngine(), Run: m.GetRun(),
		StartedAt: cli.ViewTime(m.GetStartedAt()), UpdatedAt: cli.ViewTime(m.GetUpdatedAt()), EndedAt: cli.ViewTime(m.GetEndedAt()),
		Deadline: cli.ViewTime(m.GetDeadline()), ApprovalDeadline: cli.ViewTime(m.GetApprovalDeadline()),
		Reason: m.GetReason(), ReasonCode: m.GetReasonCode(),
	}
}

// ViewAttention is the attention of any kind of saga; nil where it needs none.
func ViewAttention[A interface {
	comparable
	GetStep() string
	GetCause() string
	GetSince() *timestamppb.Timestamp
	GetAttempts() int32
	GetLastError() string
	GetNext() *timestamppb.Timestamp
	GetAdvice() string
	GetCode() string
}](a A) *AttentionView {
	var none A
	if a == none {
		return nil
	}
	return &AttentionView{
		Step: a.GetStep(), Cause: a.GetCause(), Since: cli.ViewTime(a.GetSince()), Attempts: a.GetAttempts(), LastError: a.GetLastError(),
		Next: a.GetAdvice(), NextAttempt: cli.ViewTime(a.GetNext()), Code: a.GetCode(),
	}
}

// ViewSteps are the steps of any kind of saga.
func ViewSteps[S interface {
	GetName() string
	GetParticipant() string
	GetState() string
	GetAttempts() int32
	GetStartedAt() *timestamppb.Timestamp
	GetEndedAt() *timestamppb.Timestamp
	GetError() string
	GetCompensation() string
}](steps []S) []StepView {
	views := make([]StepView, len(steps))
	for i, s := range steps {
		views[i] = StepView{
			Name: s.GetName(), Participant: s.GetParticipant(), State: s.GetState(), Attempts: s.GetAttempts(),
			StartedAt: cli.ViewTime(s.GetStartedAt()), EndedAt: cli.ViewTime(s.GetEndedAt()), Error: s.GetError(), Compensation: s.GetCompensation(),
		}
	}
	return views
}

// The statuses that the verbs decide by.
var (
	awaitingApproval = StatusWord(sagav1.Status_STATUS_AWAITING_APPROVAL)
	needsAttention   = StatusWord(sagav1.Status_STATUS_NEEDS_ATTENTION)
	confirmed        = StatusWord(sagav1.Status_STATUS_CONFIRMED)
	rejected         = StatusWord(sagav1.Status_STATUS_REJECTED)
	cancelled        = StatusWord(sagav1.Status_STATUS_CANCELLED)
	expired          = StatusWord(sagav1.Status_STATUS_EXPIRED)
)

// operator is who does the steps at which a person decides.
const operator = "operator"

// StatusWord is a status as people and scripts read it. Every kind of saga has the same statuses, by the same names.
func StatusWord(s fmt.Stringer) string { return strings.TrimPrefix(s.String(), "STATUS_") }

// StatusName is the name, in a contract, of the status that a word says.
func StatusName(word string) string { return "STATUS_" + word }

// StatusWords are all statuses.
func StatusWords() []string {
	var words []string
	for number := 1; number < len(sagav1.Status_name); number++ {
		words = append(words, StatusWord(sagav1.Status(number)))
	}
	return words
}

// openStatuses are those of sagas that have not ended.
func openStatuses() []string { return StatusWords()[:sagav1.Status_STATUS_NEEDS_ATTENTION] }

// result is one saga in every form.
func (k *Kind) result(s *Standing) cli.Result {
	return cli.Result{Value: s.View(nil), IDs: []string{s.ID.Key}, Tables: func(wide bool) []cli.Table { return k.Tables(s, wide) }}
}

// Tables are all that people are told of how a saga stands.
func (k *Kind) Tables(s *Standing, wide bool) []cli.Table {
	return []cli.Table{k.Table([]*Standing{s}, wide), k.attentionTable(s, wide), k.approvalTable(s), k.stepTable(s, wide)}
}

// Table has a line for each saga.
func (k *Kind) Table(all []*Standing, wide bool) cli.Table {
	t := cli.Table{Headings: append(append([]string{}, k.Headings...), "STATUS", "AMOUNT", strings.ToUpper(k.About), "AGE", "AT")}
	if wide {
		t.Headings = append(append(t.Headings, "PHASE", "ENGINE", "RUN", "UPDATED", "ENDED", "DEADLINE", "REASON", "REASON CODE"), k.Columns...)
	}
	for _, s := range all {
		row := append(k.names(s.ID), s.Status, cli.Amount(s.Amount), s.About, k.Age(s.StartedAt), s.where())
		if wide {
			deadline := "-"
			switch {
			case s.EndedAt != nil:
			case s.Status == awaitingApproval:
				deadline = k.Until(s.ApprovalDeadline) // The other one rests meanwhile.
			default:
				deadline = k.Until(s.Deadline)
			}
			row = append(row, s.Phase, s.Engine, fmt.Sprint(s.Run), k.Age(s.UpdatedAt), k.Age(s.EndedAt), deadline, cli.OrDash(s.Reason), cli.OrDash(s.ReasonCode))
			row = append(row, s.Columns...)
		}
		t.Add(row...)
	}
	return t
}

// where says in few words what a saga does, waits for, or ended by.
func (s *Standing) where() string {
	if s.Attention != nil {
		return cli.OrDash(strings.TrimPrefix(s.Attention.Step+": "+s.Attention.Cause, ": "))
	}
	if s.EndedAt != nil {
		return cli.OrDash(s.Reason)
	}
	if s.Status == awaitingApproval {
		return s.decision()
	}
	for _, step := range s.Steps {
		switch step.Compensation {
		case "running", "failing":
			return "undoing " + step.Name
		}
	}
	for _, step := range s.Steps {
		switch step.State {
		case "running", "failing", "unknown":
			return step.Name
		}
	}
	return cli.OrDash(s.Reason)
}

// decision is the step at which a saga awaits approval. Where the steps do not say it is left at the word.
func (s *Standing) decision() string {
	for _, step := range s.Steps {
		if step.Participant == operator && step.State == "running" {
			return step.Name
		}
	}
	return "approval"
}

// attentionTable is what who is called at night must know, and what can be done, with the commands to type.
func (k *Kind) attentionTable(s *Standing, wide bool) cli.Table {
	a := s.Attention
	if a == nil {
		return cli.Table{}
	}
	t := cli.Table{Headings: []string{"NEEDS ATTENTION", cli.OrDash(a.Step)}}
	t.Add("cause", cli.OrDash(a.Cause))
	if wide {
		t.Add("code", cli.OrDash(a.Code))
	}
	t.Add("since", k.Age(a.Since))
	t.Add("attempts", fmt.Sprint(a.Attempts))
	t.Add("next attempt", k.Until(a.NextAttempt))
	t.Add("last error", cli.OrDash(a.LastError))
	if s.Held != "" {
		t.Add("held", s.Held)
	}
	// A line for each of the ways on, so that a command can be copied.
	for i, way := range strings.Split(a.Next, "; ") {
		label := "what to do"
		if i > 0 {
			label = ""
		}
		t.Add(label, cli.OrDash(way))
	}
	return t
}

// approvalTable is what who is to approve must know.
func (k *Kind) approvalTable(s *Standing) cli.Table {
	if s.Status != awaitingApproval {
		return cli.Table{}
	}
	t := cli.Table{Headings: []string{"AWAITS APPROVAL", "of " + cli.Amount(s.Amount)}}
	if s.Amount == nil {
		t.Headings[1] = s.decision()
	}
	t.Add("is undone", k.Until(s.ApprovalDeadline))
	if s.Held != "" {
		t.Add("held", s.Held)
	}
	t.Add("approve", k.hint("approve", s.ID)+` --reason "..."`)
	t.Add("reject", k.hint("reject", s.ID)+` --reason "..."`)
	return t
}

func (k *Kind) stepTable(s *Standing, wide bool) cli.Table {
	t := cli.Table{Headings: []string{"STEP", "PARTICIPANT", "STATE", "ATTEMPTS", "TOOK", "UNDOING", "ERROR"}}
	if wide {
		t.Headings = append(t.Headings, "STARTED", "ENDED")
	}
	for _, step := range s.Steps {
		took := "-"
		if step.StartedAt != nil && step.EndedAt != nil {
			took = cli.Span(step.EndedAt.Sub(*step.StartedAt))
		}
		row := []string{step.Name, step.Participant, step.State, fmt.Sprint(step.Attempts), took, step.Compensation, cli.OrDash(step.Error)}
		if wide {
			row = append(row, k.Age(step.StartedAt), k.Age(step.EndedAt))
		}
		t.Add(row...)
	}
	return t
}
