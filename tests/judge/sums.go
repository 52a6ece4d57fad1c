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
	selectBooked = `
		SELECT currency, sum(minor_units)::bigint,
		       coalesce(sum(minor_units) FILTER (WHERE account = 'merchant' AND movement = 'capture'), 0)::bigint,
		       coalesce(-sum(minor_units) FILTER (WHERE account = 'merchant' AND movement = 'refund'), 0)::bigint
		FROM entries GROUP BY currency`
	selectMoved = `
		SELECT currency, coalesce(sum(minor_units) FILTER (WHERE kind = 'capture'), 0)::bigint,
		       coalesce(sum(minor_units) FILTER (WHERE kind = 'refund'), 0)::bigint
		FROM sandbox.charges GROUP BY currency`
)

// Moment checks the sums of I4, which hold at any moment, even while checkouts are under way: each query is one snapshot.
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
	// The book is asked first. What it says was taken, or given back, the network had taken or given back before, and so has in the
	// second snapshot. The difference of the two proves nothing: a refund is at the network before it is in the book.
	type sums struct{ total, taken, given int64 }
	booked, moved := make(map[string]sums), make(map[string]sums)
	err = each(ctx, j.payment, selectBooked, func(row pgx.CollectableRow) error {
		var currency string
		var sum sums
		err := row.Scan(&currency, &sum.total, &sum.taken, &sum.given)
		booked[currency] = sum
		return err
	})
	if err != nil {
		return nil, err
	}
	err = each(ctx, j.payment, selectMoved, func(row pgx.CollectableRow) error {
		var currency string
		var sum sums
		err := row.Scan(&currency, &sum.taken, &sum.given)
		moved[currency] = sum
		return err
	})
	if err != nil {
		return nil, err
	}
	for currency, book := range booked {
		network := moved[currency]
		if book.total != 0 {
			say(currency, "the book sums to %d", book.total)
		}
		if book.taken > network.taken {
			say(currency, "the merchant has taken %d by the book and the card network took %d: money was made", book.taken, network.taken)
		}
		if book.given > network.given {
			say(currency, "the merchant has given back %d by the book and the card network gave back %d: money was lost", book.given, network.given)
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
