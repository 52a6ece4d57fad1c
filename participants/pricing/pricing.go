// Package pricing is the participant that says what articles cost. A price is set by a call and told by an event in the same
// transaction. Sellers keep price lists of their own from these events, so no checkout asks pricing anything. It must know nothing
// of orders, of stock, or of who listens.
//
// The events of an article are numbered across its currencies. Each tells the price in one of them, so it is the newest only in
// that currency: a reader compares numbers by article and currency.
package pricing

import "time"

// price is what one piece of an article costs in one currency.
type price struct {
	sku, currency string
	minorUnits    int64
	updatedAt     time.Time
}
