// Package activities makes what the participants of a checkout are asked with, each from the order. How they are reached, and what an
// answer means, is the same for every saga: see package participant.
package activities

import "github.com/checkoutsaga/orchestrator/internal/checkout"

// Reservation is what the warehouse is asked to reserve.
type Reservation struct {
	Lines []Line `json:"lines"`
}

// Line is a number of pieces of one article.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
}

// Authorization is what payment is asked to hold, of whose money.
type Authorization struct {
	CustomerID    string         `json:"customer_id"`
	Amount        checkout.Money `json:"amount"`
	PaymentMethod string         `json:"payment_method"`
}

// Capture is what payment is asked to take of what it holds.
type Capture struct {
	Amount checkout.Money `json:"amount"`
}

// Shipment is what the warehouse is asked to ship: what it has reserved, whatever that is.
type Shipment struct{}

// Reserve asks for the order's lines. What they cost is nothing to the warehouse.
func Reserve(o checkout.Order) Reservation {
	lines := make([]Line, len(o.Items))
	for i, item := range o.Items {
		lines[i] = Line{SKU: item.SKU, Quantity: item.Quantity}
	}
	return Reservation{Lines: lines}
}

// Authorize asks for what the order costs.
func Authorize(o checkout.Order) Authorization {
	return Authorization{CustomerID: o.CustomerID, Amount: o.Amount, PaymentMethod: o.PaymentMethod}
}

// Take asks for what the order costs, all of it.
func Take(o checkout.Order) Capture { return Capture{Amount: o.Amount} }

// Ship asks for the goods to go.
func Ship(checkout.Order) Shipment { return Shipment{} }
