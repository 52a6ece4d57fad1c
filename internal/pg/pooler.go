package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrShared means that a pooler between this process and the database, such as PgBouncer in transaction mode, lends each transaction
// another session. Locks of a session, LISTEN and prepared statements do not work then, and two processes might lead at once.
var ErrShared = errors.New("a connection pooler lends a session for one transaction only (as PgBouncer with pool_mode = transaction does), " +
	"so locks and notifications would get lost: name the database itself, or a pooler in session mode")

// pooledLooks is how often to look for a pooler. Others that use it at the same moment can hide it.
const pooledLooks = 3

// lookTimeout bounds one look: a pooler without a free session makes the second connection wait.
const lookTimeout = 5 * time.Second

// ownSession returns ErrShared if a connection has no session of its own. Without a pooler it asks one thing.
func ownSession(ctx context.Context, conn *pgx.Conn) error {
	session, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if session == conn.PgConn().PID() {
		return nil // The session that greeted us answers. A pooler greets for itself.
	}
	for range pooledLooks {
		if err := lookThrough(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// lookThrough lets another connection keep a session busy while the first is asked again. Two connections with sessions of their
// own never see each other's.
func lookThrough(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	second, err := pgx.ConnectConfig(ctx, conn.Config())
	if err != nil {
		return fmt.Errorf("look at connection pooler: %w", err)
	}
	defer end(second)
	before, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if _, err := second.Exec(ctx, `BEGIN`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("look at connection pooler: %w", err)
	}
	kept, err := backend(ctx, second)
	if err != nil {
		return err
	}
	if kept == before {
		return ErrShared
	}
	after, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if after != before {
		return ErrShared
	}
	return nil
}

// backend is the process id of the session that answers.
func backend(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	// The simple protocol, because a pooler may also mix up prepared statements.
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`, pgx.QueryExecModeSimpleProtocol).Scan(&pid); err != nil {
		return 0, fmt.Errorf("ask for session of database: %w", err)
	}
	return pid, nil
}
