package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pause"
)

const (
	// standBy is how often a process that is not the leader asks to become it.
	standBy = time.Second
	// hangUp bounds the farewell to a server that may not answer any more.
	hangUp = time.Second
)

// Lead waits until this process holds the advisory lock that makes it the one leader among all that share a database, and
// then calls work with the connection that holds it, which is work's alone. Leadership ends with that connection, so work
// uses it often enough to notice that it is gone. Lead returns when work does, or with nil when ctx ended before that.
func Lead(ctx context.Context, pool *pgxpool.Pool, lock int64, work func(ctx context.Context, session *pgx.Conn) error) error {
	session, err := waitForLock(ctx, pool, lock)
	if ctx.Err() != nil && session == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer end(session)
	return work(ctx, session)
}

// waitForLock returns a connection of its own that holds the lock.
func waitForLock(ctx context.Context, pool *pgxpool.Pool, lock int64) (*pgx.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to become leader: %w", err)
	}
	// Closed in the end, not given back: the lock ends with the session.
	session := conn.Hijack()
	ask := time.NewTicker(standBy)
	defer ask.Stop()
	for {
		var leads bool
		if err := session.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lock).Scan(&leads); err != nil {
			end(session)
			return nil, fmt.Errorf("ask to become leader: %w", err)
		}
		if leads {
			return session, nil
		}
		select {
		case <-ctx.Done():
			end(session)
			return nil, ctx.Err()
		case <-ask.C:
		}
	}
}

func end(session *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), hangUp)
	defer cancel()
	_ = session.Close(ctx) // The server ends the session of a connection that is gone.
}

// Rounds does rounds of work, a pause between them, whenever this process is the leader of a lock, until ctx ends. A round's error,
// and the loss of leadership, are given to warn and survived. Should another process lead before this one has noticed that it no
// longer does, both do a round: it must bear that.
func Rounds(ctx context.Context, pool *pgxpool.Pool, lock int64, between time.Duration, round func(context.Context) error, warn func(what string, err error)) {
	for ctx.Err() == nil {
		err := Lead(ctx, pool, lock, func(ctx context.Context, session *pgx.Conn) error {
			for {
				if err := session.Ping(ctx); err != nil {
					return fmt.Errorf("keep leadership: %w", err)
				}
				if err := round(ctx); err != nil && ctx.Err() == nil {
					warn("a round failed and is tried again", err)
				}
				if !pause.For(ctx, between) {
					return nil
				}
			}
		})
		if err != nil && ctx.Err() == nil {
			warn("leadership was lost and is asked for again", err)
		}
		pause.For(ctx, between)
	}
}
