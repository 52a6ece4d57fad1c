package sagaverbs

import (
	"fmt"
	"time"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// The views are what -o json and -o yaml print of sagas. Scripts rely on them: fields are added, never changed; what is not there is null
// or empty, but named.

type sagaView struct {
	Saga             string         `json:"saga"`
	Version          int32          `json:"version"`
	Key              string         `json:"key"`
	Status           string         `json:"status"`
	Phase            string         `json:"phase"`
	Engine           string         `json:"engine"`
	Run              int32          `json:"run"`
	About            string         `json:"about"`
	Amount           *cli.MoneyView `json:"amount"`
	StartedAt        *time.Time     `json:"started_at"`
	UpdatedAt        *time.Time     `json:"updated_at"`
	EndedAt          *time.Time     `json:"ended_at"`
	Deadline         *time.Time     `json:"deadline"`
	ApprovalDeadline *time.Time     `json:"approval_deadline"`
	Reason           string         `json:"reason"`
	ReasonCode       string         `json:"reason_code"`
	Input            any            `json:"input"`
	Attention        *AttentionView `json:"attention"`
	Steps            []sagaStepView `json:"steps"`
	// What a verb did, where it did something.
	*Done
}

type sagaStepView struct {
	StepView
	// Reference is the participant's own name of the effect.
	Reference string `json:"reference"`
	// Output is what the participant gave back; null where it gave nothing.
	Output any `json:"output"`
}

// standing is a saga as the verbs look at it.
func standing(m *sagav1.Saga) *Standing {
	s := StandingOf(m, m.GetStatus())
	s.ID, s.About, s.Amount = ID{m.GetDefinition(), m.GetKey()}, m.GetAbout(), cli.ViewMoney(m.GetMoney())
	s.Attention, s.Steps = ViewAttention(m.GetAttention()), ViewSteps(m.GetSteps())
	s.Columns = []string{fmt.Sprint(m.GetVersion())}
	s.View = func(done *Done) any { return viewSaga(m, s, done) }
	return s
}

func viewSaga(m *sagav1.Saga, s *Standing, done *Done) sagaView {
	view := sagaView{
		Saga: s.ID.Definition, Version: m.GetVersion(), Key: s.ID.Key, Status: s.Status, Phase: s.Phase, Engine: s.Engine, Run: s.Run,
		About: s.About, Amount: s.Amount, StartedAt: s.StartedAt, UpdatedAt: s.UpdatedAt, EndedAt: s.EndedAt, Deadline: s.Deadline,
		ApprovalDeadline: s.ApprovalDeadline, Reason: s.Reason, ReasonCode: s.ReasonCode, Input: m.GetInput().AsInterface(),
		Attention: s.Attention, Steps: make([]sagaStepView, len(s.Steps)), Done: done,
	}
	for i, step := range s.Steps {
		view.Steps[i] = sagaStepView{step, m.GetSteps()[i].GetReference(), m.GetSteps()[i].GetOutput().AsInterface()}
	}
	return view
}

type definitionView struct {
	Name    string `json:"name"`
	Version int32  `json:"version"`
	// Deadline is how long one of its sagas may take, such as "15m0s".
	Deadline string   `json:"deadline"`
	Plan     planView `json:"plan"`

	deadline time.Duration
}

type planView struct {
	Version int32             `json:"version"`
	Steps   []plannedStepView `json:"steps"`
}

type plannedStepView struct {
	Number       int    `json:"number"`
	Name         string `json:"name"`
	Participant  string `json:"participant"`
	Compensation string `json:"compensation"`
	Pivot        bool   `json:"pivot"`
	Decision     bool   `json:"decision"`
}

func viewDefinition(m *sagav1.Definition) definitionView {
	view := definitionView{Name: m.GetName(), Version: m.GetVersion(), Plan: viewPlan(m.GetPlan()), deadline: m.GetDeadline().AsDuration()}
	if m.GetDeadline() != nil {
		view.Deadline = view.deadline.String()
	}
	return view
}

func viewPlan(m *sagav1.Plan) planView {
	view := planView{Version: m.GetVersion(), Steps: make([]plannedStepView, len(m.GetSteps()))}
	for i, s := range m.GetSteps() {
		view.Steps[i] = plannedStepView{
			Number: i + 1, Name: s.GetName(), Participant: s.GetParticipant(), Compensation: s.GetCompensation(), Pivot: s.GetPivot(), Decision: s.GetDecision(),
		}
	}
	return view
}

// mark is what a step is beside doing something.
func (s plannedStepView) mark() string {
	switch {
	case s.Pivot:
		return "pivot"
	case s.Decision:
		return "decision"
	}
	return "-"
}
