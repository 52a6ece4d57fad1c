// Package outbox keeps a process's events in its database, written in the transaction of the change that they tell of, and
// relays them to the bus. So an event exists if and only if its change was committed.
//
// Within a key (an order, or an article) events are numbered without a gap, commit in the order of their numbers, and are
// published in that order. A repeat carries the same event id. It knows no event's meaning and no broker.
package outbox

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/encoding/protojson"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations make the outbox's tables.
func Migrations() pg.Migrations { return pg.EmbeddedMigrations(files, "outbox_migrations") }

// Outbox is where one app writes its events. Its methods may be called from many goroutines.
type Outbox struct {
	owner string
	pool  *pgxpool.Pool
	log   *slog.Logger

	// written has a value while something may have been committed that the relay has not heard of.
	written chan struct{}
	// leads says that this process relays; if not, it tells the one that does.
	leads atomic.Bool
	// lookAgain, keep and maxGather are the constants of these names, except in tests.
	lookAgain, keep, maxGather time.Duration
}

// New returns the outbox of an app, on a migrated database. The pool stays the caller's.
func New(owner string, pool *pgxpool.Pool, log *slog.Logger) *Outbox {
	return &Outbox{owner: owner, pool: pool, log: log, written: make(chan struct{}, 1), lookAgain: lookAgain, keep: Keep, maxGather: maxGather}
}

// Subject is what an event is about: an order of a coordination, or an article.
type Subject struct {
	about, key, coordination string
}

// Order is the subject of events about an order.
func Order(id, coordination string) Subject {
	return Subject{about: "order", key: id, coordination: coordination}
}

// Article is the subject of events about an article.
func Article(sku string) Subject { return Subject{about: "article", key: sku} }

// Told is an event with what it is about.
type Told struct {
	Subject Subject
	Message event.Message
	// Trace is the trace of the change (event.TraceOf).
	Trace string
}

// insertEvent inserts one event. The counter's row comes first: its lock makes events of one key wait for each other before they take
// a position.
const insertEvent = `
	WITH counted AS (
	    INSERT INTO outbox_counters (about, key, seq) VALUES ($3, $4, 1)
	    ON CONFLICT (about, key) DO UPDATE SET seq = outbox_counters.seq + 1
	    RETURNING seq)
	INSERT INTO outbox (event_id, topic, about, key, seq, schema_version, coordination, traceparent, payload)
	SELECT concat_ws(':', $1::text, $3, $4, seq), $2, $3, $4, seq, $5, $6, $7, $8 FROM counted`

// insertEvents does the same for many; for one alone it costs the database a tenth of a millisecond more. It counts up once for each key
// and numbers the key's events in the order in which they are given. Positions are taken as the last thing, after the sort. Counters are
// locked in the order of their keys, so that of two that write about the same keys one waits for the other and not each for the other.
const insertEvents = `
	WITH told AS (
	    SELECT *, row_number() OVER (PARTITION BY about, key ORDER BY n) AS nth, count(*) OVER (PARTITION BY about, key) AS of_key
	    FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::text[])
	         WITH ORDINALITY AS t (topic, about, key, version, coordination, trace, payload, n)),
	counted AS (
	    INSERT INTO outbox_counters (about, key, seq)
	    SELECT about, key, count(*) FROM told GROUP BY about, key ORDER BY about, key
	    ON CONFLICT (about, key) DO UPDATE SET seq = outbox_counters.seq + excluded.seq
	    RETURNING about, key, seq AS last),
	numbered AS (SELECT told.*, last - of_key + nth AS seq FROM told JOIN counted USING (about, key))
	INSERT INTO outbox (event_id, topic, about, key, seq, schema_version, coordination, traceparent, payload)
	SELECT concat_ws(':', $1::text, about, key, seq), topic, about, key, seq, version, coordination, trace, payload::json
	FROM numbered ORDER BY n`

// QueueAll adds events to a batch that is sent in the transaction of the changes, with one statement. Events of one key are numbered
// in their order. It makes the messages' headers. When that transaction has committed, the caller calls Committed. A transaction in
// which it is called twice may have to be repeated: only the keys of one call are locked in order.
//
// It panics for an event that this app does not own, that is about something else or that has a header already: no input decides that.
func (o *Outbox) QueueAll(batch *pgx.Batch, told []Told) error {
	if len(told) == 0 {
		return nil
	}
	insert, args, err := o.statement(told)
	if err != nil {
		return err
	}
	batch.Queue(insert, args...)
	return nil
}

// Queue adds one event to a batch, as QueueAll does.
func (o *Outbox) Queue(ctx context.Context, batch *pgx.Batch, subject Subject, m event.Message) error {
	return o.QueueAll(batch, []Told{{subject, m, event.TraceOf(ctx)}})
}

// Write writes an event in a transaction, as Queue does.
func (o *Outbox) Write(ctx context.Context, tx pgx.Tx, subject Subject, m event.Message) error {
	insert, args, err := o.statement([]Told{{subject, m, event.TraceOf(ctx)}})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insert, args...); err != nil {
		return fmt.Errorf("write event about %s: %w", subject.key, err)
	}
	return nil
}

// statement is what inserts events, with its arguments.
func (o *Outbox) statement(told []Told) (insert string, args []any, err error) {
	n := len(told)
	topics, abouts, keys, versions := make([]string, n), make([]string, n), make([]string, n), make([]int32, n)
	coordinations, traces, payloads := make([]string, n), make([]string, n), make([]string, n)
	for i, t := range told {
		topic := event.Of(t.Message)
		if topic.Owner != o.owner || (topic.About == eventv1.Key_KEY_ORDER) != (t.Subject.about == "order") || t.Message.GetHeader() != nil {
			panic(fmt.Sprintf("%s writes %s about an %s with header %v", o.owner, topic.Name, t.Subject.about, t.Message.GetHeader()))
		}
		payload, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(t.Message)
		if err != nil {
			return "", nil, fmt.Errorf("encode event %s: %w", topic.Name, err)
		}
		topics[i], abouts[i], keys[i], versions[i] = topic.Name, t.Subject.about, t.Subject.key, topic.Version
		coordinations[i], traces[i], payloads[i] = t.Subject.coordination, t.Trace, string(payload)
	}
	if n == 1 {
		return insertEvent, []any{o.owner, topics[0], abouts[0], keys[0], versions[0], coordinations[0], traces[0], payloads[0]}, nil
	}
	return insertEvents, []any{o.owner, topics, abouts, keys, versions, coordinations, traces, payloads}, nil
}

// Committed says that a transaction with events was committed. A call for nothing costs one query. If the process dies before the
// call, the event is found a second later.
func (o *Outbox) Committed() { signal(o.written) }
