package api

import (
	"context"
	"fmt"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
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
	// Subscribed before the first read: what happens between the two is seen by the next look.
	changed, unsubscribe := s.store.Subscribe(checkout.Saga(req.Msg.OrderId), store.AnyChange)
	defer unsubscribe()
	again := time.NewTicker(followAgain)
	defer again.Stop()

	told := make(map[string]bool)
	for quiet := 0; ; {
		c, err := s.find(ctx, req.Msg.OrderId)
		if err != nil {
			return err
		}
		h, err := s.store.History(ctx, checkout.Saga(req.Msg.OrderId))
		if err != nil {
			return err
		}
		entries, unreachable := s.entries(ctx, req.Msg.OrderId, h)
		entries = slices.DeleteFunc(entries, func(e *checkoutv1.Entry) bool { return told[identity(e)] })
		unreachable = slices.DeleteFunc(unreachable, func(sentence string) bool { return told[sentence] })
		for _, e := range entries {
			told[identity(e)] = true
		}
		for _, sentence := range unreachable {
			told[sentence] = true
		}
		quiet++
		if len(entries)+len(unreachable) > 0 {
			quiet = 0
			if err := stream.Send(&checkoutv1.FollowHistoryResponse{Entries: entries, Unreachable: unreachable}); err != nil {
				return err
			}
		}
		if c.Status.IsFinal() && quiet >= followQuiet {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// identity tells entries apart.
func identity(e *checkoutv1.Entry) string {
	if e.EventId != "" {
		return e.EventId // Whether it is published may change meanwhile.
	}
	return fmt.Sprint(e.At.AsTime().UnixNano(), e.Kind, e.Step, e.Attempt, e.Outcome, e.Actor, e.Reason)
}

// operations asks each participant what it recorded of each step, all at once.
func (s *Service) operations(ctx context.Context, c orders.Checkout) []*checkoutv1.ParticipantOperation {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	steps := slices.DeleteFunc(slices.Clone(c.Plan.Steps), func(s saga.Step) bool { return s.Decision })
	found := make([]*checkoutv1.ParticipantOperation, len(steps))
	var asking sync.WaitGroup
	for i, step := range steps {
		asking.Go(func() { found[i] = s.operation(ctx, c.Key, step) })
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
func (s *Service) operation(ctx context.Context, orderID string, step saga.Step) *checkoutv1.ParticipantOperation {
	out := &checkoutv1.ParticipantOperation{Participant: step.Participant, Step: step.Name}
	op, err := s.recorded(ctx, orderID, step)
	switch {
	case err != nil:
		out.Do = step.Participant + " cannot be asked: " + err.Error()
		return out
	case op == nil:
		return nil
	}
	out.Do, out.Undo, out.Reference = outcomeWord(op.Do), outcomeWord(op.Undo), op.Reference
	out.Reason, out.Amount, out.CreatedAt, out.UpdatedAt = op.Reason, op.Amount, op.CreatedAt, op.UpdatedAt
	return out
}

// recorded asks a step's participant for its record of it; nil where it has none.
func (s *Service) recorded(ctx context.Context, orderID string, step saga.Step) (*operationv1.Operation, error) {
	ask := s.warehouse.GetOperation
	if step.Participant == checkout.Payment {
		ask = s.payment.GetOperation
	}
	answer, err := ask(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: orderID, Step: step.Name}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return answer.Msg.Operation, nil
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
