// Package participanttest proves of a participant, on its real database, what design.md demands of every one: each step may be
// asked for any number of times, undone before it arrives, and asked about afterwards. A participant describes each of its
// steps as a Step; Prove does the rest. It is imported by tests only.
package participanttest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// Call asks the participant for something about an order.
type Call func(ctx context.Context, orderID string) (*operationv1.Result, error)

// Step is one step as its participant does and undoes it.
type Step struct {
	// Name is the step's, such as "reserve-stock".
	Name string
	// Prepare brings an order to where the step can be done; nil if nothing is needed.
	Prepare func(t *testing.T, orderID string)
	Do      Call
	// DoOther asks for the same step with other content; nil if a request has none.
	DoOther Call
	// Refuse asks, for an order that was not prepared, for what is refused for a business reason.
	Refuse func(t *testing.T, orderID string) *operationv1.Result
	// Undo is nil for a step that nothing undoes.
	Undo Call
	Get  func(ctx context.Context, orderID, step string) (*operationv1.Operation, error)

	// Effect tells in a line what is in place for an order, read from where it is and not from the recorded operations.
	Effect func(t *testing.T, orderID string) string
	// What Effect tells of a prepared order, after doing, and after undoing that.
	None, Done, Undone string
	// Inside tells only what is in place inside the participant's own transactions; nil if that is all of Effect. While an
	// outcome cannot be committed, Inside must stay what it was, though an outer system may have done its part.
	Inside func(t *testing.T, orderID string) string
}

const (
	applied      = operationv1.Outcome_OUTCOME_APPLIED
	rejected     = operationv1.Outcome_OUTCOME_REJECTED
	undoneBefore = operationv1.Outcome_OUTCOME_UNDONE_BEFORE
	unknown      = operationv1.Outcome_OUTCOME_UNKNOWN
	unspecified  = operationv1.Outcome_OUTCOME_UNSPECIFIED
)

// Prove runs every rule that fits the step. The pool reaches the participant's database; Prove breaks commits in it, so the
// rules run one after another.
func Prove(t *testing.T, pool *pgxpool.Pool, s Step) {
	p := prover{Step: s, pool: pool}
	t.Run("rule 1, I2: the same again returns the recorded outcome and applies nothing twice", p.sameAgain)
	t.Run("rule 1, I2: 32 of the same at once apply once", p.manyAtOnce)
	t.Run("rule 4: undoing what was rejected is done and applies nothing", p.undoRejected)
	t.Run("rule 5: what happened can be asked by key", p.ask)
	t.Run("I2, I8: a commit that fails leaves neither the effect nor its record", p.failedCommit)
	if s.DoOther != nil {
		t.Run("rule 2: the same key with other content is a conflict and applies nothing", p.otherContent)
	}
	if s.Undo != nil {
		t.Run("rule 1, I2: undoing again undoes nothing twice", p.undoAgain)
		t.Run("rule 3: undone before it arrived, the late step is refused", p.undoFirst)
		t.Run("I2: doing and undoing at once leaves nothing in place", p.bothAtOnce)
	}
}

type prover struct {
	Step
	pool *pgxpool.Pool
}

func (p prover) sameAgain(t *testing.T) {
	order := p.prepared(t, "again")
	first := known(t, p.Do, order)
	require.Equal(t, applied, first.Outcome, first)
	for range 3 {
		again := known(t, p.Do, order)
		require.Equal(t, first.String(), again.String())
	}
	require.Equal(t, p.Done, p.Effect(t, order))
}

func (p prover) manyAtOnce(t *testing.T) {
	order := p.prepared(t, "at-once")
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if r := known(t, p.Do, order); assert.NotNil(t, r) {
				assert.Equal(t, applied, r.Outcome, r)
			}
		})
	}
	all.Wait()
	require.Equal(t, p.Done, p.Effect(t, order))
}

func (p prover) otherContent(t *testing.T) {
	order := p.prepared(t, "other")
	require.Equal(t, applied, known(t, p.Do, order).Outcome)
	_, err := p.DoOther(t.Context(), order)
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err), err)
	require.Equal(t, p.Done, p.Effect(t, order))
	require.Equal(t, applied, known(t, p.Do, order).Outcome, "the first content stays the recorded one")
}

func (p prover) undoAgain(t *testing.T) {
	order := p.prepared(t, "undo-again")
	require.Equal(t, applied, known(t, p.Do, order).Outcome)
	first := known(t, p.Undo, order)
	require.Equal(t, applied, first.Outcome, first)
	require.Equal(t, p.Undone, p.Effect(t, order))
	for range 3 {
		require.Equal(t, first.String(), known(t, p.Undo, order).String())
	}
	require.Equal(t, p.Undone, p.Effect(t, order))
	require.Equal(t, applied, known(t, p.Do, order).Outcome, "doing it again still tells that it was done, and does nothing")
	require.Equal(t, p.Undone, p.Effect(t, order))
}

func (p prover) undoFirst(t *testing.T) {
	order := p.prepared(t, "undo-first")
	require.Equal(t, applied, known(t, p.Undo, order).Outcome)
	op, err := p.Get(t.Context(), order, p.Name)
	require.NoError(t, err)
	require.Equal(t, []operationv1.Outcome{unspecified, applied}, []operationv1.Outcome{op.Do, op.Undo})

	for range 2 {
		require.Equal(t, undoneBefore, known(t, p.Do, order).Outcome)
		require.Equal(t, p.None, p.Effect(t, order))
	}
	require.Equal(t, applied, known(t, p.Undo, order).Outcome)
	op, err = p.Get(t.Context(), order, p.Name)
	require.NoError(t, err)
	require.Equal(t, []operationv1.Outcome{undoneBefore, applied}, []operationv1.Outcome{op.Do, op.Undo})
	if p.DoOther != nil {
		_, err := p.DoOther(t.Context(), order)
		require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err), err)
	}
}

func (p prover) undoRejected(t *testing.T) {
	order := p.order("rejected")
	first := p.Refuse(t, order)
	require.Equal(t, rejected, first.Outcome, first)
	require.NotEmpty(t, first.Reason)
	before := p.Effect(t, order)
	if p.Undo != nil {
		require.Equal(t, applied, known(t, p.Undo, order).Outcome)
	}
	require.Equal(t, before, p.Effect(t, order))
	require.Equal(t, first.String(), p.Refuse(t, order).String(), "a refusal is recorded like any outcome")
	op, err := p.Get(t.Context(), order, p.Name)
	require.NoError(t, err)
	require.Equal(t, rejected, op.Do)
	require.Equal(t, first.Reason, op.Reason)
}

func (p prover) ask(t *testing.T) {
	order := p.prepared(t, "ask")
	_, err := p.Get(t.Context(), order, p.Name)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), err)

	r := known(t, p.Do, order)
	op, err := p.Get(t.Context(), order, p.Name)
	require.NoError(t, err)
	require.Equal(t, []operationv1.Outcome{applied, unspecified}, []operationv1.Outcome{op.Do, op.Undo})
	require.Equal(t, r.Reference, op.Reference)
	require.NotEmpty(t, op.Reference)
	require.WithinDuration(t, time.Now(), op.UpdatedAt.AsTime(), time.Minute)
}

// failedCommit breaks the transaction that records an outcome at the last moment, in its commit. What was done outside of
// that transaction would stay.
func (p prover) failedCommit(t *testing.T) {
	order := p.prepared(t, "failed-commit")
	inside := p.Inside
	if inside == nil {
		inside = p.Effect
	}
	before := inside(t, order)
	whileCommitsFail(t, p.pool, func() {
		_, err := p.Do(t.Context(), order)
		require.Error(t, err)
		require.Equal(t, before, inside(t, order))
	})
	require.Equal(t, applied, known(t, p.Do, order).Outcome)
	require.Equal(t, p.Done, p.Effect(t, order))
	if p.Undo == nil {
		return
	}
	before = inside(t, order)
	whileCommitsFail(t, p.pool, func() {
		_, err := p.Undo(t.Context(), order)
		require.Error(t, err)
		require.Equal(t, before, inside(t, order))
	})
	require.Equal(t, applied, known(t, p.Undo, order).Outcome)
	require.Equal(t, p.Undone, p.Effect(t, order))
}

func (p prover) bothAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for i := range 20 {
		order := p.prepared(t, fmt.Sprintf("both-%d", i))
		all.Go(func() { known(t, p.Do, order) })
		all.Go(func() { known(t, p.Undo, order) })
	}
	all.Wait()
	for i := range 20 {
		order := p.order(fmt.Sprintf("both-%d", i))
		op, err := p.Get(t.Context(), order, p.Name)
		require.NoError(t, err)
		require.Equal(t, applied, op.Undo)
		switch op.Do {
		case applied:
			require.Equal(t, p.Undone, p.Effect(t, order))
		case undoneBefore:
			require.Equal(t, p.None, p.Effect(t, order))
		default:
			t.Fatalf("%s: doing ended %s", order, op.Do)
		}
	}
}

func (p prover) order(suffix string) string { return p.Name + "-" + suffix }

func (p prover) prepared(t *testing.T, suffix string) string {
	t.Helper()
	order := p.order(suffix)
	if p.Prepare != nil {
		p.Prepare(t, order)
	}
	require.Equal(t, p.None, p.Effect(t, order))
	return order
}

// known asks until the answer is known.
func known(t *testing.T, call Call, order string) (r *operationv1.Result) {
	t.Helper()
	assert.Eventually(t, func() bool {
		var err error
		r, err = call(t.Context(), order)
		return assert.NoError(t, err) && r.Outcome != unknown
	}, 20*time.Second, 10*time.Millisecond, "the outcome for %s never became known", order)
	return r
}

// whileCommitsFail makes every commit fail that records an applied outcome.
func whileCommitsFail(t *testing.T, pool *pgxpool.Pool, work func()) {
	t.Helper()
	const on = `
		CREATE FUNCTION fail_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this commit was made to fail'; END $$;
		CREATE CONSTRAINT TRIGGER fail_commit AFTER INSERT OR UPDATE ON operations DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.do_state = 'applied' OR NEW.undo_state = 'applied') EXECUTE FUNCTION fail_commit()`
	const off = `DROP FUNCTION fail_commit CASCADE`
	_, err := pool.Exec(t.Context(), on)
	require.NoError(t, err)
	defer func() { // Also when work fails the test: the rules after it need commits that work.
		_, err := pool.Exec(t.Context(), off)
		assert.NoError(t, err)
	}()
	work()
}
