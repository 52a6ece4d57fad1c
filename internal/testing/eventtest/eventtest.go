// Package eventtest holds one payload of every event and version that was ever published, and holds consumers to them: what
// lies in an outbox, on a broker or among the dead letters may be that old. A golden payload is never changed, and never
// removed; `go test ./internal/testing/eventtest -update` adds those that are missing.
package eventtest

import (
	"bytes"
	"embed"
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// Dir is where the golden payloads lie, below this package: <topic>/v<version>.json. One that was published later by the same
// version, with a field that was added, stands beside it as <topic>/v<version>-<what was added>.json.
const Dir = "golden"

//go:embed golden
var files embed.FS

// Golden is a payload as it was published.
type Golden struct {
	// Name is the file's, below Dir.
	Name    string
	Topic   string
	Version int32
	Data    []byte
}

// All are the golden payloads of every topic, by name.
func All(t testing.TB) []Golden {
	t.Helper()
	names, err := fs.Glob(files, Dir+"/*/*")
	if err != nil {
		t.Fatal(err)
	}
	var all []Golden
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, isJSON := strings.CutSuffix(path.Base(name), ".json")
		numbered, isVersion := strings.CutPrefix(file, "v")
		number, _, _ := strings.Cut(numbered, "-")
		version, err := strconv.ParseInt(number, 10, 32)
		if !isJSON || !isVersion || err != nil {
			t.Fatalf("%s: a golden payload is called <topic>/v<version>.json or <topic>/v<version>-<what was added>.json", name)
		}
		all = append(all, Golden{
			Name: strings.TrimPrefix(name, Dir+"/"), Topic: path.Base(path.Dir(name)), Version: int32(version), Data: data,
		})
	}
	return all
}

// Goldens are those of the topics that an app must receive.
func Goldens(t testing.TB, app string) []Golden {
	t.Helper()
	var received []Golden
	for _, g := range All(t) {
		if topic, found := event.Find(g.Topic); found && topic.Consumer(app) != nil {
			received = append(received, g)
		}
	}
	return received
}

// Delivery is the payload as if it had just been published: with an event id of its own, about an order or an article of
// this name, and of a choreographed checkout, because an app that reacts to no other takes no notice of an orchestrated one.
// All but the header is as it was.
func (g Golden) Delivery(t testing.TB, about string) bus.Delivery {
	t.Helper()
	return g.delivery(t, about, nil)
}

// delivery lets the caller change the payload.
func (g Golden) delivery(t testing.TB, about string, change func(payload, header map[string]any)) bus.Delivery {
	t.Helper()
	// Not through the contracts: they would lose what they no longer know.
	var payload map[string]any
	read := json.NewDecoder(bytes.NewReader(g.Data))
	read.UseNumber()
	if err := read.Decode(&payload); err != nil {
		t.Fatalf("%s: %v", g.Name, err)
	}
	header, _ := payload["header"].(map[string]any)
	if header == nil {
		t.Fatalf("%s: has no header", g.Name)
	}
	id := uuid.NewString()
	header["event_id"] = id
	header["occurred_at"] = time.Now().UTC().Format(time.RFC3339Nano)
	if header["sku"] != nil {
		header["sku"] = about
	} else {
		header["order_id"] = about
		header["coordination"] = event.Choreographed
	}
	if change != nil {
		change(payload, header)
	}
	data, err := json.Marshal(payload)
	if err != nil {
		t.Fatalf("%s: %v", g.Name, err)
	}
	return bus.Delivery{Topic: g.Topic, ID: id, Data: data}
}

// ReadsEveryGolden delivers each golden payload of the topics that an app must receive to its subscriptions, each about an
// order or an article that is new to the app: as it is, and with fields that this build does not know. The app may want to
// have it again later, because it does not know the order; it may not call it bad.
func ReadsEveryGolden(t *testing.T, app string, subscriptions []bus.Subscription) {
	t.Helper()
	goldens := Goldens(t, app)
	if len(goldens) == 0 {
		t.Fatalf("%s receives no topic that has a golden payload", app)
	}
	for _, g := range goldens {
		t.Run(g.Name, func(t *testing.T) {
			for _, problem := range unread(t, g, subscriptions) {
				t.Errorf("%s %s", app, problem)
			}
		})
	}
}

// unread tells how subscriptions fail to read a golden payload.
func unread(t testing.TB, g Golden, subscriptions []bus.Subscription) []string {
	t.Helper()
	i := slices.IndexFunc(subscriptions, func(s bus.Subscription) bool { return s.Topic == g.Topic })
	if i < 0 {
		return []string{"is not subscribed to " + g.Topic}
	}
	handle := subscriptions[i].Handle
	var problems []string
	if handle(t.Context(), g.Delivery(t, uuid.NewString())) == bus.Drop {
		problems = append(problems, "drops what was published once; its log says why")
	}
	newer := g.delivery(t, uuid.NewString(), func(payload, header map[string]any) {
		added := map[string]any{"nested": []any{"by a newer producer", 1}}
		payload["added_later"], header["added_later"] = added, added
	})
	if handle(t.Context(), newer) == bus.Drop {
		problems = append(problems, "drops an event with fields that it does not know; its log says why")
	}
	return problems
}
