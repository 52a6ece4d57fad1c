package eventtest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

var update = flag.Bool("update", false, "write the golden payloads that are missing, to be made realistic by hand before they are committed")

func TestEveryVersionOfEveryTopicHasAGoldenPayload(t *testing.T) {
	there := make(map[string]bool)
	for _, g := range All(t) {
		there[fmt.Sprintf("%s/v%d", g.Topic, g.Version)] = true
	}
	for _, topic := range event.Topics() {
		for version := int32(1); version <= topic.Version; version++ {
			name := fmt.Sprintf("%s/v%d", topic.Name, version)
			if there[name] {
				continue
			}
			if *update {
				write(t, name, sample(t, topic, version))
			}
			t.Errorf("%s: has no golden payload; -update writes one (and this test sees it the next time)", name)
		}
	}
}

// What a contract can no longer hold would be lost without a word, because consumers ignore what they do not know. So here
// nothing may be unknown, and nothing may come out other than it went in.
func TestGoldenPayloadsAreReadForEver(t *testing.T) {
	for _, g := range All(t) {
		t.Run(g.Name, func(t *testing.T) { require.NoError(t, readWhole(g)) })
	}
}

// readWhole tells what of a golden payload its contract does not hold.
func readWhole(g Golden) error {
	m, err := event.Decode(g.Topic, g.Data)
	if err != nil {
		return fmt.Errorf("it was published once, and can still come: %w", err)
	}
	if v := m.GetHeader().SchemaVersion; v != g.Version {
		return fmt.Errorf("it is of version %d, and its name says %d", v, g.Version)
	}
	if err := protojson.Unmarshal(g.Data, event.Of(m).New()); err != nil {
		return fmt.Errorf("a field was removed or renamed: %w", err)
	}
	again, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	was, is, err := canonical(g.Data, again)
	if err == nil && was != is {
		err = fmt.Errorf("a field changed its meaning: it was\n%s\nand is read as\n%s", was, is)
	}
	return err
}

// canonical writes two JSON values in the one way that makes equal ones the same.
func canonical(a, b []byte) (string, string, error) {
	var values [2]any
	if err := errors.Join(json.Unmarshal(a, &values[0]), json.Unmarshal(b, &values[1])); err != nil {
		return "", "", err
	}
	first, errFirst := json.MarshalIndent(values[0], "", "  ")
	second, errSecond := json.MarshalIndent(values[1], "", "  ")
	return string(first), string(second), errors.Join(errFirst, errSecond)
}

func TestWhatAContractLostIsSeenInItsGoldenPayload(t *testing.T) {
	g := find(t, "checkout.order.cancelled/v1.json")
	for change, c := range map[string]struct{ old, new, want string }{
		"field removed or renamed":        {`"reason"`, `"cause"`, "removed or renamed"},
		"header's field renamed":          {`"traceparent"`, `"trace"`, "removed or renamed"},
		"type changed":                    {`"quantity": 2`, `"quantity": "two"`, "not the JSON of checkout.v1.OrderCancelled"},
		"type changed, and still read":    {`"minor_units": "4730"`, `"minor_units": 4730`, "changed its meaning"},
		"topic renamed":                   {`"topic": "checkout.order.cancelled"`, `"topic": "checkout.order.ended"`, "header.topic"},
		"owner changed":                   {`"producer": "orchestrator"`, `"producer": "orders"`, "header.producer"},
		"version that was never declared": {`"schema_version": 1`, `"schema_version": 2`, "header.schema_version"},
	} {
		t.Run(change, func(t *testing.T) {
			changed := g
			changed.Data = []byte(strings.ReplaceAll(string(g.Data), c.old, c.new))
			require.NotEqual(t, string(g.Data), string(changed.Data))
			require.ErrorContains(t, readWhole(changed), c.want)
		})
	}
	g.Topic = "checkout.order.forgotten"
	require.ErrorContains(t, readWhole(g), "there is no topic")
}

func TestGoldenPayloadsTogetherHaveEveryField(t *testing.T) {
	unset := make(map[protoreflect.FullName]map[string]bool)
	for _, topic := range event.Topics() {
		fields := make(map[string]bool)
		eachField(topic.New().ProtoReflect().Descriptor(), "", func(path string) { fields[path] = true })
		if topic.About == eventv1.Key_KEY_ARTICLE {
			delete(fields, "header.order_id")
			delete(fields, "header.coordination")
		} else {
			delete(fields, "header.sku")
		}
		unset[topic.FullName()] = fields
	}
	for _, g := range All(t) {
		m, err := event.Decode(g.Topic, g.Data)
		require.NoError(t, err)
		eachSet(m.ProtoReflect(), "", func(path string) { delete(unset[event.Of(m).FullName()], path) })
	}
	for name, fields := range unset {
		for field := range fields {
			t.Errorf("%s: no golden payload has %s, so nothing would tell that it was lost; add <topic>/v<version>-%s.json", name, field, field)
		}
	}
}

func TestFieldsThatAreUnknownChangeNothing(t *testing.T) {
	for _, g := range All(t) {
		plain, err := event.Decode(g.Topic, g.Delivery(t, "known").Data)
		require.NoError(t, err, g.Name)
		newer, err := event.Decode(g.Topic, g.delivery(t, "known", func(payload, header map[string]any) {
			payload["added_later"] = map[string]any{"nested": []any{1, nil, "x"}}
			header["added_later"] = true
		}).Data)
		require.NoError(t, err, g.Name)
		for _, m := range []event.Message{plain, newer} { // What differs between any two deliveries.
			m.GetHeader().EventId, m.GetHeader().OccurredAt = "", nil
		}
		require.True(t, proto.Equal(plain, newer), g.Name)
	}
}

func TestADeliveryDiffersFromItsGoldenInTheHeaderAlone(t *testing.T) {
	g := find(t, "checkout.order.cancelled/v1.json")
	was, err := event.Decode(g.Topic, g.Data)
	require.NoError(t, err)
	d := g.Delivery(t, "order-new")
	is, err := event.Decode(g.Topic, d.Data)
	require.NoError(t, err)
	h := is.GetHeader()
	require.Equal(t, d.ID, h.EventId)
	require.Equal(t, "order-new", h.OrderId)
	require.Equal(t, event.Choreographed, h.Coordination)
	require.WithinDuration(t, time.Now(), h.OccurredAt.AsTime(), time.Minute)
	require.NotEqual(t, d.ID, g.Delivery(t, "order-new").ID)
	proto.Reset(h)
	proto.Merge(h, was.GetHeader())
	require.True(t, proto.Equal(was, is))
}

func TestAnAppGetsTheGoldenPayloadsOfWhatItReceives(t *testing.T) {
	var topics []string
	for _, g := range Goldens(t, "orders") {
		topics = append(topics, g.Topic)
	}
	require.Equal(t, []string{"checkout.order.cancelled", "checkout.order.confirmed", "checkout.order.created"}, topics)
	require.Empty(t, Goldens(t, "stranger"))
}

func TestAConsumerThatReadsEveryGoldenPasses(t *testing.T) {
	seen := make(map[string]int)
	ReadsEveryGolden(t, "warehouse", subscribed("warehouse", func(_ context.Context, d bus.Delivery) bus.Answer {
		seen[d.Topic]++
		if _, err := event.Decode(d.Topic, d.Data); err != nil {
			return bus.Drop
		}
		return bus.Retry // As for an order that it does not know.
	}))
	require.Equal(t, map[string]int{"checkout.order.created": 2, "payments.payment.completed": 2, "payments.payment.failed": 2}, seen)
}

func TestAConsumerThatDropsAGoldenIsSeen(t *testing.T) {
	g := find(t, "checkout.order.created/v1.json")
	strict := subscribed("warehouse", func(_ context.Context, d bus.Delivery) bus.Answer {
		topic, _ := event.Find(d.Topic)
		if protojson.Unmarshal(d.Data, topic.New()) != nil {
			return bus.Drop
		}
		return bus.Success
	})
	require.Equal(t, []string{"drops an event with fields that it does not know; its log says why"}, unread(t, g, strict))
	never := subscribed("warehouse", func(context.Context, bus.Delivery) bus.Answer { return bus.Drop })
	require.Len(t, unread(t, g, never), 2)
	require.Equal(t, []string{"is not subscribed to checkout.order.created"}, unread(t, g, nil))
}

func subscribed(app string, handle bus.Handler) []bus.Subscription {
	var subscriptions []bus.Subscription
	for _, topic := range event.ConsumedBy(app) {
		subscriptions = append(subscriptions, bus.Subscription{Topic: topic.Name, Handle: handle})
	}
	return subscriptions
}

func find(t *testing.T, name string) Golden {
	t.Helper()
	all := All(t)
	i := slices.IndexFunc(all, func(g Golden) bool { return g.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	return all[i]
}

// eachField visits the path of each field of a message that holds a value itself.
func eachField(m protoreflect.MessageDescriptor, path string, visit func(path string)) {
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		at := path + string(field.Name())
		if holdsFields(field) {
			eachField(field.Message(), at+".", visit)
		} else {
			visit(at)
		}
	}
}

// eachSet visits those that are set.
func eachSet(m protoreflect.Message, path string, visit func(path string)) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		at := path + string(field.Name())
		switch {
		case !holdsFields(field):
			visit(at)
		case field.IsList():
			for i := range value.List().Len() {
				eachSet(value.List().Get(i).Message(), at+".", visit)
			}
		default:
			eachSet(value.Message(), at+".", visit)
		}
		return true
	})
}

func holdsFields(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() != "google.protobuf.Timestamp"
}

// write never writes over a payload.
func write(t *testing.T, name string, m event.Message) {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	require.NoError(t, err)
	pretty, _, err := canonical(data, data)
	require.NoError(t, err)
	file := filepath.Join(Dir, name+".json")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	_, err = f.WriteString(pretty + "\n")
	require.NoError(t, errors.Join(err, f.Close()))
	t.Logf("wrote %s", file)
}

// sample is a message with something in every field.
func sample(t *testing.T, topic event.Topic, version int32) event.Message {
	t.Helper()
	m := topic.New()
	fill(t, m.ProtoReflect())
	h := m.GetHeader()
	h.Topic, h.Producer, h.SchemaVersion = topic.Name, topic.Owner, version
	h.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if topic.About == eventv1.Key_KEY_ARTICLE {
		h.OrderId, h.Coordination = "", ""
	} else {
		h.Sku, h.Coordination = "", event.Orchestrated
	}
	return m
}

func fill(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if m.Descriptor().FullName() == "google.protobuf.Timestamp" {
		proto.Merge(m.Interface(), timestamppb.New(time.Date(2026, 11, 23, 9, 15, 0, 0, time.UTC)))
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		field := m.Descriptor().Fields().Get(i)
		switch {
		case field.IsList() && field.Message() != nil:
			fill(t, m.Mutable(field).List().AppendMutable().Message())
		case field.IsList() || field.IsMap():
			t.Fatalf("%s: no event had a field like this before: fill it in here", field.FullName())
		case field.Message() != nil:
			fill(t, m.Mutable(field).Message())
		default:
			m.Set(field, something(t, field))
		}
	}
}

func something(t *testing.T, field protoreflect.FieldDescriptor) protoreflect.Value {
	t.Helper()
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(field.Name()))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	}
	t.Fatalf("%s: no event had a %s before: fill it in here", field.FullName(), field.Kind())
	return protoreflect.Value{}
}
