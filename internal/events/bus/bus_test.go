package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

func TestAnEventIsOneCloudEvent(t *testing.T) {
	t.Parallel()
	message, err := bus.Event{
		ID: "e-1", Topic: "warehouse.inventory.reserved", Source: "warehouse", Key: "ord-1", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
		TraceParent: "00-1-2-01", Data: []byte(`{"header": {"seq": "1"}}`),
	}.CloudEvent()
	require.NoError(t, err)
	require.JSONEq(t, `{
		"specversion": "1.0", "id": "e-1", "source": "warehouse", "type": "warehouse.inventory.reserved", "subject": "ord-1",
		"time": "2026-01-02T02:04:05.000000006Z", "datacontenttype": "application/json", "partitionkey": "ord-1",
		"traceparent": "00-1-2-01", "traceid": "00-1-2-01", "data": {"header": {"seq": "1"}}}`, string(message))
	d := bus.Open("warehouse.inventory.reserved", message)
	require.NoError(t, d.Broken)
	require.Equal(t, "e-1", d.ID)
	require.JSONEq(t, `{"header": {"seq": "1"}}`, string(d.Data))

	untraced, err := bus.Event{ID: "e-1", Data: []byte(`{}`)}.CloudEvent()
	require.NoError(t, err)
	require.NotContains(t, string(untraced), "trace", "so that the sidecar puts in its own")

	_, err = bus.Event{ID: "e-1", Data: []byte(`{`)}.CloudEvent()
	require.ErrorContains(t, err, "encode event e-1")
}

func TestWhatCannotBeOpenedIsWhole(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		message, id, data string
		broken            string
	}{
		"JSON":           {`{"id": "e", "data": {"a": 1}}`, "e", `{"a": 1}`, ""},
		"null":           {`{"id": "e", "data": null}`, "e", `null`, ""},
		"a text":         {`{"id": "e", "data": "a"}`, "e", `"a"`, ""},
		"no id":          {`{"data": {}}`, "", `{}`, ""},
		"no data":        {`{"id": "e"}`, "e", `{"id": "e"}`, "data is missing"},
		"binary":         {`{"id": "e", "data_base64": "aGk="}`, "e", `{"id": "e", "data_base64": "aGk="}`, "data is missing"},
		"a number as id": {`{"id": 7, "data": {}}`, "", `{"id": 7, "data": {}}`, "no CloudEvent"},
		"a list":         {`[]`, "", `[]`, "no CloudEvent"},
		"cut off":        {`{"id": "e", "da`, "", `{"id": "e", "da`, "no CloudEvent"},
		"no JSON":        {"\x00\xff", "", "\x00\xff", "no CloudEvent"},
		"nothing":        {"", "", "", "no CloudEvent"},
	} {
		d := bus.Open("topic", []byte(tc.message))
		require.Equal(t, tc.id, d.ID, name)
		require.Equal(t, tc.data, string(d.Data), name)
		require.Equal(t, "topic", d.Topic, name)
		if tc.broken == "" {
			require.NoError(t, d.Broken, name)
		} else {
			require.ErrorContains(t, d.Broken, tc.broken, name)
		}
	}
}

func TestAMessageGoesByOneIDHoweverItsJSONIsWritten(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]string{
		"with an id":       `{"id": "e-1", "data": {"b": 1, "a": 2}}`,
		"without":          `{"data": {"b": [1, {"d": 2, "c": 3}], "a": "x"}}`,
		"Unicode":          `{"data": {"name": "\u00fc \ud83d\ude00 <&> \u2028", "ü": "\u0000"}}`,
		"half a character": `{"data": {"name": "\ud83d"}}`,
		"big numbers":      `{"data": {"n": 123456789012345678901234567890, "f": 1.0, "e": 1e400}}`,
		"null":             `{"data": null}`,
		"binary":           `{"data_base64": "aGk="}`,
		"binary with id":   `{"id": "e-1", "data_base64": "aGk="}`,
		"an endless id":    `{"id": "` + strings.Repeat("e", 1000) + `", "data": {"a": 1}}`,
		"a zero byte":      `{"id": "e\u0000", "data": {"a": 1}}`,
	} {
		want := bus.Open("topic", []byte(message)).MessageID()
		require.LessOrEqual(t, len(want), 200, name)
		require.NotContains(t, want, "\x00", name)
		again := rewritten(t, message)
		require.NotEqual(t, message, again, name)
		require.Equal(t, want, bus.Open("dlq.topic", []byte(again)).MessageID(), name)
	}
	require.Equal(t, "e-1", bus.Delivery{ID: "e-1"}.MessageID())

	ids := map[string]string{}
	for _, data := range []string{`{"n": 1}`, `{"n": 2}`, `{"n": "1"}`, `{"n": 1} x`, `{"n": 1} y`, "no JSON", "no JSON ", ""} {
		id := bus.Delivery{Data: []byte(data)}.MessageID()
		require.Empty(t, ids[id], "%q has the id of another", data)
		ids[id] = data
	}
}

// rewritten is a message as another program writes it: other spaces, other order, other escapes.
func rewritten(t *testing.T, message string) string {
	t.Helper()
	var fields map[string]any
	reading := json.NewDecoder(strings.NewReader(message))
	reading.UseNumber()
	require.NoError(t, reading.Decode(&fields))
	text, err := json.MarshalIndent(fields, "", "    ")
	require.NoError(t, err)
	return string(text)
}

func TestTopicsOfDeadLettersAreKnown(t *testing.T) {
	t.Parallel()
	require.True(t, bus.IsDeadLetters(bus.DeadLettersOf("pricing.price.updated")))
	require.False(t, bus.IsDeadLetters("pricing.price.updated"))
}

func TestLanesKeepTheOrderOfAKeyAndStopBehindAFailure(t *testing.T) {
	t.Parallel()
	var events []bus.Event
	for n := range 40 {
		for key := range 25 {
			events = append(events, bus.Event{ID: fmt.Sprintf("%d-%d", key, n), Key: fmt.Sprint("ord-", key)})
		}
	}
	failure := errors.New("not taken")
	var mu sync.Mutex
	handed := map[string][]string{}
	var atOnce, most atomic.Int32
	errs := bus.InLanes(t.Context(), 4, events, func(_ context.Context, e bus.Event) error {
		most.Store(max(most.Load(), atOnce.Add(1)))
		defer atOnce.Add(-1)
		mu.Lock()
		defer mu.Unlock()
		handed[e.Key] = append(handed[e.Key], e.ID)
		if e.ID == "7-13" || e.ID == "8-0" {
			return failure
		}
		return nil
	})
	require.Len(t, errs, len(events))
	require.LessOrEqual(t, most.Load(), int32(4))
	for key := range 25 {
		until := map[int]int{7: 14, 8: 1}[key]
		if until == 0 {
			until = 40
		}
		var want []string
		for n := range until {
			want = append(want, fmt.Sprintf("%d-%d", key, n))
		}
		require.Equal(t, want, handed[fmt.Sprint("ord-", key)])
	}
	for i, e := range events {
		var key, n int
		_, err := fmt.Sscanf(e.ID, "%d-%d", &key, &n)
		require.NoError(t, err)
		switch {
		case e.ID == "7-13", e.ID == "8-0":
			require.ErrorIs(t, errs[i], failure)
		case key == 7 && n > 13, key == 8:
			require.ErrorContains(t, errs[i], "before it was not taken")
		default:
			require.NoError(t, errs[i])
		}
	}
	require.Empty(t, bus.InLanes(t.Context(), 4, nil, nil))
}
