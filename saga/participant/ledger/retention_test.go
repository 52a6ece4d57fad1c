package ledger

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func TestI2AForgottenOrderIsRefusedAndNeverAppliedAgain(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "ord-1", "reserve", "applied", "none")
	l.insert(t, "ord-1", "commit", "applied", "none")
	require.Equal(t, []string{"never-heard-of", "ord-1"}, l.forget(t, "ord-1", "never-heard-of", "ord-1"))
	require.Empty(t, l.kept(t))

	for _, order := range []string{"ord-1", "never-heard-of"} {
		for _, step := range []string{"reserve", "commit", "a step that was never asked for"} {
			require.ErrorIs(t, l.do(t.Context(), order, step), ErrForgotten)
			require.ErrorIs(t, l.undo(t.Context(), order, step), ErrForgotten)
		}
	}
	require.Empty(t, l.kept(t), "a refused request leaves nothing")
	_, err := Get(t.Context(), l.pool, id("ord-1", "reserve"))
	require.ErrorIs(t, err, ErrForgotten, "nobody can tell any more, which is not the same as never asked for")
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(Error(err)))

	require.NoError(t, l.do(t.Context(), "ord-2", "reserve"))
	_, err = Get(t.Context(), l.pool, id("ord-3", "reserve"))
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, []string{"ord-1"}, l.forget(t, "ord-1"), "whoever did not hear the answer asks again")
}

func TestWhatIsOpenIsKeptAndToldWhy(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "doing-started", "authorize", "started", "none")
	l.insert(t, "undoing-wanted", "authorize", "started", "wanted")
	l.insert(t, "undoing-started", "authorize", "applied", "started")
	l.insert(t, "other-step-started", "authorize", "applied", "none")
	l.insert(t, "other-step-started", "capture", "started", "none")
	l.insert(t, "open-here", "reserve", "applied", "none")
	l.insert(t, "not-asked-for", "reserve", "applied", "applied")
	l.insert(t, "undone", "reserve", "applied", "applied")
	l.insert(t, "undone-before", "reserve", "undone-before", "applied")
	l.insert(t, "never-done", "reserve", "none", "applied")
	l.insert(t, "rejected", "reserve", "rejected", "none")
	_, err := l.pool.Exec(t.Context(), `INSERT INTO open_orders VALUES ('open-here'), ('open-and-never-heard-of')`)
	require.NoError(t, err)

	done, err := Forget(t.Context(), l.pool, definition, isOpen, []string{
		"doing-started", "undoing-wanted", "undoing-started", "other-step-started", "open-here", "open-and-never-heard-of",
		"undone", "undone-before", "never-done", "rejected",
	})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"never-done", "rejected", "undone", "undone-before"}, done.Keys)
	require.ElementsMatch(t, []participant.Kept{
		{Key: "doing-started", Why: "an operation of it is under way"}, {Key: "undoing-wanted", Why: "an operation of it is under way"},
		{Key: "undoing-started", Why: "an operation of it is under way"}, {Key: "other-step-started", Why: "an operation of it is under way"},
		{Key: "open-here", Why: "it is open"}, {Key: "open-and-never-heard-of", Why: "it is open"},
	}, done.Kept)
	require.Equal(t, []string{"doing-started", "not-asked-for", "open-here", "other-step-started", "undoing-started", "undoing-wanted"}, l.kept(t))

	_, err = l.pool.Exec(t.Context(), `TRUNCATE open_orders`)
	require.NoError(t, err)
	require.Equal(t, []string{"open-here"}, l.forget(t, "open-here"))
}

// A request may be the first of its step, with no row yet that could be locked: it and the forgetting of its order must not pass
// each other unseen.
func TestARequestInFlightKeepsItsOrderFromBeingForgotten(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "ord-1", "reserve", "applied", "none")
	tx, err := l.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	op, known, err := BeginDoing(t.Context(), tx, id("ord-1", "commit"), "d")
	require.NoError(t, err)
	require.False(t, known)

	done, err := Forget(t.Context(), l.pool, definition, isOpen, []string{"ord-1"})
	require.NoError(t, err)
	require.Empty(t, done.Keys)
	require.Equal(t, []participant.Kept{{Key: "ord-1", Why: "a request about it is under way"}}, done.Kept)
	op.Do.Start("k")
	require.NoError(t, Save(t.Context(), tx, &op))
	require.NoError(t, tx.Commit(t.Context()))
	require.Empty(t, l.forget(t, "ord-1"), "it is under way now")
	require.Equal(t, []string{"ord-1"}, l.kept(t))
}

func TestI2RequestsRacingWithForgettingAreAppliedBeforeOrRefusedAfter(t *testing.T) {
	t.Parallel()
	l := open(t)
	var orders []string
	for i := range 60 {
		orders = append(orders, fmt.Sprintf("ord-%02d", i))
		l.insert(t, orders[i], "reserve", "applied", "none")
	}
	var applied, refused atomic.Int32
	var all sync.WaitGroup
	for _, order := range orders {
		all.Go(func() {
			switch err := l.do(t.Context(), order, "commit"); {
			case err == nil:
				applied.Add(1)
			default:
				assert.ErrorIs(t, err, ErrForgotten)
				refused.Add(1)
			}
		})
	}
	for range 3 {
		all.Go(func() { l.forget(t, orders...) })
	}
	all.Wait()
	const query = `SELECT count(*) FROM operations JOIN forgotten_sagas USING (definition, key)`
	var both int
	require.NoError(t, l.pool.QueryRow(t.Context(), query).Scan(&both))
	require.Zero(t, both, "orders that were forgotten and have operations")
	require.EqualValues(t, len(orders), applied.Load()+refused.Load())
	t.Logf("%d applied before their order was forgotten, %d refused after; %d were under way each time and are kept", applied.Load(), refused.Load(), len(l.kept(t)))
}

func TestAnUndoingWhoseStepNeverCameSaysSoEachTimeAndNoOtherDoes(t *testing.T) {
	t.Parallel()
	l := open(t)
	l.insert(t, "rejected", "reserve", "rejected", "none")
	for order, want := range map[string]string{"never-came": Unseen, "rejected": ""} {
		for range 2 {
			require.NoError(t, l.undo(t.Context(), order, "reserve"))
			op, err := Get(t.Context(), l.pool, id(order, "reserve"))
			require.NoError(t, err)
			require.Equal(t, want, op.Undo.Reason)
		}
	}
	require.NoError(t, l.do(t.Context(), "never-came", "reserve"))
	op, err := Get(t.Context(), l.pool, id("never-came", "reserve"))
	require.NoError(t, err)
	require.Equal(t, []State{UndoneBefore, Applied}, []State{op.Do.State, op.Undo.State})
	require.Equal(t, Unseen, op.Undo.Reason, "that the step came late changes nothing of what was answered")
}

func TestI9APageTokenOfNoPageIsRefused(t *testing.T) {
	t.Parallel()
	records := NewRecords(open(t).pool, definition, isOpen)
	for _, place := range []string{"1 shop ord\x00 step", "1 Shop ord-1 step", "-1 shop ord-1 step", "9223372036854775807 shop ord-1 step", "1 shop ord-1", "x"} {
		token := base64.RawURLEncoding.EncodeToString([]byte(place))
		_, err := records.ListOperations(t.Context(), connect.NewRequest(&operationv1.ListOperationsRequest{PageToken: token}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), err)
		require.ErrorContains(t, err, "page_token: ", place)
	}
}

// isOpen is what the fixture's participant says of an order.
const isOpen = `CASE WHEN EXISTS (SELECT FROM open_orders AS o WHERE o.order_id = sagas.key) THEN 'it is open' END`

// definition is the one that the fixture is asked about.
const definition = "shop"

func id(key, step string) participant.ID {
	return participant.ID{Definition: definition, Key: key, Step: step}
}

// fixture is a ledger of a participant that finds those orders open that stand in a table.
type fixture struct{ pool *pgxpool.Pool }

func open(t *testing.T) *fixture {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, Migrate(t.Context(), pool))
	_, err := pool.Exec(t.Context(), `CREATE TABLE open_orders (order_id text)`)
	require.NoError(t, err)
	return &fixture{pool: pool}
}

func (l *fixture) insert(t *testing.T, order, step string, do, undo State) {
	t.Helper()
	const query = `
		INSERT INTO operations (definition, key, step, digest, do_state, do_reason, do_key, undo_state, undo_key, ask_at)
		VALUES ('shop', $1, $2, CASE WHEN $3 <> 'none' THEN 'd' END, $3, CASE WHEN $3 = 'rejected' THEN 'r' ELSE '' END, 'k', $4, 'k',
		        CASE WHEN 'started' IN ($3, $4) THEN clock_timestamp() END)`
	_, err := l.pool.Exec(t.Context(), query, order, step, do, undo)
	require.NoError(t, err)
}

// forget returns those that were forgotten, sorted.
func (l *fixture) forget(t *testing.T, ids ...string) []string {
	done, err := Forget(t.Context(), l.pool, definition, isOpen, ids)
	assert.NoError(t, err)
	slices.Sort(done.Keys)
	return done.Keys
}

// kept are the orders that have operations.
func (l *fixture) kept(t *testing.T) []string {
	t.Helper()
	rows, err := l.pool.Query(t.Context(), `SELECT DISTINCT key FROM operations ORDER BY key`)
	require.NoError(t, err)
	orders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return orders
}

func (l *fixture) do(ctx context.Context, order, step string) error {
	return pg.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		op, known, err := BeginDoing(ctx, tx, id(order, step), "d")
		if err != nil || known {
			return err
		}
		op.Do.Apply("")
		return Save(ctx, tx, &op)
	})
}

func (l *fixture) undo(ctx context.Context, order, step string) error {
	return pg.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		_, _, err := BeginUndoing(ctx, tx, id(order, step))
		return err
	})
}
