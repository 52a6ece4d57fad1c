// Package pgtest gives each test a PostgreSQL database of its own, on one real server that all tests of the checkout share.
package pgtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// server starts the shared server, or finds it running. It is left running for the next test; `make down` stops it.
var server = sync.OnceValues(func() (*localstack.Postgres, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	local, err := localstack.LocalDir(root)
	if err != nil {
		return nil, err
	}
	return localstack.StartPostgres(ctx, filepath.Join(local, "test-postgres"), localstack.PostgresOptions{Throwaway: true})
})

func running(t testing.TB) *localstack.Postgres {
	t.Helper()
	srv, err := server()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	return srv
}

// URL is the connection string of an empty database that is dropped when the test ends. It is that of a role that owns the database
// and may do nothing else, as applications have it.
func URL(t testing.TB) string {
	t.Helper()
	srv := running(t)
	name := fmt.Sprintf("test_%08x", rand.Uint32())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url, err := srv.EnsureDatabase(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { execute(t, srv, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)", "DROP ROLE "+name) })
	return url
}

// SuperuserURL is the connection string of the same database for a superuser.
func SuperuserURL(t testing.TB, url string) string {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal("not a connection string of URL")
	}
	return running(t).SuperuserURL(config.Database)
}

// Pool is a pool of at most 10 connections to an empty database of the test's own.
func Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), URL(t), 10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func execute(t testing.TB, srv *localstack.Postgres, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, srv.SuperuserURL("postgres"))
	if err != nil {
		t.Fatalf("reach PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// moduleRoot is the folder of go.mod, above the package under test.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
}
