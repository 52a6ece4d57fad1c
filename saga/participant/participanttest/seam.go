package participanttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Samples are what the kit asks of one step of a participant.
type Samples struct {
	// Definition of the kit's sagas; empty means "kit".
	Definition string
	// Step is the step's name.
	Step string
	// Done is an input by which the step is done every time it has a new key: a check asks a few hundred times.
	Done json.RawMessage
	// Other is another input by which the step would be done. Nil leaves out the rules that need it.
	Other json.RawMessage
	// Refused is an input by which the step is refused for a business reason. Nil leaves out the rules that need it.
	Refused json.RawMessage
	// NothingUndoes says that the step has no undo.
	NothingUndoes bool
}

// What the kit sees of a participant that it knows only by the contract.
const (
	inPlace    = "in place"
	notInPlace = "not in place"
)

// stateByGet is what cannot be proven of such a participant.
const stateByGet = "what is in effect was read by Get, from the participant's own record: that the effect itself is there once, and gone when undone, is not proven"

// Of is the adapter of one step of a participant that keeps the contract, in process or over the wire (participant.Client). It
// reads what is in effect by Get. A participant's own test sets State, None, Done and Undone to read where the effect really is;
// otherwise the report says that this is not proven. Undo carries the input and the digest of the key's first Do, as a saga's does.
func Of(p participant.Participant, s Samples) Adapter {
	if s.Definition == "" {
		s.Definition = "kit"
	}
	k := &seam{samples: s, seen: make(map[string]*asked)}
	a := Adapter{
		Step: s.Step, None: notInPlace, Done: inPlace, Undone: notInPlace,
		Do: func(ctx context.Context, key string, v Variant) (*operationv1.Result, error) {
			r, err := p.Do(ctx, k.do(key, v))
			return answered(participant.Doing, r, err)
		},
		Get: func(ctx context.Context, key string) (*operationv1.Operation, error) {
			op, err := p.Get(ctx, k.id(key))
			if err != nil {
				return nil, err
			}
			return recordOf(op), nil
		},
		NotProven: []string{stateByGet},
	}
	a.State = func(ctx context.Context, key string) (string, error) {
		op, err := p.Get(ctx, k.id(key))
		if err != nil {
			return "", err
		}
		if op.InPlace() {
			return inPlace, nil
		}
		return notInPlace, nil
	}
	if !s.NothingUndoes {
		a.Undo = func(ctx context.Context, key string) (*operationv1.Result, error) {
			r, err := p.Undo(ctx, k.undo(key))
			return answered(participant.Undoing, r, err)
		}
	}
	if s.Other != nil {
		a.Variants = append(a.Variants, Other)
	}
	if s.Refused != nil {
		a.Variants = append(a.Variants, Refused)
	}
	return a
}

// seam makes the requests.
type seam struct {
	samples Samples
	mu      sync.Mutex
	seen    map[string]*asked
}

// asked is what was asked for by a key so far.
type asked struct {
	first    Variant
	attempts int
}

func (k *seam) id(key string) participant.ID {
	return participant.ID{Definition: k.samples.Definition, Key: key, Step: k.samples.Step}
}

func (k *seam) do(key string, v Variant) participant.Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	of := k.of(key)
	if of.first == "" {
		of.first = v
	}
	return k.request(key, v, participant.Doing, of)
}

func (k *seam) undo(key string) participant.Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	of := k.of(key)
	v := of.first
	if v == "" {
		v = Plain
	}
	return k.request(key, v, participant.Undoing, of)
}

func (k *seam) of(key string) *asked {
	if k.seen[key] == nil {
		k.seen[key] = &asked{}
	}
	return k.seen[key]
}

func (k *seam) request(key string, v Variant, d participant.Direction, of *asked) participant.Request {
	of.attempts++
	input := k.samples.Done
	switch v {
	case Other:
		input = k.samples.Other
	case Refused:
		input = k.samples.Refused
	}
	digest := sha256.Sum256(input)
	id := k.id(key)
	return participant.Request{
		Definition: id.Definition, Key: id.Key, Step: id.Step, Attempt: of.attempts,
		IdempotencyKey: id.IdempotencyKey(d), Digest: "1:" + hex.EncodeToString(digest[:]), Input: input,
	}
}

var outcomes = map[participant.Outcome]operationv1.Outcome{
	"":                       notAsked,
	participant.Applied:      applied,
	participant.Rejected:     rejected,
	participant.UndoneBefore: undoneBefore,
	participant.NotKnown:     unknown,
}

func answered(d participant.Direction, r participant.Result, err error) (*operationv1.Result, error) {
	if err != nil {
		return nil, err
	}
	if err := r.Check(d); err != nil {
		return nil, err
	}
	return &operationv1.Result{Outcome: outcomes[r.Outcome], Reason: r.Reason, Detail: r.Detail, Reference: r.Reference}, nil
}

func recordOf(op participant.Operation) *operationv1.Operation {
	return &operationv1.Operation{
		OrderId: op.Key, Step: op.Step, Do: outcomes[op.Do], Undo: outcomes[op.Undo], Reason: op.Reason, Reference: op.Reference,
		CreatedAt: timeOf(op.CreatedAt), UpdatedAt: timeOf(op.UpdatedAt),
	}
}

func timeOf(at time.Time) *timestamppb.Timestamp {
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}

// meansNoUse tells whether an error of the contract says that asking again is no use.
func meansNoUse(err error) bool {
	return errors.Is(err, participant.ErrConflict) || errors.Is(err, participant.ErrBadRequest) || errors.Is(err, participant.ErrForgotten) ||
		errors.Is(err, participant.ErrBadAnswer) || errors.Is(err, errors.ErrUnsupported)
}
