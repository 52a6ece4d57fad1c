// Package checkout holds the words that the parts of a checkout share: the names of its steps and participants, and the order. It
// knows nobody's database, wire format or engine.
package checkout

import "github.com/checkoutsaga/orchestrator/saga/journal"

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

// Money is an amount in minor units (cents) of an ISO 4217 currency.
type Money struct {
	Currency   string `json:"currency"`
	MinorUnits int64  `json:"minor_units"`
}

// Item is a number of pieces of one article.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int32  `json:"quantity"`
}

// Order is what the participants are asked for.
type Order struct {
	ID            string
	CustomerID    string
	Items         []Item
	Amount        Money
	PaymentMethod string
	// TraceParent is the W3C trace context of the checkout's start.
	TraceParent string
}

// Pass is what a fence hands out: the order goes with journal.Go.
type Pass struct {
	journal.Pass
	Order Order
}
