// Package pg opens PostgreSQL pools, applies migrations and runs transactions. It knows no tables.
package pg

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Open returns a pool of at most maxConns connections to the database at url. It checks that the database answers and that each
// connection has a session of its own (ErrShared). The caller closes the pool.
func Open(ctx context.Context, url string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The parser's own message repeats the url, password included, so it is not wrapped.
		return nil, errors.New("parse database url: not a PostgreSQL connection string")
	}
	config.MaxConns = maxConns
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	config.ConnConfig.DialFunc = Dialer().DialContext
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	config.AfterConnect = planForGrowth
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", config.ConnConfig.Database, err)
	}
	if err := pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return ownSession(ctx, conn.Conn()) }); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach database %s at %s:%d: %w",
			config.ConnConfig.Database, config.ConnConfig.Host, config.ConnConfig.Port, err)
	}
	return pool, nil
}

// planForGrowth has each statement planned once, and for the tables that there will be. PostgreSQL plans a statement over arrays anew each
// time that it is executed, because it guesses that a plan for just these arrays is cheaper; that takes as long as the execution. A plan
// that was made while a table was small would read all of it, until PostgreSQL looks at the table's size, a minute or more later. A plan
// that has to read a whole table all the same looks so dear then that PostgreSQL would compile it, for some 40 ms; hence no jit. (A
// startup parameter would be refused by PgBouncer.)
func planForGrowth(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off`, pgx.QueryExecModeSimpleProtocol)
	return err
}

// Migrations are the goose files of one owner of tables.
type Migrations struct {
	// Files has them at its root.
	Files fs.FS
	// Table records which were applied; empty means goose's own. Owners that share a database have one each.
	Table string
}

// EmbeddedMigrations are the files in the folder migrations/ that an owner's package embeds.
func EmbeddedMigrations(files embed.FS, table string) Migrations {
	root, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // Only an invalid path is refused.
	}
	return Migrations{Files: root, Table: table}
}

// OpenMigrated is Open, and then Migrate.
func OpenMigrated(ctx context.Context, url string, maxConns int32, owners ...Migrations) (*pgxpool.Pool, error) {
	pool, err := Open(ctx, url, maxConns)
	if err != nil {
		return nil, err
	}
	if err := Migrate(ctx, pool, owners...); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// Migrate brings the database of pool to the newest of each owner's migrations, in turn. Several processes may call it at
// once: a lock in the database lets one go first.
func Migrate(ctx context.Context, pool *pgxpool.Pool, owners ...Migrations) error {
	for _, m := range owners {
		if err := m.apply(ctx, pool); err != nil {
			return err
		}
	}
	return nil
}

func (m Migrations) apply(ctx context.Context, pool *pgxpool.Pool) error {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	// At most five minutes for another process that is migrating the same database.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("make migration lock: %w", err)
	}
	provider, err := m.provider(db, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	return nil
}

func (m Migrations) provider(db *sql.DB, options ...goose.ProviderOption) (*goose.Provider, error) {
	if m.Table != "" {
		options = append(options, goose.WithTableName(m.Table))
	}
	return goose.NewProvider(goose.DialectPostgres, db, m.Files, options...)
}

// Pending returns how many of the migrations the database of pool still lacks.
func Pending(ctx context.Context, pool *pgxpool.Pool, owners ...Migrations) (int, error) {
	pending := 0
	for _, m := range owners {
		lacking, err := m.pending(ctx, pool)
		if err != nil {
			return 0, err
		}
		pending += lacking
	}
	return pending, nil
}

func (m Migrations) pending(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := m.provider(db)
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	status, err := provider.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("read migration status: %w", err)
	}
	pending := 0
	for _, s := range status {
		if s.State == goose.StatePending {
			pending++
		}
	}
	return pending, nil
}

// InTx runs work in a transaction and commits it if work returns nil. A transaction that PostgreSQL ended because of a
// deadlock or a serialization failure is run again, at most three times in all, so work must have no effect outside of it.
func InTx(ctx context.Context, pool *pgxpool.Pool, work func(tx pgx.Tx) error) error {
	var err error
	for range 3 {
		err = pgx.BeginFunc(ctx, pool, work)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || (pgErr.Code != deadlockDetected && pgErr.Code != serializationFailure) {
			return err
		}
	}
	return err
}

// PostgreSQL's names for the two failures that a repetition cures (its documentation, appendix A).
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)
