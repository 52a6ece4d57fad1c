package judge

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const selectStock = `
	SELECT s.sku, s.on_hand, s.reserved, s.committed,
	       coalesce(sum(l.quantity) FILTER (WHERE r.state = 'reserved'), 0),
	       coalesce(sum(l.quantity) FILTER (WHERE r.state = 'committed'), 0)
	FROM stock s LEFT JOIN (reservation_lines l JOIN reservations r USING (order_id)) USING (sku)
	GROUP BY s.sku ORDER BY s.sku`

const (
	selectMovements = `
		SELECT order_id, movement, sum(minor_units)::bigint FROM entries
		GROUP BY order_id, movement, currency HAVING sum(minor_units) <> 0`
	selectAccounts = `SELECT currency, account, sum(minor_units)::bigint FROM entries GROUP BY currency, account`
	selectTaken    = `
		SELECT currency, sum(CASE kind WHEN 'capture' THEN minor_units WHEN 'refund' THEN -minor_units ELSE 0 END)::bigint
		FROM sandbox.charges GROUP BY currency`
)

// Moment checks the sums of I4, which hold at any moment, also while checkouts are under way: each query is one snapshot.
func (j *Judge) Moment(ctx context.Context) ([]Violation, error) {
	var found []Violation
	say := func(subject, format string, args ...any) {
		found = append(found, Violation{Invariant: "I4", Subject: subject, What: fmt.Sprintf(format, args...)})
	}
	err := each(ctx, j.warehouse, selectStock, func(row pgx.CollectableRow) error {
		var sku string
		var onHand, reserved, committed, promised, shipped int64
		if err := row.Scan(&sku, &onHand, &reserved, &committed, &promised, &shipped); err != nil {
			return err
		}
		if all := j.all(sku); onHand+committed != all {
			say(sku, "on_hand %d and committed %d are not %d pieces", onHand, committed, all)
		}
		if reserved != promised {
			say(sku, "reserved is %d and open reservations are for %d", reserved, promised)
		}
		if committed != shipped {
			say(sku, "committed is %d and shipments are of %d", committed, shipped)
		}
		if onHand < reserved || reserved < 0 || committed < 0 {
			say(sku, "oversold: on_hand %d, reserved %d, committed %d", onHand, reserved, committed)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = each(ctx, j.payment, selectMovements, func(row pgx.CollectableRow) error {
		var orderID, movement string
		var sum int64
		err := row.Scan(&orderID, &movement, &sum)
		say(orderID, "the entries of %s sum to %d", movement, sum)
		return err
	})
	if err != nil {
		return nil, err
	}
	// The book is asked first: what it says was taken, the network had taken before, and so has taken in the second snapshot.
	merchant := make(map[string]int64)
	total := make(map[string]int64)
	err = each(ctx, j.payment, selectAccounts, func(row pgx.CollectableRow) error {
		var currency, account string
		var sum int64
		err := row.Scan(&currency, &account, &sum)
		total[currency] += sum
		if account == "merchant" {
			merchant[currency] = sum
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	taken := make(map[string]int64)
	err = each(ctx, j.payment, selectTaken, func(row pgx.CollectableRow) error {
		var currency string
		var sum int64
		err := row.Scan(&currency, &sum)
		taken[currency] = sum
		return err
	})
	if err != nil {
		return nil, err
	}
	for currency, sum := range total {
		if sum != 0 {
			say(currency, "the book sums to %d", sum)
		}
		if merchant[currency] > taken[currency] {
			say(currency, "the merchant has %d in the book and the card network took %d: money was made", merchant[currency], taken[currency])
		}
	}
	return found, nil
}

func (j *Judge) all(sku string) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n, ok := j.pieces[sku]; ok {
		return n
	}
	return pieces0
}
