package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	sdk "github.com/dapr/go-sdk/client"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/dapr"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sidecar"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
)

// The section events measures what carries events: publishing, receiving, and the time between. It compares:
//
//   - publish: a loop that publishes CloudEvents through a sidecar to Redis, and nothing else, one at a time and 16 at once
//   - relay: the same events written to an outbox before, and relayed by it through the same sidecar; and, for what the outbox
//     itself takes, into a bus that takes everything
//   - subscriber: a handler that answers the sidecar's pushes with 200, and nothing else
//   - inbox: the same backlog received by an inbox and a handler that writes one row, on PostgreSQL
//
// The publisher is orchestrator's outbox with checkout.order.created, the consumer is orders, beside the sidecar that the
// components of this repository give it. All but sidecars, Redis and PostgreSQL is in this process, and its CPU time counts.

const (
	// atOnce is the publish loop's second concurrency: what bus/dapr has for a relay.
	atOnce = 16
	// singles is how many events are committed one by one in a round, to see how long each is on its way. The pauses between
	// them are longer than a busy relay gathers events.
	singles, silence = 100, 30 * time.Millisecond
	// writeBatch is how many events are written in one transaction beforehand.
	writeBatch = 500
	// consumerConns is what the participants give their pools.
	consumerConns = 10
	// asideTopic is one that nobody is subscribed to.
	asideTopic = "bench.event.published"
)

// Names of the rows.
const (
	publishAlone, publishAtOnce = "publish, 1 in flight", "publish, 16 in flight"
	relayToRedis, relayToAll    = "relay", "relay into a bus that takes all"
	bareSubscriber, withInbox   = "subscriber", "inbox"
)

// measured names the rows and what each is compared with.
var measured = []struct{ name, to string }{
	{publishAlone, ""}, {publishAtOnce, ""}, {relayToRedis, publishAtOnce}, {relayToAll, publishAtOnce},
	{bareSubscriber, ""}, {withInbox, bareSubscriber},
}

// eventsReport is what bench/out/events.json holds.
type eventsReport struct {
	At      time.Time  `json:"at"`
	Machine string     `json:"machine"`
	Rounds  int        `json:"rounds"`
	Backlog int        `json:"backlog"`
	Rows    []eventRow `json:"rows"`
	Delays  []delayRow `json:"delays_after_commit"`
}

// eventRow is one of the rates; figures are medians over the turns.
type eventRow struct {
	Name       string             `json:"name"`
	PerSecond  float64            `json:"per_second"`
	CPUPer1000 float64            `json:"cpu_seconds_per_1000"`
	CPUByKind  map[string]float64 `json:"cpu_seconds_per_1000_by_process"`
	To         string             `json:"compared_with,omitempty"`
	Ratio      float64            `json:"throughput_ratio,omitempty"`
	CPURatio   float64            `json:"cpu_ratio,omitempty"`
	Turns      []turn             `json:"turns"`
}

// delayRow is how long after its commit an event was somewhere, when nothing else was under way.
type delayRow struct {
	Until string  `json:"until"`
	Count int     `json:"count"`
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
}

// delays are those of single events, each from its commit.
type delays struct {
	// handed is until the relay of the process that wrote it hands it to the bus, told until that of another process does;
	// taken is until Redis has confirmed it, received until its consumer has committed.
	handed, told, taken, received []time.Duration
}

func (d delays) rows() []delayRow {
	var rows []delayRow
	for _, of := range []struct {
		until string
		took  []time.Duration
	}{
		{"handed to the bus by the writer's relay", d.handed},
		{"handed to the bus by another process's relay", d.told},
		{"confirmed by Redis", d.taken},
		{"committed by the consumer", d.received},
	} {
		rows = append(rows, delayRow{
			Until: of.until, Count: len(of.took),
			P50MS: milliseconds(quantile(of.took, 0.5)), P99MS: milliseconds(quantile(of.took, 0.99)),
		})
	}
	return rows
}

// eventsGround is what the turns of the events stand on.
type eventsGround struct {
	*ground
	backlog int
	client  sdk.Client
	// producer has the outbox, consumer the inbox.
	producer, consumer *pgxpool.Pool
	log                *slog.Logger
	stops              []func()
}

// measureEvents runs the section events. The systems of the other sections must be stopped.
func measureEvents(ctx context.Context, g *ground, o options) (r eventsReport, err error) {
	r = eventsReport{At: time.Now().UTC().Truncate(time.Second), Machine: machine(), Rounds: o.rounds, Backlog: o.backlog}
	e, err := startEvents(ctx, g, o.backlog)
	if e != nil {
		defer e.stop()
	}
	if err != nil {
		return r, err
	}
	g.countsItself = true
	turns := map[string][]turn{}
	var late delays
	for round := range o.rounds {
		did, err := e.round(ctx, o.length(), &late)
		if err != nil {
			return r, err
		}
		for _, m := range measured {
			fmt.Fprintf(os.Stderr, "events, round %d, %-32s %8.1f/s\n", round+1, m.name, did[m.name].PerSecond)
			turns[m.name] = append(turns[m.name], did[m.name])
		}
	}
	for _, m := range measured {
		s := summarize(m.name, 0, turns[m.name])
		row := eventRow{Name: m.name, PerSecond: s.PerSecond.Median, CPUPer1000: s.CPUPer1000.Median, CPUByKind: s.CPUByKind, To: m.to, Turns: s.Turns}
		if m.to != "" {
			throughput, cpu := ratios(turns[m.name], turns[m.to])
			row.Ratio, row.CPURatio = throughput.Median, cpu.Median
		}
		r.Rows = append(r.Rows, row)
	}
	r.Delays = late.rows()
	return r, nil
}

// startEvents starts the publisher's sidecar and makes the databases.
func startEvents(ctx context.Context, g *ground, backlog int) (*eventsGround, error) {
	e := &eventsGround{ground: g, backlog: backlog, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	url, err := g.databases(ctx, "e_", "producer", "consumer")
	if err != nil {
		return e, err
	}
	if e.producer, err = e.open(ctx, url("producer"), outbox.Migrations()); err != nil {
		return e, err
	}
	if e.consumer, err = e.open(ctx, url("consumer"), inbox.Migrations()); err != nil {
		return e, err
	}
	if _, err := e.consumer.Exec(ctx, `CREATE TABLE seen (order_id text PRIMARY KEY, customer_id text NOT NULL, seq bigint NOT NULL)`); err != nil {
		return e, err
	}
	// Of an app that is subscribed to nothing.
	s, err := e.sidecar(ctx, "publisher", 0)
	if err != nil {
		return e, err
	}
	e.stops = append(e.stops, s.Stop)
	conn, err := sidecar.Dial(fmt.Sprintf("127.0.0.1:%d", s.GRPCPort), "")
	if err != nil {
		return e, err
	}
	e.stops = append(e.stops, func() { conn.Close() })
	e.client = sdk.NewClientWithConnection(conn)
	return e, nil
}

func (e *eventsGround) open(ctx context.Context, url string, tables pg.Migrations) (*pgxpool.Pool, error) {
	pool, err := pg.Open(ctx, url, consumerConns)
	if err != nil {
		return nil, err
	}
	e.stops = append(e.stops, pool.Close)
	return pool, pg.Migrate(ctx, pool, tables)
}

// sidecar starts one for an app that no other turn had: what a group of that name has read already is not read again.
func (e *eventsGround) sidecar(ctx context.Context, app string, port int) (*localstack.Sidecar, error) {
	id := fmt.Sprintf("%s-%06x", app, rand.Uint32N(1<<24))
	dir := filepath.Join(e.dir, "events", id)
	components := filepath.Join(dir, "components")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	err := localstack.RenderComponents(components, map[string]string{app: id},
		filepath.Join(e.root, "components"), filepath.Join(e.root, "components", "brokers", e.broker.Kind()))
	if err != nil {
		return nil, err
	}
	config := localstack.SidecarConfig{
		AppID: id, AppPort: port, Resources: []string{components}, Configs: []string{filepath.Join(components, "config.yaml")},
		Env: e.broker.Env(), Dir: dir, Tied: true,
	}
	if port != 0 {
		config.AppHealthPath = "/apphealthz"
	}
	return localstack.StartSidecar(ctx, e.dapr, e.plane, config)
}

func (e *eventsGround) stop() {
	for i := len(e.stops) - 1; i >= 0; i-- {
		e.stops[i]()
	}
}

// round gives each one turn, by name, and adds the delays of single events.
func (e *eventsGround) round(ctx context.Context, length time.Duration, late *delays) (map[string]turn, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := e.empty(ctx); err != nil {
		return nil, err
	}
	did := map[string]turn{}
	var err error
	bare, err := e.bare()
	if err != nil {
		return nil, err
	}
	turns := []struct {
		name string
		run  func() (turn, error)
	}{
		{publishAlone, func() (turn, error) { return e.measure(ctx, bare, 1, length, "") }},
		{publishAtOnce, func() (turn, error) { return e.measure(ctx, bare, atOnce, length, "") }},
		{relayToAll, func() (turn, error) { return e.relay(ctx, takesAll{}) }},
		// Last of those that publish: it makes the backlog of those that receive.
		{relayToRedis, func() (turn, error) { return e.relay(ctx, dapr.New(e.client, e.log)) }},
		{bareSubscriber, func() (turn, error) { return e.subscriber(ctx) }},
		{withInbox, func() (turn, error) { return e.inbox(ctx, late) }},
	}
	for _, t := range turns {
		if did[t.name], err = t.run(); err != nil {
			return nil, fmt.Errorf("measure %s: %w", t.name, err)
		}
	}
	return did, nil
}

// empty takes away what earlier rounds left in Redis and in the tables, so that each round is like the first.
func (e *eventsGround) empty(ctx context.Context) error {
	if _, err := e.producer.Exec(ctx, `TRUNCATE outbox, outbox_counters`); err != nil {
		return err
	}
	if _, err := e.consumer.Exec(ctx, `TRUNCATE inbox, seen`); err != nil {
		return err
	}
	conn, err := e.broker.DialRedis(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "FLUSHALL\r\n"); err != nil {
		return err
	}
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || answer != "+OK\r\n" {
		return fmt.Errorf("empty Redis: %q: %w", answer, err)
	}
	return nil
}

// created is an event of the size that they have.
func created() *checkoutv1.OrderCreated {
	return &checkoutv1.OrderCreated{
		Order: &checkoutv1.Order{
			CustomerId: "cus-bench", PaymentMethod: "tok_visa",
			Items:  []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
			Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 12997},
		},
		Deadline: timestamppb.Now(),
	}
}

// bare is the loop that publishes and does nothing else: the messages are ready.
func (e *eventsGround) bare() (*system, error) {
	var messages [1000]struct {
		key  string
		data []byte
	}
	for i := range messages {
		m, now, key := created(), time.Now(), orderID()
		m.Header = &eventv1.Header{
			EventId: "orchestrator:order:" + key + ":1", Topic: asideTopic, Producer: stack.Orchestrator, OrderId: key, Seq: 1,
			SchemaVersion: 1, Coordination: event.Orchestrated, OccurredAt: timestamppb.New(now),
		}
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return nil, err
		}
		message, err := bus.Event{ID: m.Header.EventId, Topic: asideTopic, Source: stack.Orchestrator, Key: key, Time: now, Data: data}.CloudEvent()
		if err != nil {
			return nil, err
		}
		messages[i].key, messages[i].data = key, message
	}
	var next atomic.Int64
	return &system{name: "publish", one: func(ctx context.Context, _ string) error {
		m := messages[int(next.Add(1))%len(messages)]
		return e.client.PublishEvent(ctx, "pubsub", asideTopic, m.data, sdk.PublishEventWithContentType(bus.ContentType),
			sdk.PublishEventWithMetadata(map[string]string{"partitionKey": m.key}))
	}}, nil
}

func orderID() string { return fmt.Sprintf("ord-%016x", rand.Uint64()) }

// relay writes the backlog and measures its relay.
func (e *eventsGround) relay(ctx context.Context, to bus.Publisher) (turn, error) {
	o := outbox.New(stack.Orchestrator, e.producer, e.log)
	for range e.backlog / writeBatch {
		if err := writeEvents(ctx, e.producer, o, writeBatch); err != nil {
			return turn{}, err
		}
	}
	c := newCounter(e.backlog)
	relayCtx, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { _ = o.Relay(relayCtx, counting{Publisher: to, counter: c}) })
	defer ended.Wait()
	defer stop()
	return e.flow(ctx, c)
}

// writeEvents writes n events, each of an order of its own, in one transaction.
func writeEvents(ctx context.Context, pool *pgxpool.Pool, o *outbox.Outbox, n int) error {
	return pg.InTx(ctx, pool, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for range n {
			if err := o.Queue(ctx, batch, outbox.Order(orderID(), event.Orchestrated), created()); err != nil {
				return err
			}
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

// takesAll is the bus that takes everything.
type takesAll struct{ bus.Publisher }

func (takesAll) Publish(_ context.Context, events []bus.Event) []error {
	return make([]error, len(events))
}

// counting counts what a bus took.
type counting struct {
	bus.Publisher
	counter *counter
}

func (c counting) Publish(ctx context.Context, events []bus.Event) []error {
	failed := c.Publisher.Publish(ctx, events)
	taken := 0
	for _, err := range failed {
		if err == nil {
			taken++
		}
	}
	c.counter.add(taken)
	return failed
}

// subscriber measures the backlog with a handler that does nothing.
func (e *eventsGround) subscriber(ctx context.Context) (turn, error) {
	return e.receive(ctx, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}, nil)
}

// inbox measures the backlog with an inbox and a handler that writes a row; then, with both ends idle, single events.
func (e *eventsGround) inbox(ctx context.Context, late *delays) (turn, error) {
	received := make(chan string, 1)
	single := &atomic.Bool{}
	in := inbox.New(stack.Orders, e.consumer, e.log)
	inbox.On(in, func(ctx context.Context, tx pgx.Tx, m *checkoutv1.OrderCreated) (inbox.Result, error) {
		const query = `
			INSERT INTO seen (order_id, customer_id, seq) VALUES ($1, $2, $3)
			ON CONFLICT (order_id) DO UPDATE SET seq = excluded.seq WHERE seen.seq < excluded.seq`
		_, err := tx.Exec(ctx, query, m.Header.OrderId, m.Order.CustomerId, m.Header.Seq)
		if !single.Load() {
			return inbox.Applied, err
		}
		return inbox.Result{Then: func(context.Context) { received <- m.Header.OrderId }}, err
	})
	inbox.On(in, func(context.Context, pgx.Tx, *checkoutv1.OrderConfirmed) (inbox.Result, error) {
		return inbox.Applied, nil
	})
	inbox.On(in, func(context.Context, pgx.Tx, *checkoutv1.OrderCancelled) (inbox.Result, error) {
		return inbox.Applied, nil
	})
	subscriptions, err := in.Subscriptions()
	if err != nil {
		return turn{}, err
	}
	_, handler := dapr.Routes(subscriptions)
	return e.receive(ctx, handler.ServeHTTP, func() error {
		var rows int
		if err := e.consumer.QueryRow(ctx, `SELECT count(*) FROM seen`).Scan(&rows); err != nil {
			return err
		}
		if rows != e.backlog {
			return fmt.Errorf("%d events of %d were applied", rows, e.backlog)
		}
		single.Store(true)
		return e.singles(ctx, received, late)
	})
}

// receive has a sidecar push the backlog to handle and measures that; then is called while the sidecar still runs.
func (e *eventsGround) receive(ctx context.Context, handle http.HandlerFunc, then func() error) (turn, error) {
	c := newCounter(e.backlog)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apphealthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /events/{topic}", func(w http.ResponseWriter, r *http.Request) {
		handle(w, r)
		c.add(1)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return turn{}, err
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	s, err := e.sidecar(ctx, stack.Orders, listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return turn{}, err
	}
	defer s.Stop()
	t, err := e.flow(ctx, c)
	if err != nil || then == nil {
		return t, err
	}
	return t, then()
}

// singles commits events one by one, each when the one before has arrived, in turns by the process that relays and by one that
// must tell it. Both are in this process; they know as much of each other as if they were not.
func (e *eventsGround) singles(ctx context.Context, received <-chan string, late *delays) error {
	leader, other := outbox.New(stack.Orchestrator, e.producer, e.log), outbox.New(stack.Orchestrator, e.producer, e.log)
	noted := noting{Publisher: dapr.New(e.client, e.log), handed: make(chan time.Time, 1), taken: make(chan time.Time, 1)}
	relayCtx, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	defer ended.Wait()
	defer stop()
	// Whoever comes first leads; the first event of each finds its relay at its start and does not count.
	for _, o := range []*outbox.Outbox{leader, other} {
		ended.Go(func() { _ = o.Relay(relayCtx, noted) })
		if err := e.single(ctx, o, noted, received, &delays{}, &[]time.Duration{}); err != nil {
			return err
		}
	}
	for range singles / 2 {
		if err := e.single(ctx, leader, noted, received, late, &late.handed); err != nil {
			return err
		}
		if err := e.single(ctx, other, noted, received, late, &late.told); err != nil {
			return err
		}
	}
	return nil
}

// single commits one event after a silence and waits until its consumer has committed it.
func (e *eventsGround) single(ctx context.Context, o *outbox.Outbox, noted noting, received <-chan string, late *delays, handed *[]time.Duration) error {
	time.Sleep(silence)
	if err := writeEvents(ctx, e.producer, o, 1); err != nil {
		return err
	}
	committed := time.Now()
	o.Committed()
	for range 3 {
		select {
		case at := <-noted.handed:
			*handed = append(*handed, at.Sub(committed))
		case at := <-noted.taken:
			late.taken = append(late.taken, at.Sub(committed))
		case <-received:
			late.received = append(late.received, time.Since(committed))
		case <-ctx.Done():
			return fmt.Errorf("wait for a single event: %w", ctx.Err())
		}
	}
	return nil
}

// noting notes when a single event was handed to a bus, and when it was taken.
type noting struct {
	bus.Publisher
	handed, taken chan time.Time
}

func (n noting) Publish(ctx context.Context, events []bus.Event) []error {
	n.handed <- time.Now()
	failed := n.Publisher.Publish(ctx, events)
	n.taken <- time.Now()
	return failed
}

// counter counts events, and tells when the first tenth and when all are done: what is measured lies between.
type counter struct {
	from, to     int64
	done         atomic.Int64
	begun, ended chan struct{}
}

func newCounter(all int) *counter {
	return &counter{from: int64(all / 10), to: int64(all), begun: make(chan struct{}), ended: make(chan struct{})}
}

func (c *counter) add(n int) {
	after := c.done.Add(int64(n))
	before := after - int64(n)
	if before < c.from && after >= c.from {
		close(c.begun)
	}
	if before < c.to && after >= c.to {
		close(c.ended)
	}
}

// flow measures how fast a backlog is worked off.
func (e *eventsGround) flow(ctx context.Context, c *counter) (t turn, err error) {
	var at [2]struct {
		when time.Time
		done int64
		used usage
	}
	for i, reached := range []chan struct{}{c.begun, c.ended} {
		select {
		case <-reached:
		case <-ctx.Done():
			return t, fmt.Errorf("wait for the backlog, of which %d are done: %w", c.done.Load(), ctx.Err())
		}
		at[i].when, at[i].done = time.Now(), c.done.Load()
		if at[i].used, err = e.usage(ctx); err != nil {
			return t, err
		}
	}
	t.Done, t.Seconds = int(at[1].done-at[0].done), at[1].when.Sub(at[0].when).Seconds()
	if t.Done == 0 {
		return t, errors.New("the backlog was through before it could be measured")
	}
	t.PerSecond = float64(t.Done) / t.Seconds
	t.uses(at[0].used, at[1].used, nil, t.Done)
	return t, nil
}

func (r eventsReport) print(to io.Writer) {
	fmt.Fprintf(to, "\nEvents: %s; medians of %d rounds, backlogs of %d\n\n", r.Machine, r.Rounds, r.Backlog)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tper second\tCPU s per 1,000\tthroughput\tCPU\tcompared with\t")
	for _, row := range r.Rows {
		ratio, cpu := "", ""
		if row.To != "" {
			ratio, cpu = fmt.Sprintf("%.2f", row.Ratio), fmt.Sprintf("%.2f", row.CPURatio)
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.2f\t%s\t%s\t%s\t\n", row.Name, row.PerSecond, row.CPUPer1000, ratio, cpu, row.To)
	}
	w.Flush()
	fmt.Fprintln(to, "\nCPU seconds per 1,000 by process; bench is both loops, the relay, the subscriber and the inbox:")
	for _, row := range r.Rows {
		fmt.Fprintf(to, "  %-32s  %s\n", row.Name, byProcess(row.CPUByKind))
	}
	fmt.Fprintln(to, "\nAn event that is alone, from its commit until it is")
	fmt.Fprintln(w, "\tp50 ms\tp99 ms\t")
	for _, row := range r.Delays {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t\n", row.Until, row.P50MS, row.P99MS)
	}
	w.Flush()
}
