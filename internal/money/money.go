// Package money writes amounts for people: with as many decimals as ISO 4217 gives the currency, which may be none, or three. It
// knows no order and no payment. Amounts are kept, sent and computed in minor units; only text has decimals.
package money

import (
	"strconv"
	"strings"

	"github.com/bojanz/currency"
)

// Known tells whether code is a currency in use by ISO 4217, such as EUR. Codes that are not money to pay with (XXX, gold) and
// those that were withdrawn are not.
func Known(code string) bool {
	_, known := currency.GetDigits(code)
	return known
}

// Format writes an amount of minor units: 12997 EUR is "129.97 EUR", 5000 JPY is "5000 JPY", 1234 KWD is "1.234 KWD". With an
// unknown code the place of the point is unknown, and the text says minor units.
func Format(minorUnits int64, code string) string {
	digits, known := currency.GetDigits(code)
	if !known {
		if code == "" {
			code = "no currency"
		}
		return strconv.FormatInt(minorUnits, 10) + " minor units of " + code
	}
	// Text and not arithmetic, because the smallest int64 has no opposite.
	text, negative := strings.CutPrefix(strconv.FormatInt(minorUnits, 10), "-")
	if digits > 0 {
		text = strings.Repeat("0", max(0, int(digits)+1-len(text))) + text
		point := len(text) - int(digits)
		text = text[:point] + "." + text[point:]
	}
	if negative {
		text = "-" + text
	}
	return text + " " + code
}
