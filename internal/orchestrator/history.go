package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
)

// askTimeout bounds a question to a participant that a person waits for.
const askTimeout = 2 * time.Second

// History tells all that is known of a checkout. The participants, and whoever writes events, are asked now; one that does not
// answer costs its own lines only.
func (s *Service) History(ctx context.Context, req *connect.Request[checkoutv1.HistoryRequest]) (*connect.Response[checkoutv1.HistoryResponse], error) {
	h, err := s.store.History(ctx, req.Msg.OrderId)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noSuchCheckout(req.Msg.OrderId)
	}
	if err != nil {
		return nil, failure(err)
	}
	answer := &checkoutv1.HistoryResponse{OrderId: req.Msg.OrderId, Request: &checkoutv1.StartRequest{}}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(h.Request, answer.Request); err != nil {
		return nil, failure(fmt.Errorf("decode stored request of %s: %w", req.Msg.OrderId, err))
	}
	for _, p := range h.Prices {
		answer.Prices = append(answer.Prices, &checkoutv1.Price{Sku: p.SKU, UnitPrice: toWireMoney(p.Unit)})
	}
	for _, e := range h.Entries {
		answer.Entries = append(answer.Entries, &checkoutv1.Entry{
			At: timestamppb.New(e.At), Kind: e.Kind, Step: e.Step, Attempt: int32(e.Attempt), Actor: e.Actor, Reason: e.Reason,
			DurationMs: e.Duration.Milliseconds(), Outcome: e.Outcome, Error: e.Error,
		})
	}
	var asking sync.WaitGroup
	asking.Go(func() { answer.Operations = s.operations(ctx, req.Msg.OrderId) })
	asking.Go(func() {
		events, away := s.eventEntries(ctx, req.Msg.OrderId)
		answer.Unreachable = sentences(away)
		answer.Entries = append(answer.Entries, events...)
	})
	asking.Wait()
	slices.SortStableFunc(answer.Entries, func(a, b *checkoutv1.Entry) int { return a.At.AsTime().Compare(b.At.AsTime()) })
	return connect.NewResponse(answer), nil
}

// eventEntries are the events that anybody wrote about an order.
func (s *Service) eventEntries(ctx context.Context, orderID string) (entries []*checkoutv1.Entry, away map[string]string) {
	events, _, away := s.newestEvents(ctx, &eventv1.Selection{OrderIds: []string{orderID}}, maxPage)
	for _, e := range events {
		outcome := "published"
		if e.PublishedAt == nil {
			outcome = "not published yet"
		}
		entries = append(entries, &checkoutv1.Entry{
			At: e.Header.OccurredAt, Kind: "event", Actor: e.Header.Producer, Topic: e.Header.Topic, EventId: e.Header.EventId, Outcome: outcome,
		})
	}
	return entries, away
}

// operations asks each participant what it recorded of each step, all at once.
func (s *Service) operations(ctx context.Context, orderID string) []*checkoutv1.ParticipantOperation {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	steps := checkout.Steps()
	found := make([]*checkoutv1.ParticipantOperation, len(steps))
	var asking sync.WaitGroup
	for i, step := range steps {
		asking.Go(func() { found[i] = s.operation(ctx, orderID, step) })
	}
	asking.Wait()

	var known []*checkoutv1.ParticipantOperation
	for _, op := range found {
		if op != nil {
			known = append(known, op)
		}
	}
	return known
}

// operation is one participant's record of a step, nil where it has none.
func (s *Service) operation(ctx context.Context, orderID string, step checkout.Step) *checkoutv1.ParticipantOperation {
	out := &checkoutv1.ParticipantOperation{Participant: step.Participant, Step: step.Name}
	ask := s.warehouse.GetOperation
	if step.Participant == checkout.Payment {
		ask = s.payment.GetOperation
	}
	answer, err := ask(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: orderID, Step: step.Name}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return nil
	case err != nil:
		out.Do = step.Participant + " cannot be asked: " + err.Error()
		return out
	case answer.Msg.Operation == nil:
		return nil
	}
	op := answer.Msg.Operation
	out.Do, out.Undo, out.Reference = outcomeWord(op.Do), outcomeWord(op.Undo), op.Reference
	return out
}

// outcomeWord is an outcome as people read it; empty for "not asked for".
func outcomeWord(o operationv1.Outcome) string {
	switch o {
	case operationv1.Outcome_OUTCOME_APPLIED:
		return "applied"
	case operationv1.Outcome_OUTCOME_REJECTED:
		return "rejected"
	case operationv1.Outcome_OUTCOME_UNKNOWN:
		return "unknown"
	case operationv1.Outcome_OUTCOME_UNDONE_BEFORE:
		return "undone-before"
	}
	return ""
}
