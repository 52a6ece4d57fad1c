package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
)

// noBus is what it means that a process has no bus.
const noBus = "this process has no bus, so events stay in their outboxes until one with a bus runs"

// checkBus tells of a process without a bus, which is how it was started and no fault.
func (s *Service) checkBus(context.Context) []*checkoutv1.Finding {
	if s.hasBus {
		return nil
	}
	return []*checkoutv1.Finding{fine("bus", "%s; it drives orchestrated checkouts, and refuses choreographed ones", noBus)}
}

// publishedWithin is how old an event may be that is not published yet. The relay takes milliseconds, and repeats what a broker
// does not take.
const publishedWithin = time.Minute

// checkOutbox looks for events of an app that do not get to the broker.
func (s *Service) checkOutbox(ctx context.Context, app string) *checkoutv1.Finding {
	name := "outbox " + app
	asked := s.events[app]
	if asked == nil {
		if !s.hasBus {
			return fine(name, "not asked: %s", errNotConfigured)
		}
		upper := strings.ToUpper(app)
		return wrong(name, errNotConfigured.Error(), fmt.Sprintf("set %s_APP_ID, or %s_URL without Dapr", upper, upper))
	}
	unpublished := &eventv1.Selection{Unpublished: true}
	first, err := asked.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{Selection: unpublished, PageSize: 1}))
	if err != nil {
		return wrong(name, "cannot be asked: "+oneLine(err), "start "+app+" (`make up`), or mend its address or its database; what it has written is not lost")
	}
	if len(first.Msg.Events) == 0 {
		return fine(name, "nothing waits")
	}
	counted, err := asked.Republish(ctx, connect.NewRequest(&eventv1.RepublishRequest{Selection: unpublished, DryRun: true}))
	if err != nil {
		return wrong(name, "cannot be counted: "+oneLine(err), "look at the log of "+app)
	}
	oldest := first.Msg.Events[0].Header
	waiting := fmt.Sprintf("%s, the oldest (%s) for %s",
		number(int(counted.Msg.Events), "event waits", "events wait"), oldest.Topic, age(oldest.OccurredAt.AsTime()))
	switch {
	case !s.hasBus:
		return fine(name, "%s: this process has no bus, and publishes nothing", waiting)
	case time.Since(oldest.OccurredAt.AsTime()) > publishedWithin:
		return wrong(name, waiting, "look at the broker, and at the logs of "+app+" and its sidecar; nothing is lost, and all is published when the broker takes it")
	}
	return fine(name, "%s", waiting)
}

// mostLetters is how many dead letters are counted.
const mostLetters = 1000

// checkDeadLetters counts the events that a consumer could not take.
func (s *Service) checkDeadLetters(ctx context.Context) []*checkoutv1.Finding {
	if s.deadLetters == nil {
		return nil
	}
	const name = "dead letters"
	open, err := s.deadLetters.List(ctx, connect.NewRequest(&deadletterv1.ListRequest{PageSize: mostLetters}))
	if err != nil {
		return []*checkoutv1.Finding{wrong(name, "cannot be counted: "+oneLine(err), mendDatabase)}
	}
	letters := open.Msg.DeadLetters
	if len(letters) == 0 {
		return []*checkoutv1.Finding{fine(name, "none is open")}
	}
	count := number(len(letters), "is open", "are open")
	if open.Msg.NextPageToken != "" {
		count = fmt.Sprintf("more than %d are open", mostLetters)
	}
	return []*checkoutv1.Finding{wrong(name, fmt.Sprintf("%s, the oldest (%s) for %s", count, letters[0].Topic, age(letters[0].ArrivedAt.AsTime())),
		"`orchestrator dead-letter list` says why; then `dead-letter replay`, or `dead-letter archive`")}
}

// oneLine is an error's text without line breaks: a finding is one row of a table.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
