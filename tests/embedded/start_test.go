package embedded_test

import (
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

const starters = 64

func TestI7SixtyFourEqualStartsAtOnceAreOneCheckout(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	answers, failures := startAtOnce(t, n, func(int) harness.Order { return harness.Order{ID: "same"} })
	require.Empty(t, failures)
	created := 0
	for _, answer := range answers {
		if answer.Created {
			created++
		}
		require.Equal(t, "same", answer.Checkout.OrderId)
	}
	require.Equal(t, 1, created, "so many starts made a checkout")
	n.AwaitEnd(t, "same", harness.Confirmed)
	n.Audit(t)
}

func TestI7DifferentOrdersWithOneIDRaceAndOneWins(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	order := func(i int) harness.Order {
		return harness.Order{ID: "contested", Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: int32(1 + i%2)}}}
	}
	answers, failures := startAtOnce(t, n, order)
	require.Len(t, answers, starters/2, "all starts of the order that won, and no other")
	for _, answer := range answers {
		require.Equal(t, answers[0].Checkout.Amount.MinorUnits, answer.Checkout.Amount.MinorUnits)
	}
	require.Len(t, failures, starters/2)
	for _, err := range failures {
		require.True(t, harness.IsCode(err, connect.CodeAlreadyExists), "a start answered %v", err)
	}
	n.AwaitEnd(t, "contested", harness.Confirmed)
	n.Audit(t)
}

func startAtOnce(t *testing.T, s *harness.System, order func(i int) harness.Order) (answers []*checkoutv1.StartResponse, failures []error) {
	t.Helper()
	var mu sync.Mutex
	var starting sync.WaitGroup
	gate := make(chan struct{})
	for i := range starters {
		starting.Go(func() {
			<-gate
			answer, err := s.TryStart(t.Context(), order(i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures = append(failures, err)
				return
			}
			answers = append(answers, answer)
		})
	}
	close(gate)
	starting.Wait()
	return answers, failures
}

// What the API takes in, the participants must take too: an order that one of them calls malformed could never end.
func TestI9WhatIsAcceptedAtTheEdgeCanEnd(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	long := func(n int, s string) string {
		out := ""
		for range n {
			out += s
		}
		return out
	}
	cases := []struct {
		name             string
		customer, method string
	}{
		{"a customer with a space", "cus 17", "tok_visa"},
		{"a customer of 64 characters of two bytes", long(64, "ü"), "tok_visa"},
		{"a payment method with a space", "cus-17", "tok visa"},
		{"a payment method of 128 characters", "cus-17", long(128, "x")},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			id := fmt.Sprintf("edge-%d", i)
			request := harness.Order{ID: id, Method: c.method}.Request()
			request.CustomerId = c.customer
			_, err := n.Checkouts.Start(t.Context(), connect.NewRequest(request))
			if harness.IsCode(err, connect.CodeInvalidArgument) {
				return // Refused at the edge, and nothing is written.
			}
			require.NoError(t, err)
			_, err = n.EndOf(t.Context(), id)
			require.NoError(t, err)
		})
	}
	n.Audit(t)
}
