package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// statusPrefix stands before our words on the wire.
const statusPrefix = "STATUS_"

// StatusNumber is a status on the wire, where every kind of saga has the same.
func StatusNumber(s journal.Status) int32 { return sagav1.Status_value[statusPrefix+string(s)] }

// StatusOf is a status from the wire; the contracts' rules let none through that is none.
func StatusOf(wire fmt.Stringer) journal.Status {
	return journal.Status(strings.TrimPrefix(wire.String(), statusPrefix))
}

func (s *Service) toWire(of store.Saga) *sagav1.Saga {
	out := &sagav1.Saga{
		Definition: of.Plan.Definition, Version: int32(of.Plan.Version), Key: of.Key, Status: sagav1.Status(StatusNumber(of.Status)), Phase: string(of.Phase),
		Engine: of.Engine, Run: int32(of.Run), About: of.About.Whom,
		StartedAt: timestamppb.New(of.StartedAt), UpdatedAt: timestamppb.New(of.UpdatedAt), EndedAt: toWireTime(of.EndedAt),
		Deadline: timestamppb.New(of.Deadline), ApprovalDeadline: toWireTime(of.ApprovalDeadline), Reason: of.Reason, ReasonCode: of.ReasonCode,
	}
	if m := of.About.Money; m != (saga.Money{}) {
		out.Money = &sagav1.Money{Currency: m.Currency, MinorUnits: m.MinorUnits}
	}
	if a := of.Attention; a != nil {
		out.Attention = &sagav1.Attention{
			Step: a.Step, Cause: a.Cause, Since: timestamppb.New(a.Since), Attempts: int32(a.Attempts), LastError: a.LastError,
			Code: string(a.Code), Advice: operator.Advice(of, operator.WordsOf(s.program, of)),
		}
		if !a.Next.IsZero() {
			out.Attention.Next = timestamppb.New(a.Next)
		}
	}
	for _, step := range of.Steps {
		out.Steps = append(out.Steps, &sagav1.Step{
			Name: step.Name, Participant: step.Participant, State: step.State, Attempts: int32(step.Attempts),
			StartedAt: toWireTime(step.StartedAt), EndedAt: toWireTime(step.EndedAt), Error: step.Error, Compensation: step.CompensationState,
			Reference: step.Reference, Output: valueOf(step.Output),
		})
	}
	out.Input = valueOf(of.Input)
	return out
}

// valueOf is JSON as messages carry it; nil where there is none.
func valueOf(text json.RawMessage) *structpb.Value {
	value := &structpb.Value{}
	if len(text) == 0 || protojson.Unmarshal(text, value) != nil { // What the database holds as JSON is JSON.
		return nil
	}
	return value
}

func planToWire(p saga.Plan) *sagav1.Plan {
	out := &sagav1.Plan{Version: int32(p.Version)}
	for _, s := range p.Steps {
		out.Steps = append(out.Steps, &sagav1.PlannedStep{
			Name: s.Name, Participant: s.Participant, Compensation: s.Compensation, Pivot: s.Pivot, Decision: s.Decision,
		})
	}
	return out
}

func entryToWire(e journal.Entry) *sagav1.Entry {
	return &sagav1.Entry{
		At: timestamppb.New(e.At), Kind: e.Kind, Step: e.Step, Attempt: int32(e.Attempt), Actor: e.Actor, Reason: e.Reason,
		DurationMs: e.Duration.Milliseconds(), Outcome: e.Outcome, Error: e.Error,
	}
}

func recordToWire(r *operator.Record) *sagav1.ParticipantOperation {
	out := &sagav1.ParticipantOperation{Participant: r.Participant, Step: r.Step}
	if r.Err != nil {
		out.Unreachable = r.Err.Error()
		return out
	}
	op := r.Operation
	out.Do, out.Undo, out.Reference, out.Reason = string(op.Do), string(op.Undo), op.Reference, op.Reason
	out.CreatedAt, out.UpdatedAt = unlessZero(op.CreatedAt), unlessZero(op.UpdatedAt)
	return out
}

func unlessZero(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toWireTime(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
