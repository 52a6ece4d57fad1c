package brokers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	catalogue "github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/eventtest"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// database opens the database of a service.
func (s system) database(t *testing.T, name string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), s.DatabaseURL(name), 2)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// exec runs SQL that has no result.
func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(within(t, 10*time.Second), sql, args...)
	require.NoError(t, err)
}

// count returns the number that a query selects.
func count(t *testing.T, pool *pgxpool.Pool, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(within(t, 10*time.Second), query, args...).Scan(&n))
	return n
}

// cli runs the command line, demands an exit status, and reads what it printed as JSON into a value of type V.
func cli[V any](t *testing.T, s system, wantStatus int, args ...string) (printed V, stderr string) {
	t.Helper()
	stdout, stderr, status, err := s.CLI(within(t, time.Minute), append(args, "-o", "json")...)
	require.NoError(t, err)
	require.Equal(t, wantStatus, status, "orchestrator %v printed %s and said %s", args, stdout, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &printed), "orchestrator %v printed %s", args, stdout)
	return printed, stderr
}

// settled is what `dead-letter replay` and `dead-letter archive` print.
type settled struct {
	Replayed, Archived []string
	Refused            []struct{ ID, Why string }
}

// listedEvent is one of `event list`.
type listedEvent struct {
	EventID     string     `json:"event_id"`
	Topic       string     `json:"topic"`
	PublishedAt *time.Time `json:"published_at"`
	Deliveries  []struct{ Consumer, Outcome string }
}

// letters lists dead letters with their messages.
func (s system) letters(t *testing.T, selection *deadletterv1.Selection) (all []*deadletterv1.GetResponse) {
	t.Helper()
	ctx := within(t, time.Minute)
	listed, err := s.DeadLetters.List(ctx, connect.NewRequest(&deadletterv1.ListRequest{Selection: selection, PageSize: 1000}))
	require.NoError(t, err)
	for _, l := range listed.Msg.DeadLetters {
		whole, err := s.DeadLetters.Get(ctx, connect.NewRequest(&deadletterv1.GetRequest{Id: l.Id}))
		require.NoError(t, err)
		all = append(all, whole.Msg)
	}
	return all
}

// letterOf waits for the one open dead letter from a topic whose message fits.
func (s system) letterOf(t *testing.T, topic string, fits func(message []byte) bool) (found *deadletterv1.GetResponse) {
	t.Helper()
	harness.Eventually(t, "a dead letter from "+topic, func(context.Context) error {
		all := s.letters(t, &deadletterv1.Selection{Topic: topic})
		fitting := slices.DeleteFunc(slices.Clone(all), func(l *deadletterv1.GetResponse) bool { return !fits(l.Message) })
		if len(fitting) != 1 {
			return fmt.Errorf("%d of %d fit", len(fitting), len(all))
		}
		found = fitting[0]
		return nil
	})
	return found
}

// has fits a message with a mark in it, is one that is the same byte for byte.
func has(mark string) func([]byte) bool {
	return func(message []byte) bool { return bytes.Contains(message, []byte(mark)) }
}

func is(want []byte) func([]byte) bool {
	return func(message []byte) bool { return bytes.Equal(message, want) }
}

// arrivals are how often each dead letter has arrived, by its id.
func (s system) arrivals(t *testing.T) map[string]int32 {
	t.Helper()
	arrived := make(map[string]int32)
	for _, l := range s.letters(t, &deadletterv1.Selection{State: "all"}) {
		arrived[l.DeadLetter.Id] = l.DeadLetter.Arrivals
	}
	return arrived
}

// replayAsOperator replays one letter by the command line.
func (s system) replayAsOperator(t *testing.T, ids ...string) {
	t.Helper()
	done, _ := cli[settled](t, s, 0, append([]string{"dead-letter", "replay", "--reason", "the cause is gone"}, ids...)...)
	require.ElementsMatch(t, ids, done.Replayed)
	require.Empty(t, done.Refused)
}

// payload is a well-formed event of a topic, about an order or an article, with an id of its own.
func payload(t *testing.T, topic, about string, change func(payload, header map[string]any)) map[string]any {
	t.Helper()
	goldens := eventtest.All(t)
	i := slices.IndexFunc(goldens, func(g eventtest.Golden) bool { return g.Topic == topic })
	require.GreaterOrEqual(t, i, 0, "no golden payload of %s", topic)
	var p map[string]any
	require.NoError(t, json.Unmarshal(goldens[i].Delivery(t, about).Data, &p))
	if change != nil {
		change(p, p["header"].(map[string]any))
	}
	return p
}

// inEnvelope is a payload as a relay publishes it.
func inEnvelope(t *testing.T, topic, id string, payload any) []byte {
	t.Helper()
	data, err := json.Marshal(payload)
	require.NoError(t, err)
	owner, known := catalogue.Find(topic)
	require.True(t, known)
	message, err := bus.Event{ID: id, Topic: topic, Source: owner.Owner, Key: "any", Time: time.Now(), Data: data}.CloudEvent()
	require.NoError(t, err)
	return message
}

// publish publishes through a sidecar's HTTP API. Without raw the sidecar makes an event of it.
func (s system) publish(t *testing.T, topic, contentType string, raw bool, message []byte) {
	t.Helper()
	address := fmt.Sprintf("http://127.0.0.1:%d/v1.0/publish/pubsub/%s", s.Services[stack.Pricing].Sidecar.HTTPPort, topic)
	if raw {
		address += "?metadata.rawPayload=true"
	}
	req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodPost, address, bytes.NewReader(message))
	require.NoError(t, err)
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, resp.StatusCode, "%s", text)
}

// processes are the process ids of all services and sidecars, by name. Nobody starts one again that has died.
func (s system) processes(t *testing.T) map[string]int {
	t.Helper()
	pids := make(map[string]int)
	for name, service := range s.Services {
		pids[name] = service.App.PID()
		text, err := os.ReadFile(strings.TrimSuffix(service.Sidecar.LogFile(), ".log") + ".pid")
		require.NoError(t, err)
		pids["the sidecar of "+name], err = strconv.Atoi(strings.TrimSpace(string(text)))
		require.NoError(t, err)
	}
	return pids
}

func requireAlive(t *testing.T, pids map[string]int) {
	t.Helper()
	for name, pid := range pids {
		require.NoError(t, syscall.Kill(pid, 0), "%s has died", name)
	}
}

// awaitDrained waits until no stream has a message that was not delivered, or that somebody still has in hand.
func (s system) awaitDrained(t *testing.T) {
	t.Helper()
	harness.Eventually(t, "all streams to be drained", func(ctx context.Context) error {
		for _, topic := range catalogue.Consumed() {
			for _, stream := range []string{topic.Name, bus.DeadLettersOf(topic.Name)} {
				groups, err := redisDo(ctx, s.Broker, "XINFO", "GROUPS", stream)
				if err != nil {
					return fmt.Errorf("look at %s: %w", stream, err)
				}
				for _, group := range groups.([]any) {
					fields := group.([]any)
					for i := 0; i < len(fields); i += 2 {
						if name := fields[i].(string); name == "pending" || name == "lag" {
							if fields[i+1] != int64(0) {
								return fmt.Errorf("%s has %v of %s", stream, fields[i+1], name)
							}
						}
					}
				}
			}
		}
		return nil
	})
}

// add puts a message on a topic's stream past every sidecar.
func (s system) add(t *testing.T, topic string, message []byte) {
	t.Helper()
	_, err := redisDo(within(t, 10*time.Second), s.Broker, "XADD", topic, "*", "data", string(message))
	require.NoError(t, err)
}

// redisDo sends a command to a broker that is Redis (https://redis.io/docs/latest/develop/reference/protocol-spec, RESP2).
func redisDo(ctx context.Context, redis *localstack.Broker, command ...string) (any, error) {
	conn, err := redis.DialRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, bounded := ctx.Deadline(); bounded {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(conn, request.String()); err != nil {
		return nil, err
	}
	return readRESP(bufio.NewReader(conn))
}

// readRESP returns a string, an int64, nil, or a list of such.
func readRESP(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, rest := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return nil, errors.New(rest)
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	switch {
	case err != nil:
		return nil, err
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		text := make([]byte, n+2)
		_, err := io.ReadFull(r, text)
		return string(text[:n]), err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = readRESP(r); err != nil {
			return nil, err
		}
	}
	return list, nil
}
