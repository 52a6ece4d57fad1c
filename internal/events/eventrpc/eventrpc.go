// Package eventrpc answers event.v1.EventService for one process, from its outbox and its inbox.
package eventrpc

import (
	"context"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
)

// maxPage is the largest page, and the size of a page that does not say.
const maxPage = 1000

// Service answers for one process. Either part may be nil: an app that writes no events, or receives none.
type Service struct {
	Outbox *outbox.Outbox
	Inbox  *inbox.Inbox
}

var _ eventv1connect.EventServiceHandler = Service{}

// ListEvents lists events of the outbox.
func (s Service) ListEvents(ctx context.Context, req *connect.Request[eventv1.ListEventsRequest]) (*connect.Response[eventv1.ListEventsResponse], error) {
	selection := selectionOf(req.Msg.Selection)
	size := int(req.Msg.PageSize)
	if size == 0 {
		size = maxPage
	}
	var place int64
	if token := req.Msg.PageToken; token != "" {
		var err error
		if place, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
		}
	}
	res := &eventv1.ListEventsResponse{}
	if s.Outbox == nil {
		return connect.NewResponse(res), nil
	}
	list := s.Outbox.List
	if req.Msg.Newest {
		list = s.Outbox.Newest
	}
	// One more than the page, to know whether there is a next.
	listed, err := list(ctx, selection, place, size+1)
	if err != nil {
		return nil, err
	}
	if len(listed) > size {
		end := size - 1
		if req.Msg.Newest { // Newest reads backwards: the next page is the one before.
			listed, end = listed[1:], 0
		}
		listed = listed[:size]
		res.NextPageToken = strconv.FormatInt(listed[end].Position, 10)
	}
	for _, e := range listed {
		res.Events = append(res.Events, Event(e))
	}
	return connect.NewResponse(res), nil
}

// Event is a listed event on the wire.
func Event(e outbox.Listed) *eventv1.Event {
	event := &eventv1.Event{Header: e.Header, Data: string(e.Data)}
	if e.PublishedAt != nil {
		event.PublishedAt = timestamppb.New(*e.PublishedAt)
	}
	return event
}

// Republish makes the relay publish events of the outbox again.
func (s Service) Republish(ctx context.Context, req *connect.Request[eventv1.RepublishRequest]) (*connect.Response[eventv1.RepublishResponse], error) {
	selection := selectionOf(req.Msg.Selection)
	res := &eventv1.RepublishResponse{}
	if s.Outbox == nil {
		return connect.NewResponse(res), nil
	}
	republish := s.Outbox.Republish
	if req.Msg.DryRun {
		republish = s.Outbox.Count
	}
	var err error
	if res.Events, err = republish(ctx, selection); err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func selectionOf(wire *eventv1.Selection) outbox.Selection {
	s := outbox.Selection{OrderIDs: wire.GetOrderIds(), Topic: wire.GetTopic(), Unpublished: wire.GetUnpublished()}
	if since := wire.GetSince(); since != nil {
		s.Since = since.AsTime()
	}
	return s
}

// CheckReceived tells which events the inbox has.
func (s Service) CheckReceived(ctx context.Context, req *connect.Request[eventv1.CheckReceivedRequest]) (*connect.Response[eventv1.CheckReceivedResponse], error) {
	res := &eventv1.CheckReceivedResponse{}
	if s.Inbox == nil {
		return connect.NewResponse(res), nil
	}
	receipts, err := s.Inbox.Received(ctx, req.Msg.EventIds)
	if err != nil {
		return nil, err
	}
	for _, r := range receipts {
		res.Receipts = append(res.Receipts, &eventv1.Receipt{EventId: r.EventID, Outcome: r.Outcome, ReceivedAt: timestamppb.New(r.ReceivedAt)})
	}
	return connect.NewResponse(res), nil
}

// ListFailures tells why handlers failed.
func (s Service) ListFailures(ctx context.Context, req *connect.Request[eventv1.ListFailuresRequest]) (*connect.Response[eventv1.ListFailuresResponse], error) {
	res := &eventv1.ListFailuresResponse{}
	if s.Inbox == nil {
		return connect.NewResponse(res), nil
	}
	failures, err := s.Inbox.Failures(ctx, req.Msg.MessageIds)
	if err != nil {
		return nil, err
	}
	for _, f := range failures {
		res.Failures = append(res.Failures, &eventv1.Failure{
			MessageId: f.MessageID, Topic: f.Topic, Consumer: s.Inbox.App(), Attempts: f.Attempts, Error: f.Error, Dropped: f.Dropped,
			FirstAt: timestamppb.New(f.FirstAt), LastAt: timestamppb.New(f.LastAt),
		})
	}
	return connect.NewResponse(res), nil
}
