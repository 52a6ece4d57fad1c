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

// record stores what is to be sent, in the transaction of its event, and supersedes older unsent notifications of the order. late
// says that it is itself older than what is known; then it is only kept to be seen.
func record(ctx context.Context, tx pgx.Tx, m Message, seq int64) (late bool, err error) {
	// The events of an order take turns here, so that of two at once the later to commit sees the other.
	const turn = `
		INSERT INTO orders (order_id, seq) VALUES ($1, $2)
		ON CONFLICT (order_id) DO UPDATE SET seq = greatest(orders.seq, excluded.seq)
		RETURNING seq > $2`
	if err := tx.QueryRow(ctx, turn, m.OrderID, seq).Scan(&late); err != nil {
		return false, fmt.Errorf("record order: %w", err)
	}
	const (
		insert = `
			INSERT INTO notifications (event_id, order_id, seq, customer_id, subject, body, state, due_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $7 = 'waiting' THEN clock_timestamp() END)`
		// What is in hand is superseded too: if it fails it is not tried again, and otherwise it becomes sent.
		supersede = `
			UPDATE notifications SET state = 'superseded', due_at = NULL
			WHERE order_id = $1 AND seq < $2 AND state = 'waiting'`
	)
	become := waiting
	if late {
		become = superseded
	}
	batch := &pgx.Batch{}
	batch.Queue(supersede, m.OrderID, seq)
	batch.Queue(insert, m.EventID, m.OrderID, seq, m.CustomerID, m.Subject, m.Body, string(become))
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return false, fmt.Errorf("record notification: %w", err)
	}
	return late, nil
}

// store runs the SQL.
type store struct{ pool *pgxpool.Pool }

// claim leases the notification that has been due longest. It counts the attempt before it is made: a crash in the middle must
// count too, or a customer could be mailed without end. A notification waits while an older one of its order is leased; the sender
// of that one looks again when it is done.
func (s *store) claim(ctx context.Context, p pace) (n notification, found bool, err error) {
	const query = `
		WITH next AS (
			SELECT event_id FROM notifications AS n
			WHERE state = 'waiting' AND due_at <= now() AND attempts < $2 AND NOT EXISTS (
				SELECT FROM notifications AS older
				WHERE older.order_id = n.order_id AND older.seq < n.seq AND older.in_hand_until > now())
			ORDER BY due_at LIMIT 1
			FOR UPDATE SKIP LOCKED)
		UPDATE notifications AS n
		SET attempts = attempts + 1, due_at = now() + $1::interval, in_hand_until = now() + $1::interval
		FROM next WHERE n.event_id = next.event_id
		RETURNING ` + columns
	all, err := s.query(ctx, query, p.lease, p.attempts)
	if err != nil || len(all) == 0 {
		return notification{}, false, err
	}
	return all[0], true, nil
}

// markSent stores that a notification was sent, whatever happened meanwhile.
func (s *store) markSent(ctx context.Context, n notification) error {
	const query = `
		UPDATE notifications SET state = 'sent', sent_at = clock_timestamp(), due_at = NULL, in_hand_until = NULL, error = ''
		WHERE event_id = $1 AND state <> 'sent'`
	if _, err := s.pool.Exec(ctx, query, n.EventID); err != nil {
		return fmt.Errorf("write notification: %w", err)
	}
	return nil
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
	return pg.Rows(ctx, s.pool, "read notifications", func(row pgx.CollectableRow) (n notification, err error) {
		err = row.Scan(&n.EventID, &n.OrderID, &n.CustomerID, &n.Subject, &n.Body, &n.CreatedAt, &n.state, &n.attempts, &n.error, &n.sentAt)
		return n, err
	}, query, args...)
}
