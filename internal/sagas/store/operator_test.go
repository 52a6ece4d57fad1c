package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// act is one line of a story: something that happens to a checkout.
type act func(*scenario)

func tries(step string, l journal.Learned, want journal.Standing) act {
	return func(s *scenario) {
		s.t.Helper()
		s.fence(step, false, journal.Go)
		s.record(step, false, l, want)
	}
}

func undoes(step string, l journal.Learned, want journal.Standing) act {
	return func(s *scenario) {
		s.t.Helper()
		s.fence(step, true, journal.Go)
		s.record(step, true, l, want)
	}
}

func fences(step string, want journal.Leave) act {
	return func(s *scenario) { s.t.Helper(); s.fence(step, false, want) }
}

func fencesUndo(step string, want journal.Leave) act {
	return func(s *scenario) { s.t.Helper(); s.fence(step, true, want) }
}

func wish() store.Wish {
	return store.Wish{Saga: checkout.Saga("ord-1"), Actor: "op", Reason: "because"}
}

// asks has an operator ask something; the dry run must say the same and change nothing. A text that begins with "!" is a refusal.
func asks(want string, ask func(*scenario, store.Wish) (store.Steered, error)) act {
	return func(s *scenario) {
		s.t.Helper()
		before := s.tell()
		dry := wish()
		dry.DryRun = true
		for _, w := range []store.Wish{dry, wish()} {
			steered, err := ask(s, w)
			got := steered.What
			if err != nil {
				require.ErrorIs(s.t, err, journal.ErrState)
				got = "!" + err.Error()[len(journal.ErrState.Error()+": "):]
			}
			require.Equal(s.t, want, got, "dry run %t", w.DryRun)
			if w.DryRun || err != nil {
				require.Equal(s.t, before, s.tell(), "dry run %t, refused %t", w.DryRun, err != nil)
			}
		}
		c, err := s.store.Saga(s.t.Context(), s.id)
		require.NoError(s.t, err)
		s.run = c.Run
	}
}

func approve(want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) { return s.store.Approve(s.t.Context(), w) })
}

func reject(want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) { return s.store.Reject(s.t.Context(), w) })
}

func retry(step, want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) { return s.store.Retry(s.t.Context(), w, step) })
}

func settle(step string, proof journal.Proof, want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) {
		return s.store.Settle(s.t.Context(), w, step, proof)
	})
}

func refund(step, want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) { return s.store.Refund(s.t.Context(), w, step) })
}

func redrive(engine, want string) act {
	return asks(want, func(s *scenario, w store.Wish) (store.Steered, error) {
		return s.store.Redrive(s.t.Context(), w, engine)
	})
}

func cancels(want journal.CancelOutcome) act {
	return func(s *scenario) { s.t.Helper(); s.cancel(want) }
}

func runsOutOfTimeToApprove(s *scenario) {
	s.t.Helper()
	s.exec(`UPDATE checkouts SET approval_deadline = now() - interval '1 second'`)
}

func at(want string) act {
	return func(s *scenario) { s.t.Helper(); require.Equal(s.t, want, s.tell()) }
}

var (
	reserved   = tries(checkout.ReserveStock, applied, journal.GoOn)
	authorized = tries(checkout.AuthorizePayment, applied, journal.GoOn)
	captured   = tries(checkout.CapturePayment, applied, journal.GoOn)
	committed  = tries(checkout.CommitStock, applied, journal.GoOn)
)

func TestAnOperatorSettlesWhatCannotSettleItself(t *testing.T) {
	const engineOf = "embedded"
	tests := map[string]struct {
		approval bool
		acts     []act
		want     string
	}{
		"an order that needs approval waits for it, and goes on when it is approved": {
			true,
			[]act{
				approve("!it does not await approval yet: it is at reserve-stock"), reserved, authorized,
				at("AWAITING_APPROVAL forward: done done running pending pending"),
				fences(checkout.CapturePayment, journal.Hold),
				approve("it is approved and goes on with capture-payment"), approve("it was approved before"),
				reject("!it was approved before, and it is RUNNING"), captured, committed,
			},
			"CONFIRMED final: done done done done done",
		},
		"one that is rejected is undone": {
			true,
			[]act{
				reserved, authorized, reject("it is rejected, and what it holds is given back"),
				reject("it was rejected before"), approve("!it is COMPENSATING (approval: because)"),
				fences(checkout.CapturePayment, journal.TurnBack),
				undoes(checkout.AuthorizePayment, applied, journal.GoOn), undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"REJECTED final approval: because: done/done done/done rejected skipped skipped",
		},
		"one that nobody approves in time expires": {
			true,
			[]act{
				reserved, authorized, fences(checkout.CapturePayment, journal.Hold), runsOutOfTimeToApprove,
				fences(checkout.CapturePayment, journal.TurnBack),
				undoes(checkout.AuthorizePayment, applied, journal.GoOn), undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"EXPIRED final nobody approved it in time: done/done done/done skipped skipped skipped",
		},
		"one that is cancelled while it waits is undone": {
			true,
			[]act{
				reserved, authorized, cancels(journal.CancelAccepted), approve("!it was cancelled (changed my mind)"),
				fences(checkout.CapturePayment, journal.TurnBack),
				undoes(checkout.AuthorizePayment, applied, journal.GoOn), undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"CANCELLED final changed my mind: done/done done/done skipped skipped skipped",
		},
		"an approval is not settled as a step": {
			true,
			[]act{reserved, authorized, retry(checkout.Approval, "!an approval is decided by `approve` or `reject`")},
			"AWAITING_APPROVAL forward: done done running pending pending",
		},
		"an order below the amount needs no approval": {
			false, []act{approve("!it needs no approval, and it is RUNNING"), reject("!it needs no approval, and it is RUNNING")},
			"RUNNING forward: running pending pending pending",
		},
		"a retry is for the step that it is at": {
			false, []act{retry(checkout.CommitStock, "!it is at reserve-stock, not at commit-stock"), retry(checkout.ReserveStock, "reserve-stock is tried at once")},
			"RUNNING forward: running pending pending pending",
		},
		"a step is taken as done before the capture only where the record says so": {
			false,
			[]act{
				reserved, tries(checkout.AuthorizePayment, noAnswer("down"), journal.GoOn),
				settle(checkout.AuthorizePayment, journal.ProofWord, "!there is still a way back, so nobody needs to vouch for authorize-payment: cancel it, or have it tried again"),
				settle(checkout.AuthorizePayment, journal.ProofRecord, "authorize-payment is taken as done, as its participant's record says; it is RUNNING"),
				fences(checkout.AuthorizePayment, journal.Known), captured, committed,
			},
			"CONFIRMED final: done resolved done done",
		},
		"a step that was taken as done is undone like another": {
			false,
			[]act{
				tries(checkout.ReserveStock, noAnswer("down"), journal.GoOn),
				settle(checkout.ReserveStock, journal.ProofRecord, "reserve-stock is taken as done, as its participant's record says; it is RUNNING"),
				tries(checkout.AuthorizePayment, refused("card_declined"), journal.GoBack), undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"REJECTED final authorize-payment: card_declined: resolved/done rejected skipped skipped",
		},
		"a compensation is taken as done": {
			false,
			[]act{
				reserved, tries(checkout.AuthorizePayment, refused("card_declined"), journal.GoBack),
				undoes(checkout.ReserveStock, noAnswer("down"), journal.GoOn),
				settle(checkout.VoidAuthorization, journal.ProofWord, "!it is at release-stock, not at void-authorization"),
				settle(checkout.ReleaseStock, journal.ProofWord, "release-stock is taken as done, without proof; it is REJECTED"),
				settle(checkout.ReleaseStock, journal.ProofWord, "!it is REJECTED (authorize-payment: card_declined), and nothing of it is open"),
			},
			"REJECTED final authorize-payment: card_declined: done/resolved rejected skipped skipped",
		},
		"a capture that the record knows is past the pivot": {
			false,
			[]act{
				reserved, authorized,
				settle(checkout.CapturePayment, journal.ProofRecord, "capture-payment is taken as done, as its participant's record says; it is RUNNING"),
				cancels(journal.CancelTooLate), committed,
			},
			"CONFIRMED final: done done resolved done",
		},
		"a refund releases the stock, then gives the money back, and the checkout is cancelled": {
			false,
			[]act{
				reserved, authorized, refund(checkout.CapturePayment, "!there is still a way back: cancel it instead"),
				captured, tries(checkout.CommitStock, noAnswer("down"), journal.GoOn),
				refund(checkout.CommitStock, "it is undone by release-stock, and then by refund-payment"),
				refund(checkout.ReleaseStock, "!it is being undone already (refunded: because)"),
				at("COMPENSATING undoing refunded: because: done/running done done/pending skipped"),
				func(s *scenario) {
					s.t.Helper()
					s.run = 1
					s.record(checkout.CommitStock, false, applied, journal.Over)
					s.run = 2
					c, err := s.store.Saga(s.t.Context(), s.id)
					require.NoError(s.t, err)
					require.Equal(s.t, saga.Reversing, c.RunPhase())
					s.exec(`UPDATE checkouts SET check_at = now() - interval '1 second'`)
					overdue, err := s.store.Overdue(s.t.Context(), "embedded", 10)
					require.NoError(s.t, err)
					require.Equal(s.t, saga.Reversing, overdue[0].Phase, "the sweeper, too, begins its run so")
				},
				fencesUndo(checkout.AuthorizePayment, journal.Known), fencesUndo(checkout.CapturePayment, journal.Superseded),
				undoes(checkout.ReserveStock, applied, journal.GoOn), undoes(checkout.CapturePayment, noAnswer("down"), journal.GoOn),
				undoes(checkout.CapturePayment, applied, journal.GoOn),
			},
			"CANCELLED final refunded: because: done/done done done/done skipped",
		},
		"what was shipped before the refund could release it is not refunded": {
			false,
			[]act{
				reserved, authorized, captured, tries(checkout.CommitStock, noAnswer("answer lost"), journal.GoOn),
				refund(checkout.CommitStock, "it is undone by release-stock, and then by refund-payment"),
				undoes(checkout.ReserveStock, refused("already_committed"), journal.Over),
			},
			"CONFIRMED final: done done done done",
		},
		"a capture whose outcome is not known is not refunded": {
			false,
			[]act{
				reserved, authorized, tries(checkout.CapturePayment, noAnswer("down"), journal.GoOn),
				refund(checkout.CapturePayment, "!whether capture-payment is done is not known yet, so there is nothing to refund: `--as retry` asks again"),
			},
			"RUNNING pivoted: done done failing pending",
		},
		"a redrive goes on in the same phase with a new run": {
			false,
			[]act{
				reserved, authorized, captured, redrive("", "run 2 goes on in phase pivoted"),
				fences(checkout.CapturePayment, journal.Known), committed, redrive("", "!it is CONFIRMED, and nothing of it is open"),
			},
			"CONFIRMED final: done done done done",
		},
		"a redrive to another engine leaves the run to that one's sweeper": {
			false,
			[]act{
				reserved, redrive("dapr", "run 2 goes on in phase forward, on engine dapr instead of "+engineOf),
				func(s *scenario) {
					s.t.Helper()
					theirs, err := s.store.Overdue(s.t.Context(), "dapr", 10)
					require.NoError(s.t, err)
					require.Len(s.t, theirs, 1)
					require.False(s.t, theirs[0].Started)
				},
			},
			"RUNNING forward: done running pending pending",
		},
		"a capture refused by a payment that forgot what it confirmed is not believed": {
			false,
			[]act{reserved, authorized, tries(checkout.CapturePayment, refused("no_authorization"), journal.Doubted)},
			"NEEDS_ATTENTION pivoted attention(payment no longer knows what it confirmed, as after a restore from a backup): done done failing pending",
		},
		"nor a commit of a warehouse that forgot": {
			false,
			[]act{reserved, authorized, captured, tries(checkout.CommitStock, refused("no_reservation"), journal.Doubted)},
			"NEEDS_ATTENTION pivoted attention(warehouse no longer knows what it confirmed, as after a restore from a backup): done done done failing",
		},
		"nor a void of an authorization that was confirmed and that payment never saw": {
			false,
			[]act{
				reserved, authorized, cancels(journal.CancelAccepted), fences(checkout.CapturePayment, journal.TurnBack),
				undoes(checkout.AuthorizePayment, journal.Learned{Outcome: saga.Applied, Reason: "unseen"}, journal.Doubted),
				at("NEEDS_ATTENTION undoing changed my mind attention(payment no longer knows what it confirmed, as after a restore from a backup): done/pending done/failing skipped skipped"),
				settle(checkout.VoidAuthorization, journal.ProofWord, "void-authorization is taken as done, without proof; it is COMPENSATING"),
				undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"CANCELLED final changed my mind: done/done done/resolved skipped skipped",
		},
		"a step that was never answered may well be unseen": {
			false,
			[]act{
				reserved, tries(checkout.AuthorizePayment, noAnswer("down"), journal.GoOn), cancels(journal.CancelAccepted),
				fences(checkout.AuthorizePayment, journal.TurnBack),
				undoes(checkout.AuthorizePayment, journal.Learned{Outcome: saga.Applied, Reason: "unseen"}, journal.GoOn),
				undoes(checkout.ReserveStock, applied, journal.GoOn),
			},
			"CANCELLED final changed my mind: done/done unknown/done skipped skipped",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migrated(t)
			n := order("ord-1")
			if test.approval {
				n.Plan, n.Approval = checkouttest.PlanWithApproval(), time.Hour
			}
			s := &scenario{t: t, pool: pool, store: newStore(pool), id: checkout.Saga("ord-1"), run: 1}
			_, _, err := s.store.Accept(t.Context(), n)
			require.NoError(t, err)
			for _, does := range test.acts {
				does(s)
			}
			if diff := cmp.Diff(test.want, s.tell()); diff != "" {
				t.Errorf("the row (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTimeSpentAwaitingApprovalIsAddedToTheDeadline(t *testing.T) {
	t.Parallel()
	pool := migrated(t)
	n := order("ord-1")
	n.Plan, n.Approval = checkouttest.PlanWithApproval(), time.Hour
	s := &scenario{t: t, pool: pool, store: newStore(pool), id: checkout.Saga("ord-1"), run: 1}
	before, _, err := s.store.Accept(t.Context(), n)
	require.NoError(t, err)
	reserved(s)
	authorized(s)
	// It has waited for half an hour, and the deadline of a minute is long past.
	s.exec(`UPDATE checkouts SET deadline = deadline - interval '30 minutes',
	        progress = jsonb_set(progress, '{2,started_at}', to_jsonb(now() - interval '30 minutes'))`)
	fences(checkout.CapturePayment, journal.Hold)(s)
	approve("it is approved and goes on with capture-payment")(s)
	after, err := s.store.Saga(t.Context(), checkout.Saga("ord-1"))
	require.NoError(t, err)
	require.WithinDuration(t, before.Deadline, after.Deadline, 10*time.Second)
	captured(s)
	committed(s)
}

func TestWhoIsHeldBackCallsNobodyAndStillHearsACancel(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	held := func(step string, undo bool, want journal.Leave) {
		t.Helper()
		a := s.attempt(step, undo)
		a.HeldBack = "payment has not answered since noon"
		pass, err := s.store.Fence(t.Context(), a)
		require.NoError(t, err)
		require.Equal(t, want, pass.Leave, pass.Reason)
		if want == journal.Hold {
			require.Positive(t, pass.Wait)
		}
	}
	reserved(s)
	for range 20 {
		held(checkout.AuthorizePayment, false, journal.Hold)
	}
	require.Equal(t, "RUNNING forward: done failing pending pending", s.tell(), "no attention for what is everybody's trouble")
	waiting, err := s.store.Waiting(t.Context(), "embedded", checkout.Payment, saga.ID{}, 10)
	require.NoError(t, err)
	require.Len(t, waiting, 1)
	h, err := s.store.History(t.Context(), s.id)
	require.NoError(t, err)
	n := 0
	for _, e := range h.Entries {
		if e.Outcome == "held-back" {
			n++
		}
	}
	require.Equal(t, 1, n, "it is told once")

	cancels(journal.CancelAccepted)(s)
	held(checkout.AuthorizePayment, false, journal.TurnBack)
	held(checkout.AuthorizePayment, true, journal.Hold)
	undoes(checkout.AuthorizePayment, applied, journal.GoOn)(s)
	undoes(checkout.ReserveStock, applied, journal.GoOn)(s)
	require.Equal(t, "CANCELLED final changed my mind: done/done unknown/done skipped skipped", s.tell())
}

func TestTheCaptureIsNotClaimedWhilePaymentIsHeldBack(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	reserved(s)
	authorized(s)
	a := s.attempt(checkout.CapturePayment, false)
	a.HeldBack = "payment has not answered since noon"
	pass, err := s.store.Fence(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, journal.Hold, pass.Leave)
	cancels(journal.CancelAccepted)(s)
	fences(checkout.CapturePayment, journal.TurnBack)(s)
	require.Equal(t, "COMPENSATING undoing changed my mind: done/pending done/running skipped skipped", s.tell())
}

func TestTheSweeperLooksRightAfterTheDeadlineHoweverLongTheRunMeansToWait(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	reserved(s)
	a := s.attempt(checkout.AuthorizePayment, false)
	a.WaitMS, a.Stuck = time.Hour.Milliseconds(), true
	s.fence(checkout.AuthorizePayment, false, journal.Go)
	_, err := s.store.Record(t.Context(), a, noAnswer("down"), nil)
	require.NoError(t, err)
	var late time.Duration
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT check_at - deadline FROM checkouts`).Scan(&late))
	require.LessOrEqual(t, late, 2*time.Second)
}

func TestEveryWishIsKeptWithWhoHadItAndWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	s := newScenario(t)
	reserved(s)
	tries(checkout.AuthorizePayment, refused("card_declined"), journal.GoBack)(s)
	settle(checkout.VoidAuthorization, journal.ProofWord, "!it is at release-stock, not at void-authorization")(s)
	settle(checkout.ReleaseStock, journal.ProofWord, "release-stock is taken as done, without proof; it is REJECTED")(s)
	rows, err := s.pool.Query(t.Context(), `SELECT kind || ' ' || step || ' ' || actor || ' ' || reason || ' ' || outcome || ' ' || without_proof FROM commands ORDER BY at`)
	require.NoError(t, err)
	var got []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		got = append(got, line)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []string{
		"resolve done void-authorization op because refused: it is at release-stock, not at void-authorization false", "resolve done release-stock op because done true",
	}, got, "dry runs leave nothing")
}
