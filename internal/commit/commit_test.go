package commit_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// counters is a table whose changes add to a counter, which must not come below zero.
type counters struct {
	// deciding, where set, is called in each decision.
	deciding func()
}

type addition struct {
	name string
	add  int
	was  int
}

func (c *counters) Read(batch *pgx.Batch, changes []*commit.Change, wait bool) {
	query := `SELECT count FROM counters WHERE name = $1 FOR UPDATE`
	if !wait {
		query += ` SKIP LOCKED`
	}
	for _, change := range changes {
		a := change.What.(*addition)
		batch.Queue(query, a.name).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&a.was)
			if errors.Is(err, pgx.ErrNoRows) {
				change.Err = commit.ErrBusy
				if wait {
					change.Err = errNone
				}
				return nil
			}
			return err
		})
	}
}

var errNone = errors.New("no such counter")

func (c *counters) Decide([]*commit.Change) {
	if c.deciding != nil {
		c.deciding()
	}
}

func (c *counters) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	for _, change := range changes {
		a := change.What.(*addition)
		batch.Queue(`UPDATE counters SET count = count + $2, txid = txid_current() WHERE name = $1`, a.name, a.add)
	}
	return nil
}

// open returns a committer and n counters, all of them zero.
func open(t *testing.T, n int) (*commit.Committer, *pgxpool.Pool) {
	t.Helper()
	pool, err := pg.Open(t.Context(), pgtest.URL(t), 8)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `CREATE TABLE counters (name text PRIMARY KEY, count int NOT NULL DEFAULT 0 CHECK (count >= 0), txid bigint)`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO counters SELECT 'c' || n FROM generate_series(1, $1) n`, n)
	require.NoError(t, err)
	return commit.New(pool), pool
}

func counted(t *testing.T, pool *pgxpool.Pool, query string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), query).Scan(&n))
	return n
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/jackc/pgx/v5/pgxpool.(*Pool).backgroundHealthCheck"))
}

func TestWhatWaitsWhileOneCommitsIsCommittedTogether(t *testing.T) {
	committer, pool := open(t, 50)
	first := make(chan struct{})
	held := sync.OnceFunc(func() { <-first })
	table := &counters{deciding: held}
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() {
			err := committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: fmt.Sprintf("c%d", n+1), add: 1}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	// The first transaction is held until all others wait.
	require.Eventually(t, func() bool { return committer.Waiting() == 49 }, 10*time.Second, time.Millisecond)
	close(first)
	all.Wait()
	require.Equal(t, 50, counted(t, pool, `SELECT sum(count) FROM counters`))
	require.Equal(t, 2, counted(t, pool, `SELECT count(DISTINCT txid) FROM counters`), "transactions")
}

func TestAChangeThatCannotBeWrittenFailsAlone(t *testing.T) {
	committer, pool := open(t, 20)
	first := make(chan struct{})
	table := &counters{deciding: sync.OnceFunc(func() { <-first })}
	errs := make([]error, 20)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			a := &addition{name: fmt.Sprintf("c%d", n+1), add: 1}
			switch n {
			case 7:
				a.add = -1
			case 8:
				a.name = "none"
			}
			errs[n] = committer.Do(t.Context(), &commit.Change{Of: table, What: a})
		})
	}
	require.Eventually(t, func() bool { return committer.Waiting() == 19 }, 10*time.Second, time.Millisecond)
	close(first)
	all.Wait()
	for n, err := range errs {
		switch n {
		case 7:
			require.ErrorContains(t, err, "counters_count_check")
		case 8:
			require.ErrorIs(t, err, errNone)
		default:
			require.NoError(t, err)
		}
	}
	require.Equal(t, 18, counted(t, pool, `SELECT sum(count) FROM counters`))
}

func TestWhoeverHoldsARowHoldsUpNobodyElse(t *testing.T) {
	committer, pool := open(t, 2)
	holding, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = holding.Exec(t.Context(), `UPDATE counters SET count = 10 WHERE name = 'c1'`)
	require.NoError(t, err)
	table := &counters{}
	a := &addition{name: "c1", add: 1}
	waited := make(chan error, 1)
	go func() { waited <- committer.Do(t.Context(), &commit.Change{Of: table, What: a}) }()
	for range 10 {
		require.NoError(t, committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c2", add: 1}}))
	}
	select {
	case err := <-waited:
		t.Fatalf("it did not wait for the lock: %v", err)
	default:
	}
	require.NoError(t, holding.Commit(t.Context()))
	require.NoError(t, <-waited)
	require.Equal(t, 10, a.was, "it was decided by what the other wrote")
	require.Equal(t, 11, counted(t, pool, `SELECT count FROM counters WHERE name = 'c1'`))
}

func TestManyWhoWaitForARowLeaveConnectionsToTheOthers(t *testing.T) {
	committer, pool := open(t, 2)
	holding, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = holding.Exec(t.Context(), `UPDATE counters SET count = 10 WHERE name = 'c1'`)
	require.NoError(t, err)
	table := &counters{}
	const many = 40 // more than there are connections
	var waiting sync.WaitGroup
	for range many {
		waiting.Go(func() {
			if err := committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}}); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return pool.Stat().AcquiredConns() > 1 && committer.Waiting() == 0 }, 10*time.Second, time.Millisecond)
	for range 10 {
		require.NoError(t, committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c2", add: 1}}))
	}
	require.NoError(t, holding.Commit(t.Context()))
	waiting.Wait()
	require.Equal(t, 10+many, counted(t, pool, `SELECT count FROM counters WHERE name = 'c1'`))
}

func TestChangesOfOneCallerAreCommittedTogetherOrNotAtAll(t *testing.T) {
	committer, pool := open(t, 1)
	table := &counters{}
	err := committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}},
		&commit.Change{Of: &counters{}, What: &addition{name: "none", add: 1}})
	require.ErrorIs(t, err, errNone)
	require.Zero(t, counted(t, pool, `SELECT count FROM counters`))
}

func TestWhatOneTableRefusesTheNextIsNotAsked(t *testing.T) {
	committer, pool := open(t, 2)
	first, asked := &counters{}, 0
	second := &counters{deciding: func() { asked++ }}
	refuse := &commit.Change{Of: first, What: &addition{name: "c1", add: 1}}
	first.deciding = func() { refuse.Err = errNone }
	both := []*commit.Change{refuse, {Of: second, What: &addition{name: "c2", add: 1}}}
	require.ErrorIs(t, committer.Do(t.Context(), both...), errNone)
	require.ErrorIs(t, pg.InTx(t.Context(), pool, func(tx pgx.Tx) error { return commit.In(t.Context(), tx, both...) }), errNone)
	require.Zero(t, asked)
	require.Zero(t, counted(t, pool, `SELECT sum(count) FROM counters`))
}

func TestInATransactionOfTheCallersAChangeWaitsAndIsCommittedWithIt(t *testing.T) {
	_, pool := open(t, 2)
	holding, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = holding.Exec(t.Context(), `UPDATE counters SET count = 10 WHERE name = 'c1'`)
	require.NoError(t, err)
	a := &addition{name: "c1", add: 1}
	waited := make(chan error, 1)
	errLater := errors.New("what the caller does then fails")
	go func() {
		waited <- pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			if err := commit.In(t.Context(), tx, &commit.Change{Of: &counters{}, What: a}); err != nil {
				return err
			}
			return errLater
		})
	}()
	require.Eventually(t, func() bool {
		return counted(t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, holding.Commit(t.Context()))
	require.ErrorIs(t, <-waited, errLater)
	require.Equal(t, 10, a.was, "it was decided by what the other wrote")
	require.Equal(t, 10, counted(t, pool, `SELECT sum(count) FROM counters`), "it is rolled back with the caller's transaction")

	require.NoError(t, pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return commit.In(t.Context(), tx, &commit.Change{Of: &counters{}, What: a})
	}))
	require.Equal(t, 11, counted(t, pool, `SELECT sum(count) FROM counters`))
}

func TestWhoeverStopsWaitingHasChangedNothing(t *testing.T) {
	committer, pool := open(t, 2)
	deciding, goOn := make(chan struct{}), make(chan struct{})
	table := &counters{deciding: sync.OnceFunc(func() { close(deciding); <-goOn })}
	leader := make(chan error, 1)
	go func() {
		leader <- committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}})
	}()
	<-deciding
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- committer.Do(ctx, &commit.Change{Of: table, What: &addition{name: "c2", add: 1}}) }()
	require.Eventually(t, func() bool { return committer.Waiting() == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-waiting, context.Canceled)
	close(goOn)
	require.NoError(t, <-leader)
	require.NoError(t, committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}}), "it goes on")
	require.Zero(t, counted(t, pool, `SELECT count FROM counters WHERE name = 'c2'`))
}

func TestAPanicOfOneStopsNobodyElse(t *testing.T) {
	committer, pool := open(t, 3)
	deciding, goOn := make(chan struct{}), make(chan struct{})
	first := &counters{deciding: sync.OnceFunc(func() { close(deciding); <-goOn })}
	panics, sound := &counters{deciding: func() { panic("a rule is wrong") }}, &counters{}
	var all sync.WaitGroup
	all.Go(func() { _ = committer.Do(t.Context(), &commit.Change{Of: first, What: &addition{name: "c1", add: 1}}) })
	<-deciding
	for _, c := range []struct {
		of   *counters
		name string
	}{{sound, "c2"}, {panics, "c1"}, {sound, "c3"}} {
		all.Go(func() {
			defer func() {
				if panicked := recover() != nil; panicked != (c.of == panics) {
					t.Errorf("of %s it is %t that it panicked", c.name, panicked)
				}
			}()
			if err := committer.Do(t.Context(), &commit.Change{Of: c.of, What: &addition{name: c.name, add: 1}}); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return committer.Waiting() == 3 }, 10*time.Second, time.Millisecond)
	close(goOn)
	all.Wait()
	require.Equal(t, 3, counted(t, pool, `SELECT sum(count) FROM counters`))
	require.Zero(t, committer.Waiting())
}

func TestWhileTheDatabaseIsAwayNothingIsKnown(t *testing.T) {
	committer, pool := open(t, 3)
	table := &counters{deciding: func() {
		const all = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`
		_, _ = pool.Exec(context.Background(), all)
	}}
	err := committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}})
	require.Error(t, err)
	require.True(t, pg.Away(err), "%v", err)
	table.deciding = nil
	require.NoError(t, committer.Do(t.Context(), &commit.Change{Of: table, What: &addition{name: "c1", add: 1}}))
	require.Equal(t, 1, counted(t, pool, `SELECT count FROM counters WHERE name = 'c1'`))
}
