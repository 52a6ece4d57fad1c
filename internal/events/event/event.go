// Package event knows every event that there is: it reads the contracts' declarations (event.v1.event) and is the one place
// that turns a message into a topic and back. It knows no transport and no database.
package event

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// The contracts that declare events; who adds a package adds it here.
	_ "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	_ "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
)

// Coordination of the checkout that an event belongs to.
const (
	Orchestrated  = "orchestrated"
	Choreographed = "choreographed"
)

// MaxSize bounds an event's JSON, in bytes. Ours have less than 16 KiB; a larger one is somebody's mistake, and would be
// copied into every consumer's memory and every dead letter.
const MaxSize = 256 << 10

// ErrBad says that a message can never be taken as it is: trying again is no use.
var ErrBad = errors.New("bad event")

// Message is an event of the contracts.
type Message interface {
	proto.Message
	GetHeader() *eventv1.Header
}

// Topic is one kind of event, as its contract declares it.
type Topic struct {
	// Name is {service}.{entity}.{action in the past tense}.
	Name string
	// Owner is the app that alone may publish it.
	Owner string
	// Version is the newest schema_version.
	Version int32
	// About says whether it is counted and ordered by order or by article.
	About eventv1.Key
	// Consumers are the apps that must have received it.
	Consumers []*eventv1.Consumer

	message protoreflect.MessageType
}

// Consumer is what the contract says of an app that receives the topic; nil if it does not.
func (t Topic) Consumer(app string) *eventv1.Consumer {
	for _, c := range t.Consumers {
		if c.App == app {
			return c
		}
	}
	return nil
}

// Expects tells whether an app must have received an event of this topic with a coordination.
func (t Topic) Expects(app, coordination string) bool {
	c := t.Consumer(app)
	return c != nil && (!c.ChoreographedOnly || coordination == Choreographed)
}

// FullName is the message's name in the contracts.
func (t Topic) FullName() protoreflect.FullName { return t.message.Descriptor().FullName() }

// New is an empty message of the topic.
func (t Topic) New() Message { return t.message.New().Interface().(Message) }

// Topics are all topics, by name.
func Topics() []Topic { return slices.Clone(catalogue().sorted) }

// Find returns the topic of a name.
func Find(name string) (Topic, bool) {
	t, found := catalogue().byName[name]
	return t, found
}

// Of returns the topic of a message. It panics for a message that the contracts do not declare as an event: no input decides
// that.
func Of(m Message) Topic {
	t, found := catalogue().byMessage[m.ProtoReflect().Descriptor().FullName()]
	if !found {
		panic(fmt.Sprintf("%s is not declared as an event", m.ProtoReflect().Descriptor().FullName()))
	}
	return t
}

// ConsumedBy are the topics that an app must receive, by name.
func ConsumedBy(app string) []Topic {
	return slices.DeleteFunc(Topics(), func(t Topic) bool { return t.Consumer(app) == nil })
}

// Consumed are the topics that anybody receives, by name.
func Consumed() []Topic {
	return slices.DeleteFunc(Topics(), func(t Topic) bool { return len(t.Consumers) == 0 })
}

type topics struct {
	sorted    []Topic
	byName    map[string]Topic
	byMessage map[protoreflect.FullName]Topic
}

var catalogue = sync.OnceValue(func() topics {
	all := topics{byName: make(map[string]Topic), byMessage: make(map[protoreflect.FullName]Topic)}
	protoregistry.GlobalTypes.RangeMessages(func(m protoreflect.MessageType) bool {
		declared, isEvent := proto.GetExtension(m.Descriptor().Options(), eventv1.E_Event).(*eventv1.Declaration)
		if isEvent && declared != nil {
			t := Topic{
				Name: declared.Topic, Owner: declared.Owner, Version: declared.Version, About: declared.Key,
				Consumers: declared.Consumers, message: m,
			}
			all.sorted = append(all.sorted, t)
			all.byName[t.Name] = t
			all.byMessage[t.FullName()] = t
		}
		return true
	})
	slices.SortFunc(all.sorted, func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
	return all
})

// TraceOf is the W3C trace context that a context carries; empty if it carries none.
func TraceOf(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}

// WithTrace returns a context that carries a W3C trace context.
func WithTrace(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// Key is what an event is about: an order id or an article.
func Key(h *eventv1.Header) string {
	if h.GetOrderId() != "" {
		return h.GetOrderId()
	}
	return h.GetSku()
}

var read = protojson.UnmarshalOptions{DiscardUnknown: true}

// Decode reads the JSON of an event that arrived on a topic and holds it to its contract. Fields that this build does not know
// are ignored: newer producers may add them. ErrBad says what is wrong.
func Decode(topic string, data []byte) (Message, error) {
	t, known := Find(topic)
	if !known {
		return nil, bad("there is no topic %q", topic)
	}
	if len(data) > MaxSize {
		return nil, bad("it has %d bytes, and %d are the most", len(data), MaxSize)
	}
	m := t.New()
	if err := read.Unmarshal(data, m); err != nil {
		// The parser's text changes from build to build (its spaces do), so it stands last and nobody compares it.
		return nil, bad("it is not the JSON of %s: %v", t.FullName(), err)
	}
	if err := t.check(m.GetHeader()); err != nil {
		return nil, err
	}
	// What a consumer's database would refuse, over and over and with less to say, is refused here.
	if problems := contract.Check(m); len(problems) > 0 {
		return nil, bad("%s", contract.Sentence(problems))
	}
	return m, nil
}

func (t Topic) check(h *eventv1.Header) error {
	key, other, called := h.GetOrderId(), h.GetSku(), "order_id"
	if t.About == eventv1.Key_KEY_ARTICLE {
		key, other, called = other, key, "sku"
	}
	switch {
	case h == nil:
		return bad("header: is missing")
	case h.EventId == "":
		return bad("header.event_id: is missing")
	case h.Topic != t.Name:
		return bad("header.topic: must be %s, where it arrived, not %q", t.Name, h.Topic)
	case h.Producer != t.Owner:
		return bad("header.producer: %q does not own %s; %s does", h.Producer, t.Name, t.Owner)
	case key == "":
		return bad("header.%s: is missing", called)
	case other != "":
		return bad("header: names an order and an article; %s is about one of them", t.Name)
	case h.Seq < 1:
		return bad("header.seq: must be 1 or more, not %d", h.Seq)
	case h.SchemaVersion < 1 || h.SchemaVersion > t.Version:
		return bad("header.schema_version: this build reads 1 to %d, not %d", t.Version, h.SchemaVersion)
	case h.OccurredAt.CheckValid() != nil:
		return bad("header.occurred_at: must be a time")
	case t.About == eventv1.Key_KEY_ORDER && h.Coordination != Orchestrated && h.Coordination != Choreographed:
		return bad("header.coordination: must be %s or %s, not %q", Orchestrated, Choreographed, h.Coordination)
	case t.About == eventv1.Key_KEY_ARTICLE && h.Coordination != "":
		return bad("header.coordination: must be empty in an event about an article, not %q", h.Coordination)
	}
	return nil
}

// maxReason bounds the reason why an event is bad, in bytes: it quotes the event, and is logged and stored.
const maxReason = 500

func bad(format string, args ...any) error {
	reason := fmt.Sprintf(format, args...)
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + " …"
	}
	return fmt.Errorf("%w: %s", ErrBad, reason)
}
