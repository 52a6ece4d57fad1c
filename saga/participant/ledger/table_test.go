package ledger

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// effects is a table that comes after the ledger's: it writes one row for each operation that it does or undoes.
type effects struct {
	// deciding, where set, is called in each decision.
	deciding func()
}

type effect struct {
	of   *Change
	sign int
	// set is what becomes of the operation; nil for applied.
	set func(*Operation)
}

func (e *effects) Read(*pgx.Batch, []*commit.Change, bool) {}

func (e *effects) Decide(changes []*commit.Change) {
	if e.deciding != nil {
		e.deciding()
	}
	for _, change := range changes {
		what := change.What.(*effect)
		switch {
		case what.of.Known:
		case what.set != nil:
			what.set(&what.of.Op)
		case what.sign > 0:
			what.of.Op.Do.Apply("done")
		default:
			what.of.Op.Undo.Apply("undone")
		}
	}
}

func (e *effects) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	for _, change := range changes {
		if what := change.What.(*effect); !what.of.Known {
			batch.Queue(`INSERT INTO effects VALUES ($1, $2)`, what.of.Op.Key, what.sign)
		}
	}
	return nil
}

// shared is a ledger whose operations share transactions.
type shared struct {
	*fixture
	table     *Table
	effects   *effects
	committer *commit.Committer
}

func openShared(t *testing.T) *shared {
	t.Helper()
	l := open(t)
	_, err := l.pool.Exec(t.Context(), `CREATE TABLE effects (key text, sign int)`)
	require.NoError(t, err)
	return &shared{l, NewTable(), &effects{}, commit.New(l.pool)}
}

func (s *shared) doing(key, digest string) (*Change, []*commit.Change) {
	op, change := s.table.Doing(id(key, "reserve"), digest)
	return op, []*commit.Change{change, {Of: s.effects, What: &effect{of: op, sign: +1}}}
}

func (s *shared) undoing(key string) (*Change, []*commit.Change) {
	op, change := s.table.Undoing(id(key, "reserve"))
	return op, []*commit.Change{change, {Of: s.effects, What: &effect{of: op, sign: -1}}}
}

// effectsOf are how often it was done, and undone.
func (s *shared) effectsOf(t *testing.T, key string) (done, undone int) {
	t.Helper()
	const query = `SELECT count(*) FILTER (WHERE sign > 0), count(*) FILTER (WHERE sign < 0) FROM effects WHERE key = $1`
	require.NoError(t, s.pool.QueryRow(t.Context(), query, key).Scan(&done, &undone))
	return done, undone
}

// Each rule is tried in a transaction of the committer's, in one of the caller's, and by the functions that have no table.
func TestTheRulesOfOperationsAreTheSameInSharedTransactions(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	type request func(key string) (answer participant.Result, err error)
	ways := map[string]struct{ do, doOther, undo request }{}
	run := map[string]func(changes ...*commit.Change) error{
		"by a committer": func(changes ...*commit.Change) error { return s.committer.Do(t.Context(), changes...) },
		"in a transaction": func(changes ...*commit.Change) error {
			return pg.InTx(t.Context(), s.pool, func(tx pgx.Tx) error { return commit.In(t.Context(), tx, changes...) })
		},
	}
	for name, commit := range run {
		do := func(digest string) request {
			return func(key string) (participant.Result, error) {
				op, changes := s.doing(key, digest)
				err := commit(changes...)
				return op.Op.Answer(Doing), err
			}
		}
		undo := func(key string) (participant.Result, error) {
			op, changes := s.undoing(key)
			err := commit(changes...)
			return op.Op.Answer(Undoing), err
		}
		ways[name] = struct{ do, doOther, undo request }{do("d"), do("other"), undo}
	}
	for name, w := range ways {
		key := func(rule string) string { return rule + " " + name }
		require.NoError(t, func() error { _, err := w.do(key("done twice")); return err }())
		answer, err := w.do(key("done twice"))
		require.NoError(t, err)
		require.Equal(t, participant.Result{Outcome: participant.Applied, Reference: "done"}, answer)
		_, err = w.doOther(key("done twice"))
		require.ErrorIs(t, err, ErrConflict)
		done, undone := s.effectsOf(t, key("done twice"))
		require.Equal(t, []int{1, 0}, []int{done, undone}, name)

		for range 2 {
			answer, err = w.undo(key("done twice"))
			require.NoError(t, err)
			require.Equal(t, participant.Result{Outcome: participant.Applied, Reference: "undone"}, answer)
		}
		done, undone = s.effectsOf(t, key("done twice"))
		require.Equal(t, []int{1, 1}, []int{done, undone}, name)

		answer, err = w.undo(key("undone before"))
		require.NoError(t, err)
		require.Equal(t, participant.Result{Outcome: participant.Applied, Reason: Unseen}, answer)
		for range 2 {
			answer, err = w.do(key("undone before"))
			require.NoError(t, err)
			require.Equal(t, participant.UndoneBefore, answer.Outcome)
		}
		done, undone = s.effectsOf(t, key("undone before"))
		require.Equal(t, []int{0, 0}, []int{done, undone}, name)

		s.insert(t, key("started"), "reserve", Started, None)
		answer, err = w.undo(key("started"))
		require.NoError(t, err)
		require.Equal(t, participant.NotKnown, answer.Outcome)
		op, err := Get(t.Context(), s.pool, id(key("started"), "reserve"))
		require.NoError(t, err)
		require.Equal(t, Wanted, op.Undo.State)

		require.Equal(t, []string{key("forgotten")}, s.forget(t, key("forgotten")))
		_, err = w.do(key("forgotten"))
		require.ErrorIs(t, err, ErrForgotten)
		_, err = w.undo(key("forgotten"))
		require.ErrorIs(t, err, ErrForgotten)
		require.NotContains(t, s.kept(t), key("forgotten"), "a refused request leaves nothing")
	}
}

func TestI2RequestsAboutOneOperationInOneTransactionApplyItOnce(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	first := make(chan struct{})
	s.effects.deciding = sync.OnceFunc(func() { <-first })
	var all sync.WaitGroup
	ask := func(begin func() []*commit.Change) {
		all.Go(func() { assert.NoError(t, s.committer.Do(t.Context(), begin()...)) })
	}
	ask(func() []*commit.Change { _, c := s.doing("holds-the-others-up", "d"); return c })
	for range 10 {
		for n := range 5 {
			key := fmt.Sprintf("ord-%d", n)
			ask(func() []*commit.Change { _, c := s.doing(key, "d"); return c })
			ask(func() []*commit.Change { _, c := s.undoing(key); return c })
		}
	}
	close(first)
	all.Wait()
	for n := range 5 {
		done, undone := s.effectsOf(t, fmt.Sprintf("ord-%d", n))
		require.LessOrEqual(t, done, 1)
		require.Equal(t, done, undone, "what was done is undone: everybody was answered")
	}
}

// What is recorded of an operation in every column comes back, whether it is the first record or a later one.
func TestWhatIsRecordedInSharedTransactionsIsReadBack(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	want := Operation{
		ID: id("ord-1", "pay"), Digest: "d",
		Do:     Side{State: Applied, Reason: "r", Detail: "a sentence", Reference: "ref", Key: "k"},
		Undo:   Side{State: None},
		Output: []byte(`{"a":1}`), ValidUntil: time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC), Amount: Amount{"EUR", 4999},
	}
	set := func(wanted Operation) (get Operation) {
		op, change := s.table.Seeing(want.ID)
		require.NoError(t, s.committer.Do(t.Context(), change, &commit.Change{Of: s.effects, What: &effect{of: op, set: func(o *Operation) {
			wanted.CreatedAt, wanted.UpdatedAt = o.CreatedAt, o.UpdatedAt
			*o = wanted
		}}}))
		get, err := Get(t.Context(), s.pool, want.ID)
		require.NoError(t, err)
		get.CreatedAt, get.UpdatedAt = time.Time{}, time.Time{}
		return get
	}
	require.Equal(t, want, set(want))
	want.Undo = Side{State: Started, Reason: "u", Detail: "another", Reference: "uref", Key: "uk"}
	want.Amount = Amount{}
	require.Equal(t, want, set(want))
	due, err := ClaimUnderWay(t.Context(), s.pool, 10)
	require.NoError(t, err)
	require.Empty(t, due, "recovery waits for firstAsk")
	_, err = s.pool.Exec(t.Context(), `UPDATE operations SET ask_at = ask_at - $1::interval`, firstAsk)
	require.NoError(t, err)
	due, err = ClaimUnderWay(t.Context(), s.pool, 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
}

func TestASagaThatSomebodyElseWorksOnIsDecidedAfterItAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	tx, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, _, err = BeginUndoing(t.Context(), tx, id("ord-1", "reserve"))
	require.NoError(t, err)

	op, changes := s.doing("ord-1", "d")
	waited := make(chan error, 1)
	go func() { waited <- s.committer.Do(t.Context(), changes...) }()
	for n := range 10 {
		_, changes := s.doing(fmt.Sprintf("other-%d", n), "d")
		require.NoError(t, s.committer.Do(t.Context(), changes...))
	}
	require.Empty(t, waited, "it was decided by what the other has not committed")
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-waited)
	require.Equal(t, UndoneBefore, op.Op.Do.State)
}

// The rule of sagaLocks keeps everybody apart. Whoever breaks it must not lose a record by it.
func TestARecordThatSomebodyChangedMeanwhileIsNotOverwritten(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	s.insert(t, "ord-1", "reserve", Started, None)
	s.effects.deciding = func() {
		_, err := s.pool.Exec(t.Context(), `UPDATE operations SET do_state = 'applied', ask_at = NULL, updated_at = clock_timestamp()`)
		require.NoError(t, err)
	}
	_, changes := s.undoing("ord-1")
	require.ErrorContains(t, s.committer.Do(t.Context(), changes...), "somebody else has changed one meanwhile")
	op, err := Get(t.Context(), s.pool, id("ord-1", "reserve"))
	require.NoError(t, err)
	require.Equal(t, []State{Applied, None}, []State{op.Do.State, op.Undo.State})
}

func TestI2SharedRequestsRacingWithForgettingAreAppliedBeforeOrRefusedAfter(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	var orders []string
	for i := range 60 {
		orders = append(orders, fmt.Sprintf("ord-%02d", i))
		s.insert(t, orders[i], "commit", Applied, None)
	}
	var all sync.WaitGroup
	for _, order := range orders {
		all.Go(func() {
			_, changes := s.doing(order, "d")
			if err := s.committer.Do(t.Context(), changes...); err != nil {
				assert.ErrorIs(t, err, ErrForgotten)
			}
		})
	}
	for range 3 {
		all.Go(func() { s.forget(t, orders...) })
	}
	all.Wait()
	const query = `SELECT count(*) FROM operations JOIN forgotten_sagas USING (definition, key)`
	var both int
	require.NoError(t, s.pool.QueryRow(t.Context(), query).Scan(&both))
	require.Zero(t, both, "orders that were forgotten and have operations")
}

func TestSeveralStepsOfASagaMayBeOneChange(t *testing.T) {
	t.Parallel()
	s := openShared(t)
	one, first := s.table.Doing(id("ord-1", "reserve"), "d")
	two, second := s.table.Doing(id("ord-1", "commit"), "d")
	both := []*commit.Change{first, second, {Of: s.effects, What: &effect{of: one, sign: 1}}, {Of: s.effects, What: &effect{of: two, sign: 1}}}
	require.NoError(t, s.committer.Do(t.Context(), both...))
	done, _ := s.effectsOf(t, "ord-1")
	require.Equal(t, 2, done)
}
