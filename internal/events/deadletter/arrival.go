package deadletter

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// arrival is a message as far as it can be read.
type arrival struct {
	digest    [sha256.Size]byte
	topic     string
	messageID string
	// These are empty where they cannot be read.
	eventID, orderID string
	occurredAt       *time.Time
	// fault is what is wrong with the message itself; empty if nothing is seen.
	fault   string
	message []byte
	// consumers are the apps to ask about it.
	consumers []string
}

// maxText and maxID are where texts and ids of others are cut, in bytes.
const maxText, maxID = 1000, 200

// readArrival reads what can be read of a message, which may be anything.
func readArrival(from event.Topic, message []byte) arrival {
	opened := bus.Open(from.Name, message)
	a := arrival{topic: from.Name, messageID: opened.MessageID(), eventID: opened.ID, message: message}
	if message == nil {
		a.message = []byte{}
	}
	for _, c := range from.Consumers {
		a.consumers = append(a.consumers, c.App)
	}
	// The content counts too: another message under the same id is somebody's mistake, and both are kept. A message without an id
	// goes by the hash of its content, however its JSON is written.
	content := bus.Delivery{Data: message}.MessageID()
	a.digest = sha256.Sum256([]byte(strings.Join([]string{a.topic, opened.MessageID(), content}, "\x00")))

	// A message that breaks its contract often still tells what it is about.
	var loose struct {
		Header struct {
			EventID    string `json:"event_id"`
			OrderID    string `json:"order_id"`
			OccurredAt string `json:"occurred_at"`
		} `json:"header"`
	}
	_ = json.Unmarshal(opened.Data, &loose) // Fields of another type are left out.
	if loose.Header.EventID != "" {
		a.eventID = loose.Header.EventID
	}
	a.orderID = loose.Header.OrderID
	if at, err := time.Parse(time.RFC3339, loose.Header.OccurredAt); err == nil {
		a.occurredAt = &at
	}
	a.eventID, a.orderID = pg.Text(a.eventID, maxID), pg.Text(a.orderID, maxID)
	a.fault = pg.Text(fault(opened, message), maxText)
	return a
}

func fault(opened bus.Delivery, message []byte) string {
	if len(message) == 0 {
		return "it is empty"
	}
	if opened.Broken != nil {
		return opened.Broken.Error()
	}
	if why := unpushed(message); why != "" {
		return why
	}
	if _, err := event.Decode(opened.Topic, opened.Data); errors.Is(err, event.ErrBad) {
		return strings.TrimPrefix(err.Error(), event.ErrBad.Error()+": ")
	}
	return ""
}

// unpushed says why the sidecar gave up an envelope by itself, without asking the consumer: its trace context is no text
// (components/subscriptions.yaml), or its time is up
// (https://docs.dapr.io/developing-applications/building-blocks/pubsub/pubsub-message-ttl).
func unpushed(message []byte) string {
	var envelope map[string]any
	if json.Unmarshal(message, &envelope) != nil {
		return ""
	}
	for _, field := range []string{"traceparent", "traceid"} {
		if value, has := envelope[field]; has {
			if _, isText := value.(string); !isText {
				return "its " + field + " is no text"
			}
		}
	}
	expiration, _ := envelope["expiration"].(string)
	if at, err := time.Parse(time.RFC3339, expiration); err == nil && time.Now().After(at) {
		return "it expired at " + expiration
	}
	return ""
}
