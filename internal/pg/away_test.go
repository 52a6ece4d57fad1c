package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAwayIsWhatWaitingMends(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		away bool
	}{
		"the server was told to stop": {&pgconn.PgError{Code: "57P01"}, true},
		"the server is starting":      {&pgconn.PgError{Code: "57P03"}, true},
		"no connection is left":       {&pgconn.PgError{Code: "53300"}, true},
		"the disk is full":            {&pgconn.PgError{Code: "53100"}, true},
		"the disk fails":              {&pgconn.PgError{Code: "58030"}, true},
		"the connection broke":        {fmt.Errorf("read order: %w", io.ErrUnexpectedEOF), true},
		"a unique key is there":       {&pgconn.PgError{Code: "23505"}, false},
		"a query was cancelled":       {&pgconn.PgError{Code: "57014"}, false},
		"the password is wrong":       {&pgconn.PgError{Code: "28P01"}, false},
		"the database does not exist": {&pgconn.PgError{Code: "3D000"}, false},
		"the caller has gone":         {fmt.Errorf("read order: %w", context.Canceled), false},
		"a query took too long":       {fmt.Errorf("read order: %w", context.DeadlineExceeded), false},
		"anything else":               {errors.New("no such article"), false},
		"nothing":                     {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.away, pg.Away(test.err))
		})
	}
}

func TestAwayKnowsHowARealServerGoes(t *testing.T) {
	t.Parallel()
	_, err := pg.Open(t.Context(), "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", 1)
	require.True(t, pg.Away(err), "nobody listens: %v", err)

	pool := pgtest.Pool(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, conn.Conn().PgConn().PID())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err = conn.Exec(t.Context(), `SELECT 1`)
		return err != nil
	}, 5*time.Second, time.Millisecond)
	require.True(t, pg.Away(err), "its backend was terminated: %v", err)
	_, err = conn.Exec(t.Context(), `SELECT 1`)
	require.True(t, pg.Away(err), "and the connection is closed: %v", err)
}
