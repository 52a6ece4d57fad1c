package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/pgtest"
)

func TestI2AForgottenOrderIsRefusedAndNeverAppliedAgain(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "ord-1", "reserve", 48*time.Hour, "applied", "none")
	l.insert(t, "ord-1", "commit", 30*time.Hour, "applied", "none")
	require.Equal(t, 1, l.forget(t, 24*time.Hour))
	require.Empty(t, l.kept(t))

	for _, step := range []string{"reserve", "commit", "a step that was never asked for"} {
		require.ErrorIs(t, l.do(t.Context(), "ord-1", step), ErrForgotten)
		require.ErrorIs(t, l.undo(t.Context(), "ord-1", step), ErrForgotten)
	}
	require.Empty(t, l.kept(t), "a refused request leaves nothing")
	_, err := Get(t.Context(), l.pool, "ord-1", "reserve")
	require.ErrorIs(t, err, ErrForgotten, "nobody can tell any more, which is not the same as never asked for")
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(Error(err)))

	require.NoError(t, l.do(t.Context(), "ord-2", "reserve"))
	_, err = Get(t.Context(), l.pool, "ord-3", "reserve")
	require.ErrorIs(t, err, ErrNotFound)
	require.Zero(t, l.forget(t, 24*time.Hour), "an order is forgotten once")
}

func TestWhatCanStillBeBroughtIsNotForgotten(t *testing.T) {
	t.Parallel()
	l := open(t)
	const old, young = 48 * time.Hour, time.Hour
	l.insert(t, "changed-lately", "reserve", old, "applied", "none")
	l.insert(t, "changed-lately", "commit", young, "applied", "none")
	l.insert(t, "doing-started", "authorize", old, "started", "none")
	l.insert(t, "undoing-wanted", "authorize", old, "started", "wanted")
	l.insert(t, "undoing-started", "authorize", old, "applied", "started")
	l.insert(t, "other-step-started", "authorize", old, "applied", "none")
	l.insert(t, "other-step-started", "capture", old, "started", "none")
	l.insert(t, "open-here", "reserve", old, "applied", "none")
	l.insert(t, "open-elsewhere", "reserve", old, "applied", "none")
	l.insert(t, "undone", "reserve", old, "applied", "applied")
	l.insert(t, "undone-before", "reserve", old, "undone-before", "applied")
	l.insert(t, "never-done", "reserve", old, "none", "applied")
	l.insert(t, "rejected", "reserve", old, "rejected", "none")
	l.open, l.inUse = []string{"open-here"}, []string{"open-elsewhere"}

	require.Zero(t, l.forget(t, 0), "by default everything is kept for ever")
	require.Equal(t, 4, l.forget(t, 24*time.Hour))
	want := []string{"changed-lately", "doing-started", "open-elsewhere", "open-here", "other-step-started", "undoing-started", "undoing-wanted"}
	require.Equal(t, want, l.kept(t))

	l.open, l.inUse = nil, nil
	require.Equal(t, 2, l.forget(t, 24*time.Hour))
	require.Equal(t, 1, l.forget(t, time.Minute), "and the one that changed lately once that is long ago")
}

func TestManyOrdersAreForgottenInBoundedRoundsPastThoseThatMustStay(t *testing.T) {
	t.Parallel()
	l := open(t)
	const query = `
		INSERT INTO operations (order_id, step, digest, do_state, updated_at)
		SELECT 'ord-' || lpad(i::text, 5, '0'), step, 'd', 'applied', clock_timestamp() - interval '48 hours' + i * interval '1 millisecond'
		FROM generate_series(1, 3 * $1::integer) AS i, unnest(ARRAY['commit', 'reserve']) AS step`
	_, err := l.pool.Exec(t.Context(), query, forgetBatch)
	require.NoError(t, err)
	for i := 1; i <= 2*forgetBatch; i++ { // The oldest, more than a round's worth: what comes after them must be reached.
		l.inUse = append(l.inUse, fmt.Sprintf("ord-%05d", i))
	}
	require.Equal(t, forgetBatch, l.forget(t, 24*time.Hour))
	require.Equal(t, l.inUse, l.kept(t))
	require.LessOrEqual(t, l.asked, forgetBatch, "so many orders were asked about at once")
}

func TestNothingIsForgottenWhileNobodyCanTellWhatIsInUse(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "ord-1", "reserve", 48*time.Hour, "applied", "none")
	down := errors.New("the orchestrator is down")
	_, err := Forget(t.Context(), l.pool, Retention{Keep: time.Hour, Settled: "true", InUse: func(context.Context, []string) ([]string, error) { return nil, down }})
	require.ErrorIs(t, err, down)
	for _, r := range []Retention{
		{Keep: time.Hour, Settled: "true"}, {Keep: time.Hour, InUse: l.usedElsewhere}, {Keep: -1, Settled: "true", InUse: l.usedElsewhere},
	} {
		_, err = Forget(t.Context(), l.pool, r)
		require.Error(t, err)
	}
	require.Equal(t, []string{"ord-1"}, l.kept(t))
}

// A request may be the first of its step, with no row yet that could be locked: it and the forgetting of its order must not pass
// each other unseen.
func TestARequestInFlightKeepsItsOrderFromBeingForgotten(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "ord-1", "reserve", 48*time.Hour, "applied", "none")
	tx, err := l.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	op, known, err := BeginDoing(t.Context(), tx, "ord-1", "commit", "d")
	require.NoError(t, err)
	require.False(t, known)

	require.Zero(t, l.forget(t, 24*time.Hour))
	op.Do.Apply("")
	require.NoError(t, Save(t.Context(), tx, &op))
	require.NoError(t, tx.Commit(t.Context()))
	require.Zero(t, l.forget(t, 24*time.Hour), "it changed lately now")
	require.Equal(t, []string{"ord-1"}, l.kept(t))
}

func TestI2RequestsRacingWithForgettingAreAppliedBeforeOrRefusedAfter(t *testing.T) {
	t.Parallel()
	l := open(t)
	var orders []string
	for i := range 60 {
		orders = append(orders, fmt.Sprintf("ord-%02d", i))
		l.insert(t, orders[i], "reserve", 48*time.Hour, "applied", "none")
	}
	var appliedLate, refused atomic.Int32
	var all sync.WaitGroup
	for _, order := range orders {
		all.Go(func() {
			switch err := l.do(t.Context(), order, "commit"); {
			case err == nil:
				appliedLate.Add(1)
			default:
				assert.ErrorIs(t, err, ErrForgotten)
				refused.Add(1)
			}
		})
	}
	for range 3 {
		all.Go(func() { l.forget(t, 24*time.Hour) })
	}
	all.Wait()
	const query = `SELECT count(*) FROM operations JOIN forgotten_orders USING (order_id)`
	var both int
	require.NoError(t, l.pool.QueryRow(t.Context(), query).Scan(&both))
	require.Zero(t, both, "orders that were forgotten and have operations")
	require.Len(t, l.kept(t), int(appliedLate.Load()))
	require.EqualValues(t, len(orders), appliedLate.Load()+refused.Load())
	t.Logf("%d applied before their order could be forgotten, %d refused after", appliedLate.Load(), refused.Load())
}

func TestI9WhatIsListedIsNamedInTheFormOfAnOrderID(t *testing.T) {
	t.Parallel()
	reads := NewReads(open(t).pool)
	for name, req := range map[string]*operationv1.ListOperationsRequest{
		"order_ids[1]:": {OrderIds: []string{"ord-1", "ord\x00"}},
		"page_token:":   {PageToken: "MSBvcmQAIHN0ZXA"},    // 1 ord\x00 step
		"page_token: ":  {PageToken: "LTEgb3JkLTEgc3RlcA"}, // -1 ord-1 step
	} {
		_, err := reads.ListOperations(t.Context(), connect.NewRequest(req))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), err)
		require.ErrorContains(t, err, name)
	}
}

// fixture is a ledger whose participant finds the orders in open unsettled, while others still use those in inUse.
type fixture struct {
	pool        *pgxpool.Pool
	open, inUse []string
	asked       int // the most orders that were asked about at once
}

func open(t *testing.T) *fixture {
	t.Helper()
	files := fstest.MapFS{}
	for _, name := range migrations {
		text, err := os.ReadFile("../../warehouse/migrations/" + name)
		require.NoError(t, err)
		files[name] = &fstest.MapFile{Data: text}
	}
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, pg.Migrations{Files: files}))
	_, err := pool.Exec(t.Context(), `CREATE TABLE open_orders (order_id text)`)
	require.NoError(t, err)
	return &fixture{pool: pool}
}

func (l *fixture) insert(t *testing.T, order, step string, age time.Duration, do, undo State) {
	t.Helper()
	const query = `
		INSERT INTO operations (order_id, step, digest, do_state, do_reason, do_key, undo_state, undo_key, ask_at, updated_at)
		VALUES ($1, $2, CASE WHEN $3 <> 'none' THEN 'd' END, $3, CASE WHEN $3 = 'rejected' THEN 'r' ELSE '' END, 'k', $4, 'k',
		        CASE WHEN 'started' IN ($3, $4) THEN clock_timestamp() END, clock_timestamp() - $5::interval)`
	_, err := l.pool.Exec(t.Context(), query, order, step, do, undo, age)
	require.NoError(t, err)
}

func (l *fixture) forget(t *testing.T, keep time.Duration) int {
	_, err := l.pool.Exec(t.Context(), `TRUNCATE open_orders`)
	assert.NoError(t, err)
	_, err = l.pool.Exec(t.Context(), `INSERT INTO open_orders SELECT * FROM unnest($1::text[])`, l.open)
	assert.NoError(t, err)
	n, err := Forget(t.Context(), l.pool, Retention{
		Keep: keep, InUse: l.usedElsewhere,
		Settled: `NOT EXISTS (SELECT FROM open_orders WHERE open_orders.order_id = orders.order_id)`,
	})
	assert.NoError(t, err)
	return n
}

func (l *fixture) usedElsewhere(_ context.Context, orders []string) ([]string, error) {
	if len(l.inUse) == 0 {
		return nil, nil
	}
	l.asked = max(l.asked, len(orders))
	return slices.DeleteFunc(slices.Clone(orders), func(o string) bool { return !slices.Contains(l.inUse, o) }), nil
}

// kept are the orders that have operations.
func (l *fixture) kept(t *testing.T) []string {
	t.Helper()
	rows, err := l.pool.Query(t.Context(), `SELECT DISTINCT order_id FROM operations ORDER BY order_id`)
	require.NoError(t, err)
	orders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return orders
}

func (l *fixture) do(ctx context.Context, order, step string) error {
	return pg.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		op, known, err := BeginDoing(ctx, tx, order, step, "d")
		if err != nil || known {
			return err
		}
		op.Do.Apply("")
		return Save(ctx, tx, &op)
	})
}

func (l *fixture) undo(ctx context.Context, order, step string) error {
	return pg.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		_, _, err := BeginUndoing(ctx, tx, order, step)
		return err
	})
}
