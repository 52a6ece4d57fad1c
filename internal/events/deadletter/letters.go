package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// States of a letter.
const (
	open     = "open"
	replayed = "replayed"
	archived = "archived"
	all      = "all"
)

// letters are the rows.
type letters struct{ pool *pgxpool.Pool }

// letter is a dead letter without its message.
type letter struct {
	id                int64
	topic             string
	eventID, orderID  string
	occurredAt        *time.Time
	fault             string
	state             string
	arrivals          int32
	arrivedAt, lastAt time.Time
	settledAt         *time.Time
	replays           int32
	size              int64
	actor, reason     string
	// failures are in the order of time, the last one first.
	failures []failure
	// unasked are the consumers that have not been asked since it last arrived.
	unasked []string
}

const idPrefix = "dl-"

// idText is a letter's id as people type it.
func idText(id int64) string { return idPrefix + strconv.FormatInt(id, 10) }

// parseID returns 0, the id of no letter, for a text that is no id.
func parseID(text string) int64 {
	digits, found := strings.CutPrefix(text, idPrefix)
	id, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || idText(id) != text {
		return 0
	}
	return id
}

// keep stores a message, or counts that it arrived again. A settled letter is open again then, because a consumer has failed anew.
// All consumers are to be asked.
func (l letters) keep(ctx context.Context, a arrival) (id string, err error) {
	const query = `
		WITH letter AS (
		    INSERT INTO dead_letters (digest, topic, message_id, event_id, order_id, occurred_at, fault, message)
		    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		    ON CONFLICT (digest) DO UPDATE
		    SET arrivals = dead_letters.arrivals + 1, last_arrived_at = clock_timestamp(), state = 'open', settled_at = NULL
		    RETURNING id, arrivals
		), questions AS (
		    INSERT INTO dead_letter_questions (consumer, letter, arrival)
		    SELECT consumer, id, arrivals FROM letter, unnest($9::text[]) AS consumers (consumer)
		    ON CONFLICT (consumer, letter) DO UPDATE SET arrival = excluded.arrival)
		SELECT id FROM letter`
	var number int64
	if err := l.pool.QueryRow(ctx, query, a.digest[:], a.topic, a.messageID, a.eventID, a.orderID, a.occurredAt, a.fault, a.message,
		a.consumers).Scan(&number); err != nil {
		return "", fmt.Errorf("keep dead letter: %w", err)
	}
	return idText(number), nil
}

// questions are the letters to ask a consumer about, oldest first.
func (l letters) questions(ctx context.Context, consumer string, limit int) ([]question, error) {
	const query = `
		SELECT q.letter, q.arrival, l.topic, l.message_id, l.event_id
		FROM dead_letter_questions AS q JOIN dead_letters AS l ON l.id = q.letter
		WHERE q.consumer = $1 ORDER BY q.letter LIMIT $2`
	return pg.Rows(ctx, l.pool, "read questions", func(row pgx.CollectableRow) (q question, err error) {
		err = row.Scan(&q.letter, &q.arrival, &q.topic, &q.messageID, &q.eventID)
		return q, err
	}, query, consumer, limit)
}

// answer stores what a consumer said. A question about a later arrival stays.
func (l letters) answer(ctx context.Context, consumer string, questions []question, failures map[int64]failure) error {
	const answered = `
		DELETE FROM dead_letter_questions AS q USING unnest($2::bigint[], $3::integer[]) AS asked (letter, arrival)
		WHERE q.consumer = $1 AND q.letter = asked.letter AND q.arrival = asked.arrival`
	const recovered = `DELETE FROM dead_letter_failures WHERE consumer = $1 AND letter = ANY($2)`
	// Since it was asked the letter may have been pruned.
	const failed = `
		INSERT INTO dead_letter_failures (letter, consumer, attempts, error, last_at)
		SELECT id, $2, $3, $4, $5 FROM dead_letters WHERE id = $1
		ON CONFLICT (letter, consumer) DO UPDATE SET attempts = excluded.attempts, error = excluded.error, last_at = excluded.last_at`
	var ids []int64
	var arrivals []int32
	for _, q := range questions {
		ids, arrivals = append(ids, q.letter), append(arrivals, q.arrival)
	}
	batch := &pgx.Batch{}
	batch.Queue(answered, consumer, ids, arrivals)
	batch.Queue(recovered, consumer, ids)
	for _, q := range questions { // In one order, or two askers would wait for each other.
		if f, has := failures[q.letter]; has {
			batch.Queue(failed, q.letter, consumer, f.Attempts, f.Error, f.LastAt)
		}
	}
	err := pg.InTx(ctx, l.pool, func(tx pgx.Tx) error { return tx.SendBatch(ctx, batch).Close() })
	if err != nil {
		return fmt.Errorf("write down causes: %w", err)
	}
	return nil
}

// selection is a deadletter.v1.Selection after its check.
type selection struct {
	// named says that ids were given, even if none of them can be one.
	named                  bool
	ids                    []int64
	topic, consumer, state string
	eventIDs               []string
}

func (s selection) where() (sql string, args []any) {
	var conditions []string
	and := func(condition string, arg any) {
		args = append(args, arg)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	if s.named {
		and("l.id = ANY($%d)", s.ids)
	}
	if s.topic != "" {
		and("l.topic = $%d", s.topic)
	}
	if s.consumer != "" {
		and("EXISTS (SELECT FROM dead_letter_failures WHERE letter = l.id AND consumer = $%d)", s.consumer)
	}
	if s.state != all {
		and("l.state = $%d", s.state)
	}
	if s.eventIDs != nil {
		and("l.event_id = ANY($%d)", s.eventIDs)
	}
	if len(conditions) == 0 {
		return "true", nil
	}
	return strings.Join(conditions, " AND "), args
}

// list returns at most limit letters behind an id, oldest first.
func (l letters) list(ctx context.Context, s selection, after int64, limit int) ([]letter, error) {
	where, args := s.where()
	args = append(args, after, limit)
	query := fmt.Sprintf(`
		SELECT l.id, l.topic, l.event_id, l.order_id, l.occurred_at, l.fault, l.state, l.arrivals, l.arrived_at, l.last_arrived_at,
		       l.settled_at, l.replays, length(l.message), coalesce(act.actor, ''), coalesce(act.reason, ''),
		       coalesce((SELECT json_agg(json_build_object('consumer', consumer, 'attempts', attempts, 'error', error, 'last_at', last_at)
		                                 ORDER BY last_at DESC, consumer)
		                 FROM dead_letter_failures WHERE letter = l.id), '[]'),
		       ARRAY(SELECT consumer FROM dead_letter_questions WHERE letter = l.id ORDER BY consumer)
		FROM dead_letters AS l
		LEFT JOIN LATERAL (SELECT actor, reason FROM dead_letter_acts WHERE letter = l.id ORDER BY id DESC LIMIT 1) AS act ON true
		WHERE %s AND l.id > $%d ORDER BY l.id LIMIT $%d`, where, len(args)-1, len(args))
	return pg.Rows(ctx, l.pool, "list dead letters", func(row pgx.CollectableRow) (r letter, err error) {
		err = row.Scan(&r.id, &r.topic, &r.eventID, &r.orderID, &r.occurredAt, &r.fault, &r.state, &r.arrivals, &r.arrivedAt, &r.lastAt,
			&r.settledAt, &r.replays, &r.size, &r.actor, &r.reason, &r.failures, &r.unasked)
		return r, err
	}, query, args...)
}

var errGone = errors.New("no such dead letter")

// message returns a letter's message and how often it had arrived by then, or errGone.
func (l letters) message(ctx context.Context, id int64) (message []byte, arrivals int32, err error) {
	err = l.pool.QueryRow(ctx, `SELECT message, arrivals FROM dead_letters WHERE id = $1`, id).Scan(&message, &arrivals)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, errGone
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read dead letter: %w", err)
	}
	return message, arrivals, nil
}

// act is what somebody does with a letter.
type act struct {
	At                  time.Time
	What, Actor, Reason string
}

func (l letters) acts(ctx context.Context, id int64) ([]act, error) {
	return pg.Rows(ctx, l.pool, "read acts", pgx.RowToStructByPos[act], `SELECT at, what, actor, reason FROM dead_letter_acts WHERE letter = $1 ORDER BY id`, id)
}

// markReplayed writes down that a letter was published. If it has arrived again since its arrivals were counted, it failed again
// and stays open.
func (l letters) markReplayed(ctx context.Context, id int64, arrivals int32, a act) error {
	const query = `
		WITH marked AS (
		    UPDATE dead_letters
		    SET replays = replays + 1,
		        state = CASE WHEN arrivals = $2 THEN 'replayed' ELSE 'open' END,
		        settled_at = CASE WHEN arrivals = $2 THEN clock_timestamp() END
		    WHERE id = $1 RETURNING id)
		INSERT INTO dead_letter_acts (letter, what, actor, reason) SELECT id, 'replayed', $3, $4 FROM marked`
	if _, err := l.pool.Exec(ctx, query, id, arrivals, a.Actor, a.Reason); err != nil {
		return fmt.Errorf("mark dead letter as replayed: %w", err)
	}
	return nil
}

func (l letters) archive(ctx context.Context, ids []int64, a act) error {
	const query = `
		WITH marked AS (
		    UPDATE dead_letters SET state = 'archived', settled_at = clock_timestamp() WHERE id = ANY($1) RETURNING id)
		INSERT INTO dead_letter_acts (letter, what, actor, reason) SELECT id, 'archived', $2, $3 FROM marked`
	if _, err := l.pool.Exec(ctx, query, ids, a.Actor, a.Reason); err != nil {
		return fmt.Errorf("archive dead letters: %w", err)
	}
	return nil
}

// prune removes what was settled longer ago than keep.
func (l letters) prune(ctx context.Context, keep time.Duration) error {
	const query = `
		DELETE FROM dead_letters WHERE id IN (
			SELECT id FROM dead_letters WHERE settled_at < clock_timestamp() - $1::interval ORDER BY settled_at LIMIT $2)`
	if err := pg.Prune(ctx, l.pool, query, keep); err != nil {
		return fmt.Errorf("prune dead letters: %w", err)
	}
	return nil
}
