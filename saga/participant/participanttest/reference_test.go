package participanttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
)

// mistake is one that the reference participant can be made to make.
type mistake string

const (
	none             mistake = "no mistake"
	twoTransactions  mistake = "the effect and its record are in two transactions"
	keyWithoutDigest mistake = "the key is compared without the digest"
	undoFirstIgnored mistake = "undoing before doing is answered and ignored"
	undoTwice        mistake = "undoing is applied each time"
	lateDoIsSuccess  mistake = "the late step after its undoing is answered as success"
	separateRows     mistake = "doing and undoing are in separate rows"
	anotherKey       mistake = "the gateway is called again with another key"
	unseenUnsaid     mistake = "undoing what never came is answered as if it had been done"
	neverRecovered   mistake = "what a crash left started is never recovered"
)

// reference is a participant as small as can be, on real PostgreSQL: it adds to an account, or, if it is outer, has a gateway do
// so and keeps a book of it. A process of it dies when its context ends: whatever it is at stops between two statements.
type reference struct {
	pool *pgxpool.Pool
	// beside has connections for what a mistake does outside of its transaction.
	beside  *pgxpool.Pool
	mistake mistake
	outer   bool

	mu      sync.Mutex
	alive   context.Context
	kill    context.CancelFunc
	running sync.WaitGroup
}

// The gateway's table has no tie to the others: it stands for another system.
const referenceSchema = `
	CREATE TABLE operations (
		order_id text PRIMARY KEY, content text NOT NULL DEFAULT '',
		do_state text NOT NULL DEFAULT 'none', do_key text NOT NULL DEFAULT '', undo_state text NOT NULL DEFAULT 'none', undo_key text NOT NULL DEFAULT '',
		created_at timestamptz NOT NULL DEFAULT clock_timestamp(), updated_at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE TABLE undoings (order_id text PRIMARY KEY);
	CREATE TABLE book (order_id text NOT NULL, amount integer NOT NULL);
	CREATE TABLE gateway (key text PRIMARY KEY, order_id text NOT NULL, undoes boolean NOT NULL, told boolean NOT NULL)`

func newReference(t *testing.T, m mistake, outer bool) *reference {
	t.Helper()
	r := &reference{mistake: m, outer: outer}
	url := pgtest.URL(t)
	for _, pool := range []**pgxpool.Pool{&r.pool, &r.beside} {
		opened, err := pg.Open(t.Context(), url, 5)
		require.NoError(t, err)
		t.Cleanup(opened.Close)
		*pool = opened
	}
	_, err := r.pool.Exec(t.Context(), referenceSchema)
	require.NoError(t, err)
	require.NoError(t, r.restart(t.Context()))
	t.Cleanup(func() { _ = r.crash(context.Background()) })
	return r
}

// adapter is the whole of what the reference can offer.
func (r *reference) adapter() Adapter {
	a := Adapter{
		Step: "add", Do: r.do, Undo: r.undo, Get: r.get, State: r.state,
		None: "0 by 0 movements", Done: "3 by 1 movements", Undone: "0 by 2 movements",
		Variants:    []Variant{Other, Refused},
		FailCommits: ledgertest.FailCommits(r.pool), Crash: r.crash, Restart: r.restart,
		Patience: 3 * time.Second,
	}
	if r.outer {
		a.Variants, a.Outer = append(a.Variants, Lost), r.effects
	}
	return a
}

func (r *reference) restart(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive, r.kill = context.WithCancel(context.Background())
	if r.outer && r.mistake != neverRecovered {
		alive := r.alive
		r.running.Go(func() { r.recover(alive) })
	}
	return nil
}

func (r *reference) crash(context.Context) error {
	r.mu.Lock()
	r.kill()
	r.mu.Unlock()
	r.running.Wait()
	return nil
}

// in runs a handler inside the process, until the caller hangs up or the process dies.
func (r *reference) in(ctx context.Context, handle func(ctx, alive context.Context) error) error {
	r.mu.Lock()
	alive := r.alive
	if alive.Err() != nil {
		r.mu.Unlock()
		return connect.NewError(connect.CodeUnavailable, errors.New("the process is dead"))
	}
	r.running.Add(1)
	r.mu.Unlock()
	defer r.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(alive, cancel)()
	return handle(ctx, alive)
}

func (r *reference) do(ctx context.Context, order string, v Variant) (answer *operationv1.Result, err error) {
	err = r.in(ctx, func(ctx, alive context.Context) error {
		if r.mistake == separateRows {
			answer, err = r.doBesideUndo(ctx, order, v)
			return err
		}
		var op row
		err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
			if op, err = lockRow(ctx, tx, order); err != nil {
				return err
			}
			switch {
			case op.do != "none" && op.content != contentOf(v) && r.mistake != keyWithoutDigest:
				return connect.NewError(connect.CodeAlreadyExists, errors.New("asked for with other content"))
			case op.do != "none":
				return nil
			case op.undo == "applied" && r.mistake == lateDoIsSuccess:
				answer = &operationv1.Result{Outcome: applied}
				return nil
			case op.undo == "applied":
				op.do = "undone-before"
			case v == Refused:
				op.do = "rejected"
			case r.outer:
				op.do, op.doKey = "started", order+":do"
			default:
				op.do = "applied"
				if err := r.move(ctx, tx, order, 3); err != nil {
					return err
				}
			}
			op.content = contentOf(v)
			return saveRow(ctx, tx, op)
		})
		if err != nil || answer != nil {
			return err
		}
		op, err = r.advance(alive, op)
		answer = result(op.do)
		return err
	})
	return answer, err
}

func (r *reference) undo(ctx context.Context, order string) (answer *operationv1.Result, err error) {
	err = r.in(ctx, func(ctx, alive context.Context) error {
		if r.mistake == separateRows {
			answer, err = r.undoBesideDo(ctx, order)
			return err
		}
		var op row
		err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
			if op, err = lockRow(ctx, tx, order); err != nil {
				return err
			}
			switch {
			case op.undo != "none" && (r.mistake != undoTwice || op.do != "applied"):
				return nil
			case op.do == "none" && r.mistake == undoFirstIgnored:
				op.undo = "applied"
				return nil
			case op.do == "started":
				op.undo = "wanted"
			case op.do == "applied" && r.outer:
				op.undo, op.undoKey = "started", order+":undo"
			case op.do == "applied":
				op.undo = "applied"
				if err := r.move(ctx, tx, order, -3); err != nil {
					return err
				}
			default:
				op.undo = "applied"
			}
			return saveRow(ctx, tx, op)
		})
		if err != nil {
			return err
		}
		if op.do != "started" {
			op, err = r.advance(alive, op)
		}
		answer = result(op.undo)
		if (op.do == "none" || op.do == "undone-before") && r.mistake != unseenUnsaid {
			answer.Reason = unseen
		}
		return err
	})
	return answer, err
}

// move applies the effect.
func (r *reference) move(ctx context.Context, tx pgx.Tx, order string, amount int) error {
	const query = `INSERT INTO book (order_id, amount) VALUES ($1, $2)`
	var err error
	if r.mistake == twoTransactions {
		_, err = r.beside.Exec(ctx, query, order, amount)
	} else {
		_, err = tx.Exec(ctx, query, order, amount)
	}
	return err
}

// advance asks the gateway about what is started, and records what it says.
func (r *reference) advance(alive context.Context, op row) (row, error) {
	for op.do == "started" || op.undo == "started" {
		key, undoes, amount := op.doKey, false, 3
		if op.do != "started" {
			key, undoes, amount = op.undoKey, true, -3
		}
		if r.mistake == anotherKey {
			key = fmt.Sprintf("%s:%08x", key, rand.Uint32())
		}
		if told, err := r.askGateway(alive, key, op.order, undoes, op.content == string(Lost)); err != nil || !told {
			return op, err
		}
		err := pgx.BeginFunc(alive, r.pool, func(tx pgx.Tx) (err error) {
			if op, err = lockRow(alive, tx, op.order); err != nil {
				return err
			}
			switch {
			case !undoes && op.do == "started":
				op.do = "applied"
				if op.undo == "wanted" {
					op.undo, op.undoKey = "started", op.order+":undo"
				}
			case undoes && op.undo == "started":
				op.undo = "applied"
			default:
				return nil // Somebody else was faster.
			}
			if err := r.move(alive, tx, op.order, amount); err != nil {
				return err
			}
			return saveRow(alive, tx, op)
		})
		if err != nil {
			return op, err
		}
	}
	return op, nil
}

// askGateway has the gateway do it, once for each key. Its first answer for an order whose answers get lost does not come.
func (r *reference) askGateway(ctx context.Context, key, order string, undoes, lossy bool) (told bool, err error) {
	const query = `
		INSERT INTO gateway AS g (key, order_id, undoes, told) VALUES ($1, $2, $3, NOT $4)
		ON CONFLICT (key) DO UPDATE SET told = true
		RETURNING told`
	if r.mistake == anotherKey { // Each key is new to the gateway; it loses the first answer about the order all the same.
		var met bool
		if err := r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM gateway WHERE order_id = $1 AND undoes = $2)`, order, undoes).Scan(&met); err != nil {
			return false, err
		}
		lossy = lossy && !met
	}
	err = r.pool.QueryRow(ctx, query, key, order, undoes, lossy).Scan(&told)
	if !told && err == nil { // The silence in which it can be killed.
		wait(ctx, 50*time.Millisecond)
	}
	return told, err
}

func (r *reference) recover(alive context.Context) {
	const query = `
		SELECT ` + rowColumns + ` FROM operations
		WHERE 'started' IN (do_state, undo_state) AND updated_at < clock_timestamp() - interval '200 milliseconds'`
	for wait(alive, 50*time.Millisecond) {
		rows, err := r.pool.Query(alive, query)
		if err != nil {
			continue
		}
		left, err := pgx.CollectRows(rows, func(found pgx.CollectableRow) (row, error) { return scanRow(found) })
		if err != nil {
			continue
		}
		for _, op := range left {
			_, _ = r.advance(alive, op) // What fails is looked at again.
		}
	}
}

// doBesideUndo and undoBesideDo keep doing and undoing in rows of their own, so that neither waits for the other.
func (r *reference) doBesideUndo(ctx context.Context, order string, v Variant) (answer *operationv1.Result, err error) {
	err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		op, err := lockRow(ctx, tx, order)
		switch {
		case err != nil:
			return err
		case op.do != "none" && op.content != contentOf(v):
			return connect.NewError(connect.CodeAlreadyExists, errors.New("asked for with other content"))
		case op.do != "none":
			answer = result(op.do)
			return nil
		}
		var undone bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM undoings WHERE order_id = $1)`, order).Scan(&undone); err != nil {
			return err
		}
		switch {
		case undone:
			op.do = "undone-before"
		case v == Refused:
			op.do = "rejected"
		default:
			op.do = "applied"
			if err := r.move(ctx, tx, order, 3); err != nil {
				return err
			}
		}
		op.content, answer = contentOf(v), result(op.do)
		return saveRow(ctx, tx, op)
	})
	return answer, err
}

func (r *reference) undoBesideDo(ctx context.Context, order string) (*operationv1.Result, error) {
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		first, err := tx.Exec(ctx, `INSERT INTO undoings (order_id) VALUES ($1) ON CONFLICT DO NOTHING`, order)
		if err != nil || first.RowsAffected() == 0 {
			return err
		}
		var done bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM operations WHERE order_id = $1 AND do_state = 'applied')`, order).Scan(&done); err != nil {
			return err
		}
		if done {
			if err := r.move(ctx, tx, order, -3); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `UPDATE operations SET updated_at = clock_timestamp() WHERE order_id = $1 AND do_state = 'applied'`, order)
		return err
	})
	return &operationv1.Result{Outcome: applied}, err
}

// get, state and effects are the kit's own look at the tables: they work while the process is dead.
func (r *reference) get(ctx context.Context, order string) (*operationv1.Operation, error) {
	op, err := scanRow(r.pool.QueryRow(ctx, `SELECT `+rowColumns+` FROM operations WHERE order_id = $1`, order))
	if r.mistake == separateRows && (err == nil || errors.Is(err, pgx.ErrNoRows)) {
		var undone bool
		if err := r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM undoings WHERE order_id = $1)`, order).Scan(&undone); err != nil {
			return nil, err
		}
		if undone {
			op.undo, err = "applied", nil
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return &operationv1.Operation{
		OrderId: order, Do: result(op.do).Outcome, Undo: result(op.undo).Outcome,
		CreatedAt: timestamppb.New(op.createdAt), UpdatedAt: timestamppb.New(op.updatedAt),
	}, nil
}

func (r *reference) state(ctx context.Context, order string) (state string, err error) {
	const query = `SELECT format('%s by %s movements', coalesce(sum(amount), 0), count(*)) FROM book WHERE order_id = $1`
	err = r.pool.QueryRow(ctx, query, order).Scan(&state)
	return state, err
}

func (r *reference) effects(ctx context.Context, order string) ([]OuterEffect, error) {
	rows, err := r.pool.Query(ctx, `SELECT undoes, key FROM gateway WHERE order_id = $1`, order)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[OuterEffect])
}

// row is the reference's recorded operation.
type row struct {
	order, content, do, doKey, undo, undoKey string
	createdAt, updatedAt                     time.Time
}

const rowColumns = `order_id, content, do_state, do_key, undo_state, undo_key, created_at, updated_at`

func scanRow(found pgx.Row) (op row, err error) {
	err = found.Scan(&op.order, &op.content, &op.do, &op.doKey, &op.undo, &op.undoKey, &op.createdAt, &op.updatedAt)
	return op, err
}

func lockRow(ctx context.Context, tx pgx.Tx, order string) (row, error) {
	if _, err := tx.Exec(ctx, `INSERT INTO operations (order_id) VALUES ($1) ON CONFLICT DO NOTHING`, order); err != nil {
		return row{}, err
	}
	return scanRow(tx.QueryRow(ctx, `SELECT `+rowColumns+` FROM operations WHERE order_id = $1 FOR UPDATE`, order))
}

func saveRow(ctx context.Context, tx pgx.Tx, op row) error {
	const query = `
		UPDATE operations SET content = $2, do_state = $3, do_key = $4, undo_state = $5, undo_key = $6, updated_at = clock_timestamp()
		WHERE order_id = $1`
	_, err := tx.Exec(ctx, query, op.order, op.content, op.do, op.doKey, op.undo, op.undoKey)
	return err
}

// contentOf is the reference's digest. That an answer gets lost is the order's content, too.
func contentOf(v Variant) string { return string(v) }

func result(state string) *operationv1.Result {
	r := &operationv1.Result{Outcome: map[string]operationv1.Outcome{
		"none": notAsked, "applied": applied, "rejected": rejected, "undone-before": undoneBefore, "started": unknown, "wanted": unknown,
	}[state]}
	if r.Outcome == rejected {
		r.Reason = "refused"
	}
	return r
}
