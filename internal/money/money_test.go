package money

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnAmountHasTheDecimalsOfItsCurrency(t *testing.T) {
	for want, c := range map[string]struct {
		units int64
		code  string
	}{
		"129.97 EUR":               {12997, "EUR"},
		"5000 JPY":                 {5000, "JPY"},
		"1.234 KWD":                {1234, "KWD"},
		"0.0005 CLF":               {5, "CLF"},
		"0.05 EUR":                 {5, "EUR"},
		"0.00 EUR":                 {0, "EUR"},
		"0 JPY":                    {0, "JPY"},
		"-0.05 EUR":                {-5, "EUR"},
		"-129.97 EUR":              {-12997, "EUR"},
		"-7 JPY":                   {-7, "JPY"},
		"92233720368547758.07 EUR": {math.MaxInt64, "EUR"},
		// The smallest number has no opposite.
		"-92233720368547758.08 EUR": {math.MinInt64, "EUR"},
		// Three decimals in ISO 4217, of which shops of the country show none: the text must not lose money.
		"1.500 IQD": {1500, "IQD"},
		// New codes: a list that is not kept does not have them.
		"1.00 XCG": {100, "XCG"},
		"1.00 ZWG": {100, "ZWG"},
	} {
		require.Equal(t, want, Format(c.units, c.code))
	}
}

func TestWhereACurrencyIsNotKnownTheTextSaysMinorUnits(t *testing.T) {
	for want, code := range map[string]string{
		"1234 minor units of ZZZ": "ZZZ",
		"1234 minor units of XXX": "XXX",
		"1234 minor units of HRK": "HRK", // Withdrawn.
		// Codes are upper case.
		"1234 minor units of eur":         "eur",
		"1234 minor units of no currency": "",
	} {
		require.Equal(t, want, Format(1234, code))
		require.False(t, Known(code))
	}
	require.True(t, Known("EUR"))
	require.True(t, Known("JPY"))
}
