package api_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
)

func TestI9BadInputIsToldByFieldAndWritesNothing(t *testing.T) {
	f := setup(t)
	for name, c := range map[string]struct {
		edit func(*checkoutv1.StartRequest)
		want []string
	}{
		"an article that nobody sells": {
			func(r *checkoutv1.StartRequest) { r.Items[1].Sku = "CHAIR-GOLD" },
			[]string{`items[1].sku: there is no article "CHAIR-GOLD"`},
		},
		"no article": {
			func(r *checkoutv1.StartRequest) { r.Items[0].Sku = "" },
			[]string{"items[0].sku: is missing"},
		},
		"an article with a null byte, which PostgreSQL cannot even compare": {
			func(r *checkoutv1.StartRequest) { r.Items[0].Sku = "CHAIR\x00OAK" },
			[]string{"items[0].sku: must not contain spaces or control characters"},
		},
		"no pieces": {
			func(r *checkoutv1.StartRequest) { r.Items[0].Quantity = 0 },
			[]string{"items[0].quantity: must be 1 to 10000, not 0"},
		},
		"a negative number of pieces": {
			func(r *checkoutv1.StartRequest) { r.Items[1].Quantity = -1 },
			[]string{"items[1].quantity: must be 1 to 10000, not -1"},
		},
		"too many pieces": {
			func(r *checkoutv1.StartRequest) { r.Items[1].Quantity = 10_001 },
			[]string{"items[1].quantity: must be 1 to 10000, not 10001"},
		},
		"no items": {
			func(r *checkoutv1.StartRequest) { r.Items = nil },
			[]string{"items: is missing"},
		},
		"the same article twice": {
			func(r *checkoutv1.StartRequest) { r.Items[1].Sku = "CHAIR-OAK" },
			[]string{"items: CHAIR-OAK is in several lines; put their quantities together"},
		},
		"a currency without prices": {
			func(r *checkoutv1.StartRequest) { r.Currency = "XXX" },
			[]string{`currency: "XXX" is unknown; prices are in EUR, USD`},
		},
		"no currency": {
			func(r *checkoutv1.StartRequest) { r.Currency = "" },
			[]string{"currency: is missing"},
		},
		"an order id with a space": {
			func(r *checkoutv1.StartRequest) { r.OrderId = "ord 1" },
			[]string{"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit"},
		},
		"an order id with a control character": {
			func(r *checkoutv1.StartRequest) { r.OrderId = "ord-1\n" },
			[]string{"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit"},
		},
		"an order id of 65 characters": {
			func(r *checkoutv1.StartRequest) { r.OrderId = strings.Repeat("a", 65) },
			[]string{"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit"},
		},
		"neither order id nor key": {
			func(r *checkoutv1.StartRequest) { r.OrderId = "" },
			[]string{"order_id: is missing, and so is the Idempotency-Key header; a start needs one of them to be repeatable"},
		},
		"no payment method": {
			func(r *checkoutv1.StartRequest) { r.PaymentMethod = "" },
			[]string{"payment_method: is missing"},
		},
		"no customer": {
			func(r *checkoutv1.StartRequest) { r.CustomerId = "" },
			[]string{"customer_id: is missing"},
		},
		"a customer with a control character": {
			func(r *checkoutv1.StartRequest) { r.CustomerId = "cus\x1b[2J" },
			[]string{"customer_id: must not contain spaces or control characters"},
		},
		"a deadline that is over": {
			func(r *checkoutv1.StartRequest) { r.Deadline = durationpb.New(-time.Second) },
			[]string{"deadline: must be 1 second to 30 days"},
		},
		"a deadline that is too far": {
			func(r *checkoutv1.StartRequest) { r.Deadline = durationpb.New(30*24*time.Hour + 1) },
			[]string{"deadline: must be 1 second to 30 days"},
		},
		"everything at once": {
			func(r *checkoutv1.StartRequest) {
				*r = checkoutv1.StartRequest{OrderId: "-", Currency: "eur", Items: []*checkoutv1.Item{{Sku: "NO", Quantity: -3}}}
			},
			[]string{
				"order_id: must be 1 to 64 letters, digits, dots, underscores and hyphens and begin with a letter or a digit",
				"customer_id: is missing", "currency: must be a currency's three letters, such as EUR",
				"items[0].quantity: must be 1 to 10000, not -3", "payment_method: is missing",
			},
		},
		"everything at once that the price list says": {
			func(r *checkoutv1.StartRequest) {
				r.OrderId, r.Currency, r.Items = "", "SEK", []*checkoutv1.Item{{Sku: "NO", Quantity: 3}}
			},
			[]string{
				"order_id: is missing, and so is the Idempotency-Key header; a start needs one of them to be repeatable",
				`currency: "SEK" is unknown; prices are in EUR, USD`, `items[0].sku: there is no article "NO"`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.api.Start(t.Context(), connect.NewRequest(order(c.edit)))
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
			require.Empty(t, cmp.Diff(c.want, badFields(t, err)))
			for _, sentence := range c.want {
				require.Contains(t, err.Error(), sentence)
			}
			require.Zero(t, f.rows(t))
			require.Empty(t, f.engine.started)
		})
	}
}

func TestI9MoreThanAHundredLinesAreRefused(t *testing.T) {
	f := setup(t)
	req := order()
	for range 100 {
		req.Items = append(req.Items, &checkoutv1.Item{Sku: "CHAIR-OAK", Quantity: 1})
	}
	_, err := f.api.Start(t.Context(), connect.NewRequest(req))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.Equal(t, "items: must be at most 100, not 102", badFields(t, err)[0])
	require.Zero(t, f.rows(t))
}

func badFields(t *testing.T, err error) []string {
	t.Helper()
	var wire *connect.Error
	require.ErrorAs(t, err, &wire)
	var fields []string
	for _, detail := range wire.Details() {
		value, err := detail.Value()
		require.NoError(t, err)
		bad, ok := value.(*checkoutv1.BadField)
		require.True(t, ok, "%T", value)
		fields = append(fields, bad.Field+": "+bad.Problem)
	}
	return fields
}

func TestStartPricesTheOrderAndStartsItsFirstRun(t *testing.T) {
	f := setup(t)
	answer := f.start(t, order())
	require.True(t, answer.Created)
	require.Equal(t, checkoutv1.Status_STATUS_RUNNING, answer.Checkout.Status)
	require.EqualValues(t, 2*4999+2999, answer.Checkout.Amount.MinorUnits)
	require.Equal(t, 15*time.Minute, answer.Checkout.Deadline.AsTime().Sub(answer.Checkout.StartedAt.AsTime()))
	require.Equal(t, []string{"checkout.ord-1-1"}, f.engine.started)
}

func TestI7TheSameStartAgainIsTheSameCheckout(t *testing.T) {
	f := setup(t)
	first := f.start(t, order())
	again := f.start(t, order(func(r *checkoutv1.StartRequest) {
		r.Items[0], r.Items[1] = r.Items[1], r.Items[0] // The order of lines is no business of anybody's.
		r.Deadline = durationpb.New(time.Hour)          // Nor is the deadline part of what was ordered.
	}))
	require.False(t, again.Created)
	require.Empty(t, cmp.Diff(first.Checkout, again.Checkout, protocmp.Transform()))
	require.Len(t, f.engine.started, 1)
}

func TestI7AnotherOrderUnderTheSameIDIsRefusedAndChangesNothing(t *testing.T) {
	f := setup(t)
	first := f.start(t, order())
	before := f.rows(t)
	for name, edit := range map[string]func(*checkoutv1.StartRequest){
		"another customer":       func(r *checkoutv1.StartRequest) { r.CustomerId = "cus-18" },
		"another currency":       func(r *checkoutv1.StartRequest) { r.Currency = "USD" },
		"another quantity":       func(r *checkoutv1.StartRequest) { r.Items[0].Quantity = 3 },
		"another article":        func(r *checkoutv1.StartRequest) { r.Items[0].Sku = "TABLE-OAK" },
		"one line less":          func(r *checkoutv1.StartRequest) { r.Items = r.Items[:1] },
		"another payment method": func(r *checkoutv1.StartRequest) { r.PaymentMethod = "tok_declined" },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.api.Start(t.Context(), connect.NewRequest(order(edit)))
			require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
			require.ErrorContains(t, err, "order id ord-1 was accepted with another order")
			require.NotContains(t, err.Error(), "conflict")
			require.Equal(t, before, f.rows(t))
		})
	}
	now, err := f.api.Get(t.Context(), connect.NewRequest(&checkoutv1.GetRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(first.Checkout, now.Msg.Checkout, protocmp.Transform()))
}

func TestI7AnIdempotencyKeyAloneNamesTheCheckout(t *testing.T) {
	f := setup(t)
	byKey := func(key string, edits ...func(*checkoutv1.StartRequest)) (*checkoutv1.StartResponse, error) {
		req := connect.NewRequest(order(edits...))
		req.Header().Set("Idempotency-Key", key)
		answer, err := f.api.Start(t.Context(), req)
		if err != nil {
			return nil, err
		}
		return answer.Msg, nil
	}
	first, err := byKey("cart 7", withID(""))
	require.NoError(t, err)
	require.Empty(t, contract.Check(&checkoutv1.GetRequest{OrderId: first.Checkout.OrderId}), "it is an order id")
	again, err := byKey("cart 7", withID(""))
	require.NoError(t, err)
	require.False(t, again.Created)
	require.Equal(t, first.Checkout.OrderId, again.Checkout.OrderId)

	_, err = byKey("cart 7", withID(""), func(r *checkoutv1.StartRequest) { r.Items[0].Quantity = 5 })
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
	_, err = byKey("cart 7", withID("ord-7"))
	require.Equal(t, connect.CodeAlreadyExists, connect.CodeOf(err))
	_, err = byKey(strings.Repeat("k", 256), withID(""))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
}

func TestI7SixtyFourStartsAtOnceAreOneCheckout(t *testing.T) {
	f := setup(t)
	var starting sync.WaitGroup
	var mu sync.Mutex
	created := 0
	for range 64 {
		starting.Go(func() {
			answer, err := f.api.Start(t.Context(), connect.NewRequest(order()))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			if answer.Msg.Created {
				created++
			}
		})
	}
	starting.Wait()
	require.Equal(t, 1, created)
	require.Len(t, f.engine.started, 1)
}

func TestI3AnEngineThatDoesNotAnswerIsNoConcernOfTheCaller(t *testing.T) {
	f := setup(t)
	f.engine.startErr = errors.New("sidecar gone")
	require.True(t, f.start(t, order()).Created)
	var startedRun int
	require.NoError(t, f.pool.QueryRow(t.Context(), `SELECT started_run FROM checkouts`).Scan(&startedRun))
	require.Zero(t, startedRun, "the sweeper must see that it was never started")
}
