package warehouse

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/commit"
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

// store runs the warehouse's SQL. Operations share transactions: see table.
type store struct {
	pool       *pgxpool.Pool
	committer  *commit.Committer
	operations *ledger.Table
	table      *table
	outbox     *outbox.Outbox
}

func newStore(pool *pgxpool.Pool, events *outbox.Outbox) *store {
	return &store{pool: pool, committer: commit.New(pool), operations: ledger.NewTable(), table: &table{outbox: events}, outbox: events}
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
