package inbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pruneEvery is how often what is no longer remembered is removed, pruneBatch how much at a time.
	pruneEvery, pruneBatch = time.Hour, 1000
)

// Receipt says that an event was received.
type Receipt struct {
	EventID string
	// Outcome is "applied" or "late".
	Outcome    string
	ReceivedAt time.Time
}

// Received tells which of the events were received.
func (in *Inbox) Received(ctx context.Context, eventIDs []string) ([]Receipt, error) {
	rows, err := in.pool.Query(ctx, `SELECT event_id, outcome, received_at FROM inbox WHERE event_id = ANY($1)`, eventIDs)
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	receipts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Receipt])
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	return receipts, nil
}

// Failure says why deliveries of a message failed.
type Failure struct {
	MessageID, Topic string
	Attempts         int32
	// Error is the last attempt's.
	Error           string
	Dropped         bool
	FirstAt, LastAt time.Time
}

// Failures returns what is known of the messages whose deliveries failed.
func (in *Inbox) Failures(ctx context.Context, messageIDs []string) ([]Failure, error) {
	const query = `
		SELECT message_id, topic, attempts, error, dropped, first_at, last_at FROM delivery_failures
		WHERE message_id = ANY($1) ORDER BY last_at`
	rows, err := in.pool.Query(ctx, query, messageIDs)
	if err != nil {
		return nil, fmt.Errorf("read failures: %w", err)
	}
	failures, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Failure])
	if err != nil {
		return nil, fmt.Errorf("read failures: %w", err)
	}
	return failures, nil
}

// App is the app that receives.
func (in *Inbox) App() string { return in.app }

// Prune removes what is no longer remembered, every pruneEvery, until ctx ends.
func (in *Inbox) Prune(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := in.prune(ctx); err != nil && ctx.Err() == nil {
			in.log.Warn("the inbox was not pruned; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// prune keeps a day more than what is refused as too old, because clocks differ.
func (in *Inbox) prune(ctx context.Context) error {
	const day = 24 * time.Hour
	for _, query := range []string{
		`DELETE FROM inbox WHERE event_id IN (
			SELECT event_id FROM inbox WHERE received_at < clock_timestamp() - $1::interval ORDER BY received_at LIMIT $2)`,
		`DELETE FROM delivery_failures WHERE (message_id, topic) IN (
			SELECT message_id, topic FROM delivery_failures WHERE last_at < clock_timestamp() - $1::interval ORDER BY last_at LIMIT $2)`,
	} {
		for {
			tag, err := in.pool.Exec(ctx, query, in.remember+day, pruneBatch)
			if err != nil {
				return fmt.Errorf("prune inbox: %w", err)
			}
			if tag.RowsAffected() < pruneBatch {
				break
			}
		}
	}
	return nil
}

// cut shortens a text to maxError bytes of valid UTF-8 without a zero byte, as PostgreSQL wants it.
func cut(s string) string {
	s = strings.ReplaceAll(s, "\x00", "?")
	return strings.ToValidUTF8(s[:min(len(s), maxError)], "")
}
