package api

import (
	"fmt"
	"strings"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
)

// priceList is what is needed of the price list to judge an order.
type priceList struct {
	currencies []string
	// known holds each article of the order that has a price in any currency.
	known map[string]bool
	// prices holds the price in the order's currency.
	prices map[string]int64
}

// validate tells what is wrong with an order that keeps the contract's rules and yet cannot be accepted, in the order of its fields.
func validate(req *checkoutv1.StartRequest, key string, list priceList) []*contract.Problem {
	bad := sagaapi.CheckKey("order_id", req.OrderId, key)
	refuse := func(field, problem string, args ...any) {
		bad = append(bad, contract.BadField(field, problem, args...))
	}
	currencyKnown := false
	for _, c := range list.currencies {
		currencyKnown = currencyKnown || c == req.Currency
	}
	if !currencyKnown {
		refuse("currency", "%q is unknown; prices are in %s", req.Currency, strings.Join(list.currencies, ", "))
	}
	for i, item := range req.Items {
		switch field := fmt.Sprintf("items[%d].sku", i); {
		case !list.known[item.Sku]:
			refuse(field, "there is no article %q", item.Sku)
		case currencyKnown && list.prices[item.Sku] == 0:
			refuse(field, "%s has no price in %s", item.Sku, req.Currency)
		}
	}
	return bad
}

// unacceptable tells why a priced order cannot be carried out: what participants will be told of it, held to the rules that they hold
// it to; they are asked for no more than that. An order that one of them will not even read could never end.
func unacceptable(order checkout.Order) []*contract.Problem {
	if bad := tooDear(order); len(bad) > 0 {
		return bad
	}
	return contract.Check(&checkoutv1.OrderCreated{Order: orders.Told(order)})
}

// tooDear tells which lines cost more than may be paid for an order or, where none does by itself, that all of them together do. A
// price is looked at first, so that no product of it leaves 64 bits.
func tooDear(order checkout.Order) []*contract.Problem {
	var bad []*contract.Problem
	judge := func(amount int64, field, what string, args ...any) bool {
		problems := contract.Check(toWireMoney(checkout.Money{Currency: order.Amount.Currency, MinorUnits: amount}))
		for _, p := range problems {
			bad = append(bad, contract.BadField(field, "%s: %s %s", fmt.Sprintf(what, args...), strings.ReplaceAll(p.Field, "_", " "), p.Problem))
		}
		return len(problems) == 0
	}
	for i, item := range order.Items {
		unit := item.UnitPrice
		if judge(unit, fmt.Sprintf("items[%d].sku", i), "the price of %s is no price that can be paid in %s", item.SKU, order.Amount.Currency) {
			judge(unit*int64(item.Quantity), fmt.Sprintf("items[%d].quantity", i), "%d of %s cost more %s than can be paid for an order",
				item.Quantity, item.SKU, order.Amount.Currency)
		}
	}
	if len(bad) == 0 {
		judge(order.Amount.MinorUnits, "items", "together they cost more %s than can be paid for an order", order.Amount.Currency)
	}
	return bad
}

// articles are the names to ask the price list about.
func articles(items []*checkoutv1.Item) []string {
	skus := make([]string, len(items))
	for i, item := range items {
		skus[i] = item.Sku
	}
	return skus
}
