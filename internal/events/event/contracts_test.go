package event_test

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// prefixes are the first segments of the topics of each app; an app without one owns no topic.
var prefixes = map[string]string{
	"orchestrator": "checkout",
	"warehouse":    "warehouse",
	"payment":      "payments",
	"orders":       "orders",
	"pricing":      "pricing",
	"notification": "",
}

func TestEveryDeclarationKeepsTheRules(t *testing.T) {
	declared := contracts(t)
	require.NotEmpty(t, declared)
	owners := make(map[string]protoreflect.FullName)
	for _, m := range declared {
		d := declarationOf(m)
		require.Empty(t, problems(m, d), m.FullName())
		require.Empty(t, owners[d.Topic], "%s declares this topic too", m.FullName())
		owners[d.Topic] = m.FullName()
	}
}

var segment = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)

// problems tells what is wrong with how a message declares itself as an event.
func problems(m protoreflect.MessageDescriptor, d *eventv1.Declaration) []string {
	var found []string
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			found = append(found, fmt.Sprintf(format, args...))
		}
	}
	segments := strings.Split(d.Topic, ".")
	say(len(segments) != 3, "topic %q: has %d segments; it is {service}.{entity}.{action}", d.Topic, len(segments))
	for _, s := range segments {
		say(!segment.MatchString(s), "topic %q: %q is not made of lower-case words", d.Topic, s)
	}
	prefix, known := prefixes[d.Owner]
	say(!known, "owner %q: there is no such app", d.Owner)
	say(known && segments[0] != prefix, "topic %q: the topics of %s begin with %q", d.Topic, d.Owner, prefix)
	// A verb whose past ends otherwise (sent, paid) is let in here, by name, when an event needs it.
	say(!strings.HasSuffix(d.Topic, "ed"), "topic %q: the action is not in the past tense, and an event is a fact", d.Topic)
	say(d.Version < 1, "version %d: versions count from 1", d.Version)
	say(d.Key != eventv1.Key_KEY_ORDER && d.Key != eventv1.Key_KEY_ARTICLE, "key: must be an order or an article")

	consumers := make(map[string]bool)
	for _, c := range d.Consumers {
		_, known := prefixes[c.App]
		say(!known, "consumer %q: there is no such app", c.App)
		say(consumers[c.App], "consumer %q: is named twice", c.App)
		say(c.App == d.Owner, "consumer %q: is who says it", c.App)
		say(c.Reaction == "", "consumer %q: its reaction is not told", c.App)
		say(c.ChoreographedOnly && d.Key == eventv1.Key_KEY_ARTICLE, "consumer %q: an article's event is of no coordination", c.App)
		consumers[c.App] = true
	}

	header := m.Fields().ByNumber(1)
	say(header == nil || header.Name() != "header" || header.IsList() || header.Message() == nil || header.Message().FullName() != headerName,
		"field 1: must be %s header", headerName)
	return found
}

const headerName = protoreflect.FullName("event.v1.Header")

func TestEachRuleForDeclarationsIsHeld(t *testing.T) {
	message := (&eventv1.Event{}).ProtoReflect().Descriptor() // Its first field is a header.
	for name, c := range map[string]struct {
		spoil func(*eventv1.Declaration)
		want  string
	}{
		"two segments":              {func(d *eventv1.Declaration) { d.Topic = "warehouse.reserved" }, "has 2 segments"},
		"upper case":                {func(d *eventv1.Declaration) { d.Topic = "warehouse.Inventory.reserved" }, `"Inventory" is not made of`},
		"empty segment":             {func(d *eventv1.Declaration) { d.Topic = "warehouse..reserved" }, `"" is not made of`},
		"another owner's prefix":    {func(d *eventv1.Declaration) { d.Topic = "payments.inventory.reserved" }, `begin with "warehouse"`},
		"app in place of service":   {func(d *eventv1.Declaration) { d.Owner, d.Topic = "payment", "payment.payment.failed" }, `begin with "payments"`},
		"present tense":             {func(d *eventv1.Declaration) { d.Topic = "warehouse.inventory.reserve" }, "past tense"},
		"unknown owner":             {func(d *eventv1.Declaration) { d.Owner = "shop" }, "no such app"},
		"app that owns no topic":    {func(d *eventv1.Declaration) { d.Owner = "notification" }, `begin with ""`},
		"no version":                {func(d *eventv1.Declaration) { d.Version = 0 }, "count from 1"},
		"no key":                    {func(d *eventv1.Declaration) { d.Key = eventv1.Key_KEY_UNSPECIFIED }, "an order or an article"},
		"unknown consumer":          {func(d *eventv1.Declaration) { d.Consumers[0].App = "shop" }, "no such app"},
		"consumer twice":            {func(d *eventv1.Declaration) { d.Consumers = append(d.Consumers, d.Consumers[0]) }, "named twice"},
		"hears itself":              {func(d *eventv1.Declaration) { d.Consumers[0].App = "warehouse" }, "is who says it"},
		"no reaction":               {func(d *eventv1.Declaration) { d.Consumers[0].Reaction = "" }, "not told"},
		"article and choreographed": {func(d *eventv1.Declaration) { d.Key = eventv1.Key_KEY_ARTICLE }, "no coordination"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &eventv1.Declaration{Topic: "warehouse.inventory.reserved", Owner: "warehouse", Version: 1, Key: eventv1.Key_KEY_ORDER,
				Consumers: []*eventv1.Consumer{{App: "payment", ChoreographedOnly: true, Reaction: "pays"}}}
			require.Empty(t, problems(message, d))
			c.spoil(d)
			require.Contains(t, strings.Join(problems(message, d), "\n"), c.want)
		})
	}
	headless := (&eventv1.Selection{}).ProtoReflect().Descriptor()
	require.Contains(t, problems(headless, &eventv1.Declaration{}), "field 1: must be event.v1.Header header")
}

// The catalogue knows what this package imports. So it is compared with proto/baseline.binpb, which `make generate` makes of
// all that is in proto/ whenever it makes the packages below gen/.
func TestTheCatalogueHasEveryEventOfTheContracts(t *testing.T) {
	var known []string
	for _, topic := range event.Topics() {
		known = append(known, string(topic.FullName()))
	}
	var declared []string
	for _, m := range contracts(t) {
		declared = append(declared, string(m.FullName()))
	}
	slices.Sort(known)
	slices.Sort(declared)
	require.Equal(t, declared, known, "internal/events/event imports the generated package of every contract that declares an event")
	for _, m := range contracts(t) {
		topic, found := event.Find(declarationOf(m).Topic)
		require.True(t, found)
		require.Equal(t, m.FullName(), topic.FullName())
	}
}

// The other way to forget: a message that looks like an event and is not declared as one would never be published.
func TestEveryMessageThatLooksLikeAnEventIsDeclared(t *testing.T) {
	files := baseline(t)
	partOfAnEvent := make(map[protoreflect.FullName]bool)
	for _, m := range contracts(t) {
		eachPart(m, partOfAnEvent)
	}
	eachMessage(files, func(m protoreflect.MessageDescriptor) {
		if looksLikeAnEvent(m) {
			require.NotNil(t, declarationOf(m), "%s has a header and is not declared as an event", m.FullName())
		}
		if path.Base(m.ParentFile().Path()) == "events.proto" {
			require.True(t, partOfAnEvent[m.FullName()], "%s stands among the events and is neither one nor part of one", m.FullName())
		}
	})
}

// looksLikeAnEvent tells whether a message carries an event's header; the messages of event.v1 speak about events.
func looksLikeAnEvent(m protoreflect.MessageDescriptor) bool {
	for i := range m.Fields().Len() {
		if of := m.Fields().Get(i).Message(); of != nil && of.FullName() == headerName {
			return m.ParentFile().Package() != "event.v1"
		}
	}
	return false
}

func eachPart(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
	if seen[m.FullName()] {
		return
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		if part := m.Fields().Get(i).Message(); part != nil {
			eachPart(part, seen)
		}
	}
}

// contracts are the messages that declare themselves as events.
func contracts(t *testing.T) []protoreflect.MessageDescriptor {
	t.Helper()
	var events []protoreflect.MessageDescriptor
	eachMessage(baseline(t), func(m protoreflect.MessageDescriptor) {
		if declarationOf(m) != nil {
			events = append(events, m)
		}
	})
	return events
}

func declarationOf(m protoreflect.MessageDescriptor) *eventv1.Declaration {
	d, _ := proto.GetExtension(m.Options(), eventv1.E_Event).(*eventv1.Declaration)
	return d
}

func baseline(t *testing.T) *protoregistry.Files {
	t.Helper()
	data, err := os.ReadFile("../../../proto/baseline.binpb")
	require.NoError(t, err)
	set := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(data, set))
	files, err := protodesc.NewFiles(set)
	require.NoError(t, err)
	return files
}

func eachMessage(files *protoregistry.Files, visit func(protoreflect.MessageDescriptor)) {
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			visit(file.Messages().Get(i))
		}
		return true
	})
}
