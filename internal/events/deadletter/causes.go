package deadletter

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

const (
	// askTimeout bounds asking all consumers: a person may be waiting for it.
	askTimeout = 2 * time.Second
	// askBatch is how many letters a consumer is asked about at a time. It answers no more.
	askBatch = 1000
)

// failure is what a consumer wrote down about a letter.
type failure struct {
	Consumer string    `json:"consumer"`
	Attempts int32     `json:"attempts"`
	Error    string    `json:"error"`
	LastAt   time.Time `json:"last_at"`
}

// question is a letter to ask a consumer about.
type question struct {
	letter             int64
	arrival            int32
	topic              string
	messageID, eventID string
}

// learnCauses asks all consumers at once about the letters that they have not been asked about. A consumer that does not answer is
// asked again: at the next look at a letter, or by Run.
func (s *Service) learnCauses(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for app, consumer := range s.consumers {
		asking.Go(func() {
			if err := s.ask(ctx, app, consumer); err != nil {
				s.log.Debug("a consumer did not tell why it failed; it is asked again", "consumer", app, "error", err)
			}
		})
	}
	asking.Wait()
}

func (s *Service) ask(ctx context.Context, app string, consumer eventv1connect.EventServiceClient) error {
	for {
		questions, err := s.letters.questions(ctx, app, askBatch)
		if err != nil || len(questions) == 0 {
			return err
		}
		failures, err := failuresOf(ctx, app, consumer, questions)
		if err != nil {
			return fmt.Errorf("ask %s: %w", app, err)
		}
		if err := s.letters.answer(ctx, app, questions, failures); err != nil {
			return err
		}
		if len(questions) < askBatch {
			return nil
		}
	}
}

// failuresOf returns what a consumer wrote down, by letter. It leaves out what the consumer has received since: another one gave
// that message up.
func failuresOf(ctx context.Context, app string, consumer eventv1connect.EventServiceClient, questions []question) (map[int64]failure, error) {
	var messageIDs, eventIDs []string
	for _, q := range questions {
		messageIDs, eventIDs = append(messageIDs, q.messageID), append(eventIDs, q.eventID)
	}
	noted, err := consumer.ListFailures(ctx, connect.NewRequest(&eventv1.ListFailuresRequest{MessageIds: messageIDs}))
	if err != nil {
		return nil, err
	}
	if len(noted.Msg.Failures) == 0 {
		return nil, nil
	}
	received, err := consumer.CheckReceived(ctx, connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: eventIDs}))
	if err != nil {
		return nil, err
	}
	has := make(map[string]bool)
	for _, r := range received.Msg.Receipts {
		has[r.EventId] = true
	}
	byMessage := make(map[[2]string]*eventv1.Failure)
	for _, f := range noted.Msg.Failures {
		byMessage[[2]string{f.Topic, f.MessageId}] = f
	}
	failures := make(map[int64]failure)
	for _, q := range questions {
		if f := byMessage[[2]string{q.topic, q.messageID}]; f != nil && !has[q.eventID] {
			failures[q.letter] = failure{
				Consumer: app, Attempts: f.Attempts, Error: pg.Text(f.Error, maxText), LastAt: f.LastAt.AsTime(),
			}
		}
	}
	return failures, nil
}

// cause is why a letter is one, as far as it is known.
func (l letter) cause() string {
	switch {
	case len(l.failures) == 1:
		return l.failures[0].Error
	case len(l.failures) > 1:
		var all []string
		for _, f := range l.failures {
			all = append(all, f.Consumer+": "+f.Error)
		}
		return strings.Join(all, "; ")
	}
	said := "no consumer has it on record"
	if len(l.unasked) > 0 {
		said = strings.Join(l.unasked, " and ") + " could not be asked yet"
	}
	if l.fault != "" {
		return said + "; what can be seen: " + l.fault
	}
	return said + "; nothing is wrong with the message itself that could be seen here"
}

// consumers are those that failed, the last one first.
func (l letter) consumers() []string {
	var apps []string
	for _, f := range l.failures {
		apps = append(apps, f.Consumer)
	}
	return apps
}

// attempts are those of the consumer that failed last.
func (l letter) attempts() int32 {
	if len(l.failures) == 0 {
		return 0
	}
	return l.failures[0].Attempts
}
