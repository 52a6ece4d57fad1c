package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// inCurrencies are confirmed checkouts, each of so much in a currency of its own kind.
func inCurrencies() []*checkoutv1.Checkout {
	var all []*checkoutv1.Checkout
	for _, m := range []*operationv1.Money{
		{Currency: "EUR", MinorUnits: 12997}, {Currency: "JPY", MinorUnits: 5000}, {Currency: "KWD", MinorUnits: 1234}, {Currency: "ZZZ", MinorUnits: 77},
	} {
		c := confirmed()
		c.OrderId, c.Amount, c.Held = "ord-"+m.Currency, m, &checkoutv1.Held{Captured: m}
		all = append(all, c)
	}
	return all
}

func TestMoneyHasTheDecimalsOfItsCurrencyInEveryTable(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.list = &checkoutv1.ListResponse{Checkouts: inCurrencies()}
	for _, form := range []string{cli.AsTable, cli.AsWide} {
		out := s.types(t, "checkout", "list", "-o", form).out
		for _, amount := range []string{"129.97 EUR", "5000 JPY", "1.234 KWD", "77 minor units of ZZZ"} {
			require.Contains(t, out, "CONFIRMED   "+amount+" ", form)
			if form == cli.AsWide {
				require.Contains(t, out, amount+" captured\n")
			}
		}
	}
	for _, c := range inCurrencies() {
		s.checkout = c
		require.NotContains(t, s.types(t, "checkout", "status", c.OrderId).out, "50.00", "two decimals would be a hundred times too little")
	}
}

func TestASumOverAQueryHasTheDecimalsOfItsCurrency(t *testing.T) {
	t.Parallel()
	b := openBridge(t, append(inCurrencies(), inCurrencies()...))
	told := typed(t, "", map[string]string{cli.ServerVariable: b.url}, "checkout", "cancel", "--customer", "cus-17", "--reason", "x", "--dry-run").err
	require.Contains(t, told, "8 checkouts (8 CONFIRMED), 259.94 EUR and 10000 JPY and 2.468 KWD and 154 minor units of ZZZ in all")
}
