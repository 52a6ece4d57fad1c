package api

import (
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
)

// advice tells an operator what to do about a checkout that needs attention, as sentences with the commands to type.
func advice(c orders.Checkout) string {
	return operator.Advice(c.Saga, operator.Words{
		Program: program, Command: "checkout", ID: c.Key, Record: "this order", Refund: "releases the stock, gives the money back and ends it",
	})
}
