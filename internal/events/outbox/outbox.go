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

// The counter's row comes first: its lock makes events of one key wait for each other before they take a position.
const insertEvent = `
	WITH counted AS (
	    INSERT INTO outbox_counters (about, key, seq) VALUES ($3, $4, 1)
	    ON CONFLICT (about, key) DO UPDATE SET seq = outbox_counters.seq + 1
	    RETURNING seq)
	INSERT INTO outbox (event_id, topic, about, key, seq, schema_version, coordination, traceparent, payload)
	SELECT concat_ws(':', $1::text, $3, $4, seq), $2, $3, $4, seq, $5, $6, $7, $8 FROM counted`

// Queue adds an event to a batch that is sent in the transaction of the change. It makes the message's header. When that
// transaction has committed, the caller calls Committed. It panics for an event that this app does not own, that is about something
// else or that has a header already: no input decides that.
func (o *Outbox) Queue(ctx context.Context, batch *pgx.Batch, subject Subject, m event.Message) error {
	args, err := o.row(ctx, subject, m)
	if err != nil {
		return err
	}
	batch.Queue(insertEvent, args...)
	return nil
}

// Write writes an event in a transaction, as Queue does.
func (o *Outbox) Write(ctx context.Context, tx pgx.Tx, subject Subject, m event.Message) error {
	args, err := o.row(ctx, subject, m)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertEvent, args...); err != nil {
		return fmt.Errorf("write event about %s: %w", subject.key, err)
	}
	return nil
}

func (o *Outbox) row(ctx context.Context, subject Subject, m event.Message) ([]any, error) {
	topic := event.Of(m)
	if topic.Owner != o.owner || (topic.About == eventv1.Key_KEY_ORDER) != (subject.about == "order") || m.GetHeader() != nil {
		panic(fmt.Sprintf("%s writes %s about an %s with header %v", o.owner, topic.Name, subject.about, m.GetHeader()))
	}
	payload, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", topic.Name, err)
	}
	return []any{o.owner, topic.Name, subject.about, subject.key, topic.Version, subject.coordination, event.TraceOf(ctx), payload}, nil
}

// Committed says that a transaction with events was committed. A call for nothing costs one query. If the process dies before the
// call, the event is found a second later.
func (o *Outbox) Committed() { signal(o.written) }
