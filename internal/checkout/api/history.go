package api

import (
	"context"
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
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/sagas/history"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

// askTimeout bounds a question to a participant that a person waits for.
const askTimeout = 2 * time.Second

// History tells all that is known of a checkout. The participants, and whoever writes events, are asked now; one that does not
// answer costs its own lines only.
func (s *Service) History(ctx context.Context, req *connect.Request[checkoutv1.HistoryRequest]) (*connect.Response[checkoutv1.HistoryResponse], error) {
	c, err := s.find(ctx, req.Msg.OrderId)
	if err != nil {
		return nil, err
	}
	h, err := s.store.History(ctx, checkout.Saga(req.Msg.OrderId))
	if err != nil {
		return nil, err
	}
	answer := &checkoutv1.HistoryResponse{OrderId: req.Msg.OrderId, Request: &checkoutv1.StartRequest{}, Checkout: toWire(c)}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(h.Request, answer.Request); err != nil {
		return nil, fmt.Errorf("decode stored request of %s: %w", req.Msg.OrderId, err)
	}
	for _, item := range c.Items {
		price := checkout.Money{Currency: c.Amount.Currency, MinorUnits: item.UnitPrice}
		answer.Prices = append(answer.Prices, &checkoutv1.Price{Sku: item.SKU, UnitPrice: toWireMoney(price)})
	}
	var asking sync.WaitGroup
	asking.Go(func() { answer.Operations = s.operations(ctx, c) })
	asking.Go(func() { answer.Entries, answer.Unreachable = s.entries(ctx, req.Msg.OrderId, h) })
	asking.Wait()
	return connect.NewResponse(answer), nil
}

// entries are what happened to a checkout, oldest first, with the events of it that can be had now.
func (s *Service) entries(ctx context.Context, orderID string, h store.History) (entries []*checkoutv1.Entry, unreachable []string) {
	for _, e := range h.Entries {
		entries = append(entries, &checkoutv1.Entry{
			At: timestamppb.New(e.At), Kind: e.Kind, Step: e.Step, Attempt: int32(e.Attempt), Actor: e.Actor, Reason: e.Reason,
			DurationMs: e.Duration.Milliseconds(), Outcome: e.Outcome, Error: e.Error,
		})
	}
	events, _, away := s.newestEvents(ctx, &eventv1.Selection{OrderIds: []string{orderID}}, maxPage)
	for _, e := range events {
		outcome := "published"
		if e.PublishedAt == nil {
			outcome = "not published yet"
		}
		entries = append(entries, &checkoutv1.Entry{
			At: e.Header.OccurredAt, Kind: "event", Actor: e.Header.Producer, Topic: e.Header.Topic, EventId: e.Header.EventId,
			Outcome: outcome, Data: e.Data,
		})
	}
	slices.SortStableFunc(entries, func(a, b *checkoutv1.Entry) int { return a.At.AsTime().Compare(b.At.AsTime()) })
	return entries, sentences(away)
}

const (
	// followAgain is how often a history that is followed is looked at although nothing is known to have changed: other
	// processes' events come without a word.
	followAgain = time.Second
	// followQuiet is how many looks at an ended checkout bring nothing new before its history counts as complete.
	followQuiet = 2
)

// FollowHistory sends what happens to a checkout as it becomes known, until it is final and its events have come.
func (s *Service) FollowHistory(ctx context.Context, req *connect.Request[checkoutv1.FollowHistoryRequest], stream *connect.ServerStream[checkoutv1.FollowHistoryResponse]) error {
	// Each tells one thing: an entry, or whose events are missing.
	type news = *checkoutv1.FollowHistoryResponse
	return history.Followed[news]{
		Store: s.store, Saga: checkout.Saga(req.Msg.OrderId), Again: followAgain, Quiet: followQuiet,
		Look: func() (all []news, final bool, err error) {
			c, err := s.find(ctx, req.Msg.OrderId)
			if err != nil {
				return nil, false, err
			}
			h, err := s.store.History(ctx, checkout.Saga(c.Key))
			if err != nil {
				return nil, false, err
			}
			entries, unreachable := s.entries(ctx, req.Msg.OrderId, h)
			for _, e := range entries {
				all = append(all, &checkoutv1.FollowHistoryResponse{Entries: []*checkoutv1.Entry{e}})
			}
			for _, sentence := range unreachable {
				all = append(all, &checkoutv1.FollowHistoryResponse{Unreachable: []string{sentence}})
			}
			return all, c.Status.IsFinal(), nil
		},
		Identity: func(n news) string {
			if len(n.Entries) == 0 {
				return n.Unreachable[0]
			}
			return identity(n.Entries[0])
		},
		Send: func(all []news) error {
			answer := &checkoutv1.FollowHistoryResponse{}
			for _, n := range all {
				answer.Entries, answer.Unreachable = append(answer.Entries, n.Entries...), append(answer.Unreachable, n.Unreachable...)
			}
			return stream.Send(answer)
		},
	}.Follow(ctx)
}

// identity tells entries apart.
func identity(e *checkoutv1.Entry) string {
	if e.EventId != "" {
		return e.EventId // Whether it is published may change meanwhile.
	}
	return fmt.Sprint(e.At.AsTime().UnixNano(), e.Kind, e.Step, e.Attempt, e.Outcome, e.Actor, e.Reason)
}

// operations asks each participant what it recorded of each step.
func (s *Service) operations(ctx context.Context, c orders.Checkout) []*checkoutv1.ParticipantOperation {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return history.OfSteps(c.Plan, func(step saga.Step) *checkoutv1.ParticipantOperation {
		out := &checkoutv1.ParticipantOperation{Participant: step.Participant, Step: step.Name}
		ledger, has := s.ledgers[step.Participant]
		if !has {
			out.Do = step.Participant + " cannot be asked: " + errNotConfigured.Error()
			return out
		}
		answer, err := ledger.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: c.Key, Step: step.Name}))
		switch {
		case connect.CodeOf(err) == connect.CodeNotFound:
			return nil
		case err != nil:
			out.Do = step.Participant + " cannot be asked: " + err.Error()
			return out
		}
		op := answer.Msg.Operation
		out.Do, out.Undo, out.Reference = outcomeWord(op.Do), outcomeWord(op.Undo), op.Reference
		out.Reason, out.Amount, out.CreatedAt, out.UpdatedAt = op.Reason, op.Amount, op.CreatedAt, op.UpdatedAt
		return out
	})
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
