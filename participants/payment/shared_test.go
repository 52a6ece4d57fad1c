package payment

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

func TestI2ManyOrdersThatArePaidAtOnceArePaidOnceEach(t *testing.T) {
	t.Parallel()
	const orders = 200
	for name, processes := range map[string]int{"through one service": 1, "through two services on one database": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.URL(t)
			var through []*fixture
			for range processes {
				through = append(through, start(t, database, nil))
			}
			// Every call is made through each service at once, and again until its outcome is known, as a saga does.
			paid := func(order string, call func(*fixture) participanttest.Call) {
				var all sync.WaitGroup
				for _, p := range through {
					all.Go(func() {
						assert.Eventually(t, func() bool {
							r, err := call(p)(t.Context(), order)
							if err != nil { // On a machine that is busy a call may wait too long for a connection.
								return !assert.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), err)
							}
							return r.Outcome == applied
						}, time.Minute, 20*time.Millisecond, order)
					})
				}
				all.Wait()
			}
			var all sync.WaitGroup
			for n := range orders {
				all.Go(func() {
					order := fmt.Sprintf("ord-%d", n)
					paid(order, func(p *fixture) participanttest.Call { return p.authorizing("tok_visa", 4999) })
					paid(order, func(p *fixture) participanttest.Call { return p.capturing(4999) })
				})
			}
			all.Wait()
			p := through[0]
			for n := range orders {
				order := fmt.Sprintf("ord-%d", n)
				require.Equal(t, "book [merchant 4999] network [authorize×1 capture×1]", p.effect(t, order))
				require.Equal(t, orchestrated("authorized", "completed"), p.told(t, order))
			}
			require.Empty(t, p.checkBooks(t))
			p.requireBookBalances(t)
		})
	}
}

// It is not parallel, so that whoever waits for a committer is its own.
func TestWhatIsRefusedInASharedTransactionIsRefusedAlone(t *testing.T) {
	p := start(t, pgtest.URL(t), nil)
	for _, order := range []string{"known", "authorized"} {
		require.Equal(t, applied, p.authorize(t, order, "tok_visa", 4999).Outcome)
	}
	_, err := p.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key) VALUES ('checkout', 'forgotten')`)
	require.NoError(t, err)

	errs := p.together(t, begun{
		"known":     p.beginning("known", 1),
		"forgotten": p.beginning("forgotten", 4999),
		"authorized": func(ctx context.Context) error {
			return second(p.service.store.beginCapture(ctx, order("authorized"), euro(1), ""))
		},
		"nothing": func(ctx context.Context) error {
			return second(p.service.store.beginCapture(ctx, order("nothing"), euro(1), ""))
		},
	})
	require.ErrorIs(t, errs["known"], ledger.ErrConflict)
	require.ErrorIs(t, errs["forgotten"], ledger.ErrForgotten)
	require.ErrorIs(t, errs["authorized"], participant.ErrBadRequest)
	require.NoError(t, errs["nothing"], "that it is refused is an answer")
	op, err := p.get(t.Context(), "nothing", stepCapture)
	require.NoError(t, err)
	require.Equal(t, noAuthorization, op.Reason)

	var transactions, payments int
	const good = `SELECT count(DISTINCT xmin::text), count(*) FROM payments WHERE order_id LIKE 'good-%' AND state = 'authorizing'`
	require.NoError(t, p.pool.QueryRow(t.Context(), good).Scan(&transactions, &payments))
	require.Equal(t, []int{1, 20}, []int{transactions, payments}, "transactions and payments")
	require.NoError(t, p.pool.QueryRow(t.Context(), `SELECT count(*) FROM payments WHERE order_id IN ('forgotten', 'nothing')`).Scan(&payments))
	require.Zero(t, payments)
	_, err = p.get(t.Context(), "authorized", stepCapture)
	require.Error(t, err, "nothing was recorded of the wrong amount")
}

func TestWhatCannotBeWrittenInASharedTransactionFailsAlone(t *testing.T) {
	p := start(t, pgtest.URL(t), nil)
	_, err := p.pool.Exec(t.Context(), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this payment was made to fail'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.order_id = 'bad') EXECUTE FUNCTION refuse()`)
	require.NoError(t, err)
	errs := p.together(t, begun{"bad": p.beginning("bad", 4999)})
	require.ErrorContains(t, errs["bad"], "this payment was made to fail")
	var payments int
	require.NoError(t, p.pool.QueryRow(t.Context(), `SELECT count(*) FROM payments WHERE state = 'authorizing'`).Scan(&payments))
	require.Equal(t, 20, payments)
	_, err = p.get(t.Context(), "bad", stepAuthorize)
	require.Error(t, err, "nothing was recorded of the bad one")
}

// begun are calls by name.
type begun map[string]func(context.Context) error

func (p *fixture) beginning(id string, units int64) func(context.Context) error {
	return func(ctx context.Context) error {
		return second(p.service.store.beginAuthorize(ctx, request{
			payer: order(id), coordination: event.Orchestrated, customerID: "cus-1", method: "tok_visa", amount: euro(units),
		}))
	}
}

func euro(units int64) ledger.Amount { return ledger.Amount{Currency: "EUR", MinorUnits: units} }

func second(_ recorded, err error) error { return err }

// together makes calls, and beside them begins 20 good authorizations, in one transaction. It returns what became of the calls.
func (p *fixture) together(t *testing.T, calls begun) map[string]error {
	t.Helper()
	for n := range 20 {
		name := fmt.Sprintf("good-%d", n)
		calls[name] = p.beginning(name, 4999)
	}
	first := &held{deciding: make(chan struct{}), goOn: make(chan struct{})}
	var all sync.WaitGroup
	all.Go(func() { assert.NoError(t, p.service.store.committer.Do(t.Context(), &commit.Change{Of: first})) })
	<-first.deciding
	var mu sync.Mutex
	errs := make(map[string]error)
	for name, call := range calls {
		all.Go(func() {
			err := call(t.Context())
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	// All but the first wait for it.
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "commit.(*Committer).Do(") == len(calls)+1
	}, 10*time.Second, time.Millisecond)
	close(first.goOn)
	all.Wait()
	for name, err := range errs {
		if strings.HasPrefix(name, "good-") {
			require.NoError(t, err, name)
		}
	}
	return errs
}

// held is a table whose one transaction is held up while it decides.
type held struct{ deciding, goOn chan struct{} }

func (h *held) Read(*pgx.Batch, []*commit.Change, bool) {}

func (h *held) Decide([]*commit.Change) {
	close(h.deciding)
	<-h.goOn
}

func (h *held) Write(context.Context, *pgx.Batch, []*commit.Change) error { return nil }
