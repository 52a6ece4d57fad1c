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
	handlers map[string]handler
	failures *prometheus.CounterVec
	// remember is Remember, except in tests.
	remember time.Duration
}

type handler func(ctx context.Context, tx pgx.Tx, m event.Message) (Result, error)

// New returns the inbox of an app, on a migrated database. The pool stays the caller's.
func New(app string, pool *pgxpool.Pool, log *slog.Logger) *Inbox {
	return &Inbox{
		app: app, pool: pool, log: log, tracer: otel.Tracer("inbox"),
		handlers: make(map[string]handler), remember: Remember,
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
// at once, any other is tried again.
func On[M event.Message](in *Inbox, handle func(ctx context.Context, tx pgx.Tx, m M) (Result, error)) {
	var none M
	in.handlers[event.Of(none).Name] = func(ctx context.Context, tx pgx.Tx, m event.Message) (Result, error) {
		return handle(ctx, tx, m.(M))
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
		subscriptions = append(subscriptions, bus.Subscription{Topic: topic.Name, Handle: in.receive})
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

// take decodes a delivery, hands it to its handler, once, and does what follows. A handler that panics has failed; the process goes
// on.
func (in *Inbox) take(ctx context.Context, d bus.Delivery) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			in.log.Error("a handler panicked", "topic", d.Topic, "event_id", d.ID, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
			err = fmt.Errorf("the handler panicked: %v", panicked)
		}
	}()
	if d.Broken != nil {
		return fmt.Errorf("%w: %w", event.ErrBad, d.Broken)
	}
	m, err := event.Decode(d.Topic, d.Data)
	if err != nil {
		return err
	}
	h := m.GetHeader()
	if !event.Of(m).Expects(in.app, h.Coordination) {
		return nil
	}
	if age := time.Since(h.OccurredAt.AsTime()); age > in.remember {
		return fmt.Errorf("%w: it occurred %s ago, and the inbox remembers %s: it may have been applied then", event.ErrBad,
			age.Round(time.Second), in.remember)
	}

	ctx, span := in.tracer.Start(event.WithTrace(ctx, h.Traceparent), "process "+d.Topic, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.message.id", h.EventId), attribute.String("order_id", h.OrderId), attribute.String("consumer", in.app)))
	defer span.End()
	then, err := in.apply(ctx, m)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return err
	}
	in.follow(ctx, then)
	return nil
}

// apply records the event and calls its handler in one transaction.
func (in *Inbox) apply(ctx context.Context, m event.Message) (then func(context.Context), err error) {
	h := m.GetHeader()
	err = pg.InTx(ctx, in.pool, func(tx pgx.Tx) error {
		then = nil
		// A second delivery of the same event waits here for the first's commit.
		const record = `
			INSERT INTO inbox (event_id, topic, key, seq, outcome) VALUES ($1, $2, $3, $4, 'applied')
			ON CONFLICT (event_id) DO NOTHING`
		tag, err := tx.Exec(ctx, record, h.EventId, h.Topic, event.Key(h), h.Seq)
		if err != nil {
			return fmt.Errorf("record event: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nil
		}
		result, err := in.handlers[h.Topic](ctx, tx, m)
		if err != nil {
			return err
		}
		then = result.Then
		if !result.Late {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE inbox SET outcome = 'late' WHERE event_id = $1`, h.EventId); err != nil {
			return fmt.Errorf("record event: %w", err)
		}
		return nil
	})
	return then, err
}

// follow calls Result.Then. Whatever becomes of it, the event was taken.
func (in *Inbox) follow(ctx context.Context, then func(context.Context)) {
	if then == nil {
		return
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			in.log.Error("what follows an event panicked", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		}
	}()
	then(ctx)
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
