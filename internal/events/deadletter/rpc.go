package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
)

const (
	defaultPage = 100
	// maxPage bounds the letters that are changed at a time.
	maxPage = 1000
	// lanes is how many messages are replayed side by side; those of one order go one after the other.
	lanes = 16
)

func (s *Service) List(ctx context.Context, req *connect.Request[deadletterv1.ListRequest]) (*connect.Response[deadletterv1.ListResponse], error) {
	selected, err := readSelection(req.Msg.Selection)
	if err != nil {
		return nil, err
	}
	size := int(req.Msg.PageSize)
	if size == 0 {
		size = defaultPage
	}
	var after int64
	if token := req.Msg.PageToken; token != "" {
		if after, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
		}
	}
	s.learnCauses(ctx)
	// One more than the page, to know whether there is a next.
	found, err := s.letters.list(ctx, selected, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &deadletterv1.ListResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = strconv.FormatInt(found[size-1].id, 10)
	}
	for _, l := range found {
		res.DeadLetters = append(res.DeadLetters, toWire(l))
	}
	return connect.NewResponse(res), nil
}

// Get tells all of one letter.
func (s *Service) Get(ctx context.Context, req *connect.Request[deadletterv1.GetRequest]) (*connect.Response[deadletterv1.GetResponse], error) {
	id := parseID(req.Msg.Id)
	s.learnCauses(ctx)
	found, err := s.letters.list(ctx, selection{named: true, ids: []int64{id}, state: all}, 0, 1)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%w: %q", errGone, req.Msg.Id))
	}
	message, _, err := s.letters.message(ctx, id)
	if err != nil {
		return nil, err
	}
	acts, err := s.letters.acts(ctx, id)
	if err != nil {
		return nil, err
	}
	res := &deadletterv1.GetResponse{DeadLetter: toWire(found[0]), Message: message}
	for _, a := range acts {
		res.Acts = append(res.Acts, &deadletterv1.Act{At: timestamppb.New(a.At), What: a.What, Actor: a.Actor, Reason: a.Reason})
	}
	return connect.NewResponse(res), nil
}

// Replay publishes messages again, oldest first.
func (s *Service) Replay(ctx context.Context, req *connect.Request[deadletterv1.ReplayRequest]) (*connect.Response[deadletterv1.ReplayResponse], error) {
	by := actOf(req.Msg.Actor, req.Msg.Reason)
	found, refused, err := s.selected(ctx, req.Msg.Selection)
	if err != nil {
		return nil, err
	}
	res := &deadletterv1.ReplayResponse{Refused: refused}
	var young []bus.Event
	for _, l := range found {
		if why := tooOld(l); why != "" {
			res.Refused = append(res.Refused, &deadletterv1.Refusal{Id: idText(l.id), Why: why})
			continue
		}
		// An order's letters go one after the other, any other on its own.
		key := l.orderID
		if key == "" {
			key = idText(l.id)
		}
		young = append(young, bus.Event{ID: idText(l.id), Topic: l.topic, Key: key})
	}
	if req.Msg.DryRun {
		for _, e := range young {
			res.Replayed = append(res.Replayed, e.ID)
		}
		return connect.NewResponse(res), nil
	}
	if s.publisher == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this process has no bus, so nothing can be replayed"))
	}
	failed := bus.InLanes(ctx, lanes, young, func(ctx context.Context, e bus.Event) error { return s.replay(ctx, e, by) })
	for i, e := range young {
		if failed[i] != nil {
			s.log.Warn("a dead letter was not replayed", "dead_letter", e.ID, "topic", e.Topic, "error", failed[i])
			res.Refused = append(res.Refused, &deadletterv1.Refusal{Id: e.ID, Why: "it was not published: " + failed[i].Error()})
			continue
		}
		s.log.Info("a dead letter was replayed", "dead_letter", e.ID, "topic", e.Topic, "actor", by.Actor, "reason", by.Reason)
		res.Replayed = append(res.Replayed, e.ID)
	}
	return connect.NewResponse(res), nil
}

// tooOld says why a letter cannot be replayed any more. A message without a time passes here; its consumer refuses it again.
func tooOld(l letter) string {
	if l.occurredAt == nil {
		return ""
	}
	age := time.Since(*l.occurredAt)
	if age <= inbox.Remember {
		return ""
	}
	const day = 24 * time.Hour
	return fmt.Sprintf("its event occurred %d days ago and inboxes remember %d: a consumer that has it could apply it a second time",
		age/day, inbox.Remember/day)
}

// replay publishes one letter and then marks it. If the process dies in between, it is replayed once more, which inboxes absorb. In
// the other order it might never be.
func (s *Service) replay(ctx context.Context, e bus.Event, by act) error {
	id := parseID(e.ID)
	message, arrivals, err := s.letters.message(ctx, id)
	if err != nil {
		return err
	}
	if err := s.publisher.PublishRaw(ctx, e.Topic, message); err != nil {
		return err
	}
	marking, cancel := context.WithTimeout(context.WithoutCancel(ctx), bus.HandleTimeout)
	defer cancel()
	return s.letters.markReplayed(marking, id, arrivals, by)
}

// Archive puts letters away.
func (s *Service) Archive(ctx context.Context, req *connect.Request[deadletterv1.ArchiveRequest]) (*connect.Response[deadletterv1.ArchiveResponse], error) {
	by := actOf(req.Msg.Actor, req.Msg.Reason)
	found, refused, err := s.selected(ctx, req.Msg.Selection)
	if err != nil {
		return nil, err
	}
	res := &deadletterv1.ArchiveResponse{Refused: refused}
	var ids []int64
	for _, l := range found {
		ids = append(ids, l.id)
		res.Archived = append(res.Archived, idText(l.id))
	}
	if req.Msg.DryRun || len(ids) == 0 {
		return connect.NewResponse(res), nil
	}
	if err := s.letters.archive(ctx, ids, by); err != nil {
		return nil, err
	}
	s.log.Info("dead letters were archived", "dead_letters", res.Archived, "actor", by.Actor, "reason", by.Reason)
	return connect.NewResponse(res), nil
}

// selected returns the letters of a selection, oldest first, and a refusal for each id that is no such letter.
func (s *Service) selected(ctx context.Context, wire *deadletterv1.Selection) ([]letter, []*deadletterv1.Refusal, error) {
	selected, err := readSelection(wire)
	if err != nil {
		return nil, nil, err
	}
	s.learnCauses(ctx)
	found, err := s.letters.list(ctx, selected, 0, maxPage+1)
	if err != nil {
		return nil, nil, err
	}
	if len(found) > maxPage {
		return nil, nil, contract.BadInput(contract.BadField("selection", "fits more than %d dead letters, which are the most at a time; name ids page by page", maxPage))
	}
	has := make(map[string]bool)
	for _, l := range found {
		has[idText(l.id)] = true
	}
	var refused []*deadletterv1.Refusal
	for _, id := range wire.GetIds() {
		if !has[id] {
			has[id] = true // An id that is named twice is refused once.
			refused = append(refused, &deadletterv1.Refusal{Id: id, Why: errGone.Error() + fits(wire)})
		}
	}
	return found, refused, nil
}

// fits says which other conditions an id had to meet.
func fits(wire *deadletterv1.Selection) string {
	if wire.Topic == "" && wire.Consumer == "" && wire.State == "" {
		return ""
	}
	return " that fits the rest of the selection"
}

// readSelection checks a selection.
func readSelection(wire *deadletterv1.Selection) (selection, error) {
	s := selection{topic: wire.GetTopic(), consumer: wire.GetConsumer(), state: wire.GetState(), named: len(wire.GetIds()) > 0}
	for _, id := range wire.GetIds() {
		s.ids = append(s.ids, parseID(id))
	}
	if _, exists := event.Find(s.topic); s.topic != "" && !exists {
		return s, contract.BadInput(contract.BadField("selection.topic", "there is no topic %q", s.topic))
	}
	if s.consumer != "" && len(event.ConsumedBy(s.consumer)) == 0 {
		return s, contract.BadInput(contract.BadField("selection.consumer", "%q receives no events", s.consumer))
	}
	switch {
	case s.state == "" && s.named:
		s.state = all
	case s.state == "":
		s.state = open
	}
	return s, nil
}

func actOf(actor, reason string) act {
	return act{Actor: cmp.Or(actor, "api"), Reason: reason}
}

func toWire(l letter) *deadletterv1.DeadLetter {
	out := &deadletterv1.DeadLetter{
		Id: idText(l.id), Topic: l.topic, Consumers: l.consumers(), EventId: l.eventID, OrderId: l.orderID, Attempts: l.attempts(),
		Cause: l.cause(), State: l.state, ArrivedAt: timestamppb.New(l.arrivedAt), Actor: l.actor, Reason: l.reason, Replays: l.replays,
		SizeBytes: l.size, Arrivals: l.arrivals, LastArrivedAt: timestamppb.New(l.lastAt),
	}
	if l.settledAt != nil {
		out.SettledAt = timestamppb.New(*l.settledAt)
	}
	return out
}
