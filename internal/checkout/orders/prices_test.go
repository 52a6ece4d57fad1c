package orders_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestI6AnOlderPriceDoesNotUndoANewerOne(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, checkouttest.Migrations()...))
	orders := checkouttest.Orders(pool)
	set := func(currency string, minorUnits, seq int64) (news bool) {
		require.NoError(t, pg.InTx(t.Context(), pool, func(tx pgx.Tx) (err error) {
			news, err = orders.SetPrice(t.Context(), tx, "CHAIR-OAK", checkout.Money{Currency: currency, MinorUnits: minorUnits}, seq)
			return err
		}))
		return news
	}
	require.True(t, set("EUR", 6000, 3))
	require.False(t, set("EUR", 6000, 3), "the same event")
	require.False(t, set("EUR", 5000, 2), "an older one")
	require.True(t, set("USD", 5500, 2), "an older one about another currency, whose price it alone has set")
	prices, err := orders.Prices(t.Context(), []string{"CHAIR-OAK"})
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"EUR": 6000, "USD": 5500}, prices["CHAIR-OAK"])
}
