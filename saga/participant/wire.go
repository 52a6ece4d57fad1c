package participant

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	participantv1 "github.com/checkoutsaga/orchestrator/gen/saga/participant/v1"
)

// plainJSON is the JSON of both sides, fit to be read and written by hand: with the names of the proto file (idempotency_key), and
// with every field, so that nobody wonders whether it is there. The reader passes over fields that it does not know: the two sides
// may be of different versions.
type plainJSON struct{ name string }

// Name is the content type's.
func (c plainJSON) Name() string { return c.name }

// Marshal writes a message.
func (c plainJSON) Marshal(message any) ([]byte, error) {
	m, is := message.(proto.Message)
	if !is {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	return protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
}

// Unmarshal reads a message.
func (c plainJSON) Unmarshal(text []byte, message any) error {
	m, is := message.(proto.Message)
	switch {
	case !is:
		return fmt.Errorf("%T is no protobuf message", message)
	case len(text) == 0:
		return errors.New("the body is empty; the least is {}")
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, m)
}

// answerJSON is plainJSON for answers: one that cannot be read breaks the contract.
type answerJSON struct{ plainJSON }

// Unmarshal reads an answer.
func (c answerJSON) Unmarshal(text []byte, message any) error {
	if err := c.plainJSON.Unmarshal(text, message); err != nil {
		return fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	return nil
}

func (r Request) message() (*participantv1.Request, error) {
	input, err := r.checked()
	if err != nil {
		return nil, err
	}
	return &participantv1.Request{
		Definition: r.Definition, Key: r.Key, Step: r.Step, Attempt: int32(min(r.Attempt, 1<<31-1)),
		IdempotencyKey: r.IdempotencyKey, Digest: r.Digest, Input: input,
	}, nil
}

func requestOf(m *participantv1.Request) (Request, error) {
	input, err := fromValue(m.Input)
	if err != nil {
		return Request{}, fmt.Errorf("%w: input: %w", ErrBadRequest, err)
	}
	r := Request{
		Definition: m.Definition, Key: m.Key, Step: m.Step, Attempt: int(m.Attempt),
		IdempotencyKey: m.IdempotencyKey, Digest: m.Digest, Input: input,
	}
	return r, r.Check()
}

func (r Result) message(d Direction) (*participantv1.Answer, error) {
	if err := r.Check(d); err != nil {
		return nil, err
	}
	output, err := toValue(r.Output, MaxOutput)
	if err != nil {
		return nil, fmt.Errorf("%w: output: %w", ErrBadAnswer, err)
	}
	return &participantv1.Answer{
		Outcome: r.Outcome.message(), Reason: r.Reason, Detail: cut(r.Detail), Reference: r.Reference,
		Output: output, ValidUntil: toTime(r.ValidUntil),
	}, nil
}

func resultOf(m *participantv1.Answer, d Direction) (Result, error) {
	output, err := fromValue(m.Output)
	if err != nil {
		return Result{}, fmt.Errorf("%w: output: %w", ErrBadAnswer, err)
	}
	r := Result{
		Outcome: outcomeOf(m.Outcome), Reason: m.Reason, Detail: cut(m.Detail), Reference: m.Reference,
		Output: output, ValidUntil: fromTime(m.ValidUntil),
	}
	return r, r.Check(d)
}

func (o Operation) message() *participantv1.Operation {
	return &participantv1.Operation{
		Definition: o.Definition, Key: o.Key, Step: o.Step, Do: o.Do.message(), Undo: o.Undo.message(),
		Reason: o.Reason, Reference: o.Reference, CreatedAt: toTime(o.CreatedAt), UpdatedAt: toTime(o.UpdatedAt),
	}
}

// operationOf reads a record. What it leaves out of its name is that of the operation that was asked for.
func operationOf(m *participantv1.Operation, asked ID) (Operation, error) {
	o := Operation{
		Definition: m.Definition, Key: m.Key, Step: m.Step, Do: outcomeOf(m.Do), Undo: outcomeOf(m.Undo),
		Reason: m.Reason, Reference: m.Reference, CreatedAt: fromTime(m.CreatedAt), UpdatedAt: fromTime(m.UpdatedAt),
	}
	for _, name := range []struct {
		is    *string
		asked string
	}{{&o.Definition, asked.Definition}, {&o.Key, asked.Key}, {&o.Step, asked.Step}} {
		if *name.is == "" {
			*name.is = name.asked
		}
		if name.asked != "" && *name.is != name.asked {
			return o, fmt.Errorf("%w: it is about %.64q, not %q", ErrBadAnswer, *name.is, name.asked)
		}
	}
	switch id := (ID{o.Definition, o.Key, o.Step}); {
	case id.Check() != nil:
		return o, fmt.Errorf("%w: its operation has no name of one", ErrBadAnswer)
	case !o.Do.isOne() || !o.Undo.isOne() || o.Undo == UndoneBefore:
		return o, fmt.Errorf("%w: it has an operation that is do %q, undo %q", ErrBadAnswer, o.Do, o.Undo)
	case !isWord(o.Reason, maxReason), len(o.Reference) > maxReference, !isPrintable(o.Reference):
		return o, fmt.Errorf("%w: an operation's reason or reference is too long or cannot be shown", ErrBadAnswer)
	}
	return o, nil
}

// outcomes are the words of both sides. The empty one means that nothing was asked for.
var outcomes = map[Outcome]participantv1.Outcome{
	"":           participantv1.Outcome_OUTCOME_UNSPECIFIED,
	Applied:      participantv1.Outcome_OUTCOME_APPLIED,
	Rejected:     participantv1.Outcome_OUTCOME_REJECTED,
	UndoneBefore: participantv1.Outcome_OUTCOME_UNDONE_BEFORE,
	NotKnown:     participantv1.Outcome_OUTCOME_NOT_KNOWN,
}

func (o Outcome) message() participantv1.Outcome { return outcomes[o] }

// isOne tells whether there is such an outcome, or none.
func (o Outcome) isOne() bool {
	_, is := outcomes[o]
	return is
}

func outcomeOf(m participantv1.Outcome) Outcome {
	for o, message := range outcomes {
		if message == m {
			return o
		}
	}
	return Outcome(m.String()) // A number: the check of the answer refuses it.
}

func toTime(at time.Time) *timestamppb.Timestamp {
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}

func fromTime(at *timestamppb.Timestamp) time.Time {
	if at == nil {
		return time.Time{}
	}
	return at.AsTime()
}
