// Package dapr is the bus of an app beside a Dapr sidecar. Only components/ says which broker carries the events, how often a
// delivery is tried again and where dead letters go.
//
// Events are published as whole CloudEvents, so that ids, times and traces are ours. They are received in one of two ways: pushed
// by the sidecar to an HTTP route (Routes), as components/subscriptions.yaml declares, or over a stream that this process opens
// (Stream) and that needs no port.
package dapr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	sdk "github.com/dapr/go-sdk/client"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

const (
	// pubsub is the name of the component that carries events.
	pubsub = "pubsub"
	// lanes bounds the calls to the sidecar at once.
	lanes = 16
	// publishTimeout bounds one of them: the sidecar repeats what the broker does not take.
	publishTimeout = 5 * time.Second
	// maxMessage bounds what a subscriber reads: as much as a sidecar would send (--max-body-size, 4 MiB), with what it adds.
	maxMessage = 6 << 20
	// maxLetter is the same for a dead letter, in base64. A message of any size gets onto a topic past the sidecars, and from there
	// to the dead letters. One that is refused there comes again for ever, and holds up the others.
	maxLetter = 64 << 20
	// streamed bounds the deliveries of one streamed topic that are handled at once; the SDK would bound nothing.
	streamed = 20
	// settle is how long the sidecar has to take the last answers before the stream ends. A delivery that finds an answer and the
	// end at the same time may take the end, and be delivered again. On a loaded machine half a second was once too little.
	settle = 2 * time.Second
	// farewell bounds the end of a stream after that. The sidecar needs so long only for deliveries that it has begun and nobody
	// takes any more.
	farewell = 2 * time.Second
)

// Bus is the bus behind one sidecar.
type Bus struct {
	client sdk.Client
	log    *slog.Logger
}

var _ bus.Publisher = (*Bus)(nil)

// New returns a bus that uses the process's one client of its sidecar.
func New(client sdk.Client, log *slog.Logger) *Bus { return &Bus{client: client, log: log} }

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, events []bus.Event) []error {
	return bus.InLanes(ctx, lanes, events, func(ctx context.Context, e bus.Event) error {
		message, err := e.CloudEvent()
		if err != nil {
			return err
		}
		return b.publish(ctx, e.Topic, message, sdk.PublishEventWithContentType(bus.ContentType),
			sdk.PublishEventWithMetadata(map[string]string{"partitionKey": e.Key}))
	})
}

// errNull: daprd 1.18.2 crashes when it receives one (pkg/runtime/subscription/subscription.go:289 writes into a nil map), and
// again after each restart.
var errNull = errors.New("a message that is JSON's null and nothing else ends every sidecar that receives it")

// PublishRaw implements bus.Publisher.
func (b *Bus) PublishRaw(ctx context.Context, topic string, message []byte) error {
	if bytes.Equal(bytes.TrimSpace(message), []byte("null")) {
		return errNull
	}
	// The content type is that of all events. Some brokers keep it, and by another one the sidecar would read another format.
	return b.publish(ctx, topic, message, sdk.PublishEventWithContentType(bus.ContentType), sdk.PublishEventWithRawPayload())
}

func (b *Bus) publish(ctx context.Context, topic string, message []byte, options ...sdk.PublishEventOption) error {
	// The sidecar is not told of the deadline, only when the call is given up: RabbitMQ's component reports a publish whose time
	// is up as done, and that answer must not come first.
	call, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, giveUp)()
	defer time.AfterFunc(publishTimeout, giveUp).Stop()
	err := b.client.PublishEvent(call, pubsub, topic, message, options...)
	if err != nil && call.Err() != nil {
		return fmt.Errorf("the sidecar did not answer in time: %w", err)
	}
	return err
}

// Routes are where the sidecar pushes the events of an app: each topic at /events/<topic>. An answer is one of Dapr's: {"status":
// "SUCCESS" | "RETRY" | "DROP"}.
func Routes(subscriptions []bus.Subscription) (pattern string, handler http.Handler) {
	byTopic := make(map[string]bus.Handler, len(subscriptions))
	for _, s := range subscriptions {
		byTopic[s.Topic] = s.Handle
	}
	return "POST /events/{topic}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		topic := r.PathValue("topic")
		handle, subscribed := byTopic[topic]
		if !subscribed {
			// Dapr drops what gets this answer, and gives it to the dead letters.
			http.Error(w, fmt.Sprintf("not subscribed to %s", topic), http.StatusNotFound)
			return
		}
		if contentType := r.Header.Get("Content-Type"); !isSidecars(contentType) {
			http.Error(w, fmt.Sprintf("an event must come as application/cloudevents+json or application/json, not %q", contentType), http.StatusUnsupportedMediaType)
			return
		}
		limit := int64(maxMessage)
		if bus.IsDeadLetters(topic) {
			limit = maxLetter
		}
		message, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		if err != nil {
			http.Error(w, err.Error(), statusOf(err))
			return
		}
		answer := handle(r.Context(), opened(topic, message))
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"status": answer.String()}) // Who has hung up delivers again.
	})
}

// isSidecars tells whether a sidecar sends this content type: application/cloudevents+json, raw payloads included, and
// application/json for several at once. A web page may send neither to another site without permission, unlike text/plain.
func isSidecars(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (mediaType == "application/cloudevents+json" || mediaType == "application/json")
}

// statusOf is the answer to a body that could not be read. The sidecar delivers again after each of them.
func statusOf(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// opened reads what the sidecar sends. Subscriptions to dead letters ask for raw payloads: the sidecar puts the message as it was
// on the topic into an envelope of its own.
func opened(topic string, message []byte) bus.Delivery {
	if !bus.IsDeadLetters(topic) {
		return bus.Open(topic, message)
	}
	var raw struct {
		Data []byte `json:"data_base64"`
	}
	if err := json.Unmarshal(message, &raw); err != nil || raw.Data == nil {
		return bus.Delivery{Topic: topic, Data: message}
	}
	return bus.Delivery{Topic: topic, Data: raw.Data}
}

// Stream receives the subscriptions over streams until ctx ends; then it answers what is in hand. It returns an error when a stream
// breaks, or when a consumer lacks what it needs, and the caller calls it again when that is over. (A sidecar stops pushing to an
// app that is not healthy; a stream stops only so.) What came and was not taken is delivered again.
func (b *Bus) Stream(ctx context.Context, subscriptions []bus.Subscription) error {
	all, streaming := errgroup.WithContext(ctx)
	for _, s := range subscriptions {
		all.Go(func() error { return b.stream(streaming, s) })
	}
	return all.Wait()
}

// errAway ends a stream whose consumer lacks what it needs: a message that is retried meanwhile would become a dead letter.
var errAway = errors.New("the consumer lacks what it needs at present")

// stream opens one stream and handles what it brings until it breaks, its consumer lacks what it needs, or ctx ends.
func (b *Bus) stream(ctx context.Context, s bus.Subscription) error {
	// The stream outlives ctx until all that is in hand is answered: what is not answered is delivered again.
	open, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	subscription, err := b.subscribe(ctx, open, cut, s.Topic)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	b.log.Info("subscribed over a stream", "topic", s.Topic)

	received, leaving, broken := make(chan *sdk.SubscriptionMessage), make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			message, err := subscription.Receive()
			if err != nil {
				broken <- err
				return
			}
			select {
			case received <- message:
			case <-leaving: // It is not answered, so the next subscriber gets it.
			}
		}
	}()
	var inHand sync.WaitGroup
	taking, stopTaking := context.WithCancelCause(ctx)
	defer stopTaking(nil)
	handle := func(message *sdk.SubscriptionMessage) {
		said := s.Handle(open, bus.Delivery{Topic: s.Topic, ID: message.ID, Data: message.RawData})
		if said == bus.Away {
			stopTaking(errAway)
		}
		if err := answer(message, said); err != nil {
			b.log.Warn("an answer did not reach the sidecar; it delivers again", "topic", s.Topic, "event_id", message.ID, "error", err)
		}
	}
	err = take(taking, &inHand, received, broken, handle)
	close(leaving)
	inHand.Wait()
	if err != nil {
		return fmt.Errorf("receive from %s: %w", s.Topic, err)
	}
	time.Sleep(settle)
	_ = subscription.Close() // Our side alone; the sidecar ends the stream.
	select {
	case <-broken:
	case <-time.After(farewell):
		cut()
		<-broken
	}
	if ctx.Err() == nil {
		return fmt.Errorf("receive from %s: %w", s.Topic, context.Cause(taking))
	}
	return nil
}

// subscribe opens a stream that lives as long as open. While it is being opened, the end of ctx cuts it.
func (b *Bus) subscribe(ctx, open context.Context, cut func(), topic string) (*sdk.Subscription, error) {
	deadLetters := bus.DeadLettersOf(topic)
	untie := context.AfterFunc(ctx, cut)
	subscription, err := b.client.Subscribe(open, sdk.SubscriptionOptions{PubsubName: pubsub, Topic: topic, DeadLetterTopic: &deadLetters})
	if !untie() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	return subscription, nil
}

// take gives received messages to handle, a bounded number at once, until ctx ends, which is no error, or the stream breaks.
func take(ctx context.Context, inHand *sync.WaitGroup, received <-chan *sdk.SubscriptionMessage, broken <-chan error, handle func(*sdk.SubscriptionMessage)) error {
	places := make(chan struct{}, streamed)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case places <- struct{}{}:
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case message := <-received:
			inHand.Go(func() {
				defer func() { <-places }()
				handle(message)
			})
		}
	}
}

func answer(message *sdk.SubscriptionMessage, a bus.Answer) error {
	switch a {
	case bus.Success:
		return message.Success()
	case bus.Drop:
		return message.Drop()
	}
	return message.Retry()
}
