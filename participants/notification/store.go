package notification

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// told is what is to be sent, with the number of the status that it tells.
type told struct {
	Message
	seq int64
}

// record stores what is to be sent, in the transaction of its events, and supersedes older unsent notifications of the orders. late
// says of each that it is itself older than what is known; then it is only kept to be seen.
func record(ctx context.Context, tx pgx.Tx, all []told) (late []bool, err error) {
	// The events of an order take turns here, so that of two at once the later to commit sees the other. Orders are locked in one order.
	const turn = `
		INSERT INTO orders (order_id, seq)
		SELECT order_id, max(seq) FROM unnest($1::text[], $2::bigint[]) AS told (order_id, seq) GROUP BY order_id ORDER BY order_id
		ON CONFLICT (order_id) DO UPDATE SET seq = greatest(orders.seq, excluded.seq)
		RETURNING order_id, seq`
	n := len(all)
	events, orders, seqs, customers := make([]string, n), make([]string, n), make([]int64, n), make([]string, n)
	subjects, bodies, states := make([]string, n), make([]string, n), make([]string, n)
	for i, m := range all {
		events[i], orders[i], seqs[i], customers[i], subjects[i], bodies[i] = m.EventID, m.OrderID, m.seq, m.CustomerID, m.Subject, m.Body
	}
	newest := make(map[string]int64, n)
	rows, err := tx.Query(ctx, turn, orders, seqs)
	if err != nil {
		return nil, fmt.Errorf("record orders: %w", err)
	}
	var order string
	var seq int64
	if _, err := pgx.ForEachRow(rows, []any{&order, &seq}, func() error { newest[order] = seq; return nil }); err != nil {
		return nil, fmt.Errorf("record orders: %w", err)
	}

	late = make([]bool, n)
	for i, m := range all {
		states[i] = string(waiting)
		if late[i] = newest[m.OrderID] > m.seq; late[i] {
			states[i] = string(superseded)
		}
	}
	const (
		// What is in hand is superseded too: if it fails it is not tried again, and otherwise it becomes sent. Rows are locked in the
		// order in which turn locks too, or two who do could wait for each other.
		supersede = `
			UPDATE notifications SET state = 'superseded', due_at = NULL
			WHERE event_id IN (
				SELECT n.event_id FROM unnest($1::text[], $2::bigint[]) AS told (order_id, seq)
				JOIN notifications AS n ON n.order_id = told.order_id AND n.seq < told.seq
				WHERE n.state = 'waiting' ORDER BY n.order_id, n.seq FOR UPDATE OF n)`
		insert = `
			INSERT INTO notifications (event_id, order_id, seq, customer_id, subject, body, state, due_at)
			SELECT *, CASE WHEN state = 'waiting' THEN clock_timestamp() END
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
			     AS told (event_id, order_id, seq, customer_id, subject, body, state)`
	)
	batch := &pgx.Batch{}
	batch.Queue(supersede, orders, seqs)
	batch.Queue(insert, events, orders, seqs, customers, subjects, bodies, states)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("record notifications: %w", err)
	}
	return late, nil
}

// store runs the SQL.
type store struct{ pool *pgxpool.Pool }

// turn stores which notifications were sent, whatever happened to them meanwhile, and leases at most as many as there are places of those
// that have been due longest: in one transaction. It counts an attempt before it is made: a crash in the middle must count too, or a
// customer could be mailed without end. A notification waits while an older one of its order is leased; the turn that stores what came
// of that one finds it.
func (s *store) turn(ctx context.Context, p pace, sent []string, places int) (leased []notification, err error) {
	const (
		// Locked in one order, as record does.
		mark = `
			UPDATE notifications SET state = 'sent', sent_at = clock_timestamp(), due_at = NULL, in_hand_until = NULL, error = ''
			WHERE event_id IN (
				SELECT event_id FROM notifications WHERE event_id = ANY($1) AND state <> 'sent' ORDER BY order_id, seq FOR UPDATE)`
		claim = `
			WITH next AS (
				SELECT event_id FROM notifications AS n
				WHERE state = 'waiting' AND due_at <= now() AND attempts < $2 AND NOT EXISTS (
					SELECT FROM notifications AS older
					WHERE older.order_id = n.order_id AND older.seq < n.seq AND older.in_hand_until > now())
				ORDER BY due_at LIMIT %d
				FOR UPDATE SKIP LOCKED)
			UPDATE notifications AS n
			SET attempts = attempts + 1, due_at = now() + $1::interval, in_hand_until = now() + $1::interval
			FROM next WHERE n.event_id = next.event_id
			RETURNING ` + columns
	)
	batch := &pgx.Batch{}
	if len(sent) > 0 {
		batch.Queue(mark, sent)
	}
	if places > 0 {
		// The number stands in the text: not knowing how small it is, PostgreSQL would sort all that is due.
		batch.Queue(fmt.Sprintf(claim, places), p.lease, p.attempts).Query(func(rows pgx.Rows) (err error) {
			leased, err = pgx.CollectRows(rows, scan)
			return err
		})
	}
	if batch.Len() == 0 {
		return nil, nil
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("claim notifications: %w", err)
	}
	return leased, nil
}

// markFailed stores that an attempt failed, and returns what the notification is now: waiting for the next attempt, failed if this
// was the last, or what it became meanwhile. An attempt that outlived its lease changes nothing.
func (s *store) markFailed(ctx context.Context, n notification, cause error, last bool, pause time.Duration) (now state, err error) {
	const query = `
		UPDATE notifications
		SET error = $3, in_hand_until = NULL,
		    state = CASE WHEN state = 'waiting' AND $4 THEN 'failed' ELSE state END,
		    due_at = CASE WHEN state = 'waiting' AND NOT $4 THEN now() + $5::interval END
		WHERE event_id = $1 AND attempts = $2 AND state <> 'sent'
		RETURNING state`
	err = s.pool.QueryRow(ctx, query, n.EventID, n.attempts, why(cause), last, pause).Scan(&now)
	if errors.Is(err, pgx.ErrNoRows) {
		return n.state, nil
	}
	if err != nil {
		return n.state, fmt.Errorf("write notification: %w", err)
	}
	return now, nil
}

// giveUpCutOff gives up those whose last attempt a crash cut off, and returns how many.
func (s *store) giveUpCutOff(ctx context.Context, p pace) (int64, error) {
	const query = `
		UPDATE notifications SET state = 'failed', error = $2, in_hand_until = NULL, due_at = NULL
		WHERE state = 'waiting' AND due_at <= now() AND attempts >= $1`
	tag, err := s.pool.Exec(ctx, query, p.attempts, why(errCutOff))
	if err != nil {
		return 0, fmt.Errorf("write notifications: %w", err)
	}
	return tag.RowsAffected(), nil
}

// list returns the notifications of an order, oldest first.
func (s *store) list(ctx context.Context, orderID string) ([]notification, error) {
	return s.query(ctx, `SELECT `+columns+` FROM notifications AS n WHERE order_id = $1 ORDER BY seq`, orderID)
}

const columns = `n.event_id, n.order_id, n.customer_id, n.subject, n.body, n.created_at, n.state, n.attempts, n.error, n.sent_at`

func (s *store) query(ctx context.Context, query string, args ...any) ([]notification, error) {
	return pg.Rows(ctx, s.pool, "read notifications", scan, query, args...)
}

func scan(row pgx.CollectableRow) (n notification, err error) {
	err = row.Scan(&n.EventID, &n.OrderID, &n.CustomerID, &n.Subject, &n.Body, &n.CreatedAt, &n.state, &n.attempts, &n.error, &n.sentAt)
	return n, err
}
