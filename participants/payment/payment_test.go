package payment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

const (
	applied      = operationv1.Outcome_OUTCOME_APPLIED
	rejected     = operationv1.Outcome_OUTCOME_REJECTED
	unknown      = operationv1.Outcome_OUTCOME_UNKNOWN
	undoneBefore = operationv1.Outcome_OUTCOME_UNDONE_BEFORE
	notAsked     = operationv1.Outcome_OUTCOME_UNSPECIFIED
)

func TestPaymentMethodsDoWhatTheyAreNamedFor(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)

	for method, reason := range map[string]string{
		"tok_declined": "card_declined", "tok_insufficient_funds": "insufficient_funds", "tok_nobody_knows": "unknown_payment_method",
	} {
		order := "ord-" + method
		r := p.authorize(t, order, method, 100)
		require.Equal(t, rejected, r.Outcome, method)
		require.Equal(t, reason, r.Reason, method)
		require.Equal(t, "no_authorization", p.capture(t, order, 100).Reason)
		require.Equal(t, applied, p.void(t, order).Outcome)
		require.Equal(t, "book [] network []", p.effect(t, order))
	}

	t.Run("tok_flaky works the third time", func(t *testing.T) {
		for _, call := range []participanttest.Call{p.authorizing("tok_flaky", 100), p.capturing(100), p.refunding} {
			for _, want := range []operationv1.Outcome{unknown, unknown, applied, applied} {
				r, err := call(t.Context(), "flaky")
				require.NoError(t, err)
				require.Equal(t, want, r.Outcome, r)
			}
		}
		require.Equal(t, "book [] network [authorize×1 capture×1 refund×1]", p.effect(t, "flaky"))
	})

	t.Run("tok_void_fails cannot be voided until its behaviour changes", func(t *testing.T) {
		require.Equal(t, applied, p.authorize(t, "void-fails", "tok_void_fails", 100).Outcome)
		for range 2 {
			r := p.void(t, "void-fails")
			require.Equal(t, unknown, r.Outcome)
			require.Equal(t, "started", r.Reason)
			require.Contains(t, r.Detail, "the gateway failed")
		}
		require.Equal(t, "voided", p.capture(t, "void-fails", 100).Reason, "what is being voided can no longer be captured")
		p.behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Void: "refused"})
		require.Equal(t, unknown, p.void(t, "void-fails").Outcome, "a void must succeed in the end, so a refusal is not recorded")
		p.behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Void: "works"})
		require.Equal(t, applied, p.void(t, "void-fails").Outcome)
		require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, "void-fails"))
	})

	t.Run("tok_expires cannot be captured, and is gone", func(t *testing.T) {
		require.Equal(t, applied, p.authorize(t, "expires", "tok_expires", 100).Outcome)
		r := p.capture(t, "expires", 100)
		require.Equal(t, rejected, r.Outcome)
		require.Equal(t, "authorization_expired", r.Reason)
		require.Equal(t, applied, p.void(t, "expires").Outcome)
		require.Equal(t, "book [] network [authorize×1]", p.effect(t, "expires"))
	})
	p.requireBookBalances(t)
}

func TestI2LostAnswersAreLearntByAskingAgainWithTheSameKey(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	lostThenLearnt := func(t *testing.T, call participanttest.Call, order string) {
		t.Helper()
		r, err := call(t.Context(), order)
		require.NoError(t, err)
		require.Equal(t, unknown, r.Outcome)
		require.Equal(t, "started", r.Reason)
		r, err = call(t.Context(), order)
		require.NoError(t, err)
		require.Equal(t, applied, r.Outcome, r)
	}
	t.Run("of authorize, capture and refund", func(t *testing.T) {
		t.Parallel()
		lostThenLearnt(t, p.authorizing("tok_timeout", 100), "ord-1")
		lostThenLearnt(t, p.capturing(100), "ord-1")
		lostThenLearnt(t, p.refunding, "ord-1")
		require.Equal(t, "book [] network [authorize×1 capture×1 refund×1]", p.effect(t, "ord-1"))
	})
	t.Run("of authorize and void", func(t *testing.T) {
		t.Parallel()
		lostThenLearnt(t, p.authorizing("tok_timeout", 100), "ord-2")
		lostThenLearnt(t, p.voiding, "ord-2")
		require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, "ord-2"))
	})
}

func TestVoidWhileAuthorizeIsStartedIsWantedAndWhoeverLearnsTheOutcomeVoids(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method string
		do     operationv1.Outcome
		effect string
	}{
		"the authorization was made":    {"tok_visa", applied, "book [] network [authorize×1 void×1]"},
		"the authorization was refused": {"tok_declined", rejected, "book [] network []"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := newGate()
			p := start(t, pgtest.URL(t), gate)
			authorized := make(chan *operationv1.Result, 1)
			go func() {
				r, err := p.authorizing(tc.method, 100)(t.Context(), "ord-1")
				assert.NoError(t, err)
				authorized <- r
			}()
			gate.waitForCaller(t)

			r := p.void(t, "ord-1")
			require.Equal(t, unknown, r.Outcome)
			require.Equal(t, "started", r.Reason)
			op, err := p.get(t.Context(), "ord-1", stepAuthorize)
			require.NoError(t, err)
			require.Equal(t, []operationv1.Outcome{unknown, unknown}, []operationv1.Outcome{op.Do, op.Undo})
			require.Equal(t, "started", p.capture(t, "ord-1", 100).Reason, "nothing is captured meanwhile")

			gate.open()
			require.Equal(t, tc.do, (<-authorized).Outcome)
			// The authorize call has voided too, before it answered.
			require.Equal(t, tc.effect, p.effect(t, "ord-1"))
			require.Equal(t, applied, p.void(t, "ord-1").Outcome)
			require.Equal(t, tc.effect, p.effect(t, "ord-1"))
			p.requireBookBalances(t)
		})
	}
}

func TestRefundWhileCaptureIsStartedIsWantedAndWhoeverLearnsTheOutcomeRefunds(t *testing.T) {
	t.Parallel()
	gate := newGate()
	p := start(t, pgtest.URL(t), gate)
	gate.open()
	require.Equal(t, applied, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
	gate.close()
	captured := make(chan *operationv1.Result, 1)
	go func() {
		r, err := p.capturing(100)(t.Context(), "ord-1")
		assert.NoError(t, err)
		captured <- r
	}()
	gate.waitForCaller(t)
	require.Equal(t, unknown, p.refund(t, "ord-1").Outcome)
	gate.open()
	require.Equal(t, applied, (<-captured).Outcome)
	require.Equal(t, applied, p.refund(t, "ord-1").Outcome)
	require.Equal(t, "book [] network [authorize×1 capture×1 refund×1]", p.effect(t, "ord-1"))
}

func TestI8AnAnswerIsRecordedThoughTheCallerHasHungUp(t *testing.T) {
	t.Parallel()
	gate := newGate()
	p := start(t, pgtest.URL(t), gate)
	ctx, hangUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.authorizing("tok_visa", 100)(ctx, "ord-1")
		left <- err
	}()
	gate.waitForCaller(t)
	hangUp()
	require.Error(t, <-left)
	gate.open()
	require.Eventually(t, func() bool { return p.effect(t, "ord-1") == "book [held 100] network [authorize×1]" },
		10*time.Second, 10*time.Millisecond, "the answer was lost")
	require.Equal(t, 1, gate.asked())
}

func TestRule6VoidAndCaptureAreDecidedByThePayment(t *testing.T) {
	t.Parallel()
	t.Run("void after capture is refused and says so", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		p.authorize(t, "ord-1", "tok_visa", 100)
		require.Equal(t, applied, p.capture(t, "ord-1", 100).Outcome)
		for range 2 {
			r := p.void(t, "ord-1")
			require.Equal(t, rejected, r.Outcome)
			require.Equal(t, "already_captured", r.Reason)
		}
		require.Equal(t, applied, p.refund(t, "ord-1").Outcome)
		require.Equal(t, "already_captured", p.void(t, "ord-1").Reason)
	})
	t.Run("void while a capture is at the network is not known yet, and nothing is recorded", func(t *testing.T) {
		t.Parallel()
		gate := newGate()
		p := start(t, pgtest.URL(t), gate)
		gate.open()
		p.authorize(t, "ord-1", "tok_visa", 100)
		gate.close()
		captured := make(chan *operationv1.Result, 1)
		go func() {
			r, err := p.capturing(100)(t.Context(), "ord-1")
			assert.NoError(t, err)
			captured <- r
		}()
		gate.waitForCaller(t)
		r := p.void(t, "ord-1")
		require.Equal(t, unknown, r.Outcome)
		require.Equal(t, "started", r.Reason)
		op, err := p.get(t.Context(), "ord-1", stepAuthorize)
		require.NoError(t, err)
		require.Equal(t, notAsked, op.Undo)
		gate.open()
		require.Equal(t, applied, (<-captured).Outcome)
		require.Equal(t, "already_captured", p.void(t, "ord-1").Reason)
	})
	t.Run("capture after void is refused", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		p.authorize(t, "ord-1", "tok_visa", 100)
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, "voided", p.capture(t, "ord-1", 100).Reason)
		require.Equal(t, applied, p.void(t, "ord-2").Outcome)
		require.Equal(t, "voided", p.capture(t, "ord-2", 100).Reason, "voided before it was made")
		require.Equal(t, undoneBefore, p.authorize(t, "ord-2", "tok_visa", 100).Outcome)
		require.Equal(t, "no_authorization", p.capture(t, "ord-3", 100).Reason)
	})
	t.Run("a capture that the network refuses leaves the authorization to be voided", func(t *testing.T) {
		t.Parallel()
		gate := newGate()
		p := start(t, pgtest.URL(t), gate)
		gate.open()
		p.authorize(t, "ord-1", "tok_visa", 100)
		gate.refuse("fraud_suspected")
		r := p.capture(t, "ord-1", 100)
		require.Equal(t, rejected, r.Outcome)
		require.Equal(t, "fraud_suspected", r.Reason)
		gate.refuse("")
		require.Equal(t, applied, p.void(t, "ord-1").Outcome)
		require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, "ord-1"))
	})
	t.Run("at once they have one winner", func(t *testing.T) {
		t.Parallel()
		p := start(t, pgtest.URL(t), nil)
		var all sync.WaitGroup
		for i := range 40 {
			order := fmt.Sprintf("ord-%d", i)
			require.Equal(t, applied, p.authorize(t, order, "tok_visa", 100).Outcome)
			all.Go(func() { _, err := p.capturing(100)(t.Context(), order); assert.NoError(t, err) })
			all.Go(func() { _, err := p.voiding(t.Context(), order); assert.NoError(t, err) })
		}
		all.Wait()
		for i := range 40 {
			order := fmt.Sprintf("ord-%d", i)
			captured, voided := p.capture(t, order, 100), p.void(t, order)
			if captured.Outcome == applied {
				require.Equal(t, "already_captured", voided.Reason)
				require.Equal(t, "book [merchant 100] network [authorize×1 capture×1]", p.effect(t, order))
				continue
			}
			require.Equal(t, "voided", captured.Reason)
			require.Equal(t, applied, voided.Outcome)
			require.Equal(t, "book [] network [authorize×1 void×1]", p.effect(t, order))
		}
		p.requireBookBalances(t)
	})
}

func TestI8RecoveryFinishesWhatACrashLeftStarted(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]string{
		"crashed before the network applied it":  "before",
		"crashed before the answer was recorded": "after",
	} {
		for action, end := range map[Action]string{
			Authorize: "book [held 100] network [authorize×1]",
			Void:      "book [] network [authorize×1 void×1]",
			Capture:   "book [merchant 100] network [authorize×1 capture×1]",
			Refund:    "book [] network [authorize×1 capture×1 refund×1]",
		} {
			t.Run(fmt.Sprintf("%s %s", action, name), func(t *testing.T) {
				t.Parallel()
				database := pgtest.URL(t)
				doomed := newGate()
				p := start(t, database, doomed)
				doomed.open()
				path := map[Action][]participanttest.Call{
					Authorize: {p.authorizing("tok_visa", 100)},
					Void:      {p.authorizing("tok_visa", 100), p.voiding},
					Capture:   {p.authorizing("tok_visa", 100), p.capturing(100)},
					Refund:    {p.authorizing("tok_visa", 100), p.capturing(100), p.refunding},
				}[action]
				last := len(path) - 1
				for _, call := range path[:last] {
					r, err := call(t.Context(), "ord-1")
					require.NoError(t, err)
					require.Equal(t, applied, r.Outcome)
				}
				doomed.dieAt(crash)
				r, err := path[last](t.Context(), "ord-1")
				require.NoError(t, err)
				require.Equal(t, unknown, r.Outcome)

				// Another process on the same database, which nobody asks for anything.
				next := start(t, database, nil)
				require.NoError(t, next.service.recoverAll(t.Context()))
				require.NotEqual(t, end, next.effect(t, "ord-1"), "too early: whoever started it may still be asking")
				next.letTimePass(t)
				require.NoError(t, next.service.recoverAll(t.Context()))
				require.Equal(t, end, next.effect(t, "ord-1"))
				next.requireBookBalances(t)
				r, err = path[last](t.Context(), "ord-1")
				require.NoError(t, err)
				require.Equal(t, applied, r.Outcome, "the first process learns it, too")
			})
		}
	}
}

func TestI8RecoveryVoidsWhatWasWantedVoidedWhenTheAuthorizationCrashed(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	doomed := newGate()
	p := start(t, database, doomed)
	doomed.open()
	doomed.dieAt("after")
	require.Equal(t, unknown, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
	require.Equal(t, unknown, p.void(t, "ord-1").Outcome)

	// This one runs as it does in production: nobody pushes it, and it comes in its own time.
	next := start(t, database, nil)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- next.service.Run(ctx) }()
	require.Eventually(t, func() bool { return next.effect(t, "ord-1") == "book [] network [authorize×1 void×1]" },
		20*time.Second, 50*time.Millisecond, "recovery never voided")
	require.Equal(t, applied, next.void(t, "ord-1").Outcome)
	stop()
	require.NoError(t, <-ran)
}

func TestRecoveryLeavesAFailingNetworkTimeAndSharesTheWork(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	p := start(t, database, nil)
	for i := range 2 * recoverBatch {
		order := fmt.Sprintf("ord-%d", i)
		p.authorize(t, order, "tok_void_fails", 100)
		require.Equal(t, unknown, p.void(t, order).Outcome)
	}
	p.letTimePass(t)
	counting := newGate()
	counting.open()
	one, two := start(t, database, counting), start(t, database, counting)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var both sync.WaitGroup
	for range 3 {
		both.Go(func() { assert.NoError(t, one.service.recoverAll(ctx)) })
		both.Go(func() { assert.NoError(t, two.service.recoverAll(ctx)) })
	}
	both.Wait()
	require.EqualValues(t, 2*recoverBatch, counting.asked(), "each was to be asked about once, and then put off")
}

func TestAnAuthorizationLapsesAfterSevenDays(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	p.authorize(t, "ord-1", "tok_visa", 100)
	res, err := p.client.GetPayment(t.Context(), connect.NewRequest(&paymentv1.GetPaymentRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	require.EqualValues(t, 100, res.Msg.Authorized.GetMinorUnits())
	require.WithinDuration(t, time.Now().Add(7*24*time.Hour), res.Msg.AuthorizedUntil.AsTime(), time.Minute)

	_, err = p.pool.Exec(t.Context(), `UPDATE payments SET authorized_until = clock_timestamp() - interval '1 second'`)
	require.NoError(t, err)
	res, err = p.client.GetPayment(t.Context(), connect.NewRequest(&paymentv1.GetPaymentRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	require.Nil(t, res.Msg.Authorized)
	require.Equal(t, "authorization_expired", p.capture(t, "ord-1", 100).Reason)
	require.Equal(t, applied, p.void(t, "ord-1").Outcome)
	require.Equal(t, "book [] network [authorize×1]", p.effect(t, "ord-1"))
	p.requireBookBalances(t)
}

func TestAnotherAmountThanTheAuthorizedIsNeverCaptured(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	p.authorize(t, "ord-1", "tok_visa", 100)
	for _, other := range []*operationv1.Money{{Currency: "EUR", MinorUnits: 99}, {Currency: "USD", MinorUnits: 100}} {
		_, err := p.client.Capture(t.Context(), connect.NewRequest(&paymentv1.CaptureRequest{OrderId: "ord-1", Amount: other}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), err)
		require.ErrorContains(t, err, "amount:")
	}
	require.Equal(t, applied, p.capture(t, "ord-1", 100).Outcome, "nothing was recorded of the other amounts")
}

func TestI4TheBookTakesNoMovementThatMakesMoney(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	p.authorize(t, "ord-1", "tok_visa", 100)
	_, err := p.pool.Exec(t.Context(), `INSERT INTO entries VALUES ('ord-1', 'capture', 'merchant', 'EUR', 100)`)
	require.ErrorContains(t, err, "do not sum to zero")
	_, err = p.pool.Exec(t.Context(), `INSERT INTO entries VALUES ('ord-1', 'authorize', 'customer', 'EUR', -100), ('ord-1', 'authorize', 'held', 'EUR', 100)`)
	require.ErrorContains(t, err, "duplicate key", "a movement is booked once")
}

func TestI9BadInputIsRefusedWithTheNameOfTheField(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	good := func() *paymentv1.AuthorizeRequest {
		return &paymentv1.AuthorizeRequest{OrderId: "ord-1", CustomerId: "cus-1", PaymentMethod: "tok_visa", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 1}}
	}
	for field, spoil := range map[string]func(*paymentv1.AuthorizeRequest){
		"order_id:":           func(r *paymentv1.AuthorizeRequest) { r.OrderId = "-ord" },
		"customer_id:":        func(r *paymentv1.AuthorizeRequest) { r.CustomerId = "" },
		"payment_method:":     func(r *paymentv1.AuthorizeRequest) { r.PaymentMethod = strings.Repeat("t", 65) },
		"amount.currency:":    func(r *paymentv1.AuthorizeRequest) { r.Amount.Currency = "eur" },
		"amount.minor_units:": func(r *paymentv1.AuthorizeRequest) { r.Amount.MinorUnits = 0 },
		"amount: is missing":  func(r *paymentv1.AuthorizeRequest) { r.Amount = nil },
	} {
		req := good()
		spoil(req)
		_, err := p.client.Authorize(t.Context(), connect.NewRequest(req))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), field)
		require.ErrorContains(t, err, field)
	}
	for name, behaviour := range map[string]*paymentv1.SetBehaviourRequest{
		"void:":           {PaymentMethod: "tok_visa", Void: "explodes"},
		"payment_method:": {Void: "works"},
	} {
		_, err := p.sandbox.SetBehaviour(t.Context(), connect.NewRequest(behaviour))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
		require.ErrorContains(t, err, name)
	}
	_, err := p.sandbox.SetBehaviour(t.Context(), connect.NewRequest(&paymentv1.SetBehaviourRequest{PaymentMethod: "tok_nobody_knows", Void: "works"}))
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), err)
}

// A network keeps its word for a key: were a repeat judged anew, payment could have recorded a refusal of what is then charged.
func TestTheNetworkRefusesAKeyAgainAlthoughTheCardWorksByNow(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	ask := func(a Action, key string) string {
		t.Helper()
		refusal, err := p.service.network.Ask(t.Context(), Charge{
			Action: a, Key: key, OrderID: "ord-1", PaymentMethod: "tok_visa", Amount: ledger.Amount{Currency: "EUR", MinorUnits: 100},
		})
		require.NoError(t, err)
		return refusal
	}
	p.behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_visa", Authorize: "refused", Void: "refused"})
	require.Equal(t, "card_declined", ask(Authorize, "first"))
	require.Equal(t, "void_refused", ask(Void, "void"))

	p.behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_visa", Authorize: "works", Void: "works"})
	require.Equal(t, "card_declined", ask(Authorize, "first"))
	require.Empty(t, ask(Authorize, "second"))
	require.Empty(t, ask(Void, "void"), "money that has to go back is asked for until it does")
}

func TestBehavioursOutliveAProcess(t *testing.T) {
	t.Parallel()
	database := pgtest.URL(t)
	now := start(t, database, nil).behave(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_visa", Authorize: "refused"})
	require.Empty(t, cmp.Diff("refused works works works", fmt.Sprint(now.Authorize, " ", now.Capture, " ", now.Void, " ", now.Refund)))
	require.Equal(t, "card_declined", start(t, database, nil).authorize(t, "ord-1", "tok_visa", 100).Reason)
}

// gate is a card network before the sandbox that holds callers up, dies, refuses and counts, as a test wants.
type gate struct {
	next Network

	mu      sync.Mutex
	opened  chan struct{} // closed while the gate is open
	refusal string
	death   string // "before" or "after" the next network has applied it
	only    Action // what it refuses or dies of; empty means all
	count   int
	callers chan struct{}
}

func newGate() *gate { return &gate{opened: make(chan struct{}), callers: make(chan struct{}, 1000)} }

func (g *gate) Ask(ctx context.Context, c Charge) (string, error) {
	g.mu.Lock()
	g.count++
	opened, refusal, death := g.opened, g.refusal, g.death
	if g.only != "" && g.only != c.Action {
		refusal, death = "", ""
	}
	g.mu.Unlock()
	select {
	case g.callers <- struct{}{}:
	default: // Nobody counts that far.
	}
	select {
	case <-opened:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if refusal != "" {
		return refusal, nil
	}
	if death == "before" {
		return "", errors.New("died")
	}
	answer, err := g.next.Ask(ctx, c)
	if death == "after" {
		return "", errors.New("died")
	}
	return answer, err
}

func (g *gate) open() { g.set(func() { close(g.opened) }) }
func (g *gate) close() {
	g.set(func() { g.opened = make(chan struct{}); g.callers = make(chan struct{}, 1000) })
}
func (g *gate) refuse(reason string) { g.set(func() { g.refusal = reason }) }
func (g *gate) dieAt(point string)   { g.set(func() { g.death = point }) }
func (g *gate) troubles(a Action)    { g.set(func() { g.only = a }) }
func (g *gate) set(change func())    { g.mu.Lock(); defer g.mu.Unlock(); change() }
func (g *gate) asked() (n int)       { g.set(func() { n = g.count }); return n }

func (g *gate) waitForCaller(t *testing.T) {
	t.Helper()
	select {
	case <-g.callers:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody asked the network")
	}
}

// fixture is a payment service on a real server.
type fixture struct {
	service *Service
	client  paymentv1connect.PaymentServiceClient
	sandbox paymentv1connect.SandboxServiceClient
	pool    *pgxpool.Pool
}

// start starts a payment process on a database; a gate, if there is one, stands before its network.
func start(t *testing.T, database string, g *gate) *fixture {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := Open(t.Context(), Config{DatabaseURL: database}, log)
	require.NoError(t, err)
	t.Cleanup(service.Close)
	if g != nil {
		g.next, service.network = service.network, g
		service.askTimeout = 20 * time.Second // a test holds the gate as long as it needs
	}
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	require.NoError(t, err)
	service.Mount(server)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-served)
	})
	return &fixture{
		service: service, pool: service.store.pool,
		client:  paymentv1connect.NewPaymentServiceClient(http.DefaultClient, server.URL()),
		sandbox: paymentv1connect.NewSandboxServiceClient(http.DefaultClient, server.URL()),
	}
}

func (p *fixture) authorizing(method string, units int64) participanttest.Call {
	return func(ctx context.Context, order string) (*operationv1.Result, error) {
		res, err := p.client.Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
			OrderId: order, CustomerId: "cus-1", PaymentMethod: method, Amount: &operationv1.Money{Currency: "EUR", MinorUnits: units},
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
}

func (p *fixture) capturing(units int64) participanttest.Call {
	return func(ctx context.Context, order string) (*operationv1.Result, error) {
		res, err := p.client.Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{
			OrderId: order, Amount: &operationv1.Money{Currency: "EUR", MinorUnits: units},
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
}

func (p *fixture) voiding(ctx context.Context, order string) (*operationv1.Result, error) {
	res, err := p.client.Void(ctx, connect.NewRequest(&paymentv1.VoidRequest{OrderId: order}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func (p *fixture) refunding(ctx context.Context, order string) (*operationv1.Result, error) {
	res, err := p.client.Refund(ctx, connect.NewRequest(&paymentv1.RefundRequest{OrderId: order}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func (p *fixture) authorize(t *testing.T, order, method string, units int64) *operationv1.Result {
	t.Helper()
	return must(t, p.authorizing(method, units), order)
}

func (p *fixture) capture(t *testing.T, order string, units int64) *operationv1.Result {
	t.Helper()
	return must(t, p.capturing(units), order)
}

func (p *fixture) void(t *testing.T, order string) *operationv1.Result {
	t.Helper()
	return must(t, p.voiding, order)
}

func (p *fixture) refund(t *testing.T, order string) *operationv1.Result {
	t.Helper()
	return must(t, p.refunding, order)
}

func must(t *testing.T, call participanttest.Call, order string) *operationv1.Result {
	t.Helper()
	r, err := call(t.Context(), order)
	require.NoError(t, err)
	return r
}

func (p *fixture) get(ctx context.Context, order, step string) (*operationv1.Operation, error) {
	res, err := p.client.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: order, Step: step}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Operation, nil
}

func (p *fixture) behave(t *testing.T, b *paymentv1.SetBehaviourRequest) *paymentv1.SetBehaviourResponse {
	t.Helper()
	res, err := p.sandbox.SetBehaviour(t.Context(), connect.NewRequest(b))
	require.NoError(t, err)
	return res.Msg
}

// effect tells what stands in the book for an order and what the card network has done for it.
func (p *fixture) effect(t *testing.T, order string) string {
	t.Helper()
	res, err := p.sandbox.ListCharges(t.Context(), connect.NewRequest(&paymentv1.ListChargesRequest{OrderId: order}))
	require.NoError(t, err)
	var kinds []string
	count := map[string]int{}
	for _, c := range res.Msg.Charges {
		if count[c.Kind]++; count[c.Kind] == 1 {
			kinds = append(kinds, c.Kind)
		}
	}
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s×%d", kind, count[kind])
	}
	return fmt.Sprintf("%s network %v", p.book(t, order), kinds)
}

func (p *fixture) book(t *testing.T, order string) string {
	t.Helper()
	const query = `
		SELECT coalesce(string_agg(account || ' ' || units, ' ' ORDER BY account), '') FROM (
			SELECT account, sum(minor_units) AS units FROM entries
			WHERE order_id = $1 AND account <> 'customer'
			GROUP BY account HAVING sum(minor_units) <> 0
		) AS balances`
	var balances string
	require.NoError(t, p.pool.QueryRow(t.Context(), query, order).Scan(&balances))
	return "book [" + balances + "]"
}

func (p *fixture) requireBookBalances(t *testing.T) {
	t.Helper()
	var sum, negative int64
	require.NoError(t, p.pool.QueryRow(t.Context(), `SELECT coalesce(sum(minor_units), 0) FROM entries`).Scan(&sum))
	require.Zero(t, sum)
	const query = `
		SELECT count(*) FROM (
			SELECT FROM entries WHERE account <> 'customer' GROUP BY order_id, account HAVING sum(minor_units) < 0
		) AS overdrawn`
	require.NoError(t, p.pool.QueryRow(t.Context(), query).Scan(&negative))
	require.Zero(t, negative, "more was taken from an account than was in it")
}

// letTimePass makes everything due that is started.
func (p *fixture) letTimePass(t *testing.T) {
	t.Helper()
	_, err := p.pool.Exec(t.Context(), `UPDATE operations SET ask_at = clock_timestamp() WHERE ask_at IS NOT NULL`)
	require.NoError(t, err)
}
