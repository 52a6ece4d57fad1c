package warehouse

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
)

// table is the reservations and the stock as a table of shared transactions: the operations of a transaction are decided one after the
// other, so that many take pieces of one article with one lock, one write and one commit.
//
// Locks are taken in this order, so that no two transactions wait for each other: saga (package ledger), reservation, stock by article.
// Everybody who buys an article waits for its row, shared transactions too: one that passed it over would leave its operations to
// transactions of their own, which would then hold the row against every shared transaction after it. It is locked last, and what is
// written under its lock, the event included, goes to the database in one batch.
type table struct{ outbox *outbox.Outbox }

// Read implements commit.Table.
func (t *table) Read(batch *pgx.Batch, changes []*commit.Change, _ bool) {
	have := make(map[string]stock)
	var skus, owners []string
	var holders []*changed
	seen := make(map[owner]bool, len(changes))
	for _, change := range changes {
		c := change.What.(*changed)
		if seen[c.owner] {
			change.Err = commit.ErrBusy // It would not see what the one before it makes of the reservation.
			continue
		}
		seen[c.owner] = true
		c.held, c.stock = nil, have
		if c.asked == nil {
			holders, owners = append(holders, c), append(owners, c.owner.name())
		}
		for _, l := range c.asked {
			skus = append(skus, l.sku)
		}
	}
	if len(holders) > 0 {
		lockReservations(batch, owners, func(n int, r reservation) { holders[n].held = &r })
	}
	lockStock(batch, skus, owners, have)
}

// lockReservations queues the locking of reservations, and takes each by the place of its owner.
func lockReservations(batch *pgx.Batch, owners []string, take func(n int, r reservation)) {
	const query = `
		SELECT n - 1, state, coordination,
		       ARRAY(SELECT sku FROM reservation_lines AS l WHERE l.order_id = r.order_id ORDER BY sku COLLATE "C"),
		       ARRAY(SELECT quantity FROM reservation_lines AS l WHERE l.order_id = r.order_id ORDER BY sku COLLATE "C")
		FROM unnest($1::text[]) WITH ORDINALITY AS owners (name, n) JOIN reservations AS r ON r.order_id = name
		ORDER BY r.order_id
		FOR UPDATE OF r`
	batch.Queue(query, owners).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var r reservation
			var skus []string
			var quantities []int32
			if err := rows.Scan(&n, &r.state, &r.coordination, &skus, &quantities); err != nil {
				return fmt.Errorf("lock reservations: %w", err)
			}
			for i, sku := range skus {
				r.lines = append(r.lines, line{sku, quantities[i]})
			}
			take(n, r)
		}
		return rows.Err()
	})
}

// lockStock queues the locking of articles: those that are named, and those that the owners' reservations name.
func lockStock(batch *pgx.Batch, skus, owners []string, have map[string]stock) {
	const query = `
		SELECT sku, on_hand, reserved, committed FROM stock
		WHERE sku = ANY (ARRAY(SELECT unnest($1::text[]) UNION SELECT sku FROM reservation_lines WHERE order_id = ANY ($2::text[])))
		ORDER BY sku COLLATE "C"
		FOR UPDATE`
	batch.Queue(query, skus, owners).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			a, err := scanStock(rows)
			if err != nil {
				return fmt.Errorf("lock stock: %w", err)
			}
			have[a.sku] = a
		}
		return rows.Err()
	})
}

// Decide implements commit.Table.
func (t *table) Decide(changes []*commit.Change) {
	for _, change := range changes {
		c := change.What.(*changed)
		c.outcome = outcome{}
		if !c.recorded.Known {
			change.Err = c.decide(c)
		}
	}
}

// Write implements commit.Table.
func (t *table) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	var made, moved []*changed
	var told []outbox.Told
	for _, c := range whats(changes) {
		if c.told != nil {
			told = append(told, outbox.Told{Subject: outbox.Order(c.owner.key, c.coordination), Message: c.told, Trace: event.TraceOf(c.ctx)})
		}
		switch c.state {
		case "":
		case reserved:
			made = append(made, c)
		default:
			moved = append(moved, c)
		}
	}
	writeReservations(batch, made)
	writeStates(batch, moved)
	writeStock(batch, slices.Concat(made, moved))
	return t.outbox.QueueAll(batch, told)
}

func writeReservations(batch *pgx.Batch, made []*changed) {
	const (
		reservations = `
			INSERT INTO reservations (order_id, coordination, state)
			SELECT *, 'reserved' FROM unnest($1::text[], $2::text[])`
		lines = `
			INSERT INTO reservation_lines (order_id, sku, quantity)
			SELECT * FROM unnest($1::text[], $2::text[], $3::integer[])`
	)
	if len(made) == 0 {
		return
	}
	var owners, coordinations, ownersOfLines, skus []string
	var quantities []int32
	for _, c := range made {
		owners, coordinations = append(owners, c.owner.name()), append(coordinations, c.reservation.coordination)
		for _, l := range c.reservation.lines {
			ownersOfLines, skus, quantities = append(ownersOfLines, c.owner.name()), append(skus, l.sku), append(quantities, l.quantity)
		}
	}
	batch.Queue(reservations, owners, coordinations)
	batch.Queue(lines, ownersOfLines, skus, quantities)
}

func writeStates(batch *pgx.Batch, moved []*changed) {
	const query = `
		UPDATE reservations AS r SET state = moved.state, updated_at = clock_timestamp()
		FROM unnest($1::text[], $2::text[]) AS moved (order_id, state)
		WHERE r.order_id = moved.order_id`
	if len(moved) == 0 {
		return
	}
	var owners, states []string
	for _, c := range moved {
		owners, states = append(owners, c.owner.name()), append(states, string(c.state))
	}
	batch.Queue(query, owners, states)
}

// writeStock moves the counts of each article by the sum of what the operations move.
func writeStock(batch *pgx.Batch, changes []*changed) {
	const query = `
		UPDATE stock
		SET on_hand = stock.on_hand + moved.on_hand, reserved = stock.reserved + moved.reserved, committed = stock.committed + moved.committed
		FROM unnest($1::text[], $2::integer[], $3::integer[], $4::integer[]) AS moved (sku, on_hand, reserved, committed)
		WHERE stock.sku = moved.sku`
	sums := make(map[string]movement)
	for _, c := range changes {
		for _, l := range c.reservation.lines {
			sums[l.sku] = sums[l.sku].plus(c.movement.of(l.quantity))
		}
	}
	if len(sums) == 0 {
		return
	}
	skus := slices.Sorted(maps.Keys(sums))
	var onHand, reserved, committed []int32
	for _, sku := range skus {
		onHand, reserved, committed = append(onHand, sums[sku].onHand), append(reserved, sums[sku].reserved), append(committed, sums[sku].committed)
	}
	batch.Queue(query, skus, onHand, reserved, committed).Exec(func(tag pgconn.CommandTag) error {
		if int(tag.RowsAffected()) != len(skus) {
			return fmt.Errorf("%d articles moved, not %d", tag.RowsAffected(), len(skus))
		}
		return nil
	})
}

func whats(changes []*commit.Change) []*changed {
	all := make([]*changed, len(changes))
	for i, change := range changes {
		all[i] = change.What.(*changed)
	}
	return all
}
