package outbox

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// stored is an event as its row keeps it.
type stored struct {
	position     int64
	id, topic    string
	about, key   string
	seq          int64
	version      int32
	coordination string
	trace        string
	payload      []byte
	occurred     time.Time
	published    *time.Time
}

const selectEvents = `
	SELECT position, event_id, topic, about, key, seq, schema_version, coordination, traceparent, payload, occurred_at, published_at
	FROM outbox`

func scanEvent(row pgx.CollectableRow) (e stored, err error) {
	err = row.Scan(&e.position, &e.id, &e.topic, &e.about, &e.key, &e.seq, &e.version, &e.coordination, &e.trace, &e.payload, &e.occurred, &e.published)
	return e, err
}

func (o *Outbox) read(ctx context.Context, query string, args ...any) ([]stored, error) {
	return pg.Rows(ctx, o.pool, "read outbox", scanEvent, selectEvents+query, args...)
}

// unpublished reads the first batch of what waits, without some keys, by position. Positions keep the order of the numbers of a
// key. It always reads from the beginning: an event may take its position before a batch is read and commit after that. Reading on
// behind the batch would miss it, and could publish the next event of its key first.
func (o *Outbox) unpublished(ctx context.Context, butFor []string) ([]stored, error) {
	return o.read(ctx, ` WHERE published_at IS NULL AND key <> ALL($1) ORDER BY position LIMIT $2`, butFor, batchSize)
}

func (o *Outbox) markPublished(ctx context.Context, positions []int64) error {
	const query = `UPDATE outbox SET published_at = clock_timestamp(), publications = publications + 1 WHERE position = ANY($1)`
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if err := pg.InTx(ctx, o.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, query, positions)
		return err
	}); err != nil {
		return fmt.Errorf("mark events as published: %w", err)
	}
	return nil
}

func (e stored) header(owner string) *eventv1.Header {
	h := &eventv1.Header{
		EventId: e.id, Topic: e.topic, Producer: owner, Seq: e.seq, SchemaVersion: e.version, Coordination: e.coordination,
		OccurredAt: timestamppb.New(e.occurred), Traceparent: e.trace,
	}
	if e.about == "order" {
		h.OrderId = e.key
	} else {
		h.Sku = e.key
	}
	return h
}

// data is the event's whole message: the header, which is known only once the row is written, and then the stored rest.
func (e stored) data(owner string) []byte {
	header, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e.header(owner))
	if err != nil {
		panic(err) // PostgreSQL keeps no text that is not UTF-8, and the time is of its clock.
	}
	rest := bytes.TrimLeft(bytes.TrimPrefix(bytes.TrimSpace(e.payload), []byte("{")), " ")
	data := append([]byte(`{"header":`), header...)
	if len(rest) > 1 { // More than the closing brace.
		data = append(data, ',')
	}
	return append(data, rest...)
}

func (o *Outbox) event(e stored) bus.Event {
	return bus.Event{
		ID: e.id, Topic: e.topic, Source: o.owner, Key: e.key, Coordination: e.coordination, Time: e.occurred, TraceParent: e.trace,
		Data: e.data(o.owner),
	}
}

// Selection says which events are meant; fields that are zero select all.
type Selection struct {
	OrderIDs    []string
	Topic       string
	Unpublished bool
	Since       time.Time
}

// where is the selection in SQL; its parameters begin at $1.
func (s Selection) where() (sql string, args []any) {
	var all []string
	and := func(condition string, arg any) {
		args = append(args, arg)
		all = append(all, fmt.Sprintf(condition, len(args)))
	}
	if len(s.OrderIDs) > 0 {
		and("about = 'order' AND key = ANY($%d)", s.OrderIDs)
	}
	if s.Topic != "" {
		and("topic = $%d", s.Topic)
	}
	if !s.Since.IsZero() {
		and("occurred_at >= $%d", s.Since)
	}
	if s.Unpublished {
		all = append(all, "published_at IS NULL")
	}
	if len(all) == 0 {
		return "true", nil
	}
	return strings.Join(all, " AND "), args
}

// Listed is an event as lists have it.
type Listed struct {
	// Position orders events; a page begins behind one.
	Position    int64
	Header      *eventv1.Header
	PublishedAt *time.Time
	// Data is the whole message as JSON.
	Data []byte
}

// List returns at most limit events behind a position, oldest first.
func (o *Outbox) List(ctx context.Context, s Selection, after int64, limit int) ([]Listed, error) {
	where, args := s.where()
	args = append(args, after, limit)
	return o.list(ctx, fmt.Sprintf(` WHERE %s AND position > $%d ORDER BY position LIMIT $%d`, where, len(args)-1, len(args)), args...)
}

// Newest returns the newest limit events before a position, oldest first; before 0 is before none.
func (o *Outbox) Newest(ctx context.Context, s Selection, before int64, limit int) ([]Listed, error) {
	where, args := s.where()
	args = append(args, before, limit)
	listed, err := o.list(ctx, fmt.Sprintf(` WHERE %s AND (position < $%d OR $%d = 0) ORDER BY position DESC LIMIT $%d`,
		where, len(args)-1, len(args)-1, len(args)), args...)
	slices.Reverse(listed)
	return listed, err
}

func (o *Outbox) list(ctx context.Context, query string, args ...any) ([]Listed, error) {
	events, err := o.read(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	listed := make([]Listed, len(events))
	for i, e := range events {
		listed[i] = Listed{Position: e.position, Header: e.header(o.owner), PublishedAt: e.published, Data: e.data(o.owner)}
	}
	return listed, nil
}

// Count tells how many events a selection has.
func (o *Outbox) Count(ctx context.Context, s Selection) (events int64, err error) {
	where, args := s.where()
	if err := o.pool.QueryRow(ctx, `SELECT count(*) FROM outbox WHERE `+where, args...).Scan(&events); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return events, nil
}

// Republish makes the relay publish a selection again, and returns how many events that are. Consumers ignore what they know.
func (o *Outbox) Republish(ctx context.Context, s Selection) (events int64, err error) {
	where, args := s.where()
	// InTx tries again after a deadlock: the relay may update some of the same rows in another order.
	err = pg.InTx(ctx, o.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE outbox SET published_at = NULL WHERE `+where, args...)
		events = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("republish events: %w", err)
	}
	o.Committed()
	return events, nil
}

// Began tells since when a database has an outbox: what was committed before has no events.
func Began(ctx context.Context, pool *pgxpool.Pool) (since time.Time, err error) {
	// goose keeps the session's time, and all sessions are in UTC (pg.Open).
	const query = `SELECT min(tstamp) AT TIME ZONE 'UTC' FROM outbox_migrations WHERE version_id > 0`
	if err := pool.QueryRow(ctx, query).Scan(&since); err != nil {
		return time.Time{}, fmt.Errorf("read since when events are written: %w", err)
	}
	return since, nil
}

// Backlog is what waits to be published.
type Backlog struct {
	Events int64
	// Oldest is for how long the oldest has waited.
	Oldest time.Duration
}

// Backlog tells how much waits to be published.
func (o *Outbox) Backlog(ctx context.Context) (b Backlog, err error) {
	const query = `SELECT count(*), coalesce(clock_timestamp() - min(occurred_at), '0') FROM outbox WHERE published_at IS NULL`
	if err := o.pool.QueryRow(ctx, query).Scan(&b.Events, &b.Oldest); err != nil {
		return b, fmt.Errorf("read the outbox's backlog: %w", err)
	}
	return b, nil
}

// prune removes published events that are older than Keep; never one that was not published.
func (o *Outbox) prune(ctx context.Context) error {
	const query = `
		DELETE FROM outbox WHERE position IN (
			SELECT position FROM outbox
			WHERE published_at IS NOT NULL AND occurred_at < clock_timestamp() - $1::interval
			ORDER BY occurred_at LIMIT $2)`
	if err := pg.Prune(ctx, o.pool, query, o.keep); err != nil {
		return fmt.Errorf("prune outbox: %w", err)
	}
	return nil
}
