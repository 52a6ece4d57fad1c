package warehouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/participants/internal/ledger"
)

// What the store refuses.
var (
	errNoArticle     = errors.New("no such article")
	errNoReservation = errors.New("no reservation was made for this order")
	errBelowReserved = errors.New("more than that is reserved")
)

// store runs the warehouse's SQL. Locks are taken in this order, so that no two transactions wait for each other: operation,
// reservation, stock by article. Everybody who buys an article waits for its row, so it is locked last, and what is written
// under its lock goes to the database in one batch.
type store struct{ pool *pgxpool.Pool }

// reserve reserves all lines, which are in order, or none.
func (s *store) reserve(ctx context.Context, orderID string, lines []line) (side ledger.Side, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		op, known, err := ledger.BeginDoing(ctx, tx, orderID, stepReserve, digest(lines))
		if err != nil || known {
			side = op.Do
			return err
		}
		have, err := lockStock(ctx, tx, lines)
		if err != nil {
			return err
		}
		writes := &pgx.Batch{}
		if reason, detail := refusal(lines, have); reason != "" {
			op.Do.Reject(reason, detail)
		} else {
			queueReservation(writes, orderID, lines)
			queueMovement(writes, lines, movement{reserved: +1})
			op.Do.Apply("rsv-" + orderID)
		}
		side = op.Do
		return send(ctx, tx, writes, &op)
	})
	return side, err
}

// release makes the reservation be gone.
func (s *store) release(ctx context.Context, orderID string) (side ledger.Side, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		op, known, err := ledger.BeginUndoing(ctx, tx, orderID, stepReserve)
		if err != nil || known {
			side = op.Undo
			return err
		}
		state, err := lockReservation(ctx, tx, orderID)
		if err != nil {
			return err
		}
		writes := &pgx.Batch{}
		if state == committed {
			op.Undo.Reject(alreadyCommitted, "the stock has been shipped")
		} else {
			lines, err := lockReserved(ctx, tx, orderID)
			if err != nil {
				return err
			}
			queueMovement(writes, lines, movement{reserved: -1})
			queueState(writes, orderID, released)
			op.Undo.Apply("rsv-" + orderID)
		}
		side = op.Undo
		return send(ctx, tx, writes, &op)
	})
	return side, err
}

// commit turns the reservation into a shipment.
func (s *store) commit(ctx context.Context, orderID string) (side ledger.Side, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		op, known, err := ledger.BeginDoing(ctx, tx, orderID, stepCommit, ledger.Digest(1))
		if err != nil || known {
			side = op.Do
			return err
		}
		state, err := lockReservation(ctx, tx, orderID)
		if err != nil && !errors.Is(err, errNoReservation) {
			return err
		}
		writes := &pgx.Batch{}
		if state == reserved {
			lines, err := lockReserved(ctx, tx, orderID)
			if err != nil {
				return err
			}
			queueMovement(writes, lines, movement{onHand: -1, reserved: -1, committed: +1})
			queueState(writes, orderID, committed)
			op.Do.Apply("shp-" + orderID)
		} else {
			op.Do.Reject(noReservation, "nothing is reserved for this order")
		}
		side = op.Do
		return send(ctx, tx, writes, &op)
	})
	return side, err
}

// send writes the effect and its record.
func send(ctx context.Context, tx pgx.Tx, writes *pgx.Batch, op *ledger.Operation) error {
	ledger.QueueSave(writes, op)
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return fmt.Errorf("write %s of %s: %w", op.Step, op.OrderID, err)
	}
	return nil
}

// lockStock locks the articles of the lines, in order, and returns those that exist.
func lockStock(ctx context.Context, tx pgx.Tx, lines []line) (map[string]stock, error) {
	const query = `
		SELECT sku, on_hand, reserved, committed FROM stock
		WHERE sku = ANY($1)
		ORDER BY sku COLLATE "C"
		FOR UPDATE`
	skus, _ := split(lines)
	rows, err := tx.Query(ctx, query, skus)
	if err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanStock)
	if err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	have := make(map[string]stock, len(found))
	for _, a := range found {
		have[a.sku] = a
	}
	return have, nil
}

// lockReserved returns the lines of a reservation and locks their articles.
func lockReserved(ctx context.Context, tx pgx.Tx, orderID string) ([]line, error) {
	lines, err := linesOf(ctx, tx, orderID)
	if err != nil {
		return nil, err
	}
	_, err = lockStock(ctx, tx, lines)
	return lines, err
}

// movement says with which sign the quantities of lines are added to each count.
type movement struct{ onHand, reserved, committed int32 }

// queueMovement moves the counts of the lines' articles, which this transaction has locked: an update of several rows by
// itself would lock them in any order it likes.
func queueMovement(writes *pgx.Batch, lines []line, m movement) {
	const query = `
		UPDATE stock
		SET on_hand = on_hand + $3 * moved.quantity,
		    reserved = reserved + $4 * moved.quantity,
		    committed = committed + $5 * moved.quantity
		FROM unnest($1::text[], $2::integer[]) AS moved (sku, quantity)
		WHERE stock.sku = moved.sku`
	skus, quantities := split(lines)
	writes.Queue(query, skus, quantities, m.onHand, m.reserved, m.committed).Exec(func(tag pgconn.CommandTag) error {
		if int(tag.RowsAffected()) != len(lines) {
			return fmt.Errorf("%d articles moved, not %d", tag.RowsAffected(), len(lines))
		}
		return nil
	})
}

func queueReservation(writes *pgx.Batch, orderID string, lines []line) {
	const (
		reservation = `INSERT INTO reservations (order_id, state) VALUES ($1, 'reserved')`
		ofLines     = `INSERT INTO reservation_lines (order_id, sku, quantity) SELECT $1, * FROM unnest($2::text[], $3::integer[])`
	)
	skus, quantities := split(lines)
	writes.Queue(reservation, orderID)
	writes.Queue(ofLines, orderID, skus, quantities)
}

func lockReservation(ctx context.Context, tx pgx.Tx, orderID string) (state reservationState, err error) {
	const query = `SELECT state FROM reservations WHERE order_id = $1 FOR UPDATE`
	err = tx.QueryRow(ctx, query, orderID).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errNoReservation
	}
	if err != nil {
		return "", fmt.Errorf("lock reservation: %w", err)
	}
	return state, nil
}

func queueState(writes *pgx.Batch, orderID string, state reservationState) {
	const query = `UPDATE reservations SET state = $2, updated_at = clock_timestamp() WHERE order_id = $1`
	writes.Queue(query, orderID, state)
}

// querier is a transaction or the pool.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func linesOf(ctx context.Context, q querier, orderID string) ([]line, error) {
	const query = `SELECT sku, quantity FROM reservation_lines WHERE order_id = $1 ORDER BY sku COLLATE "C"`
	rows, err := q.Query(ctx, query, orderID)
	if err != nil {
		return nil, fmt.Errorf("read reservation: %w", err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l line, err error) {
		err = row.Scan(&l.sku, &l.quantity)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read reservation: %w", err)
	}
	return lines, nil
}

// reservation tells what an order holds, or errNoReservation.
func (s *store) reservation(ctx context.Context, orderID string) (state reservationState, lines []line, err error) {
	const query = `SELECT state FROM reservations WHERE order_id = $1`
	err = s.pool.QueryRow(ctx, query, orderID).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, errNoReservation
	}
	if err != nil {
		return "", nil, fmt.Errorf("read reservation: %w", err)
	}
	lines, err = linesOf(ctx, s.pool, orderID)
	return state, lines, err
}

// setStock counts an article anew, or takes it into the catalogue; errBelowReserved if more is promised than would be there.
func (s *store) setStock(ctx context.Context, sku string, onHand int32) (stock, error) {
	const query = `
		INSERT INTO stock (sku, on_hand) VALUES ($1, $2)
		ON CONFLICT (sku) DO UPDATE SET on_hand = excluded.on_hand WHERE stock.reserved <= excluded.on_hand
		RETURNING sku, on_hand, reserved, committed`
	rows, err := s.pool.Query(ctx, query, sku, onHand)
	if err != nil {
		return stock{}, fmt.Errorf("set stock of %s: %w", sku, err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanStock)
	if errors.Is(err, pgx.ErrNoRows) {
		return stock{}, fmt.Errorf("set stock of %s to %d: %w", sku, onHand, errBelowReserved)
	}
	if err != nil {
		return stock{}, fmt.Errorf("set stock of %s: %w", sku, err)
	}
	return a, nil
}

// stockOf tells the stock of an article, or errNoArticle.
func (s *store) stockOf(ctx context.Context, sku string) (stock, error) {
	const query = `SELECT sku, on_hand, reserved, committed FROM stock WHERE sku = $1`
	rows, err := s.pool.Query(ctx, query, sku)
	if err != nil {
		return stock{}, fmt.Errorf("read stock of %s: %w", sku, err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanStock)
	if errors.Is(err, pgx.ErrNoRows) {
		return stock{}, fmt.Errorf("read stock of %s: %w", sku, errNoArticle)
	}
	if err != nil {
		return stock{}, fmt.Errorf("read stock of %s: %w", sku, err)
	}
	return a, nil
}

// allStock tells the stock of every article, by name.
func (s *store) allStock(ctx context.Context) ([]stock, error) {
	const query = `SELECT sku, on_hand, reserved, committed FROM stock ORDER BY sku`
	rows, err := s.pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("list stock: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanStock)
	if err != nil {
		return nil, fmt.Errorf("list stock: %w", err)
	}
	return all, nil
}

func scanStock(row pgx.CollectableRow) (a stock, err error) {
	err = row.Scan(&a.sku, &a.onHand, &a.reserved, &a.committed)
	return a, err
}

// split turns lines into the two arrays that SQL unnests.
func split(lines []line) (skus []string, quantities []int32) {
	for _, l := range lines {
		skus = append(skus, l.sku)
		quantities = append(quantities, l.quantity)
	}
	return skus, quantities
}
