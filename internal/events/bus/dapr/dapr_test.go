package dapr

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/sidecar"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "pricing.price.updated"

// subscriptions declare what an app called orchestrator gets pushed.
const subscriptions = `apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata:
  name: events
spec:
  pubsubname: pubsub
  topic: pricing.price.updated
  routes:
    default: /events/pricing.price.updated
  deadLetterTopic: dlq.pricing.price.updated
scopes:
  - orchestrator
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata:
  name: dead-letters
spec:
  pubsubname: deadletter
  topic: dlq.pricing.price.updated
  metadata:
    rawPayload: "true"
  routes:
    default: /events/dlq.pricing.price.updated
scopes:
  - orchestrator
`

// resiliency has little patience. It is a file of its own, as Dapr wants it: of several resources it would see the first alone.
const resiliency = `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata:
  name: little-patience
spec:
  policies:
    retries:
      short:
        policy: constant
        duration: 100ms
        maxRetries: 2
  targets:
    components:
      pubsub:
        inbound:
          retry: short
        outbound:
          retry: short
      deadletter:
        inbound:
          retry: short
        outbound:
          retry: short
`

func TestEventsArePushed(t *testing.T) {
	t.Parallel()
	app := newApp()
	s := httptest.NewServer(app.mux())
	t.Cleanup(s.Close)
	b, _ := start(t, daprtest.App{Name: "orchestrator", Port: s.Listener.Addr().(*net.TCPAddr).Port})

	t.Run("an event arrives as it was published", func(t *testing.T) {
		e := priced("e-1")
		e.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		e.Data = []byte(`{"sku": "Schraube “ü”", "n": 12345678901234567890, "f": 1.0}`)
		require.Equal(t, []error{nil}, b.Publish(t.Context(), []bus.Event{e}))
		got := app.wait(t, "e-1", 1)
		require.NoError(t, got[0].Broken)
		require.Equal(t, topic, got[0].Topic)
		require.JSONEq(t, string(e.Data), string(got[0].Data))
		require.Contains(t, string(got[0].Data), "12345678901234567890")
		var wire map[string]any
		require.NoError(t, json.Unmarshal(app.body("e-1"), &wire))
		for field, want := range map[string]any{
			"id": "e-1", "source": "pricing", "type": topic, "subject": "A", "traceparent": e.TraceParent, "traceid": e.TraceParent,
			"time": e.Time.UTC().Format(time.RFC3339Nano), "specversion": "1.0",
		} {
			require.Equal(t, want, wire[field], field)
		}
	})
	t.Run("a retry is delivered again, a bounded number of times, and is then a dead letter", func(t *testing.T) {
		app.answers("e-2", bus.Retry, bus.Success)
		app.answers("e-3", bus.Retry)
		require.Equal(t, []error{nil, nil}, b.Publish(t.Context(), []bus.Event{priced("e-2"), priced("e-3")}))
		app.wait(t, "e-2", 2)
		got := app.waitDead(t, "e-3")
		require.Len(t, app.wait(t, "e-3", 3), 3)
		require.Equal(t, "e-3", bus.Open(topic, got.Data).ID)
		require.Equal(t, app.body("e-3"), got.Data, "byte for byte what the handler had")
	})
	t.Run("what is dropped is a dead letter at once", func(t *testing.T) {
		app.answers("e-4", bus.Drop)
		require.Equal(t, []error{nil}, b.Publish(t.Context(), []bus.Event{priced("e-4")}))
		got := app.waitDead(t, "e-4")
		require.Equal(t, app.body("e-4"), got.Data)
		require.Len(t, app.wait(t, "e-4", 1), 1)

		// A replay brings the same bytes.
		app.answers("e-4", bus.Success)
		require.NoError(t, b.PublishRaw(t.Context(), topic, got.Data))
		require.Equal(t, got.Data, mustBody(t, app.wait(t, "e-4", 2), app.body("e-4")))
	})
	t.Run("what is not JSON is a dead letter, byte for byte", func(t *testing.T) {
		const message = "\x00\xff no JSON {"
		require.NoError(t, b.PublishRaw(t.Context(), topic, []byte(message)))
		require.Equal(t, message, string(app.waitDead(t, "no JSON").Data))
	})
	t.Run("a message goes by one id for its handler and for the dead letters", func(t *testing.T) {
		for name, message := range map[string]string{
			"binary": `{"id":"e-5","specversion":"1.0","type":"x","source":"y","data_base64":"aGk="}`,
			"no id":  `{ "specversion":"1.0","type":"x","source":"y", "data":{"z":1, "n":123456789012345678901, "mark":"no-id"}}`,
			"bare":   `{"mark":"bare", "a":"ü"}`,
		} {
			mark := map[string]string{"binary": "e-5", "no id": "no-id", "bare": "bare"}[name]
			app.answers(mark, bus.Drop)
			require.NoError(t, b.PublishRaw(t.Context(), topic, []byte(message)))
			dead := app.waitDead(t, mark)
			require.Equal(t, message, string(dead.Data), name)
			handled := app.wait(t, mark, 1)[0]
			require.Equal(t, handled.MessageID(), bus.Open(topic, dead.Data).MessageID(), name)
		}
	})
}

// mustBody is body, once something was delivered.
func mustBody(t *testing.T, delivered []bus.Delivery, body []byte) []byte {
	t.Helper()
	require.NotEmpty(t, delivered)
	return body
}

func TestWhileTheSidecarIsAwayNothingIsTaken(t *testing.T) {
	t.Parallel()
	app := newApp()
	s := httptest.NewServer(app.mux())
	t.Cleanup(s.Close)
	b, beside := start(t, daprtest.App{Name: "orchestrator", Port: s.Listener.Addr().(*net.TCPAddr).Port})
	require.Equal(t, []error{nil}, b.Publish(t.Context(), []bus.Event{priced("e-1")}))

	beside.Kill()
	began := time.Now()
	for _, err := range b.Publish(t.Context(), []bus.Event{priced("e-2"), priced("e-3")}) {
		require.Error(t, err)
	}
	require.Less(t, time.Since(began), 2*publishTimeout)
	require.NoError(t, beside.Restart(t.Context()))
	require.Eventually(t, func() bool {
		errs := b.Publish(t.Context(), []bus.Event{priced("e-2"), priced("e-3")})
		return errs[0] == nil && errs[1] == nil
	}, 20*time.Second, 100*time.Millisecond)
	app.wait(t, "e-3", 1)
}

func TestEventsAreStreamed(t *testing.T) {
	t.Parallel()
	broker := daprtest.StartBroker(t, localstack.Redis)
	stack := daprtest.StartOn(t, broker, []string{folder(t)}, daprtest.App{Name: "notification"})
	beside := stack.Sidecar("notification")
	b := dial(t, beside)
	app := newApp()
	streams := []bus.Subscription{{Topic: topic, Handle: app.handle}, {Topic: bus.DeadLettersOf(topic), Handle: app.handle}}
	stop := streaming(t, b, streams)
	// Redis keeps what was not acknowledged, and delivers it again only after 20 s.
	acknowledged := func() {
		t.Helper()
		require.Eventually(t, func() bool { return pending(t, broker, topic, stack.AppID("notification")) == 0 }, 5*time.Second, 20*time.Millisecond)
	}

	t.Run("and get all three answers", func(t *testing.T) {
		app.answers("e-2", bus.Retry, bus.Success)
		app.answers("e-3", bus.Drop)
		require.Equal(t, []error{nil, nil, nil}, b.Publish(t.Context(), []bus.Event{priced("e-1"), priced("e-2"), priced("e-3")}))
		got := app.wait(t, "e-1", 1)
		require.Equal(t, topic, got[0].Topic)
		require.JSONEq(t, `{"sku": "A"}`, string(got[0].Data))
		app.wait(t, "e-2", 2)
		require.Equal(t, "e-3", app.waitDead(t, "e-3").ID)
		acknowledged()
	})
	t.Run("again when the sidecar has died and come back", func(t *testing.T) {
		beside.Kill()
		require.NoError(t, beside.Restart(t.Context()))
		began := time.Now()
		require.Eventually(t, func() bool { return b.Publish(t.Context(), []bus.Event{priced("e-4")})[0] == nil }, 20*time.Second, 100*time.Millisecond)
		app.wait(t, "e-4", 1)
		acknowledged()
		t.Logf("%s after the sidecar was back", time.Since(began).Round(time.Millisecond))
	})
	t.Run("until a stop, which waits for what is in hand and answers it", func(t *testing.T) {
		inHand, goOn := app.hold("e-5")
		require.Equal(t, []error{nil}, b.Publish(t.Context(), []bus.Event{priced("e-5")}))
		<-inHand
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		select {
		case <-stopped:
			t.Fatal("it did not wait")
		case <-time.After(100 * time.Millisecond):
		}
		close(goOn)
		<-stopped
		acknowledged()
		require.Len(t, app.wait(t, "e-5", 1), 1)
	})
	t.Run("and what comes while nobody listens is kept", func(t *testing.T) {
		require.Equal(t, []error{nil}, b.Publish(t.Context(), []bus.Event{priced("e-6")}))
		streaming(t, b, streams)
		// The reader of the stream that was closed still waits in the sidecar; it takes the event from Redis, and it comes back as
		// what a dead consumer had: after processingTimeout.
		began := time.Now()
		app.wait(t, "e-6", 1)
		t.Logf("it came after %s", time.Since(began).Round(time.Millisecond))
	})
}

func TestASubscriptionThatIsNeverAnsweredStops(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	silent := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		asked <- struct{}{}
		<-stream.Context().Done()
		return nil
	}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = silent.Serve(listener) }()
	t.Cleanup(silent.Stop)
	conn, err := sidecar.Dial(listener.Addr().String(), "")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	stop := streaming(t, New(sdk.NewClientWithConnection(conn), slog.New(slog.DiscardHandler)), []bus.Subscription{{Topic: topic}})
	<-asked
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(5 * time.Second):
		t.Error("it hangs")
		silent.Stop()
	}
}

// start starts an app's sidecar on a Redis of its own.
func start(t *testing.T, app daprtest.App) (*Bus, *localstack.Sidecar) {
	t.Helper()
	stack := daprtest.StartOn(t, daprtest.StartBroker(t, localstack.Redis), []string{folder(t)}, app)
	s := stack.Sidecar(app.Name)
	require.NoError(t, s.WaitForApp(t.Context()))
	return dial(t, s), s
}

func folder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{"subscriptions.yaml": subscriptions, "resiliency.yaml": resiliency} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
	}
	return folder
}

func dial(t *testing.T, s *localstack.Sidecar) *Bus {
	t.Helper()
	conn, err := sidecar.Dial(fmt.Sprintf("127.0.0.1:%d", s.GRPCPort), "")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return New(sdk.NewClientWithConnection(conn), slog.New(slog.DiscardHandler))
}

// streaming receives until the test ends or stop is called, which waits for its end.
func streaming(t *testing.T, b *Bus, subscriptions []bus.Subscription) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := b.Stream(ctx, subscriptions)
		for ctx.Err() == nil { // As package process does.
			pause.For(ctx, 100*time.Millisecond)
			err = b.Stream(ctx, subscriptions)
		}
		ended <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

func priced(id string) bus.Event {
	return bus.Event{ID: id, Topic: topic, Source: "pricing", Key: "A", Time: time.Now(), Data: []byte(`{"sku": "A"}`)}
}

// pending asks Redis how many messages of a stream a group has been given and not acknowledged.
func pending(t *testing.T, redis *localstack.Broker, stream, group string) (count int) {
	t.Helper()
	conn, err := redis.DialRedis(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "XPENDING %s %s\r\nQUIT\r\n", stream, group)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	_, err = fmt.Sscanf(string(answer), "*4\r\n:%d", &count)
	require.NoError(t, err, "%q", answer)
	return count
}

// app handles deliveries as it is told, and keeps them. It knows them by a mark: a text that is in the message, such as its id.
type app struct {
	mu     sync.Mutex
	got    []bus.Delivery
	bodies [][]byte
	script map[string][]bus.Answer
	held   map[string]held
}

type held struct{ inHand, goOn chan struct{} }

func newApp() *app { return &app{script: map[string][]bus.Answer{}, held: map[string]held{}} }

// answers sets what is answered from now on, in turn and the last one for ever; without it that is success.
func (a *app) answers(mark string, answers ...bus.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.script[mark] = answers
}

// hold has deliveries wait in their handler.
func (a *app) hold(mark string) (inHand <-chan struct{}, goOn chan<- struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := held{make(chan struct{}, 10), make(chan struct{})}
	a.held[mark] = h
	return h.inHand, h.goOn
}

func has(d bus.Delivery, mark string) bool {
	return d.ID == mark || bytes.Contains(d.Data, []byte(mark))
}

func (a *app) handle(_ context.Context, d bus.Delivery) bus.Answer {
	a.mu.Lock()
	a.got = append(a.got, d)
	answer, wait := bus.Success, held{}
	if !bus.IsDeadLetters(d.Topic) {
		for mark, answers := range a.script {
			if has(d, mark) {
				answer = answers[0]
				if len(answers) > 1 {
					a.script[mark] = answers[1:]
				}
			}
		}
		wait = a.held[d.ID]
	}
	a.mu.Unlock()
	if wait.inHand != nil {
		wait.inHand <- struct{}{}
		<-wait.goOn
	}
	return answer
}

// mux serves the routes, and keeps what is posted to them.
func (a *app) mux() http.Handler {
	mux := http.NewServeMux()
	pattern, routes := Routes([]bus.Subscription{{Topic: topic, Handle: a.handle}, {Topic: bus.DeadLettersOf(topic), Handle: a.handle}})
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if !strings.HasSuffix(r.URL.Path, bus.DeadLettersOf(topic)) {
			a.mu.Lock()
			a.bodies = append(a.bodies, body)
			a.mu.Unlock()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		routes.ServeHTTP(w, r)
	})
	return mux
}

// body is what was last pushed with a mark in it.
func (a *app) body(mark string) (last []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, body := range a.bodies {
		if bytes.Contains(body, []byte(mark)) {
			last = body
		}
	}
	return last
}

// wait waits for so many deliveries and returns all that there are.
func (a *app) wait(t *testing.T, mark string, count int) (got []bus.Delivery) {
	t.Helper()
	return a.waitOn(t, topic, mark, count)
}

// waitDead waits for a dead letter.
func (a *app) waitDead(t *testing.T, mark string) bus.Delivery {
	t.Helper()
	return a.waitOn(t, bus.DeadLettersOf(topic), mark, 1)[0]
}

func (a *app) waitOn(t *testing.T, topic, mark string, count int) (got []bus.Delivery) {
	t.Helper()
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		got = nil
		for _, d := range a.got {
			if d.Topic == topic && has(d, mark) {
				got = append(got, d)
			}
		}
		return len(got) >= count
	}, 60*time.Second, 5*time.Millisecond, "%s on %s", mark, topic)
	return got
}
