package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const (
	// IdempotencyKey is the header by which a caller may name a start.
	IdempotencyKey = "Idempotency-Key"
	// maxKey bounds it, in bytes. It is a header, so no rule of the contracts holds it.
	maxKey = 255
	// DefaultApproval is how long a saga may await approval where its start does not say.
	DefaultApproval = 24 * time.Hour
)

// Start accepts a saga and begins it. Once it has answered, the saga goes on whatever becomes of the caller, of this process or of the
// engine.
func (s *Service) Start(ctx context.Context, req *connect.Request[sagav1.StartRequest]) (*connect.Response[sagav1.StartResponse], error) {
	accepted, created, err := s.start(ctx, req.Msg, req.Header().Get(IdempotencyKey))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&sagav1.StartResponse{Saga: s.toWire(accepted), Created: created}), nil
}

func (s *Service) start(ctx context.Context, req *sagav1.StartRequest, key string) (accepted store.Saga, created bool, err error) {
	if start, has := s.starters[req.Definition]; has {
		input, err := inputOf(req)
		if err != nil {
			return store.Saga{}, false, err
		}
		return start(ctx, req, input, key)
	}
	n, err := s.accept(req, key)
	if err != nil {
		return store.Saga{}, false, err
	}
	return Accept(ctx, s.desk, n, StartWords{This: n.ID().String(), Key: "key", Input: "input", One: n.Plan.Definition}, req.Wait.AsDuration())
}

// StartWords are how a start is spoken of in a conflict: it, its key, what it was started with, and what it is.
type StartWords struct{ This, Key, Input, One string }

// Accept accepts a saga of any kind and, unless it is driven elsewhere, begins it. It waits so long until the saga is final or needs
// attention, and returns it as it is then.
func Accept(ctx context.Context, desk operator.Desk, n store.NewSaga, words StartWords, wait time.Duration) (accepted store.Saga, created bool, err error) {
	accepted, created, err = desk.Store.Accept(ctx, n)
	conflict := new(store.Conflict)
	if errors.As(err, &conflict) {
		return store.Saga{}, false, connect.NewError(connect.CodeAlreadyExists, words.whatDiffers(conflict, n))
	}
	if err != nil {
		return store.Saga{}, false, err
	}
	begin := func() {
		if created && !accepted.Elsewhere {
			desk.Runs.Begin(ctx, accepted)
		}
	}
	if wait == 0 {
		begin()
		return accepted, created, nil
	}
	accepted, err = settle(ctx, desk.Store, accepted, begin, wait)
	return accepted, created, err
}

// settle begins a saga and waits until it is settled, ctx ends, or the server stops.
func settle(ctx context.Context, from *store.Store, s store.Saga, begin func(), wait time.Duration) (store.Saga, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(rpcserver.Stopping(ctx), cancel)()
	isNew := true
	err := from.Watch(waiting, s.ID(), store.Settled, lookAgain, func(ended *store.Saga) (done bool, err error) {
		switch {
		case isNew: // Begun once its changes are heard of, it need not be read until there is one.
			isNew = false
			begin()
		case ended != nil:
			s = *ended
		default:
			s, err = from.Saga(waiting, s.ID())
		}
		return s.Status.IsSettled(), err
	})
	if waiting.Err() != nil && ctx.Err() == nil {
		return from.Saga(ctx, s.ID())
	}
	return s, err
}

// CheckKey tells what is wrong with the key of a start, or with the Idempotency-Key that may stand for it. Field is the key's.
func CheckKey(field, key, idempotencyKey string) (bad []*contract.Problem) {
	if key == "" && idempotencyKey == "" {
		bad = append(bad, contract.BadField(field, "is missing, and so is the Idempotency-Key header; a start needs one of them to be repeatable"))
	}
	if len(idempotencyKey) > maxKey || !utf8.ValidString(idempotencyKey) || strings.ContainsFunc(idempotencyKey, func(r rune) bool { return !unicode.IsPrint(r) }) {
		bad = append(bad, contract.BadField(IdempotencyKey, "must be at most %d printable characters", maxKey))
	}
	return bad
}

// accept makes of a request the saga to be accepted.
func (s *Service) accept(req *sagav1.StartRequest, key string) (store.NewSaga, error) {
	d, known := s.definitions[req.Definition]
	if !known {
		return store.NewSaga{}, s.noSuchDefinition(req.Definition)
	}
	bad := CheckKey("key", req.Key, key)
	input, err := inputOf(req)
	if err != nil {
		return store.NewSaga{}, err
	}
	accepted, err := d.Accept(input)
	if wrong := new(saga.InputError); errors.As(err, &wrong) {
		bad = append(bad, contract.BadField("input", "%v", wrong.Problem))
	} else if err != nil {
		return store.NewSaga{}, err
	}
	if len(bad) == 0 {
		bad = askable(accepted)
	}
	if err := contract.BadInput(bad...); err != nil {
		return store.NewSaga{}, err
	}
	n := store.NewSaga{
		Key: req.Key, IdempotencyKey: key, Digest: digest(input), Request: input, Input: accepted.Input, Requests: accepted.Requests,
		About: accepted.About, Plan: accepted.Plan, Engine: s.desk.Runs.Engine.Name(), Deadline: accepted.Deadline,
	}
	if n.Key == "" {
		n.Key = KeyFrom(key)
	}
	if n.IdempotencyKey == "" {
		n.IdempotencyKey = n.Key
	}
	if req.Deadline != nil {
		n.Deadline = req.Deadline.AsDuration()
	}
	for _, step := range n.Plan.Steps {
		if step.Decision {
			n.Approval = DefaultApproval
			if req.ApprovalDeadline != nil {
				n.Approval = req.ApprovalDeadline.AsDuration()
			}
		}
	}
	return n, nil
}

// inputOf is the input as JSON; none where there is none.
func inputOf(req *sagav1.StartRequest) (json.RawMessage, error) {
	if req.Input == nil {
		return json.RawMessage("null"), nil
	}
	if n, is := tooLarge(req.Input); is {
		return nil, contract.BadInput(contract.BadField("input", "the number %.0f may have lost digits on its way; write it as a text", n))
	}
	written, err := protojson.Marshal(req.Input)
	if err != nil {
		return nil, contract.BadInput(contract.BadField("input", "%v", err))
	}
	// protojson puts spaces in at random.
	var value any
	if err := json.Unmarshal(written, &value); err != nil {
		return nil, fmt.Errorf("read what was written: %w", err)
	}
	return json.Marshal(value)
}

// tooLarge finds a number that may have been another one when it was sent: on the wire a number is a double, which holds whole ones of
// up to 53 bits as they are and rounds the others.
func tooLarge(v *structpb.Value) (n float64, is bool) {
	switch kind := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return kind.NumberValue, math.Abs(kind.NumberValue) > 1<<53-1
	case *structpb.Value_ListValue:
		for _, part := range kind.ListValue.GetValues() {
			if n, is := tooLarge(part); is {
				return n, true
			}
		}
	case *structpb.Value_StructValue:
		for _, part := range kind.StructValue.GetFields() {
			if n, is := tooLarge(part); is {
				return n, true
			}
		}
	}
	return 0, false
}

// askable tells what of a saga no participant may be asked with. The participant would say so too, but for ever, and to an operator.
func askable(a saga.Accepted) (bad []*contract.Problem) {
	asks := []json.RawMessage{a.Input}
	for _, step := range slices.Sorted(maps.Keys(a.Requests)) {
		asks = append(asks, a.Requests[step])
	}
	for _, ask := range asks {
		r := participant.Request{Definition: a.Plan.Definition, Key: "any", Step: "any", Input: ask}
		if err := r.Check(); err != nil {
			return []*contract.Problem{contract.BadField("input", "%s", strings.TrimPrefix(err.Error(), participant.ErrBadRequest.Error()+": input: "))}
		}
	}
	return nil
}

// digest is a version and a hash of an input as the client sent it, but for the order of fields and spaces, of which inputOf knows
// nothing any more. It is not made of what the definition reads from it: a client that tries again after the definition got a new field
// would be told that it had started something else.
func digest(input json.RawMessage) string {
	sum := sha256.Sum256(input)
	return "v1:" + hex.EncodeToString(sum[:])
}

// KeyFrom makes the key of a start that brings an Idempotency-Key only; the same one gives the same key.
func KeyFrom(idempotencyKey string) string {
	sum := sha256.Sum256([]byte(idempotencyKey))
	return "k-" + hex.EncodeToString(sum[:16])
}

// whatDiffers is a conflict in words.
func (w StartWords) whatDiffers(c *store.Conflict, n store.NewSaga) error {
	switch c.With {
	case store.OtherKey:
		return fmt.Errorf("idempotency key %q was used with another %s", n.IdempotencyKey, w.Key)
	case store.OtherIdempotencyKey:
		return fmt.Errorf("%s was accepted under another idempotency key", w.This)
	case store.WasForgotten:
		return fmt.Errorf("the %s or the idempotency key is that of a %s that ended long ago and is no longer kept", w.Key, w.One)
	}
	return fmt.Errorf("%s was accepted with another %s", w.This, w.Input)
}
