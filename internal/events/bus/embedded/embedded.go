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
	// lanes bounds the events that one publisher hands over one by one at the same time.
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
	mu            sync.RWMutex
	subscriptions map[string][]bus.Subscription // By topic.
}

var _ bus.Publisher = (*Bus)(nil)

// New returns a bus without subscribers.
func New() *Bus { return &Bus{subscriptions: make(map[string][]bus.Subscription)} }

// Subscribe adds an app's subscriptions; those to topics of dead letters take what another handler could not. Call it for every app
// before the first outbox publishes: an event without a subscriber counts as taken.
func (b *Bus) Subscribe(subscriptions ...bus.Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range subscriptions {
		b.subscriptions[s.Topic] = append(b.subscriptions[s.Topic], s)
	}
}

// Publish implements bus.Publisher. Each app is first given all that it has a use for at once. What one could not take so it is given
// one by one, so that an event that it cannot take at all fails alone.
func (b *Bus) Publish(ctx context.Context, events []bus.Event) []error {
	done := b.together(ctx, events)
	return bus.InLanes(ctx, lanes, events, func(ctx context.Context, e bus.Event) error {
		var left []bus.Subscription
		for _, s := range b.subscribed(e.Topic) {
			if s.App == nil || s.App.Expects(e.Topic, e.Coordination) && !done[s.App] {
				left = append(left, s)
			}
		}
		return b.hand(ctx, left, delivery(e), e.CloudEvent)
	})
}

// together gives each app all events that it has a use for, if there are several, and tells which apps have taken theirs.
func (b *Bus) together(ctx context.Context, events []bus.Event) (done map[bus.App]bool) {
	deliveries := make(map[bus.App][]bus.Delivery)
	for _, e := range events {
		for _, s := range b.subscribed(e.Topic) {
			if s.App != nil && s.App.Expects(e.Topic, e.Coordination) {
				deliveries[s.App] = append(deliveries[s.App], delivery(e))
			}
		}
	}
	done = make(map[bus.App]bool, len(deliveries))
	var mu sync.Mutex
	var all sync.WaitGroup
	for app, itsOwn := range deliveries {
		if len(itsOwn) == 1 {
			continue
		}
		all.Go(func() {
			isDone := app.TakeAll(ctx, itsOwn)
			mu.Lock()
			defer mu.Unlock()
			done[app] = isDone
		})
	}
	all.Wait()
	return done
}

// delivery is the event as it would come off a topic.
func delivery(e bus.Event) bus.Delivery { return bus.Delivery{Topic: e.Topic, ID: e.ID, Data: e.Data} }

// PublishRaw implements bus.Publisher.
func (b *Bus) PublishRaw(ctx context.Context, topic string, message []byte) error {
	return b.hand(ctx, b.subscribed(topic), bus.Open(topic, message), func() ([]byte, error) { return message, nil })
}

// hand gives one event to subscribers, and to the dead letters what one cannot take: the message as a topic has it.
func (b *Bus) hand(ctx context.Context, to []bus.Subscription, d bus.Delivery, message func() ([]byte, error)) error {
	var failed []error
	for _, s := range to {
		switch deliver(ctx, s.Handle, d) {
		case bus.Success:
		case bus.Away:
			failed = append(failed, errAway)
		default:
			failed = append(failed, b.giveUp(ctx, d.Topic, message))
		}
	}
	return errors.Join(failed...)
}

// errAway keeps an event in its outbox, which brings it again: an outage must not make dead letters.
var errAway = errors.New("a consumer lacks what it needs at present")

func (b *Bus) subscribed(topic string) []bus.Subscription {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.subscriptions[topic]
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
func (b *Bus) giveUp(ctx context.Context, topic string, asMessage func() ([]byte, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	message, err := asMessage()
	if err != nil {
		return err
	}
	deadLetters := b.subscribed(bus.DeadLettersOf(topic))
	if len(deadLetters) == 0 {
		return fmt.Errorf("a handler of %s failed and nobody takes its dead letters", topic)
	}
	for _, s := range deadLetters {
		if deliver(ctx, s.Handle, bus.Delivery{Topic: bus.DeadLettersOf(topic), Data: message}) != bus.Success {
			return fmt.Errorf("a handler of %s failed and its dead letters were not taken", topic)
		}
	}
	return nil
}
