package retention_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/retention"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

const (
	old   = 48 * time.Hour
	young = time.Hour
	keep  = 24 * time.Hour
)

// I3: what is purged or forgotten nobody can go on with.
func TestI3FinishedWorkflowsArePurgedAndThoseOfAnOpenCheckoutNever(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.engine = f.embedded(t)
	// The worst case: the engine says of each that it has ended, so that it would purge it if it were asked to.
	for _, phase := range []saga.Phase{saga.Forward, saga.Pivoted, saga.Undoing} {
		f.checkout(t, string(phase), phase, old, 1)
		f.run(t, string(phase), 1)
	}
	f.checkout(t, "finished", journal.Final, old, 2)
	f.run(t, "finished", 1)
	f.run(t, "finished", 2)
	f.checkout(t, "finished-lately", journal.Final, young, 1)
	f.run(t, "finished-lately", 1)
	f.checkout(t, "never-ran", journal.Final, old, 1)

	require.NoError(t, f.retention(t, 0).Round(t.Context()))
	for _, id := range []string{"checkout.forward-1", "checkout.pivoted-1", "checkout.undoing-1", "checkout.finished-lately-1"} {
		instance, err := f.engine.Inspect(t.Context(), id)
		require.NoError(t, err, id)
		require.Equal(t, engine.Completed, instance.State, id)
	}
	for _, id := range []string{"checkout.finished-1", "checkout.finished-2"} {
		_, err := f.engine.Inspect(t.Context(), id)
		require.ErrorIs(t, err, engine.ErrGone, id)
	}
	require.Equal(t, []string{"finished 2", "never-ran 1"}, f.purged(t))
	require.Len(t, f.ids(t, "sagas"), 6, "checkouts are kept for ever where nothing else is said")
}

func TestASupersededRunThatStillWaitsIsWokenAndPurgedOnceItHasEnded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.engine = f.embedded(t)
	f.checkout(t, "ord-1", journal.Final, old, 2)
	require.NoError(t, runs.Start(t.Context(), f.engine, checkout.Saga("ord-1"), 1, saga.Forward, checkouttest.Plan())) // It waits for a command.
	f.run(t, "ord-1", 2)

	r := f.retention(t, 0)
	require.NoError(t, r.Round(t.Context()), "that a run has not ended is no trouble")
	require.Empty(t, f.purged(t), "run 1 is still there")
	require.Eventually(t, func() bool { return r.Round(t.Context()) == nil && len(f.purged(t)) == 1 }, 20*time.Second, 50*time.Millisecond)
	for _, id := range []string{"checkout.ord-1-1", "checkout.ord-1-2"} {
		_, err := f.engine.Inspect(t.Context(), id)
		require.ErrorIs(t, err, engine.ErrGone)
	}
}

func TestAnEngineThatIsAwayIsAskedAgainInTheNextRound(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i := range 3 {
		f.checkout(t, fmt.Sprintf("ord-%d", i), journal.Final, old, 1)
	}
	fake := &fakeEngine{purge: errors.New("away"), inspect: errors.New("away")}
	f.engine = fake
	require.ErrorContains(t, f.retention(t, 0).Round(t.Context()), "away")
	require.Empty(t, f.purged(t))
	require.Equal(t, 1, fake.asked, "the others would have waited for it as long")

	fake.purge = nil
	require.NoError(t, f.retention(t, 0).Round(t.Context()))
	require.Len(t, f.purged(t), 3)
}

func TestAWorkflowThatCannotBePurgedStandsInNobodysWay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.checkout(t, "ord-0", journal.Final, old+time.Hour, 1)
	f.checkout(t, "ord-1", journal.Final, old, 1)
	f.engine = &fakeEngine{purge: errors.New("it is stuck"), only: "checkout.ord-0-1"}
	require.ErrorContains(t, f.retention(t, 0).Round(t.Context()), "it is stuck")
	require.Equal(t, []string{"ord-1 1"}, f.purged(t))
}

func TestOldCheckoutsAreForgottenWithTheirOperations(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"forgotten", "dead-letter", "kept-by-payment", "kept-by-warehouse", "unpublished"} {
		f.checkout(t, id, journal.Final, old, 1)
	}
	f.checkout(t, "young", journal.Final, young, 1)
	for _, phase := range []saga.Phase{saga.Forward, saga.Pivoted, saga.Undoing} {
		f.checkout(t, string(phase), phase, old, 1)
	}
	f.exec(t, `UPDATE outbox SET published_at = NULL WHERE key = 'unpublished'`)
	f.exec(t, `INSERT INTO commands (definition, key, kind, actor, reason, outcome) VALUES ('checkout', 'forgotten', 'cancel', 'ann', 'she asked', 'done')`)
	f.deadLetters = []string{"dead-letter"}
	f.payment.keeps = []string{"kept-by-payment"}
	f.warehouse.keeps = []string{"kept-by-warehouse"}

	require.NoError(t, f.retention(t, keep).Round(t.Context()))
	require.Equal(t, []string{"forgotten"}, f.ids(t, "forgotten_sagas"))
	require.Equal(t, []string{"dead-letter", "forward", "kept-by-payment", "kept-by-warehouse", "pivoted", "undoing", "unpublished", "young"}, f.ids(t, "sagas"))
	require.NotContains(t, f.ids(t, "entries"), "forgotten")
	require.Equal(t, []string{"forgotten"}, f.ids(t, "commands"), "what people commanded is kept for ever")
	require.Equal(t, []string{"forgotten", "kept-by-warehouse"}, f.payment.forgotten)
	require.Equal(t, []string{"forgotten"}, f.warehouse.forgotten)

	f.deadLetters, f.payment.keeps, f.warehouse.keeps = nil, nil, nil
	f.exec(t, `UPDATE outbox SET published_at = now()`)
	require.NoError(t, f.retention(t, keep).Round(t.Context()))
	require.Equal(t, []string{"dead-letter", "forgotten", "kept-by-payment", "kept-by-warehouse", "unpublished"}, f.ids(t, "forgotten_sagas"))
}

func TestNothingIsForgottenWhileSomebodyCannotTell(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for name, cut := range map[string]func(f *fixture, trouble error){
		"dead letters":          func(f *fixture, trouble error) { f.deadLettersAway = trouble },
		"the first participant": func(f *fixture, trouble error) { f.payment.err = trouble },
		"the last participant":  func(f *fixture, trouble error) { f.warehouse.err = trouble },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.checkout(t, "ord-1", journal.Final, old, 1)
			cut(f, away)
			require.ErrorIs(t, f.retention(t, keep).Round(t.Context()), away)
			require.Equal(t, []string{"ord-1"}, f.ids(t, "sagas"))
			cut(f, nil)
			require.NoError(t, f.retention(t, keep).Round(t.Context()))
			require.Equal(t, []string{"ord-1"}, f.ids(t, "forgotten_sagas"))
		})
	}
}

func TestI8ADeathBetweenTwoStepsLeavesWhatTheNextRoundFinishes(t *testing.T) {
	t.Parallel()
	for name, dies := range map[string]func(f *fixture, die func()){
		"after a run was purged and before that is noted":              func(f *fixture, die func()) { f.engine.(*fakeEngine).then = die },
		"after the first participant forgot":                           func(f *fixture, die func()) { f.payment.then = die },
		"after the last participant forgot and before the row is gone": func(f *fixture, die func()) { f.warehouse.then = die },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.checkout(t, "ord-1", journal.Final, old, 1)
			f.checkout(t, "ord-2", journal.Final, old, 1)
			life, die := context.WithCancel(t.Context())
			dies(f, die)
			_ = f.retention(t, keep).Round(life)
			require.Error(t, life.Err(), "it did not die")
			require.Equal(t, []string{"ord-1", "ord-2"}, f.ids(t, "sagas"))

			dies(f, nil)
			require.NoError(t, f.retention(t, keep).Round(t.Context()))
			require.Equal(t, []string{"ord-1", "ord-2"}, f.ids(t, "forgotten_sagas"))
			require.Empty(t, f.ids(t, "sagas"))
		})
	}
}

func TestManyAreForgottenInBoundedBatchesPastThoseThatMustStay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.checkout(t, "ord-000", journal.Final, old, 1)
	f.exec(t, `
		INSERT INTO sagas (definition, key, idempotency_key, digest, request, about, currency, amount, input, engine, phase, status,
		                   verdict, deadline, plan, progress, ended_at)
		SELECT definition, 'ord-' || lpad(i::text, 3, '0'), 'key-' || i, digest, request, about, currency, amount, input, engine, phase, status,
		       verdict, deadline, plan, progress, ended_at + i * interval '1 second'
		FROM sagas, generate_series(1, 249) AS i`)
	all := f.ids(t, "sagas")
	f.payment.keeps = all[:120] // The oldest, more than a batch's worth.
	require.NoError(t, f.retention(t, keep).Round(t.Context()))
	require.Equal(t, all[120:], f.ids(t, "forgotten_sagas"))
	require.LessOrEqual(t, f.payment.most, 100, "orders that a participant was asked about at once")
}

func TestItForgetsUntilItIsStopped(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.checkout(t, "ord-1", journal.Final, old, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { f.retention(t, keep).Run(ctx); close(ended) }()
	require.Eventually(t, func() bool { return len(f.ids(t, "forgotten_sagas")) == 1 }, 10*time.Second, 20*time.Millisecond)
	stop()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it did not stop")
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	_, err := retention.New(retention.Config{KeepSagas: time.Hour})
	require.ErrorContains(t, err, "workflows are kept")
	require.ErrorContains(t, err, "dead letters")
	_, err = retention.New(retention.Config{KeepWorkflows: time.Hour, KeepSagas: -1})
	require.ErrorContains(t, err, "negative")
	_, err = retention.New(retention.Config{KeepWorkflows: time.Hour})
	require.NoError(t, err)
}

type fixture struct {
	url                string
	pool               *pgxpool.Pool
	store              *store.Store
	engine             engine.Engine
	warehouse, payment *keeper
	deadLetters        []string
	deadLettersAway    error
}

func setup(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{url: pgtest.URL(t), engine: &fakeEngine{}, warehouse: &keeper{}, payment: &keeper{}}
	pool, err := pg.OpenMigrated(t.Context(), f.url, 4, append(checkouttest.Migrations(), embedded.Migrations())...)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	f.pool, f.store = pool, checkouttest.Store(pool)
	return f
}

func (f *fixture) retention(t *testing.T, keepSagas time.Duration) *retention.Retention {
	t.Helper()
	r, err := retention.New(retention.Config{
		KeepWorkflows: keep, KeepSagas: keepSagas, Pool: f.pool, Store: f.store, Engine: f.engine,
		Log:          slog.New(slog.NewTextHandler(t.Output(), nil)),
		Participants: map[string]participant.Participant{"warehouse": f.warehouse, "payment": f.payment},
		OpenDeadLetters: func(context.Context, []string) ([]string, error) {
			return f.deadLetters, f.deadLettersAway
		},
	})
	require.NoError(t, err)
	return r
}

// embedded runs the real embedded engine with a workflow that ends at its first command.
func (f *fixture) embedded(t *testing.T) engine.Engine {
	t.Helper()
	registry := task.NewTaskRegistry()
	require.NoError(t, registry.AddWorkflowN(saga.WorkflowName, func(ctx *task.WorkflowContext) (any, error) {
		return nil, ctx.WaitForSingleEvent(saga.CommandEvent, -1).Await(nil)
	}))
	e := embedded.New(embedded.Config{Pool: f.pool, Committer: commit.New(f.pool), Registry: registry, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return e
}

// run makes the engine have a run that has ended.
func (f *fixture) run(t *testing.T, order string, run int) {
	t.Helper()
	require.NoError(t, runs.Start(t.Context(), f.engine, checkout.Saga(order), run, saga.Forward, checkouttest.Plan()))
	require.NoError(t, f.engine.Raise(t.Context(), runs.ID(checkout.Saga(order), run), saga.CommandEvent, saga.Command{ID: "c", Kind: journal.CommandRetry}))
	require.Eventually(t, func() bool {
		instance, err := f.engine.Inspect(t.Context(), runs.ID(checkout.Saga(order), run))
		return err == nil && instance.State == engine.Completed
	}, 20*time.Second, 20*time.Millisecond)
}

// checkout makes one that is in a phase, and began or ended so long ago.
func (f *fixture) checkout(t *testing.T, id string, phase saga.Phase, age time.Duration, run int) {
	t.Helper()
	n := checkouttest.Start(checkouttest.Order(id, 1))
	n.IdempotencyKey = "key-of-" + id
	_, _, err := f.store.Accept(t.Context(), n)
	require.NoError(t, err)
	const query = `
		UPDATE checkouts
		SET phase = $2, run = $3, started_at = now() - $4::interval, updated_at = now() - $4::interval,
		    status = CASE $2 WHEN 'final' THEN 'CANCELLED' WHEN 'undoing' THEN 'COMPENSATING' ELSE 'RUNNING' END,
		    verdict = CASE WHEN $2 IN ('final', 'undoing') THEN 'CANCELLED' END,
		    ended_at = CASE $2 WHEN 'final' THEN now() - $4::interval END,
		    check_at = CASE WHEN $2 <> 'final' THEN now() - $4::interval END,
		    at_step = CASE WHEN $2 <> 'final' THEN at_step ELSE '' END
		WHERE order_id = $1`
	_, err = f.pool.Exec(t.Context(), query, id, string(phase), run, age)
	require.NoError(t, err)
	f.exec(t, `UPDATE outbox SET published_at = now()`)
}

func (f *fixture) exec(t *testing.T, query string) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), query)
	require.NoError(t, err)
}

// ids are the keys in a table, sorted.
func (f *fixture) ids(t *testing.T, table string) []string {
	t.Helper()
	return f.texts(t, `SELECT DISTINCT key FROM `+table+` ORDER BY key`)
}

// purged lists the checkouts of which the engine has forgotten runs, with the newest.
func (f *fixture) purged(t *testing.T) []string {
	t.Helper()
	return f.texts(t, `SELECT order_id || ' ' || purged_runs FROM checkouts WHERE purged_runs > 0 ORDER BY order_id`)
}

func (f *fixture) texts(t *testing.T, query string) []string {
	t.Helper()
	rows, err := f.pool.Query(t.Context(), query)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}

// keeper is a participant that forgets all that it is asked to but what it keeps.
type keeper struct {
	participant.Participant
	participant.Keeper
	keeps, forgotten []string
	most             int
	err              error
	then             func()
}

func (k *keeper) Forget(_ context.Context, definition string, keys []string) (participant.Forgotten, error) {
	if k.err != nil {
		return participant.Forgotten{}, k.err
	}
	if definition != checkout.Definition {
		return participant.Forgotten{}, fmt.Errorf("it knows nothing of %s", definition)
	}
	k.most = max(k.most, len(keys))
	var answer participant.Forgotten
	for _, key := range keys {
		if slices.Contains(k.keeps, key) {
			answer.Kept = append(answer.Kept, participant.Kept{Key: key, Why: "it is open"})
			continue
		}
		answer.Keys = append(answer.Keys, key)
		if !slices.Contains(k.forgotten, key) {
			k.forgotten = append(k.forgotten, key)
		}
	}
	slices.SortFunc(k.forgotten, strings.Compare)
	if k.then != nil {
		k.then()
	}
	return answer, nil
}

// fakeEngine is one that fails, or knows no instance.
type fakeEngine struct {
	engine.Engine
	purge, inspect error
	// only is the only instance that cannot be purged; empty: none can.
	only  string
	asked int
	then  func()
}

func (*fakeEngine) Name() string { return "embedded" }

func (f *fakeEngine) Purge(_ context.Context, id string) error {
	f.asked++
	if f.then != nil {
		f.then()
	}
	if f.only != "" && id != f.only {
		return nil
	}
	return f.purge
}

func (f *fakeEngine) Inspect(context.Context, string) (engine.Instance, error) {
	return engine.Instance{State: engine.Completed}, f.inspect
}
