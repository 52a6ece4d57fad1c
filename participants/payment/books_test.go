package payment

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestAnOrderIsForgottenOnceItsMoneyIsAtRestAndItsEventsAreOut(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	all := p.ordersInEveryState(t)
	all = append(all, "never-heard-of")
	p.publishAll(t)
	_, err := p.pool.Exec(t.Context(), `UPDATE outbox SET published_at = NULL WHERE key = 'declined'`)
	require.NoError(t, err)

	res := p.forget(t, all...)
	require.ElementsMatch(t, []string{"captured", "refunded", "voided", "voided-before", "expired", "capture-refused", "never-heard-of"}, res.ForgottenOrderIds)
	why := map[string]string{}
	for _, k := range res.Kept {
		why[k.OrderId] = k.Why
	}
	require.Equal(t, map[string]string{
		"authorized": "its payment is authorized", "voiding": "an operation of it is under way",
		"declined": "an event about it is not published yet",
	}, why)
	// I4: the book is whole, and nothing is missed of what was forgotten.
	p.requireBookBalances(t)
	require.Empty(t, p.checkBooks(t))
	_, err = p.authorizing("tok_visa", 4999)(t.Context(), "never-heard-of")
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "what comes late for it is not new")
}

func TestI4BooksThatDifferAreToldWithBothFigures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wrong string
		want  []string
	}{
		"captured, and no operation says so": {
			`DELETE FROM operations WHERE key = 'captured' AND step = 'capture-payment'`,
			[]string{"captured: captured, as recorded 4999, counted 0"},
		},
		"all of an order's operations are lost": {
			`DELETE FROM operations WHERE key = 'voided'`,
			[]string{"voided: authorized, as recorded 4999, counted 0", "voided: voided, as recorded 4999, counted 0"},
		},
		"an operation captured what the payment knows nothing of": {
			`UPDATE payments SET state = 'authorized' WHERE order_id = 'captured'`,
			[]string{
				"captured: captured, as booked 0, counted 4999", "captured: captured, as recorded 0, counted 4999", "captured: held, as booked 4999, counted 0",
			},
		},
		"a capture is booked twice": {
			`UPDATE entries SET minor_units = 2 * minor_units WHERE order_id = 'captured' AND movement = 'capture'`,
			[]string{"captured: captured, as booked 4999, counted 9998", "captured: held, as booked 0, counted -4999"},
		},
		"money is given back that is said to be taken": {
			`INSERT INTO entries (order_id, movement, account, currency, minor_units) VALUES
			 ('captured', 'refund', 'merchant', 'EUR', -4999), ('captured', 'refund', 'customer', 'EUR', 4999)`,
			[]string{"captured: refunded, as booked 0, counted 4999"},
		},
		"another amount was captured": {
			`UPDATE operations SET minor_units = 5000 WHERE key = 'captured' AND step = 'capture-payment'`,
			[]string{"captured: captured, as recorded 4999, counted 5000"},
		},
		"in another currency": {
			`UPDATE operations SET currency = 'USD' WHERE key = 'captured' AND step = 'capture-payment';
			 UPDATE entries SET currency = 'USD' WHERE order_id = 'voided'`,
			[]string{"captured: recorded in another currency 0, counted 1", "voided: booked in another currency 0, counted 1"},
		},
		"a payment is missing": {
			`ALTER TABLE entries DROP CONSTRAINT entries_order_id_fkey; DELETE FROM payments WHERE order_id = 'authorized'`,
			[]string{"authorized: authorized, as booked 0, counted 4999", "authorized: authorized, as recorded 0, counted 4999", "authorized: held, as booked 0, counted 4999"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, pgtest.URL(t), nil)
			p.ordersInEveryState(t)
			require.Empty(t, p.checkBooks(t))
			_, err := p.pool.Exec(t.Context(), c.wrong)
			require.NoError(t, err)
			require.Equal(t, c.want, p.checkBooks(t))
		})
	}
}

func TestI4TheBookIsRightAtEveryMomentOfTraffic(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var traffic sync.WaitGroup
	for i, method := range []string{"tok_visa", "tok_visa", "tok_declined", "tok_expires"} {
		traffic.Go(func() {
			for n := range 20 {
				order := fmt.Sprintf("ord-%d-%d", i, n)
				_, err := p.authorizing(method, 4999)(ctx, order)
				assert.NoError(t, err)
				if n%2 == 0 {
					_, err = p.capturing(4999)(ctx, order)
					assert.NoError(t, err)
					_, err = p.refunding(ctx, order)
				} else {
					_, err = p.voiding(ctx, order)
				}
				assert.NoError(t, err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { traffic.Wait(); close(ended) }()
	for looks := 0; ; looks++ {
		require.Empty(t, p.checkBooks(t))
		select {
		case <-ended:
			t.Logf("looked %d times", looks)
			return
		default:
		}
	}
}

func TestAnAuthorizationIsAnsweredWithHowLongItHoldsAlsoOnRepeats(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	first := p.authorize(t, "ord-1", "tok_visa", 4999)
	require.WithinDuration(t, time.Now().Add(authorizationHolds), first.ValidUntil.AsTime(), time.Minute)
	require.Equal(t, first.ValidUntil.AsTime(), p.authorize(t, "ord-1", "tok_visa", 4999).ValidUntil.AsTime())
	require.Nil(t, p.authorize(t, "ord-2", "tok_declined", 4999).ValidUntil)
}

func TestVoidingOrRefundingWhatNeverCameSaysThatItWasUnseen(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	p.authorize(t, "declined", "tok_declined", 4999)
	for range 2 {
		require.Equal(t, "unseen", p.void(t, "ord-1").Reason)
		require.Equal(t, "unseen", p.refund(t, "ord-1").Reason)
		require.Empty(t, p.void(t, "declined").Reason)
	}
}

// ordersInEveryState makes orders that are named by the states in which they stay.
func (p *fixture) ordersInEveryState(t *testing.T) (orders []string) {
	t.Helper()
	p.authorize(t, "declined", "tok_declined", 4999)
	p.void(t, "voided-before")
	p.capture(t, "capture-refused", 4999)
	for _, order := range []string{"authorized", "captured", "refunded", "voided"} {
		p.authorize(t, order, "tok_visa", 4999)
	}
	p.capture(t, "captured", 4999)
	p.capture(t, "refunded", 4999)
	p.refund(t, "refunded")
	p.void(t, "voided")
	p.authorize(t, "voiding", "tok_void_fails", 4999)
	p.void(t, "voiding")
	p.authorize(t, "expired", "tok_visa", 4999)
	_, err := p.pool.Exec(t.Context(), `UPDATE payments SET authorized_until = clock_timestamp() WHERE order_id = 'expired'`)
	require.NoError(t, err)
	require.Equal(t, authorizationExpired, p.capture(t, "expired", 4999).Reason)
	p.void(t, "expired")
	return []string{"declined", "voided-before", "capture-refused", "authorized", "captured", "refunded", "voided", "voiding", "expired"}
}

func (p *fixture) forget(t *testing.T, orders ...string) *operationv1.ForgetOperationsResponse {
	t.Helper()
	res, err := p.client.ForgetOperations(t.Context(), connect.NewRequest(&operationv1.ForgetOperationsRequest{OrderIds: orders}))
	require.NoError(t, err)
	return res.Msg
}

// checkBooks tells each discrepancy in a line.
func (p *fixture) checkBooks(t *testing.T) (all []string) {
	t.Helper()
	res, err := p.client.CheckBooks(t.Context(), connect.NewRequest(&operationv1.CheckBooksRequest{}))
	require.NoError(t, err)
	for _, d := range res.Msg.Discrepancies {
		all = append(all, fmt.Sprintf("%s: %s %d, counted %d", d.About, d.Figure, d.Stated, d.Counted))
	}
	return all
}

// publishAll stands for a relay that has published all there is.
func (p *fixture) publishAll(t *testing.T) {
	t.Helper()
	_, err := p.pool.Exec(t.Context(), `UPDATE outbox SET published_at = clock_timestamp() WHERE published_at IS NULL`)
	require.NoError(t, err)
}
