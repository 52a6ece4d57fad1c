// Package bus is the seam between this project's events and whatever carries them: a broker behind the Dapr sidecar
// (bus/dapr), or nothing at all where everything runs in one process (bus/embedded). Outboxes publish into it and inboxes are
// subscribed to it, the same way in both. It knows no event and no database.
package bus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Event is an event on its way to its consumers.
type Event struct {
	// ID is the same on every repeat.
	ID string
	// Topic says what happened, Source which app says so.
	Topic, Source string
	// Key is what the event is about. A carrier that keeps order keeps it among the events of one key.
	Key string
	// Coordination is that of the checkout that it belongs to, by which some consumers take no notice of it; empty for other events.
	Coordination string
	Time         time.Time
	// TraceParent is the W3C trace context of the change.
	TraceParent string
	// Data is the event's JSON.
	Data []byte
}

// Publisher hands events over for delivery, at least once. Its methods may be called from many goroutines.
type Publisher interface {
	// Publish hands over events of any topics. For each event, at its place, it returns why the event was not taken; nil if it was.
	// Events of one key are handed over in their order, and none after one that was not taken.
	Publish(ctx context.Context, events []Event) []error
	// PublishRaw hands over a message as it once came off a topic, byte for byte.
	PublishRaw(ctx context.Context, topic string, message []byte) error
}

// Delivery is a message as it arrives.
type Delivery struct {
	Topic string
	// ID is the event's, as its envelope has it; empty where it has none.
	ID string
	// Data is the event's JSON. In a dead letter it is the whole message as it was on the topic.
	Data []byte
	// Broken says why the message's envelope could not be read; Data is then all that there is. A dead letter's is not read.
	Broken error
}

// Answer is what a handler says of a delivery.
type Answer int

// The answers.
const (
	// Retry: it may succeed later. The carrier delivers it again, a bounded number of times. Then it becomes a dead letter.
	Retry Answer = iota
	// Success: it is done, or was before.
	Success
	// Drop: it can never succeed. It becomes a dead letter at once.
	Drop
	// Away: the consumer lacks what it needs, such as its database; the message is not at fault. A carrier that can keeps the
	// message and delivers it again until the consumer is back. To Dapr it is a Retry; the sidecar stops delivering once
	// /apphealthz says the same.
	Away
)

// String is the answer in the words of Dapr's contract with subscribers.
func (a Answer) String() string {
	switch a {
	case Success:
		return "SUCCESS"
	case Drop:
		return "DROP"
	}
	return "RETRY"
}

// Handler takes deliveries of one topic: several at once, in any order, each any number of times. It returns within the deadline of
// ctx.
type Handler func(ctx context.Context, d Delivery) Answer

// App is all that an app is subscribed to.
type App interface {
	// Expects tells whether the app has a use for an event.
	Expects(topic, coordination string) bool
	// TakeAll takes deliveries, any of any topics, in their order and all together: it returns true if they are done. Otherwise none
	// of them is, and the carrier gives each to its Handler, whose answer counts.
	TakeAll(ctx context.Context, deliveries []Delivery) bool
}

// Subscription is a handler with its topic.
type Subscription struct {
	Topic  string
	Handle Handler
	// App takes deliveries of this topic together with those of others; nil where there are only single ones.
	App App
}

// HandleTimeout bounds one delivery to one handler. Carriers wait a little longer before they try again, so that two tries do
// not overlap.
const HandleTimeout = 5 * time.Second

// envelope is an event as CloudEvents 1.0 has it (https://github.com/cloudevents/spec, JSON event format).
type envelope struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject,omitempty"`
	Time            string          `json:"time,omitempty"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	PartitionKey    string          `json:"partitionkey,omitempty"`
	TraceParent     string          `json:"traceparent,omitempty"`
	TraceID         string          `json:"traceid,omitempty"`
	Data            json.RawMessage `json:"data"`
}

// ContentType says that a message is a CloudEvent.
const ContentType = "application/cloudevents+json"

// CloudEvent is the event as it goes over the wire.
func (e Event) CloudEvent() ([]byte, error) {
	message, err := json.Marshal(envelope{
		SpecVersion: "1.0", ID: e.ID, Source: e.Source, Type: e.Topic, Subject: e.Key, Time: e.Time.UTC().Format(time.RFC3339Nano),
		DataContentType: "application/json", PartitionKey: e.Key,
		// Dapr looks only at traceid when it decides whether to add its own. Others call it traceparent.
		TraceParent: e.TraceParent, TraceID: e.TraceParent,
		Data: e.Data,
	})
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	return message, nil
}

// Open reads a message that came off a topic.
func Open(topic string, message []byte) Delivery {
	var e struct {
		ID   string          `json:"id"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(message, &e); err != nil {
		return Delivery{Topic: topic, Data: message, Broken: fmt.Errorf("it is no CloudEvent: %w", err)}
	}
	if len(e.Data) == 0 {
		return Delivery{Topic: topic, ID: e.ID, Data: message, Broken: errors.New("it is no CloudEvent with JSON in it: data is missing")}
	}
	return Delivery{Topic: topic, ID: e.ID, Data: e.Data}
}

// maxID is the length, in bytes, of the longest id that is used. PostgreSQL cannot index longer ones without end.
const maxID = 200

// MessageID names a delivery: the event's id or, where it has none that a database can keep, a hash of its content. The consumer
// that fails and the dead letters use the same name, although JSON is written anew between them.
func (d Delivery) MessageID() string {
	if d.ID != "" && len(d.ID) <= maxID && !strings.ContainsRune(d.ID, 0) {
		return d.ID
	}
	hash := sha256.Sum256(canonical(d.Data))
	return "sha256:" + hex.EncodeToString(hash[:])
}

// canonical writes JSON in one way, whatever its spaces and the order of its fields; what is not JSON stays as it is.
func canonical(data []byte) []byte {
	var value any
	reading := json.NewDecoder(bytes.NewReader(data))
	reading.UseNumber()
	if reading.Decode(&value) != nil {
		return data
	}
	if _, err := reading.Token(); !errors.Is(err, io.EOF) {
		return data // Something stands behind it.
	}
	written, err := json.Marshal(value)
	if err != nil {
		return data
	}
	return written
}

const deadLetters = "dlq."

// DeadLettersOf is the topic that takes the dead letters of a topic.
func DeadLettersOf(topic string) string { return deadLetters + topic }

// IsDeadLetters tells whether a topic takes dead letters.
func IsDeadLetters(topic string) bool { return strings.HasPrefix(topic, deadLetters) }
