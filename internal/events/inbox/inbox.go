// Package inbox receives events for one app, each once: the event's id and the effect of its handler are one transaction in
// the app's database, so that a repeat finds the id and changes nothing. Why a handler failed is written down beside it,
// because no broker keeps that. It knows no event's meaning and no broker.
package inbox

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations make the inbox's tables.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(files, "inbox_migrations") }

// Remember is how long the inbox knows what it has received: longer than any outbox keeps what it could send again
// (outbox.Keep). What is older is refused, because it could be applied a second time.
const Remember = 60 * 24 * time.Hour

// Result is what a handler made of an event.
type Result struct {
	// Late says that the event is older than what is known, so that it changed nothing.
	Late bool
	// Then is called once the transaction has committed, within the same delivery; nil for nothing. A repeat does not call it
	// again, so what it does must get done without it, only later.
	Then func(context.Context)
}

// The results of most handlers.
var (
	Applied = Result{}
	Late    = Result{Late: true}
)

// Inbox is where one app receives its events.
type Inbox struct {
	app      string
	pool     *pgxpool.Pool
	log      *slog.Logger
	tracer   trace.Tracer
	handlers map[string]*handler
	failures *prometheus.CounterVec
	// remember is Remember, except in tests.
	remember time.Duration
}

// Event is an event as it is handed over, with the trace that it is handled in.
type Event struct {
	Context context.Context
	Message event.Message
}

// handler takes events of its topics and returns what it made of each, at its place.
type handler struct {
	all func(ctx context.Context, tx pgx.Tx, events []Event) ([]Result, error)
}

// New returns the inbox of an app, on a migrated database. The pool stays the caller's.
func New(app string, pool *pgxpool.Pool, log *slog.Logger) *Inbox {
	return &Inbox{
		app: app, pool: pool, log: log, tracer: otel.Tracer("inbox"),
		handlers: make(map[string]*handler), remember: Remember,
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "inbox_failures_total",
			Help: "Deliveries that were not taken, by topic and whether they were given up at once (dropped) or are tried again.",
		}, []string{"topic", "dropped"}),
	}
}

// Collector tells how many deliveries to this process failed.
func (in *Inbox) Collector() prometheus.Collector { return in.failures }

// On sets the handler of one event. It is called in the transaction that the event is recorded in, by many goroutines, and
// for events in any order. An error rolls all back: one that wraps event.ErrBad can never succeed and goes to the dead letters
// at once, any other is tried again. The transaction may have other events as well: if one fails, each is then handled in a transaction
// of its own.
func On[M event.Message](in *Inbox, handle func(ctx context.Context, tx pgx.Tx, m M) (Result, error)) {
	var none M
	OnAll(in, func(_ context.Context, tx pgx.Tx, events []Event) ([]Result, error) {
		results := make([]Result, len(events))
		for i, e := range events {
			var err error
			if results[i], err = handle(e.Context, tx, e.Message.(M)); err != nil {
				return nil, err
			}
		}
		return results, nil
	}, none)
}

// OnAll sets one handler of several kinds of events, which takes all of them that a transaction has at once, as they come: it tells of
// each at its place what it made of it. All else is as with On.
func OnAll(in *Inbox, handle func(ctx context.Context, tx pgx.Tx, events []Event) ([]Result, error), kinds ...event.Message) {
	h := &handler{all: handle}
	for _, kind := range kinds {
		in.handlers[event.Of(kind).Name] = h
	}
}

// Subscriptions are the app's, by topic. The contracts say which topics the app receives; it is an error if its handlers are for
// others.
func (in *Inbox) Subscriptions() ([]bus.Subscription, error) {
	var subscriptions []bus.Subscription
	unasked := maps.Clone(in.handlers)
	for _, topic := range event.ConsumedBy(in.app) {
		if in.handlers[topic.Name] == nil {
			return nil, fmt.Errorf("%s must receive %s and has no handler for it", in.app, topic.Name)
		}
		delete(unasked, topic.Name)
		subscriptions = append(subscriptions, bus.Subscription{Topic: topic.Name, Handle: in.receive, App: in})
	}
	if len(unasked) > 0 {
		return nil, fmt.Errorf("%s has handlers for %v, which its contracts do not say", in.app, slices.Sorted(maps.Keys(unasked)))
	}
	return subscriptions, nil
}

// noteTimeout bounds writing down why a delivery failed. Together with bus.HandleTimeout it stays below the 8 s after which the
// sidecar delivers again (components/resiliency.yaml).
const noteTimeout = 2 * time.Second

// receive is the bus.Handler of every topic.
func (in *Inbox) receive(ctx context.Context, d bus.Delivery) bus.Answer {
	handling, cancel := context.WithTimeout(ctx, bus.HandleTimeout)
	defer cancel()
	err := in.take(handling, d)
	if err == nil {
		return bus.Success
	}
	if pg.Away(err) {
		in.log.Warn("an event was not taken, because the database is away", "topic", d.Topic, "event_id", d.ID, "error", err)
		return bus.Away
	}
	dropped := errors.Is(err, event.ErrBad)
	in.log.Warn("an event was not taken", "topic", d.Topic, "event_id", d.ID, "dropped", dropped, "error", err)
	in.failures.WithLabelValues(d.Topic, strconv.FormatBool(dropped)).Inc()
	// Not in the delivery's context, which may have ended because the handler took too long.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err := in.note(noting, d, err, dropped); err != nil {
		in.log.Error("why an event was not taken could not be written down", "topic", d.Topic, "event_id", d.ID, "error", err)
	}
	if dropped {
		return bus.Drop
	}
	return bus.Retry
}

// take takes one delivery, in a transaction of its own.
func (in *Inbox) take(ctx context.Context, d bus.Delivery) error {
	return in.takeIn(ctx, alone, []bus.Delivery{d})
}

// transaction is how events are handled in one.
type transaction struct {
	timeout time.Duration
	do      func(ctx context.Context, pool *pgxpool.Pool, work func(tx pgx.Tx) error) error
}

var (
	alone = transaction{timeout: bus.HandleTimeout, do: pg.InTx}
	// With many, one whose handler hangs must leave the time for each by itself, and one that has to wait for somebody's lock does so
	// by itself.
	together = transaction{timeout: 2 * time.Second, do: func(ctx context.Context, pool *pgxpool.Pool, work func(tx pgx.Tx) error) error {
		return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: "BEGIN; SET LOCAL lock_timeout = '100ms'"}, work)
	}}
)

// Expects implements bus.App.
func (in *Inbox) Expects(topic, coordination string) bool {
	t, known := event.Find(topic)
	return !known || t.Expects(in.app, coordination)
}

// TakeAll implements bus.App: all of them in one transaction. Why that failed is not written down; it is if one fails by itself.
func (in *Inbox) TakeAll(ctx context.Context, deliveries []bus.Delivery) bool {
	err := in.takeIn(ctx, together, deliveries)
	if err != nil {
		in.log.Debug("events are not taken together but one by one", "events", len(deliveries), "error", err)
	}
	return err == nil
}

// takeIn decodes deliveries, hands them to their handlers, once and in one transaction, and does what follows. A handler that panics has
// failed; the process goes on.
func (in *Inbox) takeIn(ctx context.Context, t transaction, deliveries []bus.Delivery) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			first := deliveries[0]
			in.log.Error("a handler panicked", "topic", first.Topic, "event_id", first.ID, "events", len(deliveries),
				"panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
			err = fmt.Errorf("the handler panicked: %v", panicked)
		}
	}()
	handling, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var events []Event
	for _, d := range deliveries {
		m, err := in.open(d)
		if err != nil {
			return err
		}
		if m != nil {
			events = append(events, Event{handling, m})
		}
	}
	if len(events) == 0 {
		return nil
	}
	spans := in.trace(events)
	defer func() {
		for _, span := range spans {
			if err != nil {
				span.SetStatus(codes.Error, err.Error())
			}
			span.End()
		}
	}()
	then, err := in.apply(handling, t, events)
	if err != nil {
		return err
	}
	in.follow(ctx, then)
	return nil
}

// open decodes a delivery; nil for an event that the app has no use for.
func (in *Inbox) open(d bus.Delivery) (event.Message, error) {
	if d.Broken != nil {
		return nil, fmt.Errorf("%w: %w", event.ErrBad, d.Broken)
	}
	m, err := event.Decode(d.Topic, d.Data)
	if err != nil {
		return nil, err
	}
	h := m.GetHeader()
	if !event.Of(m).Expects(in.app, h.Coordination) {
		return nil, nil
	}
	if age := time.Since(h.OccurredAt.AsTime()); age > in.remember {
		return nil, fmt.Errorf("%w: it occurred %s ago, and the inbox remembers %s: it may have been applied then", event.ErrBad,
			age.Round(time.Second), in.remember)
	}
	return m, nil
}

// trace begins a span for each event, in the trace of the change that it tells of.
func (in *Inbox) trace(events []Event) []trace.Span {
	spans := make([]trace.Span, len(events))
	for i, e := range events {
		h := e.Message.GetHeader()
		events[i].Context, spans[i] = in.tracer.Start(event.WithTrace(e.Context, h.Traceparent), "process "+h.Topic, trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithAttributes(attribute.String("messaging.message.id", h.EventId), attribute.String("order_id", h.OrderId), attribute.String("consumer", in.app)))
	}
	return spans
}

// following is what follows an event, with its trace.
type following struct {
	of   trace.SpanContext
	then func(context.Context)
}

// apply records events and calls their handlers in one transaction.
func (in *Inbox) apply(ctx context.Context, t transaction, events []Event) (then []following, err error) {
	err = t.do(ctx, in.pool, func(tx pgx.Tx) error {
		then = nil
		fresh, err := record(ctx, tx, events)
		if err != nil {
			return err
		}
		var late []string
		for len(fresh) > 0 {
			handler, n := in.run(fresh)
			results, err := handler.all(ctx, tx, fresh[:n])
			if err != nil {
				return err
			}
			for i, result := range results {
				if result.Late {
					late = append(late, fresh[i].Message.GetHeader().EventId)
				}
				if result.Then != nil {
					then = append(then, following{trace.SpanContextFromContext(fresh[i].Context), result.Then})
				}
			}
			fresh = fresh[n:]
		}
		if len(late) == 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE inbox SET outcome = 'late' WHERE event_id = ANY($1)`, late); err != nil {
			return fmt.Errorf("record events: %w", err)
		}
		return nil
	})
	return then, err
}

// run is how many events the handler of the first takes: all up to the first one of another handler.
func (in *Inbox) run(events []Event) (h *handler, n int) {
	of := func(e Event) *handler { return in.handlers[e.Message.GetHeader().Topic] }
	for h = of(events[0]); n < len(events) && of(events[n]) == h; n++ {
	}
	return h, n
}

// record records events, and returns those that were not known yet. A second delivery of the same event waits here for the first's
// commit; of two transactions with the same events one waits for the other, because both record them in the same order.
func record(ctx context.Context, tx pgx.Tx, events []Event) (fresh []Event, err error) {
	const query = `
		INSERT INTO inbox (event_id, topic, key, seq, outcome)
		SELECT event_id, topic, key, seq, 'applied'
		FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS e (event_id, topic, key, seq) ORDER BY event_id
		ON CONFLICT (event_id) DO NOTHING RETURNING event_id`
	n := len(events)
	ids, topics, keys, seqs := make([]string, n), make([]string, n), make([]string, n), make([]int64, n)
	for i, e := range events {
		h := e.Message.GetHeader()
		ids[i], topics[i], keys[i], seqs[i] = h.EventId, h.Topic, event.Key(h), h.Seq
	}
	recorded, err := pg.Rows(ctx, tx, "record events", pgx.RowTo[string], query, ids, topics, keys, seqs)
	if err != nil {
		return nil, err
	}
	isNew := make(map[string]bool, len(recorded))
	for _, id := range recorded {
		isNew[id] = true
	}
	for i, e := range events {
		if isNew[ids[i]] {
			fresh = append(fresh, e)
			delete(isNew, ids[i]) // It may have been delivered twice.
		}
	}
	return fresh, nil
}

// atOnce bounds what follows at the same time.
const atOnce = 16

// follow calls what follows, side by side, because it may take its time. Whatever becomes of it, the events were taken.
func (in *Inbox) follow(ctx context.Context, all []following) {
	var following errgroup.Group
	following.SetLimit(atOnce)
	for _, f := range all {
		following.Go(func() error {
			defer func() {
				if panicked := recover(); panicked != nil {
					in.log.Error("what follows an event panicked", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
				}
			}()
			ctx, cancel := context.WithTimeout(trace.ContextWithSpanContext(ctx, f.of), bus.HandleTimeout)
			defer cancel()
			f.then(ctx)
			return nil
		})
	}
	_ = following.Wait()
}

// maxError is where errors are cut, in bytes.
const maxError = 1000

// note stores why a delivery failed.
func (in *Inbox) note(ctx context.Context, d bus.Delivery, failed error, dropped bool) error {
	const query = `
		INSERT INTO delivery_failures (message_id, topic, error, dropped) VALUES ($1, $2, $3, $4)
		ON CONFLICT (message_id, topic) DO UPDATE
		SET attempts = delivery_failures.attempts + 1, error = excluded.error, dropped = excluded.dropped, last_at = clock_timestamp()`
	_, err := in.pool.Exec(ctx, query, d.MessageID(), d.Topic, pg.Text(failed.Error(), maxError), dropped)
	return err
}
