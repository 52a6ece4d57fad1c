package node

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnApprovalLimitNamesACurrencyThatThereIs(t *testing.T) {
	t.Parallel()
	var limits Amounts
	require.NoError(t, limits.Set("EUR=50000, JPY=7"))
	require.NoError(t, limits.Set("KWD=0"))
	require.Equal(t, Amounts{"EUR": 50000, "JPY": 7, "KWD": 0}, limits)
	for text, why := range map[string]string{
		// A slip of the finger would otherwise let every order in euros pass without approval.
		"EUE=50000":  `must name a currency of ISO 4217 such as EUR, not "EUE"`,
		"eur=50000":  `must name a currency of ISO 4217 such as EUR, not "eur"`,
		"EUR=500.00": `must be a currency and minor units such as EUR=50000, not "EUR=500.00"`,
		"EUR=-1":     `must be a currency and minor units such as EUR=50000, not "EUR=-1"`,
		"EUR":        `must be a currency and minor units such as EUR=50000, not "EUR"`,
	} {
		require.EqualError(t, limits.Set(text), why)
	}
}
