package orders

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// Prices tells what the articles cost, in minor units by currency. An article that is not there is unknown.
func (o *Orders) Prices(ctx context.Context, skus []string) (map[string]map[string]int64, error) {
	rows, err := o.pool.Query(ctx, `SELECT sku, currency, minor_units FROM prices WHERE sku = ANY($1)`, skus)
	if err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	prices := make(map[string]map[string]int64)
	var sku, currency string
	var minorUnits int64
	if _, err := pgx.ForEachRow(rows, []any{&sku, &currency, &minorUnits}, func() error {
		if prices[sku] == nil {
			prices[sku] = make(map[string]int64)
		}
		prices[sku][currency] = minorUnits
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	return prices, nil
}

// Currencies lists the currencies in which anything has a price.
func (o *Orders) Currencies(ctx context.Context) ([]string, error) {
	rows, err := o.pool.Query(ctx, `SELECT DISTINCT currency FROM prices ORDER BY currency`)
	if err != nil {
		return nil, fmt.Errorf("read currencies: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// SetPrice takes in, in the caller's transaction, what an article costs. It returns false if the price that is known comes from
// the same event or a newer one.
func (o *Orders) SetPrice(ctx context.Context, tx pgx.Tx, sku string, price checkout.Money, seq int64) (news bool, err error) {
	const query = `
		INSERT INTO prices (sku, currency, minor_units, seq) VALUES ($1, $2, $3, $4)
		ON CONFLICT (sku, currency) DO UPDATE SET minor_units = excluded.minor_units, seq = excluded.seq WHERE prices.seq < excluded.seq`
	tag, err := tx.Exec(ctx, query, sku, price.Currency, price.MinorUnits, seq)
	if err != nil {
		return false, fmt.Errorf("set price of %s: %w", sku, err)
	}
	return tag.RowsAffected() == 1, nil
}
