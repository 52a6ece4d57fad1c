package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// A choreographed checkout as the orchestrator sees it: what it learns, in the order in which it happens to learn it, and what
// the checkout looks like then.
func TestFactsOfAChoreographedCheckoutLeadToItsEndInWhateverOrderTheyCome(t *testing.T) {
	t.Parallel()
	const (
		confirmed = "CONFIRMED final: done done done done"
		rejected  = "REJECTED final authorize-payment: card_declined: done/done rejected skipped skipped"
	)
	learn := func(fact orders.Fact, reason ...string) func(*scenario) {
		return func(s *scenario) { s.learn(fact, append(reason, "")[0]) }
	}
	stale := func(fact orders.Fact) func(*scenario) { return func(s *scenario) { s.learnsNothing(fact) } }
	overdue := func(takenOver bool) func(*scenario) { return func(s *scenario) { s.takeOver(takenOver) } }
	expire := func(s *scenario) { s.expire() }
	type does = []func(*scenario)
	for name, test := range map[string]struct {
		does does
		want string
	}{
		"nothing is heard":                     {nil, "RUNNING forward: running pending pending pending"},
		"all goes well":                        {does{learn(orders.StockReserved), learn(orders.PaymentAuthorized), learn(orders.PaymentCompleted), learn(orders.StockCommitted)}, confirmed},
		"the end comes first":                  {does{learn(orders.StockCommitted), stale(orders.PaymentCompleted), stale(orders.StockReserved)}, confirmed},
		"the middle is known":                  {does{learn(orders.PaymentAuthorized), stale(orders.StockReserved)}, "RUNNING forward: done done running pending"},
		"there is no way back":                 {does{learn(orders.PaymentCompleted), stale(orders.StockReleased)}, "RUNNING pivoted: done done done running"},
		"stock is out":                         {does{learn(orders.ReservationRefused, "out_of_stock")}, "REJECTED final reserve-stock: out_of_stock: rejected skipped skipped skipped"},
		"the card is declined":                 {does{learn(orders.StockReserved), learn(orders.PaymentFailed, "card_declined"), learn(orders.StockReleased, "card_declined")}, rejected},
		"the release comes before the refusal": {does{learn(orders.StockReleased, "card_declined"), stale(orders.PaymentFailed)}, rejected},
		"the release is waited for": {does{learn(orders.PaymentFailed, "card_declined"), stale(orders.StockReserved)},
			"COMPENSATING undoing authorize-payment: card_declined: done/running rejected skipped skipped"},
		"the deadline has not passed": {does{learn(orders.StockReserved), overdue(false)}, "RUNNING forward: done running pending pending"},
		"the deadline passes in silence": {does{expire, overdue(true)},
			"COMPENSATING undoing the deadline has passed: unknown/pending unknown/running skipped skipped"},
		"the deadline passes and all is voided": {does{learn(orders.StockReserved), expire, overdue(true), func(s *scenario) {
			s.fence(checkout.AuthorizePayment, true, journal.Go)
			s.record(checkout.AuthorizePayment, true, applied, journal.GoOn)
			s.fence(checkout.ReserveStock, true, journal.Go)
			s.record(checkout.ReserveStock, true, applied, journal.GoOn)
		}, stale(orders.StockReleased)}, "EXPIRED final the deadline has passed: done/done unknown/done skipped skipped"},
		"the deadline passes and payment has captured": {does{expire, overdue(true), func(s *scenario) {
			s.fence(checkout.AuthorizePayment, true, journal.Go)
			s.record(checkout.AuthorizePayment, true, refused("already_captured"), journal.Over)
			// Nobody releases what is paid for.
			s.fence(checkout.ReserveStock, true, journal.Superseded)
		}}, "RUNNING pivoted: done done done running"},
		"the deadline passes and the capture is heard of before the void is answered": {does{expire, overdue(true), learn(orders.PaymentCompleted), func(s *scenario) {
			s.record(checkout.AuthorizePayment, true, refused("already_captured"), journal.Over)
		}, learn(orders.StockCommitted)}, confirmed},
		"the commit is not heard of, so a run of ours does it": {does{learn(orders.PaymentCompleted), overdue(true), func(s *scenario) {
			s.fence(checkout.ReserveStock, false, journal.Known)
			s.fence(checkout.AuthorizePayment, false, journal.Known)
			s.fence(checkout.CapturePayment, false, journal.Known)
			s.fence(checkout.CommitStock, false, journal.Go)
			s.record(checkout.CommitStock, false, applied, journal.GoOn)
		}, stale(orders.StockCommitted)}, confirmed},
		"it is cancelled in time": {does{func(s *scenario) { s.cancel(journal.CancelAccepted) }, overdue(true)},
			"COMPENSATING undoing changed my mind: unknown/pending unknown/running skipped skipped"},
		"it is cancelled too late": {does{learn(orders.PaymentCompleted), func(s *scenario) { s.cancel(journal.CancelTooLate) }},
			"RUNNING pivoted: done done done running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := choreographed(t)
			for _, does := range test.does {
				does(s)
			}
			require.Equal(t, test.want, s.tell())
		})
	}
}

func TestI5TheEventOfACheckoutsEndIsWrittenOnce(t *testing.T) {
	t.Parallel()
	s := choreographed(t)
	s.learn(orders.StockCommitted, "")
	s.learnsNothing(orders.StockCommitted)
	rows, err := s.pool.Query(t.Context(), `SELECT topic || ' ' || seq || ' ' || coordination FROM outbox WHERE key = $1 ORDER BY seq`, s.id.Key)
	require.NoError(t, err)
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"checkout.order.created 1 choreographed", "checkout.order.confirmed 2 choreographed"}, events)
}

func choreographed(t testing.TB) *scenario {
	t.Helper()
	pool := migrated(t)
	n := order("ord-1")
	n.Elsewhere = true
	_, _, err := newStore(pool).Accept(t.Context(), n)
	require.NoError(t, err)
	return &scenario{t: t, pool: pool, store: newStore(pool), id: n.ID(), run: 1}
}

func (s *scenario) learn(fact orders.Fact, reason string) {
	s.t.Helper()
	require.True(s.t, s.heard(fact, reason), "%s is news", fact)
}

func (s *scenario) learnsNothing(fact orders.Fact) {
	s.t.Helper()
	require.False(s.t, s.heard(fact, "late"), "%s is known", fact)
}

func (s *scenario) heard(fact orders.Fact, reason string) (news bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	var learned func()
	require.NoError(s.t, pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		learned, err = s.store.Observe(ctx, tx, s.id, func(r *journal.Row) bool { return fact.Learn(r, reason) })
		return err
	}))
	if learned != nil {
		learned()
	}
	return learned != nil
}

// takeOver is what the sweeper does when a choreographed checkout's time to be looked at has come.
func (s *scenario) takeOver(want bool) {
	s.t.Helper()
	_, takenOver, err := s.store.TakeOver(s.t.Context(), store.Overdue{ID: s.id, Run: s.run})
	require.NoError(s.t, err)
	require.Equal(s.t, want, takenOver)
}
