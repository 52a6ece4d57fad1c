// Package checkout holds the words that the parts of a checkout share: the names of its steps and participants, and the order. It
// knows nobody's database, wire format or engine.
package checkout

import (
	"encoding/json"
	"fmt"

	"github.com/checkoutsaga/orchestrator/saga"
)

// Names that live in stored histories and rows. Renaming one is a migration.
const (
	// Definition is the name of the checkout saga.
	Definition = "checkout"

	ReserveStock     = "reserve-stock"
	AuthorizePayment = "authorize-payment"
	Approval         = "approval"
	CapturePayment   = "capture-payment"
	CommitStock      = "commit-stock"

	ReleaseStock      = "release-stock"
	VoidAuthorization = "void-authorization"
	RefundPayment     = "refund-payment"

	Warehouse = "warehouse"
	Payment   = "payment"
)

// Money is an order's amount.
type Money = saga.Money

// Item is a number of pieces of one article, as priced when the order was accepted.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
	// UnitPrice is in minor units of the order's currency.
	UnitPrice int64 `json:"unit_price"`
}

// Order is what the participants are asked for: the input of a checkout's saga. As JSON it is a stored format.
type Order struct {
	ID            string `json:"-"` // The saga's key.
	CustomerID    string `json:"customer_id"`
	Items         []Item `json:"items"`
	Amount        Money  `json:"amount"`
	PaymentMethod string `json:"payment_method"`
}

// OrderOf reads a checkout's input.
func OrderOf(orderID string, input json.RawMessage) (Order, error) {
	o := Order{ID: orderID}
	if err := json.Unmarshal(input, &o); err != nil {
		return Order{}, fmt.Errorf("read order %s: %w", orderID, err)
	}
	return o, nil
}

// Input is the order as its saga keeps it.
func (o Order) Input() json.RawMessage {
	input, err := json.Marshal(o)
	if err != nil {
		panic(err) // Texts and numbers can always be written.
	}
	return input
}

// Saga is the id of an order's checkout.
func Saga(orderID string) saga.ID { return saga.ID{Definition: Definition, Key: orderID} }
