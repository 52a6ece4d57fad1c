package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
)

// noBus is what it means that a process has no bus.
const noBus = "this process has no bus, so events stay in their outboxes until one with a bus runs"

// checkBus tells of a process without a bus, which is how it was started and no fault.
func (s *Service) checkBus(context.Context) []doctor.Finding {
	if s.hasBus {
		return nil
	}
	return []doctor.Finding{doctor.Fine("bus", "%s; it drives orchestrated checkouts, and refuses choreographed ones", noBus)}
}

// publishedWithin is how old an event may be that is not published yet. The relay takes milliseconds, and repeats what a broker
// does not take.
const publishedWithin = time.Minute

// checkOutbox looks for events of an app that do not get to the broker.
func (s *Service) checkOutbox(ctx context.Context, app string) doctor.Finding {
	name := "outbox " + app
	asked := s.events[app]
	if asked == nil {
		if !s.hasBus {
			return doctor.Fine(name, "not asked: %s", errNotConfigured)
		}
		upper := strings.ToUpper(app)
		return doctor.Wrong(name, errNotConfigured.Error(), fmt.Sprintf("set %s_APP_ID, or %s_URL without Dapr", upper, upper))
	}
	unpublished := &eventv1.Selection{Unpublished: true}
	first, err := asked.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{Selection: unpublished, PageSize: 1}))
	if err != nil {
		return doctor.Wrong(name, "cannot be asked: "+err.Error(), "start "+app+", or mend its address or its database; what it has written is not lost")
	}
	if len(first.Msg.Events) == 0 {
		return doctor.Fine(name, "nothing waits")
	}
	counted, err := asked.Republish(ctx, connect.NewRequest(&eventv1.RepublishRequest{Selection: unpublished, DryRun: true}))
	if err != nil {
		return doctor.Wrong(name, "cannot be counted: "+err.Error(), "look at the log of "+app)
	}
	oldest := first.Msg.Events[0].Header
	waiting := fmt.Sprintf("%s, the oldest (%s) for %s",
		doctor.Number(int(counted.Msg.Events), "event waits", "events wait"), oldest.Topic, doctor.Age(oldest.OccurredAt.AsTime()))
	switch {
	case !s.hasBus:
		return doctor.Fine(name, "%s: this process has no bus, and publishes nothing", waiting)
	case time.Since(oldest.OccurredAt.AsTime()) > publishedWithin:
		return doctor.Wrong(name, waiting, "look at the broker, and at the logs of "+app+" and its sidecar; nothing is lost, and all is published when the broker takes it")
	}
	return doctor.Fine(name, "%s", waiting)
}

// mostLetters is how many dead letters are counted.
const mostLetters = 1000

// checkDeadLetters counts the events that a consumer could not take.
func (s *Service) checkDeadLetters(ctx context.Context) []doctor.Finding {
	if s.deadLetters == nil {
		return nil
	}
	const name = "dead letters"
	open, err := s.deadLetters.List(ctx, connect.NewRequest(&deadletterv1.ListRequest{PageSize: mostLetters}))
	if err != nil {
		return []doctor.Finding{doctor.Wrong(name, "cannot be counted: "+err.Error(), doctor.MendDatabase)}
	}
	letters := open.Msg.DeadLetters
	if len(letters) == 0 {
		return []doctor.Finding{doctor.Fine(name, "none is open")}
	}
	count := doctor.Number(len(letters), "is open", "are open")
	if open.Msg.NextPageToken != "" {
		count = fmt.Sprintf("more than %d are open", mostLetters)
	}
	return []doctor.Finding{doctor.Wrong(name, fmt.Sprintf("%s, the oldest (%s) for %s", count, letters[0].Topic, doctor.Age(letters[0].ArrivedAt.AsTime())),
		"`orchestrator dead-letter list` says why; then `dead-letter replay`, or `dead-letter archive`")}
}
