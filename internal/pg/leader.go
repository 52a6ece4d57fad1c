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
	// standBy is how often a process that does not lead tries to.
	standBy = time.Second
	// hangUp bounds closing a connection whose server may not answer any more.
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
			// A pooler may have come between since the pool was opened. It would keep the lock for nobody.
			if err := ownSession(ctx, session); err != nil {
				end(session)
				return nil, fmt.Errorf("become leader: %w", err)
			}
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

// askTimeout bounds asking a session whether it lives.
const askTimeout = 5 * time.Second

// Hold pings a leader's session until ctx ends. It returns an error when the session is lost, and the lock with it. When ctx ends
// the session stays usable: what is finished after that still needs the lock.
func Hold(ctx context.Context, session *pgx.Conn, every time.Duration) error {
	for pause.For(ctx, every) {
		if err := Ask(context.WithoutCancel(ctx), session); err != nil {
			return err
		}
	}
	return nil
}

// Ask finds out whether a silent session lives: a connection may break without either end being told.
func Ask(ctx context.Context, session *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := session.Ping(ctx); err != nil {
		return fmt.Errorf("keep leadership: %w", err)
	}
	return nil
}

// Rounds waits until this process leads, by a lock. Then it does rounds of work, a pause between them, until ctx ends, which is no
// error, or leadership is lost. A round's error is given to warn, and the next round comes. A round must bear that another process
// does one at the same time, because a leader may notice late that it no longer leads.
func Rounds(ctx context.Context, pool *pgxpool.Pool, lock int64, between time.Duration, round func(context.Context) error, warn func(error)) error {
	return Lead(ctx, pool, lock, func(ctx context.Context, session *pgx.Conn) error {
		for {
			if err := Ask(ctx, session); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if err := round(ctx); err != nil && ctx.Err() == nil {
				warn(err)
			}
			if !pause.For(ctx, between) {
				return nil
			}
		}
	})
}
