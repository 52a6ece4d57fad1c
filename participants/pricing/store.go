package pricing

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// store runs pricing's SQL.
type store struct {
	pool   *pgxpool.Pool
	outbox *outbox.Outbox
}

// set gives an article a price in one currency and writes the event. The price that it has already changes nothing. Those who set
// the same price at once take turns at its row, so only one changes it, and the events of an article tell its prices in the order
// in which they were set.
func (s *store) set(ctx context.Context, p price) (set price, changed bool, err error) {
	const upsert = `
		INSERT INTO prices (sku, currency, minor_units) VALUES ($1, $2, $3)
		ON CONFLICT (sku, currency) DO UPDATE
		SET minor_units = excluded.minor_units, updated_at = clock_timestamp()
		WHERE prices.minor_units <> excluded.minor_units
		RETURNING sku, currency, minor_units, updated_at`
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, upsert, p.sku, p.currency, p.minorUnits)
		if err != nil {
			return err
		}
		set, err = pgx.CollectExactlyOneRow(rows, scanPrice)
		if changed = err == nil; !changed {
			if errors.Is(err, pgx.ErrNoRows) {
				set, err = one(ctx, tx, p.sku, p.currency)
			}
			return err
		}
		return s.outbox.Write(ctx, tx, outbox.Article(p.sku), &pricingv1.PriceUpdated{
			UnitPrice: &operationv1.Money{Currency: p.currency, MinorUnits: p.minorUnits},
		})
	})
	if err != nil {
		return price{}, false, fmt.Errorf("set price of %s: %w", p.sku, err)
	}
	if changed {
		s.outbox.Committed()
	}
	return set, changed, nil
}

const selectPrices = `SELECT sku, currency, minor_units, updated_at FROM prices`

func one(ctx context.Context, tx pgx.Tx, sku, currency string) (price, error) {
	rows, err := tx.Query(ctx, selectPrices+` WHERE sku = $1 AND currency = $2`, sku, currency)
	if err != nil {
		return price{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanPrice)
}

// list returns the prices of one article, or of all if sku is empty, by article and currency.
func (s *store) list(ctx context.Context, sku string) ([]price, error) {
	const some = ` WHERE sku = $1 OR $1 = '' ORDER BY sku COLLATE "C", currency COLLATE "C"`
	return pg.Rows(ctx, s.pool, "read prices", scanPrice, selectPrices+some, sku)
}

func scanPrice(row pgx.CollectableRow) (p price, err error) {
	err = row.Scan(&p.sku, &p.currency, &p.minorUnits, &p.updatedAt)
	return p, err
}
