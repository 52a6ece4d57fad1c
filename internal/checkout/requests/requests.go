// Package requests writes what participants are asked and told about an order, each in one place: activities and the outbox send it,
// and the API holds it to the contracts before it accepts the order. An order that a participant will not even read could never end.
package requests

import (
	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// Reserve asks the warehouse to reserve an order's lines.
func Reserve(o checkout.Order) *warehousev1.ReserveRequest {
	lines := make([]*warehousev1.Line, len(o.Items))
	for i, item := range o.Items {
		lines[i] = &warehousev1.Line{Sku: item.SKU, Quantity: item.Quantity}
	}
	return &warehousev1.ReserveRequest{OrderId: o.ID, Lines: lines}
}

// Authorize asks payment to hold what an order costs.
func Authorize(o checkout.Order) *paymentv1.AuthorizeRequest {
	return &paymentv1.AuthorizeRequest{OrderId: o.ID, CustomerId: o.CustomerID, Amount: Money(o.Amount), PaymentMethod: o.PaymentMethod}
}

// Capture asks payment to take what an order costs.
func Capture(o checkout.Order) *paymentv1.CaptureRequest {
	return &paymentv1.CaptureRequest{OrderId: o.ID, Amount: Money(o.Amount)}
}

// Told is an order as events tell it.
func Told(o checkout.Order) *checkoutv1.Order {
	told := &checkoutv1.Order{CustomerId: o.CustomerID, Amount: Money(o.Amount), PaymentMethod: o.PaymentMethod}
	for _, item := range o.Items {
		told.Items = append(told.Items, &checkoutv1.Item{Sku: item.SKU, Quantity: item.Quantity})
	}
	return told
}

// Money is an amount on the wire.
func Money(m checkout.Money) *operationv1.Money {
	return &operationv1.Money{Currency: m.Currency, MinorUnits: m.MinorUnits}
}
