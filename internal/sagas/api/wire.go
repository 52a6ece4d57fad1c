package api

import (
	"encoding/json"
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

// statuses pairs our words with those on the wire.
var statuses = map[journal.Status]sagav1.Status{
	journal.Running:          sagav1.Status_STATUS_RUNNING,
	journal.AwaitingApproval: sagav1.Status_STATUS_AWAITING_APPROVAL,
	journal.Compensating:     sagav1.Status_STATUS_COMPENSATING,
	journal.NeedsAttention:   sagav1.Status_STATUS_NEEDS_ATTENTION,
	journal.Confirmed:        sagav1.Status_STATUS_CONFIRMED,
	journal.Rejected:         sagav1.Status_STATUS_REJECTED,
	journal.Cancelled:        sagav1.Status_STATUS_CANCELLED,
	journal.Expired:          sagav1.Status_STATUS_EXPIRED,
}

// fromWireStatus is empty for what is no status; the contract's rules let none through.
func fromWireStatus(wire sagav1.Status) journal.Status {
	for ours, theirs := range statuses {
		if theirs == wire {
			return ours
		}
	}
	return ""
}

func (s *Service) toWire(of store.Saga) *sagav1.Saga {
	out := &sagav1.Saga{
		Definition: of.Plan.Definition, Version: int32(of.Plan.Version), Key: of.Key, Status: statuses[of.Status], Phase: string(of.Phase),
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
