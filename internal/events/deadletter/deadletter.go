// Package deadletter keeps the messages that a consumer could not take: every one, byte for byte, with the cause that the
// consumer wrote down (inbox.Failure; no broker keeps that), until somebody replays or archives it. It knows no broker, and of
// events only what their contracts say.
package deadletter

import (
	"context"
	"embed"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations make the tables of dead letters.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(files, "dead_letters_migrations") }

const (
	// keepSettled is how long a letter is kept after it was replayed or archived. Open ones are kept for ever.
	keepSettled = 90 * 24 * time.Hour
	// pruneEvery is how often older ones are removed.
	pruneEvery = time.Hour
	// askAgain is how often consumers that gave no answer are asked again.
	askAgain = 15 * time.Second
)

// Config is what the service works with.
type Config struct {
	// Pool is a migrated database.
	Pool *pgxpool.Pool
	// Publisher takes what is replayed. Nil where there is no bus: nothing can be replayed then.
	Publisher bus.Publisher
	// Consumers are asked why their handlers failed, by app. An app that is missing here is not asked.
	Consumers map[string]eventv1connect.EventServiceClient
	Log       *slog.Logger
}

// Service takes dead letters in and answers deadletter.v1.DeadLetterService. Its methods may be called from many goroutines.
type Service struct {
	letters   letters
	publisher bus.Publisher
	consumers map[string]eventv1connect.EventServiceClient
	log       *slog.Logger
	// arrived has a value while there may be something to ask consumers about.
	arrived chan struct{}
}

var _ deadletterv1connect.DeadLetterServiceHandler = (*Service)(nil)

// New returns the service.
func New(c Config) *Service {
	return &Service{
		letters: letters{c.Pool}, publisher: c.Publisher, consumers: c.Consumers, log: c.Log, arrived: make(chan struct{}, 1),
	}
}

// Subscriptions take in the dead letters of every topic that anybody receives.
func (s *Service) Subscriptions() []bus.Subscription {
	var subscriptions []bus.Subscription
	for _, t := range event.Consumed() {
		subscriptions = append(subscriptions, bus.Subscription{
			Topic:  bus.DeadLettersOf(t.Name),
			Handle: func(ctx context.Context, d bus.Delivery) bus.Answer { return s.take(ctx, t, d.Data) },
		})
	}
	return subscriptions
}

// take keeps any message. Its only other answer is Retry: a dead letter has nowhere else to go.
func (s *Service) take(ctx context.Context, from event.Topic, message []byte) bus.Answer {
	ctx, cancel := context.WithTimeout(ctx, bus.HandleTimeout)
	defer cancel()
	a := readArrival(from, message)
	id, err := s.letters.keep(ctx, a)
	if err != nil {
		s.log.Error("a dead letter was not kept; it comes again", "topic", from.Name, "event_id", a.eventID, "error", err)
		return bus.Retry
	}
	s.log.Warn("a dead letter arrived", "dead_letter", id, "topic", from.Name, "event_id", a.eventID, "order_id", a.orderID)
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	return bus.Success
}

// Run asks consumers for the causes of what arrives, and removes what was settled long ago, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	s.prune(ctx)
	for {
		s.learnCauses(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-s.arrived:
		case <-again.C:
		case <-prune.C:
			s.prune(ctx)
		}
	}
}

func (s *Service) prune(ctx context.Context) {
	if err := s.letters.prune(ctx, keepSettled); err != nil && ctx.Err() == nil {
		s.log.Warn("settled dead letters were not pruned; it is tried again", "error", err)
	}
}
