package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/engine"
)

const (
	// inboxChannel is the PostgreSQL notification channel that tells that something came.
	inboxChannel = "engine_inbox"
	// maxTaken bounds how much is taken out of the inbox at once, takers for how many instances together.
	maxTaken = 256
	takers   = 16
)

const (
	sqlPostStart = `
		WITH posted AS (
			INSERT INTO engine.inbox (id, starts, event)
			SELECT $1, true, $2 WHERE NOT EXISTS (SELECT FROM engine.log WHERE id = $1)
			ON CONFLICT DO NOTHING
			RETURNING n)
		SELECT n, pg_notify('engine_inbox', '') FROM posted`
	sqlPostEvent = `
		WITH posted AS (
			INSERT INTO engine.inbox (id, starts, event)
			SELECT $1, false, $2 WHERE EXISTS (SELECT FROM engine.log WHERE id = $1) OR EXISTS (SELECT FROM engine.inbox WHERE id = $1 AND starts)
			RETURNING n)
		SELECT n, pg_notify('engine_inbox', '') FROM posted`
	sqlInbox    = `SELECT n, id, starts, event FROM engine.inbox ORDER BY n LIMIT $1`
	sqlWithdraw = `DELETE FROM engine.inbox WHERE n = $1`
)

// post puts an event into the inbox, for the process that runs the engine: engine.ErrExists, engine.ErrGone.
func (e *Engine) post(ctx context.Context, query, id string, event *protos.HistoryEvent) error {
	payload, err := backend.MarshalHistoryEvent(event)
	if err != nil {
		return err
	}
	posted, err := e.config.Pool.Exec(ctx, query, id, payload)
	switch {
	case err != nil:
		return err
	case posted.RowsAffected() > 0:
		return nil
	case event.GetExecutionStarted() != nil:
		return engine.ErrExists
	default:
		return engine.ErrGone
	}
}

type posted struct {
	N      int64
	ID     string
	Starts bool
	Event  []byte
}

// takeInbox takes what lies in the inbox, of each instance in the order in which it came.
func (r *runner) takeInbox(ctx context.Context) error {
	select {
	case r.taking <- struct{}{}:
		defer func() { <-r.taking }()
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		rows, err := r.Pool.Query(ctx, sqlInbox, maxTaken)
		if err != nil {
			return err
		}
		came, err := pgx.CollectRows(rows, pgx.RowToStructByPos[posted])
		if err != nil {
			return err
		}
		if len(came) == 0 {
			r.catchUp()
			return nil
		}
		byID := make(map[string][]posted)
		for _, p := range came {
			byID[p.ID] = append(byID[p.ID], p)
		}
		var taking errgroup.Group
		taking.SetLimit(takers)
		for _, ofOne := range byID {
			taking.Go(func() error {
				for _, p := range ofOne {
					if err := r.takePosted(p); err != nil {
						return fmt.Errorf("bring to workflow %s what lies in the inbox: %w", p.ID, err)
					}
				}
				return nil
			})
		}
		if err := taking.Wait(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// catchUp takes note that all is taken that lay in the inbox when this process took over. The caller takes the inbox.
func (r *runner) catchUp() {
	select {
	case <-r.caughtUp:
	default:
		close(r.caughtUp)
	}
}

func (r *runner) takePosted(p posted) error {
	event, err := backend.UnmarshalHistoryEvent(p.Event)
	if err != nil {
		return err
	}
	bring := (*runner).raise
	if p.Starts {
		bring = (*runner).start
	}
	err = bring(r, r.work, p.ID, event, p.N)
	if errors.Is(err, engine.ErrExists) || errors.Is(err, engine.ErrGone) || errors.Is(err, errEnded) {
		_, err = r.Pool.Exec(r.work, sqlWithdraw, p.N) // There is nobody to bring it to.
	}
	return err
}
