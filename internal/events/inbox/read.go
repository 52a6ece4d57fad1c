package inbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// pruneEvery is how often what is no longer remembered is removed.
const pruneEvery = time.Hour

// Receipt says that an event was received.
type Receipt struct {
	EventID string
	// Outcome is "applied" or "late".
	Outcome    string
	ReceivedAt time.Time
}

// Received tells which of the events were received.
func (in *Inbox) Received(ctx context.Context, eventIDs []string) ([]Receipt, error) {
	return pg.Rows(ctx, in.pool, "read inbox", pgx.RowToStructByPos[Receipt], `SELECT event_id, outcome, received_at FROM inbox WHERE event_id = ANY($1)`, eventIDs)
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
	return pg.Rows(ctx, in.pool, "read failures", pgx.RowToStructByPos[Failure], query, messageIDs)
}

// App is the app that receives.
func (in *Inbox) App() string { return in.app }

// Prune removes what is no longer remembered, every pruneEvery, until ctx ends.
func (in *Inbox) Prune(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := in.prune(ctx); err != nil && ctx.Err() == nil {
			in.log.Warn("the inbox was not pruned; it is tried again", "error", err)
		}
		pause.For(ctx, pruneEvery)
	}
	return nil
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
		if err := pg.Prune(ctx, in.pool, query, in.remember+day); err != nil {
			return fmt.Errorf("prune inbox: %w", err)
		}
	}
	return nil
}
