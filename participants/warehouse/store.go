package warehouse

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// What the store refuses.
var (
	errNoArticle     = errors.New("no such article")
	errNoReservation = errors.New("no reservation was made for it")
	errBelowReserved = errors.New("more than that is reserved")
)

// store runs the warehouse's SQL. Locks are taken in this order, so that no two transactions wait for each other: operation,
// reservation, stock by article. Everybody who buys an article waits for its row, so it is locked last, and what is written
// under its lock, the event included, goes to the database in one batch.
type store struct {
	pool   *pgxpool.Pool
	outbox *outbox.Outbox
}

// inTx runs one operation in a transaction of its own, and has its event relayed.
func (s *store) inTx(ctx context.Context, work func(tx pgx.Tx) (ledger.Operation, error)) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		op, err = work(tx)
		return err
	})
	if err == nil {
		s.outbox.Committed()
	}
	return op, err
}

// wanted is a reservation that is asked for.
type wanted struct {
	owner owner
	// lines are in order.
	lines []line
	// digest of what asks for it; empty for that of the lines.
	digest string
	// coordination of the checkout, which its events say from now on.
	coordination string
	// payment is handed on in the event; nil in an orchestrated checkout.
	payment *warehousev1.PaymentRequest
}

// reserve reserves all lines or none.
func (s *store) reserve(ctx context.Context, w wanted) (ledger.Operation, error) {
	return s.inTx(ctx, func(tx pgx.Tx) (ledger.Operation, error) { return s.reserveIn(ctx, tx, w) })
}

func (s *store) reserveIn(ctx context.Context, tx pgx.Tx, w wanted) (ledger.Operation, error) {
	op, known, err := ledger.BeginDoing(ctx, tx, w.owner.operation(stepReserve), cmp.Or(w.digest, digest(w.lines)))
	if err != nil || known {
		return op, err
	}
	have, err := lockStock(ctx, tx, w.lines)
	if err != nil {
		return op, err
	}
	writes := &pgx.Batch{}
	if reason, detail := refusal(w.lines, have); reason != "" {
		op.Do.Reject(reason, detail)
		err = s.tell(ctx, writes, w.owner, w.coordination, &warehousev1.InventoryReservationRejected{Reason: op.Do.Reason, Detail: op.Do.Detail})
	} else {
		queueReservation(writes, w)
		queueMovement(writes, w.lines, movement{reserved: +1})
		op.Do.Apply("rsv-" + w.owner.name())
		err = s.tell(ctx, writes, w.owner, w.coordination, &warehousev1.InventoryReserved{Lines: messages(w.lines), Payment: w.payment})
	}
	if err != nil {
		return op, err
	}
	return op, send(ctx, tx, writes, &op)
}

// release makes the reservation be gone.
func (s *store) release(ctx context.Context, o owner) (ledger.Operation, error) {
	return s.inTx(ctx, func(tx pgx.Tx) (ledger.Operation, error) { return s.releaseIn(ctx, tx, o, "") })
}

// releaseIn releases for a reason, which is empty where somebody asked for it.
func (s *store) releaseIn(ctx context.Context, tx pgx.Tx, o owner, reason string) (ledger.Operation, error) {
	op, known, err := ledger.BeginUndoing(ctx, tx, o.operation(stepReserve))
	if err != nil || known {
		return op, err
	}
	r, err := lockReservation(ctx, tx, o)
	if err != nil {
		return op, err
	}
	writes := &pgx.Batch{}
	if r.state == committed {
		op.Undo.Reject(alreadyCommitted, "the stock has been shipped")
		return op, send(ctx, tx, writes, &op)
	}
	lines, err := lockReserved(ctx, tx, o)
	if err != nil {
		return op, err
	}
	queueMovement(writes, lines, movement{reserved: -1})
	queueState(writes, o, released)
	op.Undo.Apply("rsv-" + o.name())
	told := &warehousev1.InventoryReleased{Lines: messages(lines), Reason: reason}
	if err := s.tell(ctx, writes, o, r.coordination, told); err != nil {
		return op, err
	}
	return op, send(ctx, tx, writes, &op)
}

// commit turns the reservation into a shipment. An empty digest is that of a request that says no more than whose it is.
func (s *store) commit(ctx context.Context, o owner, digest string) (ledger.Operation, error) {
	return s.inTx(ctx, func(tx pgx.Tx) (ledger.Operation, error) { return s.commitIn(ctx, tx, o, digest) })
}

func (s *store) commitIn(ctx context.Context, tx pgx.Tx, o owner, digest string) (ledger.Operation, error) {
	op, known, err := ledger.BeginDoing(ctx, tx, o.operation(stepCommit), cmp.Or(digest, ledger.Digest(1)))
	if err != nil || known {
		return op, err
	}
	r, err := lockReservation(ctx, tx, o)
	if err != nil && !errors.Is(err, errNoReservation) {
		return op, err
	}
	writes := &pgx.Batch{}
	if r.state != reserved {
		op.Do.Reject(noReservation, "nothing is reserved for this order")
		return op, send(ctx, tx, writes, &op)
	}
	lines, err := lockReserved(ctx, tx, o)
	if err != nil {
		return op, err
	}
	queueMovement(writes, lines, movement{onHand: -1, reserved: -1, committed: +1})
	queueState(writes, o, committed)
	op.Do.Apply("shp-" + o.name())
	told := &warehousev1.InventoryCommitted{Lines: messages(lines)}
	if err := s.tell(ctx, writes, o, r.coordination, told); err != nil {
		return op, err
	}
	return op, send(ctx, tx, writes, &op)
}

// tell queues what becomes of an order. Of another owner no event tells: their topics are about orders.
func (s *store) tell(ctx context.Context, writes *pgx.Batch, o owner, coordination string, told event.Message) error {
	if o.definition != checkout {
		return nil
	}
	return s.outbox.Queue(ctx, writes, outbox.Order(o.key, coordination), told)
}

// send writes the effect and its record.
func send(ctx context.Context, tx pgx.Tx, writes *pgx.Batch, op *ledger.Operation) error {
	ledger.QueueSave(writes, op)
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return fmt.Errorf("write %s of %s: %w", op.Step, op.Key, err)
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
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stock, error) { return scanStock(row) })
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
func lockReserved(ctx context.Context, tx pgx.Tx, o owner) ([]line, error) {
	lines, err := linesOf(ctx, tx, o)
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

func queueReservation(writes *pgx.Batch, w wanted) {
	const (
		reservation = `INSERT INTO reservations (order_id, state, coordination) VALUES ($1, 'reserved', $2)`
		ofLines     = `INSERT INTO reservation_lines (order_id, sku, quantity) SELECT $1, * FROM unnest($2::text[], $3::integer[])`
	)
	skus, quantities := split(w.lines)
	writes.Queue(reservation, w.owner.name(), w.coordination)
	writes.Queue(ofLines, w.owner.name(), skus, quantities)
}

// reservation is one that was made.
type reservation struct {
	state        reservationState
	coordination string
}

func lockReservation(ctx context.Context, tx pgx.Tx, o owner) (r reservation, err error) {
	const query = `SELECT state, coordination FROM reservations WHERE order_id = $1 FOR UPDATE`
	err = tx.QueryRow(ctx, query, o.name()).Scan(&r.state, &r.coordination)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, errNoReservation
	}
	if err != nil {
		return r, fmt.Errorf("lock reservation: %w", err)
	}
	return r, nil
}

func queueState(writes *pgx.Batch, o owner, state reservationState) {
	const query = `UPDATE reservations SET state = $2, updated_at = clock_timestamp() WHERE order_id = $1`
	writes.Queue(query, o.name(), state)
}

func linesOf(ctx context.Context, tx pgx.Tx, o owner) ([]line, error) {
	const query = `SELECT sku, quantity FROM reservation_lines WHERE order_id = $1 ORDER BY sku COLLATE "C"`
	rows, err := tx.Query(ctx, query, o.name())
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

// reservations tells what each of the orders holds, or held, by order id; one that never held anything is left out.
func (s *store) reservations(ctx context.Context, orderIDs []string) ([]*warehousev1.Reservation, error) {
	const query = `
		SELECT order_id, state, array_agg(sku ORDER BY sku COLLATE "C"), array_agg(quantity ORDER BY sku COLLATE "C")
		FROM reservations JOIN reservation_lines USING (order_id)
		WHERE order_id = ANY($1)
		GROUP BY order_id
		ORDER BY order_id COLLATE "C"`
	rows, err := s.pool.Query(ctx, query, orderIDs)
	if err != nil {
		return nil, fmt.Errorf("read reservations: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*warehousev1.Reservation, error) {
		r := &warehousev1.Reservation{}
		var state reservationState
		var skus []string
		var quantities []int32
		if err := row.Scan(&r.OrderId, &state, &skus, &quantities); err != nil {
			return nil, err
		}
		r.State = state.message()
		for i, sku := range skus {
			r.Lines = append(r.Lines, &warehousev1.Line{Sku: sku, Quantity: quantities[i]})
		}
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read reservations: %w", err)
	}
	return found, nil
}

// setStock counts an article anew, or takes it into the catalogue; errBelowReserved if more is promised than would be there.
func (s *store) setStock(ctx context.Context, sku string, onHand int32) (a stock, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		a, err = s.setStockIn(ctx, tx, sku, onHand)
		return err
	})
	if err != nil {
		return stock{}, fmt.Errorf("set stock of %s to %d: %w", sku, onHand, err)
	}
	s.outbox.Committed()
	return a, nil
}

func (s *store) setStockIn(ctx context.Context, tx pgx.Tx, sku string, onHand int32) (stock, error) {
	const (
		// It returns the article only if that changed it, and locks it in any case.
		set = `
			INSERT INTO stock (sku, on_hand) VALUES ($1, $2)
			ON CONFLICT (sku) DO UPDATE SET on_hand = excluded.on_hand
			WHERE stock.reserved <= excluded.on_hand AND stock.on_hand <> excluded.on_hand
			RETURNING sku, on_hand, reserved, committed`
		unchanged = `SELECT sku, on_hand, reserved, committed FROM stock WHERE sku = $1`
	)
	a, err := scanStock(tx.QueryRow(ctx, set, sku, onHand))
	if err == nil {
		told := &warehousev1.InventoryStockChanged{OnHand: a.onHand, Reserved: a.reserved, Committed: a.committed}
		return a, s.outbox.Write(ctx, tx, outbox.Article(sku), told)
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return a, err
	}
	if a, err = scanStock(tx.QueryRow(ctx, unchanged, sku)); err == nil && a.onHand != onHand {
		return a, errBelowReserved
	}
	return a, err
}

// stockOf tells the stock of an article, or errNoArticle.
func (s *store) stockOf(ctx context.Context, sku string) (stock, error) {
	const query = `SELECT sku, on_hand, reserved, committed FROM stock WHERE sku = $1`
	a, err := scanStock(s.pool.QueryRow(ctx, query, sku))
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
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stock, error) { return scanStock(row) })
	if err != nil {
		return nil, fmt.Errorf("list stock: %w", err)
	}
	return all, nil
}

func scanStock(row pgx.Row) (a stock, err error) {
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
