// Package input checks what comes to a participant from outside. It finds all that is wrong with a request, names each field,
// and knows no service.
package input

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
)

// maxOrders is how many orders one request may name.
const maxOrders = 1000

// maxMinorUnits keeps every sum of a shop's lifetime far from the end of int64.
const maxMinorUnits = 1_000_000_000_000

var (
	orderID  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	currency = regexp.MustCompile(`^[A-Z]{3}$`)
)

// Problems collects what is wrong with a request.
type Problems []string

// Add notes what is wrong with a field.
func (p *Problems) Add(field, format string, args ...any) {
	*p = append(*p, field+": "+fmt.Sprintf(format, args...))
}

// Err is nil if nothing is wrong, otherwise an error of code invalid_argument that tells all of it.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return connect.NewError(connect.CodeInvalidArgument, errors.New(strings.Join(p, "; ")))
}

// OrderID demands the form of an order id.
func (p *Problems) OrderID(field, value string) {
	if !orderID.MatchString(value) {
		p.Add(field, "must be 1 to 64 letters, digits, dots, underscores or hyphens and begin with a letter or digit")
	}
}

// OrderIDs demands at most 1,000 order ids.
func (p *Problems) OrderIDs(field string, values []string) {
	if len(values) > maxOrders {
		p.Add(field, "must be at most %d, not %d", maxOrders, len(values))
		return
	}
	for i, id := range values {
		p.OrderID(fmt.Sprintf("%s[%d]", field, i), id)
	}
}

// Name demands 1 to 64 bytes of printable text, as for what names an article, a customer or a payment method.
func (p *Problems) Name(field, value string) {
	switch {
	case value == "":
		p.Add(field, "is missing")
	case len(value) > 64:
		p.Add(field, "must not be longer than 64 bytes")
	case strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }):
		p.Add(field, "must not contain spaces or control characters")
	}
}

// Money demands a positive amount in a currency.
func (p *Problems) Money(field string, value *operationv1.Money) {
	if !currency.MatchString(value.GetCurrency()) {
		p.Add(field+".currency", "must be a currency's three letters, such as EUR")
	}
	if units := value.GetMinorUnits(); units < 1 || units > maxMinorUnits {
		p.Add(field+".minor_units", "must be 1 to %d", int64(maxMinorUnits))
	}
}
