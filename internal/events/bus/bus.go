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
	// Key is what it is about. Where the carrier keeps order, it keeps that of the events with the same key.
	Key  string
	Time time.Time
	// TraceParent is the W3C trace context of the change.
	TraceParent string
	// Data is the event's JSON.
	Data []byte
}

// Publisher hands events over for delivery, at least once. Its methods may be called from many goroutines.
type Publisher interface {
	// Publish hands over events of any topics and tells for each, at its place, why it was not taken; nil if it was. Events of
	// one key are handed over in their order, and none after one that was not taken.
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
	// Retry: it may succeed later. The carrier delivers it again, a bounded number of times, and then gives it to the dead
	// letters.
	Retry Answer = iota
	// Success: it is done, or was before.
	Success
	// Drop: it can never succeed. The carrier gives it to the dead letters at once.
	Drop
	// Away: the consumer lacks what it needs, such as its database, and that is no fault of the message. A carrier that can keeps it
	// and delivers it again until the consumer is back; to Dapr it is a Retry, and the sidecar delivers nothing once it has seen that
	// /apphealthz says so, too.
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

// Handler takes deliveries of one topic, several at once, in any order, and each any number of times. It returns within the
// deadline of ctx.
type Handler func(ctx context.Context, d Delivery) Answer

// Subscription is a handler with its topic.
type Subscription struct {
	Topic  string
	Handle Handler
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

// ContentType is what says that a message is a CloudEvent.
const ContentType = "application/cloudevents+json"

// CloudEvent is the event as it goes over the wire.
func (e Event) CloudEvent() ([]byte, error) {
	message, err := json.Marshal(envelope{
		SpecVersion: "1.0", ID: e.ID, Source: e.Source, Type: e.Topic, Subject: e.Key, Time: e.Time.UTC().Format(time.RFC3339Nano),
		DataContentType: "application/json", PartitionKey: e.Key,
		// Dapr looks for traceid alone when it decides whether to put in its own, and calls it what others call traceparent.
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

// maxID is the longest id, in bytes, that a message goes by; PostgreSQL could not index any length.
const maxID = 200

// MessageID names a delivery: the event's id or, where it has none that a database could keep, a hash of what it says. It is the
// same for the consumer that fails and for the dead letters, although JSON is written anew on its way between them.
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

// DeadLettersOf is the topic that takes what a subscriber of a topic could not.
func DeadLettersOf(topic string) string { return deadLetters + topic }

// IsDeadLetters tells whether a topic is one that takes dead letters.
func IsDeadLetters(topic string) bool { return strings.HasPrefix(topic, deadLetters) }
