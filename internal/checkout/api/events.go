package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

const (
	// republishTimeout bounds having apps mark what is to be published again, which may be many.
	republishTimeout = 20 * time.Second
	// maxAsked is how many events an app is asked about at a time: the most that it answers.
	maxAsked = 1000
)

// DeadLetters knows the dead letters.
type DeadLetters interface {
	// HeldOf tells which of the events are dead letters that nobody has replayed.
	HeldOf(ctx context.Context, eventIDs []string) ([]deadletter.Held, error)
	// List lists dead letters, oldest first.
	List(context.Context, *connect.Request[deadletterv1.ListRequest]) (*connect.Response[deadletterv1.ListResponse], error)
}

// ListEvents lists events of all apps and tells which consumers received each. An app that does not answer is named, and only its own
// events are missing.
func (s *Service) ListEvents(ctx context.Context, req *connect.Request[checkoutv1.ListEventsRequest]) (*connect.Response[checkoutv1.ListEventsResponse], error) {
	if err := contract.BadInput(badSelection(req.Msg.Selection)...); err != nil {
		return nil, err
	}
	limit := int(req.Msg.Limit)
	if limit == 0 {
		limit = defaultPage
	}
	written, more, away := s.newestEvents(ctx, req.Msg.Selection, limit)
	deliveries, consumersAway, err := s.deliveries(ctx, askTimeout, written)
	if err != nil {
		return nil, err
	}
	maps.Copy(away, consumersAway)
	res := &checkoutv1.ListEventsResponse{More: more, Unreachable: sentences(away)}
	for _, e := range written {
		traced := &checkoutv1.TracedEvent{Event: e}
		for _, d := range deliveries[e.Header.EventId] {
			traced.Deliveries = append(traced.Deliveries, &checkoutv1.Delivery{Consumer: d.consumer, Outcome: d.outcome, ReceivedAt: d.receivedAt})
		}
		res.Events = append(res.Events, traced)
	}
	return connect.NewResponse(res), nil
}

// RepublishEvents has all apps publish a selection of their events again.
func (s *Service) RepublishEvents(ctx context.Context, req *connect.Request[checkoutv1.RepublishEventsRequest]) (*connect.Response[checkoutv1.RepublishEventsResponse], error) {
	bad := badSelection(req.Msg.Selection)
	if sel := req.Msg.Selection; len(sel.GetOrderIds()) == 0 && sel.GetTopic() == "" && !sel.GetUnpublished() && sel.GetSince() == nil {
		bad = append(bad, contract.BadField("selection", "selects nothing; a time long ago in since selects everything"))
	}
	if err := contract.BadInput(bad...); err != nil {
		return nil, err
	}
	if !s.hasBus && !req.Msg.DryRun {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this process has no bus, so nothing can be published again"))
	}
	var mu sync.Mutex
	res := &checkoutv1.RepublishEventsResponse{}
	away := s.askApps(ctx, republishTimeout, producersOf(req.Msg.Selection), func(ctx context.Context, _ string, app eventv1connect.EventServiceClient) error {
		answer, err := app.Republish(ctx, connect.NewRequest(&eventv1.RepublishRequest{Selection: req.Msg.Selection, DryRun: req.Msg.DryRun}))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		res.Events += answer.Msg.Events
		return nil
	})
	res.Unreachable = sentences(away)
	if !req.Msg.DryRun {
		s.log.Info("events are published again", "events", res.Events, "selection", req.Msg.Selection, "actor", req.Msg.Actor,
			"reason", req.Msg.Reason, "unreachable", res.Unreachable)
	}
	return connect.NewResponse(res), nil
}

func badSelection(sel *eventv1.Selection) []*contract.Problem {
	if _, exists := event.Find(sel.GetTopic()); sel.GetTopic() != "" && !exists {
		return []*contract.Problem{contract.BadField("selection.topic", "there is no topic %q", sel.GetTopic())}
	}
	return nil
}

// producersOf are the apps that may have written events of a selection.
func producersOf(sel *eventv1.Selection) []string {
	if topic, found := event.Find(sel.GetTopic()); found {
		return []string{topic.Owner}
	}
	return producers()
}

// producers are the apps that write events.
func producers() []string {
	var apps []string
	for _, t := range event.Topics() {
		apps = append(apps, t.Owner)
	}
	slices.Sort(apps)
	return slices.Compact(apps)
}

// askApps asks apps side by side, for as long as timeout, and tells for those that gave no answer why.
func (s *Service) askApps(ctx context.Context, timeout time.Duration, apps []string,
	ask func(ctx context.Context, name string, app eventv1connect.EventServiceClient) error) (away map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	away = make(map[string]string)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, name := range apps {
		asking.Go(func() {
			err := errNotConfigured
			if app := s.events[name]; app != nil {
				err = ask(ctx, name, app)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				away[name] = err.Error()
			}
		})
	}
	asking.Wait()
	return away
}

var errNotConfigured = errors.New("this orchestrator was not told of it")

// sentences name apps with what keeps them from answering, by name.
func sentences(away map[string]string) []string {
	var all []string
	for _, app := range slices.Sorted(maps.Keys(away)) {
		all = append(all, app+": "+away[app])
	}
	return all
}

// newestEvents are the newest of a selection, oldest first, each producer's in its own order.
func (s *Service) newestEvents(ctx context.Context, sel *eventv1.Selection, limit int) (newest []*eventv1.Event, more bool, away map[string]string) {
	var mu sync.Mutex
	var lists [][]*eventv1.Event
	away = s.askApps(ctx, askTimeout, producersOf(sel), func(ctx context.Context, _ string, app eventv1connect.EventServiceClient) error {
		answer, err := app.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{Selection: sel, PageSize: int32(limit), Newest: true}))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		lists = append(lists, answer.Msg.Events)
		more = more || answer.Msg.NextPageToken != ""
		return nil
	})
	newest = merge(lists)
	if tooMany := len(newest) - limit; tooMany > 0 {
		newest, more = newest[tooMany:], true
	}
	return newest, more, away
}

// merge puts lists together by time. Within a list the order stays: clocks may be set back.
func merge(lists [][]*eventv1.Event) []*eventv1.Event {
	var merged []*eventv1.Event
	for {
		lists = slices.DeleteFunc(lists, func(l []*eventv1.Event) bool { return len(l) == 0 })
		if len(lists) == 0 {
			return merged
		}
		first := 0
		for i := range lists {
			if compareEvents(lists[i][0], lists[first][0]) < 0 {
				first = i
			}
		}
		merged = append(merged, lists[first][0])
		lists[first] = lists[first][1:]
	}
}

func compareEvents(a, b *eventv1.Event) int {
	return cmp.Or(a.Header.OccurredAt.AsTime().Compare(b.Header.OccurredAt.AsTime()), cmp.Compare(a.Header.EventId, b.Header.EventId))
}

// Outcomes of deliveries; a receipt has another two, inbox's "applied" and "late".
const (
	outcomeMissing    = "missing"
	outcomeFailed     = "failed"
	outcomeDeadLetter = "dead-letter"
	outcomeUnknown    = "unknown"
)

// delivery is what became of an event at one consumer that must receive it.
type delivery struct {
	consumer, outcome string
	receivedAt        *timestamppb.Timestamp
	// failure is set where the outcome is failed.
	failure *eventv1.Failure
	// archived says of a dead letter that somebody put it away.
	archived bool
}

// deliveries tells what became of events, by event id, at each consumer that must receive it: with one question to each consumer,
// and one more about what it has not. Consumers that give no answer are named.
func (s *Service) deliveries(ctx context.Context, timeout time.Duration, events []*eventv1.Event) (byEvent map[string][]delivery, away map[string]string, err error) {
	expected := make(map[string][]*eventv1.Event)
	for _, e := range events {
		topic, known := event.Find(e.Header.Topic)
		if !known {
			continue // Of a newer build of its producer.
		}
		for _, c := range topic.Consumers {
			if topic.Expects(c.App, e.Header.Coordination) {
				expected[c.App] = append(expected[c.App], e)
			}
		}
	}
	var mu sync.Mutex
	all := make(map[string]answers)
	away = s.askApps(ctx, timeout, slices.Collect(maps.Keys(expected)), func(ctx context.Context, name string, app eventv1connect.EventServiceClient) error {
		told, err := askConsumer(ctx, app, expected[name])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all[name] = told
		return nil
	})
	held, err := s.heldOf(ctx, all)
	if err != nil {
		return nil, nil, err
	}
	byEvent = make(map[string][]delivery)
	for _, consumer := range slices.Sorted(maps.Keys(expected)) {
		told, answered := all[consumer]
		for _, e := range expected[consumer] {
			d := delivery{consumer: consumer, outcome: outcomeUnknown}
			if answered {
				d = told.delivery(consumer, e.Header, held[e.Header.EventId])
			}
			byEvent[e.Header.EventId] = append(byEvent[e.Header.EventId], d)
		}
	}
	return byEvent, away, nil
}

// answers are what one consumer tells of events.
type answers struct {
	receipts map[string]*eventv1.Receipt
	// missing are the ids without a receipt.
	missing []string
	// failures are by topic and event id.
	failures map[[2]string]*eventv1.Failure
}

func askConsumer(ctx context.Context, app eventv1connect.EventServiceClient, events []*eventv1.Event) (answers, error) {
	told := answers{receipts: make(map[string]*eventv1.Receipt), failures: make(map[[2]string]*eventv1.Failure)}
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.Header.EventId
	}
	for chunk := range slices.Chunk(ids, maxAsked) {
		answer, err := app.CheckReceived(ctx, connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: chunk}))
		if err != nil {
			return answers{}, err
		}
		for _, r := range answer.Msg.Receipts {
			told.receipts[r.EventId] = r
		}
	}
	for _, id := range ids {
		if told.receipts[id] == nil {
			told.missing = append(told.missing, id)
		}
	}
	for chunk := range slices.Chunk(told.missing, maxAsked) {
		answer, err := app.ListFailures(ctx, connect.NewRequest(&eventv1.ListFailuresRequest{MessageIds: chunk}))
		if err != nil {
			return answers{}, err
		}
		for _, f := range answer.Msg.Failures {
			told.failures[[2]string{f.Topic, f.MessageId}] = f
		}
	}
	return told, nil
}

// heldOf are the dead letters among what consumers have not received, by event id.
func (s *Service) heldOf(ctx context.Context, told map[string]answers) (map[string][]deadletter.Held, error) {
	var missing []string
	for _, t := range told {
		missing = append(missing, t.missing...)
	}
	if len(missing) == 0 || s.deadLetters == nil {
		return nil, nil
	}
	slices.Sort(missing)
	found, err := s.deadLetters.HeldOf(ctx, slices.Compact(missing))
	if err != nil {
		return nil, err
	}
	held := make(map[string][]deadletter.Held)
	for _, h := range found {
		held[h.EventID] = append(held[h.EventID], h)
	}
	return held, nil
}

func (t answers) delivery(consumer string, h *eventv1.Header, held []deadletter.Held) delivery {
	d := delivery{consumer: consumer, outcome: outcomeMissing}
	if r := t.receipts[h.EventId]; r != nil {
		d.outcome, d.receivedAt = r.Outcome, r.ReceivedAt
		return d
	}
	if d.failure = t.failures[[2]string{h.Topic, h.EventId}]; d.failure != nil {
		d.outcome = outcomeFailed
	}
	for _, l := range held {
		if l.Topic == h.Topic && l.For(consumer) {
			d.outcome, d.archived = outcomeDeadLetter, l.Archived
		}
	}
	return d
}
