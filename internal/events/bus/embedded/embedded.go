// Package embedded is the bus of apps that run in one process: what an outbox publishes is handed straight to the handlers
// of whoever is subscribed. It keeps nothing: an event counts as taken when every subscriber has it, or the dead letters do,
// and until then it stays in its outbox.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

const (
	// lanes bounds the events that are handed over at once by one publisher.
	lanes = 16
	// tries is how often a handler may ask for a retry before the dead letters get the event. The pauses between them double from
	// firstPause and add up to 0.75 s: enough for a lock, or for a connection that was lost. The other events of the batch wait
	// that long too.
	tries, firstPause = 5, 50 * time.Millisecond
	// patience is how long a handler may take over all of them. One that hangs (bus.HandleTimeout) is not tried again, because its
	// outbox publishes nothing else meanwhile.
	patience = 3 * time.Second
)

// Bus hands events over. Its methods may be called from many goroutines.
type Bus struct {
	mu       sync.RWMutex
	handlers map[string][]bus.Handler
}

var _ bus.Publisher = (*Bus)(nil)

// New returns a bus without subscribers.
func New() *Bus { return &Bus{handlers: make(map[string][]bus.Handler)} }

// Subscribe adds an app's subscriptions; those to topics of dead letters take what another handler could not. Call it for every app
// before the first outbox publishes: an event without a subscriber counts as taken.
func (b *Bus) Subscribe(subscriptions ...bus.Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range subscriptions {
		b.handlers[s.Topic] = append(b.handlers[s.Topic], s.Handle)
	}
}

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, events []bus.Event) []error {
	return bus.InLanes(ctx, lanes, events, func(ctx context.Context, e bus.Event) error {
		message, err := e.CloudEvent()
		if err != nil {
			return err
		}
		return b.PublishRaw(ctx, e.Topic, message)
	})
}

// PublishRaw implements bus.Publisher.
func (b *Bus) PublishRaw(ctx context.Context, topic string, message []byte) error {
	delivery := bus.Open(topic, message)
	var failed []error
	for _, handle := range b.subscribed(topic) {
		switch deliver(ctx, handle, delivery) {
		case bus.Success:
		case bus.Away:
			failed = append(failed, errAway)
		default:
			failed = append(failed, b.giveUp(ctx, topic, message))
		}
	}
	return errors.Join(failed...)
}

// errAway keeps an event in its outbox, which brings it again: an outage must not make dead letters.
var errAway = errors.New("a consumer lacks what it needs at present")

func (b *Bus) subscribed(topic string) []bus.Handler {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.handlers[topic]
}

// deliver hands an event to one handler until it says more than retry.
func deliver(ctx context.Context, handle bus.Handler, d bus.Delivery) bus.Answer {
	pause, began := firstPause, time.Now()
	for try := 1; ; try++ {
		answer := handle(ctx, d)
		if answer != bus.Retry || try == tries || time.Since(began) > patience {
			return answer
		}
		select {
		case <-ctx.Done():
			return bus.Retry
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// giveUp hands a message to the dead letters. If they do not take it, the event stays where it is.
func (b *Bus) giveUp(ctx context.Context, topic string, message []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	deadLetters := b.subscribed(bus.DeadLettersOf(topic))
	if len(deadLetters) == 0 {
		return fmt.Errorf("a handler of %s failed and nobody takes its dead letters", topic)
	}
	for _, handle := range deadLetters {
		if deliver(ctx, handle, bus.Delivery{Topic: bus.DeadLettersOf(topic), Data: message}) != bus.Success {
			return fmt.Errorf("a handler of %s failed and its dead letters were not taken", topic)
		}
	}
	return nil
}
