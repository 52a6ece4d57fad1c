package event_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/testing/eventtest"
)

const (
	completed = "payments.payment.completed" // about an order
	priced    = "pricing.price.updated"      // about an article
)

func TestAnEventIsReadByItsTopic(t *testing.T) {
	m, err := event.Decode(completed, golden(t, completed))
	require.NoError(t, err)
	paid, isPaid := m.(*paymentv1.PaymentCompleted)
	require.True(t, isPaid)
	require.EqualValues(t, 4730, paid.Amount.MinorUnits)
	require.Equal(t, "order-1001", event.Key(paid.Header))
	require.Equal(t, completed, event.Of(paid).Name)

	m, err = event.Decode(priced, golden(t, priced))
	require.NoError(t, err)
	require.Equal(t, "MUG-BLUE", event.Key(m.GetHeader()))
}

func TestBadEventsAreRefusedWithWhatIsWrongAndWhere(t *testing.T) {
	for name, c := range map[string]struct {
		topic string // completed if empty
		data  []byte
		want  string
	}{
		"nothing":                   {data: nil, want: "it is not the JSON of payment.v1.PaymentCompleted"},
		"no JSON":                   {data: []byte("\x00\x01 not json"), want: "it is not the JSON of"},
		"half of it":                {data: golden(t, completed)[:200], want: "it is not the JSON of"},
		"two of it":                 {data: slices.Concat(golden(t, completed), golden(t, completed)), want: "it is not the JSON of"},
		"null":                      {data: []byte("null"), want: "it is not the JSON of"},
		"a list":                    {data: []byte("[]"), want: "it is not the JSON of"},
		"a number":                  {data: []byte("1"), want: "it is not the JSON of"},
		"JSON of another type":      {data: []byte(`{"header": "none"}`), want: "it is not the JSON of"},
		"empty":                     {data: []byte("{}"), want: "header: is missing"},
		"no header":                 {data: without(t, completed, "header"), want: "header: is missing"},
		"header null":               {data: with(t, completed, nil, "header"), want: "header: is missing"},
		"unknown topic":             {topic: "payments.payment.dreamt", data: golden(t, completed), want: `there is no topic "payments.payment.dreamt"`},
		"dead letters' topic":       {topic: "dlq." + completed, data: golden(t, completed), want: "there is no topic"},
		"another topic's event":     {data: golden(t, "payments.payment.voided"), want: `header.topic: must be payments.payment.completed, where it arrived, not "payments.payment.voided"`},
		"no topic in it":            {data: without(t, completed, "header", "topic"), want: "header.topic: must be"},
		"no event id":               {data: without(t, completed, "header", "event_id"), want: "header.event_id: is missing"},
		"event id too long":         {data: with(t, completed, strings.Repeat("x", 201), "header", "event_id"), want: "header.event_id: must be at most 200"},
		"zero byte in the event id": {data: with(t, completed, "a\x00b", "header", "event_id"), want: `header.event_id: must be at most 200 printable characters without spaces`},
		"no producer":               {data: without(t, completed, "header", "producer"), want: `header.producer: "" does not own payments.payment.completed; payment does`},
		"producer not the owner":    {data: with(t, completed, "warehouse", "header", "producer"), want: `header.producer: "warehouse" does not own payments.payment.completed; payment does`},
		"producer without end":      {data: with(t, completed, strings.Repeat("茶", 1000), "header", "producer"), want: `header.producer: "茶茶`},
		"no order id":               {data: without(t, completed, "header", "order_id"), want: "header.order_id: is missing"},
		"order id too long":         {data: with(t, completed, strings.Repeat("x", 65), "header", "order_id"), want: "header.order_id: must be 1 to 64"},
		"line break in order id":    {data: with(t, completed, "order\n1", "header", "order_id"), want: `header.order_id: must be`},
		"order id of another type":  {data: with(t, completed, 7, "header", "order_id"), want: "it is not the JSON of"},
		"order and article":         {data: with(t, completed, "MUG", "header", "sku"), want: "header: names an order and an article; payments.payment.completed is about one of them"},
		"no article":                {topic: priced, data: without(t, priced, "header", "sku"), want: "header.sku: is missing"},
		"space in article":          {topic: priced, data: with(t, priced, "MUG BLUE", "header", "sku"), want: "header.sku: must not contain spaces"},
		"article and order":         {topic: priced, data: with(t, priced, "order-1", "header", "order_id"), want: "header: names an order and an article"},
		"seq 0":                     {data: with(t, completed, 0, "header", "seq"), want: "header.seq: must be 1 or more, not 0"},
		"seq below":                 {data: with(t, completed, -1, "header", "seq"), want: "header.seq: must be 1 or more, not -1"},
		"seq beyond int64":          {data: with(t, completed, "9223372036854775808", "header", "seq"), want: "it is not the JSON of"},
		"seq huge":                  {data: with(t, completed, json.Number("1e400"), "header", "seq"), want: "it is not the JSON of"},
		"seq a fraction":            {data: with(t, completed, 1.5, "header", "seq"), want: "it is not the JSON of"},
		"amount beyond int64":       {data: with(t, completed, json.Number("1"+strings.Repeat("0", 5000)), "amount", "minor_units"), want: "it is not the JSON of"},
		"version 0":                 {data: with(t, completed, 0, "header", "schema_version"), want: "header.schema_version: this build reads 1 to 1, not 0"},
		"newer version":             {data: with(t, completed, 2, "header", "schema_version"), want: "header.schema_version: this build reads 1 to 1, not 2"},
		"no time":                   {data: without(t, completed, "header", "occurred_at"), want: "header.occurred_at: must be a time"},
		"no time in it":             {data: with(t, completed, "yesterday", "header", "occurred_at"), want: "it is not the JSON of"},
		"a day that never was":      {data: with(t, completed, "2026-02-30T00:00:00Z", "header", "occurred_at"), want: "it is not the JSON of"},
		"a year beyond":             {data: with(t, completed, "10000-01-01T00:00:00Z", "header", "occurred_at"), want: "it is not the JSON of"},
		"no coordination":           {data: without(t, completed, "header", "coordination"), want: `header.coordination: must be orchestrated or choreographed, not ""`},
		"unknown coordination":      {data: with(t, completed, "improvised", "header", "coordination"), want: `header.coordination: must be orchestrated or choreographed, not "improvised"`},
		"article of a coordination": {topic: priced, data: with(t, priced, "choreographed", "header", "coordination"), want: `header.coordination: must be empty in an event about an article, not "choreographed"`},
		"field twice":               {data: []byte(`{"header": {"event_id": "a", "event_id": "b"}}`), want: "it is not the JSON of"},
		"header twice":              {data: []byte(`{"header": {}, "header": {}}`), want: "it is not the JSON of"},
		"header in both spellings":  {data: []byte(`{"header": {"event_id": "a", "eventId": "b"}}`), want: "it is not the JSON of"},
		"invalid UTF-8":             {data: []byte("{\"header\": {\"event_id\": \"\xff\xfe\"}}"), want: "it is not the JSON of"},
		"half a surrogate":          {data: []byte(`{"header": {"event_id": "\ud800"}}`), want: "it is not the JSON of"},
		"nested without end":        {data: []byte(`{"unknown": ` + strings.Repeat("[", event.MaxSize/2)), want: "it is not the JSON of"},
		"nested objects":            {data: []byte(strings.Repeat(`{"header":`, 20_000) + strings.Repeat("}", 20_000)), want: "it is not the JSON of"},
		"1 MiB":                     {data: with(t, completed, strings.Repeat("x", 1<<20), "unknown"), want: "bytes, and 262144 are the most"},
		"1 MiB that is no JSON":     {data: make([]byte, 1<<20), want: "it has 1048576 bytes, and 262144 are the most"},
	} {
		t.Run(name, func(t *testing.T) {
			topic := c.topic
			if topic == "" {
				topic = completed
			}
			m, err := event.Decode(topic, c.data)
			require.ErrorIs(t, err, event.ErrBad)
			require.Nil(t, m)
			require.ErrorContains(t, err, c.want)
			require.LessOrEqual(t, len(err.Error()), 600, "an error is logged and written down: it may not grow with the event")
			require.True(t, utf8.ValidString(err.Error()))
		})
	}
}

func TestWhatIsOddAndNotWrongIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		topic string
		data  []byte
	}{
		"largest":                     {completed, with(t, completed, strings.Repeat("x", event.MaxSize-2000), "unknown")},
		"unknown field":               {completed, with(t, completed, map[string]any{"a": []any{nil, 1}}, "unknown")},
		"unknown field in the header": {completed, with(t, completed, 1, "header", "unknown")},
		"unknown field deep in it":    {completed, with(t, completed, 1, "amount", "unknown")},
		"unknown huge number":         {completed, with(t, completed, json.Number("1e400"), "unknown")},
		"no trace":                    {completed, without(t, completed, "header", "traceparent")},
		"a trace that is none":        {completed, with(t, completed, "no trace", "header", "traceparent")},
		"number as a string":          {completed, with(t, completed, "1", "header", "schema_version")},
		"article of many languages":   {priced, with(t, priced, "ÜBERTOPF-茶", "header", "sku")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := event.Decode(c.topic, c.data)
			require.NoError(t, err)
		})
	}
}

// Whatever comes, it is read or refused as bad; and what is read can be written and read again.
func FuzzDecode(f *testing.F) {
	topics := event.Topics()
	for i, topic := range topics {
		f.Add(i, golden(f, topic.Name))
	}
	for _, seed := range []string{
		"", "{}", "null", "[]", `{"header":null}`, `{"header":{"seq":1e400}}`, `{"header":{},"header":{}}`, "{\"header\":{\"event_id\":\"\xff\"}}",
		`{"header":{"event_id":"\u0000","occurred_at":"0000-00-00T00:00:00Z"}}`, strings.Repeat("[", 100), `{"a":` + strings.Repeat(`{"a":`, 100),
	} {
		f.Add(0, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		topic := topics[uint(i)%uint(len(topics))]
		m, err := event.Decode(topic.Name, data)
		if err != nil {
			require.ErrorIs(t, err, event.ErrBad)
			require.LessOrEqual(t, len(err.Error()), 600)
			return
		}
		written, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		require.NoError(t, err)
		again, err := event.Decode(topic.Name, written)
		require.NoError(t, err)
		require.True(t, proto.Equal(m, again))
	})
}

func golden(t testing.TB, topic string) []byte {
	t.Helper()
	for _, g := range eventtest.All(t) {
		if g.Name == topic+"/v1.json" {
			return g.Data
		}
	}
	t.Fatalf("%s has no golden payload", topic)
	return nil
}

// with is a topic's golden payload with another value at a path.
func with(t *testing.T, topic string, value any, path ...string) []byte {
	t.Helper()
	return changed(t, topic, func(at map[string]any, field string) { at[field] = value }, path)
}

// without is a topic's golden payload without what is at a path.
func without(t *testing.T, topic string, path ...string) []byte {
	t.Helper()
	return changed(t, topic, func(at map[string]any, field string) { delete(at, field) }, path)
}

func changed(t *testing.T, topic string, change func(at map[string]any, field string), path []string) []byte {
	t.Helper()
	var payload map[string]any
	require.NoError(t, json.Unmarshal(golden(t, topic), &payload))
	at := payload
	for _, field := range path[:len(path)-1] {
		at = at[field].(map[string]any)
	}
	change(at, path[len(path)-1])
	data, err := json.Marshal(payload)
	require.NoError(t, err)
	return data
}
