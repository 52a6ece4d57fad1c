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
	return localstack.StartPostgres(ctx, filepath.Join(root, ".local", "test-postgres"), localstack.PostgresOptions{Throwaway: true})
})

// URL is the connection string of an empty database that is dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	srv, err := server()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name := fmt.Sprintf("test_%08x", rand.Uint32())
	exec(t, srv, "CREATE DATABASE "+name)
	t.Cleanup(func() { exec(t, srv, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return srv.URL(name)
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

func exec(t testing.TB, srv *localstack.Postgres, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, srv.URL("postgres"))
	if err != nil {
		t.Fatalf("reach PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
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
