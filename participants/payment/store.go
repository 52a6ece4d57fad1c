package payment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/participants/internal/ledger"
)

// What the store refuses.
var (
	// errWait: something else of this payment is at the network. Nothing is recorded; the caller asks again.
	errWait = errors.New("something else of this payment is at the card network")
	// errAmount: the amount to capture is not the authorized one. Nothing is recorded.
	errAmount = errors.New("amount: must be the amount that was authorized")
)

// store runs payment's SQL. Locks are taken in this order: operation, payment. No transaction waits for the card network.
type store struct{ pool *pgxpool.Pool }

// beginAuthorize records that an authorization is started, or returns what is recorded.
func (s *store) beginAuthorize(ctx context.Context, orderID, customerID, method string, amount ledger.Amount) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		var known bool
		op, known, err = ledger.BeginDoing(ctx, tx, orderID, stepAuthorize, authorizeDigest(customerID, method, amount))
		if err != nil || known {
			return err
		}
		p, err := lockPayment(ctx, tx, orderID)
		if err != nil {
			return err
		}
		if err := p.to(authorizing); err != nil {
			return err
		}
		p.customerID, p.method, p.amount = customerID, method, amount
		op.Amount = amount
		op.Do.Start(op.Key(ledger.Doing))
		return save(ctx, tx, &op, &p, noMovement)
	})
	return op, err
}

// beginCapture records that a capture is started or refused, or returns what is recorded.
func (s *store) beginCapture(ctx context.Context, orderID string, amount ledger.Amount) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		var known bool
		op, known, err = ledger.BeginDoing(ctx, tx, orderID, stepCapture, captureDigest(amount))
		if err != nil || known {
			return err
		}
		p, err := lockPayment(ctx, tx, orderID)
		if err != nil {
			return err
		}
		op.Amount = amount
		d := p.onCapture()
		switch {
		case d.wait:
			return errWait
		case d.refused != "":
			op.Do.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
			return ledger.Save(ctx, tx, &op)
		case amount != p.amount:
			return errAmount
		}
		if err := p.to(d.next); err != nil {
			return err
		}
		op.Do.Start(op.Key(ledger.Doing))
		return save(ctx, tx, &op, &p, noMovement)
	})
	return op, err
}

// beginVoid records that a void is started, wanted, refused or done, or returns what is recorded.
func (s *store) beginVoid(ctx context.Context, orderID string) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		var known bool
		op, known, err = ledger.BeginUndoing(ctx, tx, orderID, stepAuthorize)
		if err != nil || known && op.Do.State != ledger.None {
			return err
		}
		p, err := lockPayment(ctx, tx, orderID)
		if err != nil {
			return err
		}
		if known { // Voided before it was made: the payment remembers it too, for a capture that comes astray.
			if p.state == voided {
				return nil
			}
			if err := p.to(voided); err != nil {
				return err
			}
			return savePayment(ctx, tx, &p)
		}
		d := p.onVoid()
		switch {
		case d.wait:
			return errWait
		case d.refused != "":
			op.Undo.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
			return ledger.Save(ctx, tx, &op)
		case d.next == voiding:
			op.Undo.Start(op.Key(ledger.Undoing))
			if err := p.to(voiding); err != nil {
				return err
			}
			return save(ctx, tx, &op, &p, noMovement)
		}
		op.Undo.Apply("")
		if p.state == expired {
			return ledger.Save(ctx, tx, &op)
		}
		if err := p.to(expired); err != nil {
			return err
		}
		return save(ctx, tx, &op, &p, bookExpire)
	})
	return op, err
}

// beginRefund records that a refund is started, wanted or done, or returns what is recorded.
func (s *store) beginRefund(ctx context.Context, orderID string) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		var known bool
		op, known, err = ledger.BeginUndoing(ctx, tx, orderID, stepCapture)
		if err != nil || known {
			return err
		}
		p, err := lockPayment(ctx, tx, orderID)
		if err != nil {
			return err
		}
		if err := p.to(refunding); err != nil {
			return err
		}
		op.Undo.Start(op.Key(ledger.Undoing))
		return save(ctx, tx, &op, &p, noMovement)
	})
	return op, err
}

// settle records what the network answered about what an operation has under way in one direction, with all that follows
// from it: the payment, the book, and, where undoing was wanted meanwhile, that it is started now.
func (s *store) settle(ctx context.Context, asked ledger.Operation, d ledger.Direction, refusal string) (op ledger.Operation, err error) {
	err = pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		op, err = ledger.Lock(ctx, tx, asked.OrderID, asked.Step)
		if err != nil {
			return err
		}
		side := op.Side(d)
		if side.State != ledger.Started {
			return nil // Somebody else asked with the same key and was faster.
		}
		p, err := lockPayment(ctx, tx, op.OrderID)
		if err != nil {
			return err
		}
		kind := kindOf(op.Step, d)
		m, err := p.learn(kind, refusal)
		if err != nil {
			return err
		}
		if refusal == "" {
			side.Apply(string(kind) + "-" + op.OrderID)
		} else {
			side.Reject(refusal, fmt.Sprintf("the card network refused to %s", kind))
		}
		switch {
		case op.Undo.State == ledger.Wanted && op.Do.State == ledger.Rejected:
			op.Undo.Apply("")
		case op.Undo.State == ledger.Wanted:
			op.Undo.Start(op.Key(ledger.Undoing))
			if err := p.to(undoingOf(p.state)); err != nil {
				return err
			}
		}
		return save(ctx, tx, &op, &p, m)
	})
	return op, err
}

// undoingOf is the state in which the effect of a state is being undone at the network.
func undoingOf(s state) state {
	if s == captured {
		return refunding
	}
	return voiding
}

// lockPayment makes sure that this transaction alone holds the order's payment.
func lockPayment(ctx context.Context, tx pgx.Tx, orderID string) (payment, error) {
	const (
		insert = `INSERT INTO payments (order_id) VALUES ($1) ON CONFLICT (order_id) DO NOTHING`
		lock   = readPayment + ` FOR UPDATE`
	)
	batch := &pgx.Batch{}
	batch.Queue(insert, orderID)
	batch.Queue(lock, orderID)
	results := tx.SendBatch(ctx, batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return payment{}, fmt.Errorf("insert payment of %s: %w", orderID, err)
	}
	p, err := scanPayment(results.QueryRow())
	if err != nil {
		return p, fmt.Errorf("lock payment of %s: %w", orderID, err)
	}
	return p, results.Close()
}

// The database's clock judges whether an authorization has lapsed.
const readPayment = `
	SELECT order_id, state, customer_id, payment_method, currency, minor_units,
	       coalesce(authorized_until, 'epoch'), coalesce(authorized_until <= clock_timestamp(), false)
	FROM payments WHERE order_id = $1`

// paymentOf tells how an order's payment stands; one in state none where there is no payment.
func (s *store) paymentOf(ctx context.Context, orderID string) (payment, error) {
	p, err := scanPayment(s.pool.QueryRow(ctx, readPayment, orderID))
	if errors.Is(err, pgx.ErrNoRows) {
		return payment{orderID: orderID, state: none}, nil
	}
	if err != nil {
		return p, fmt.Errorf("read payment of %s: %w", orderID, err)
	}
	return p, nil
}

func scanPayment(row pgx.Row) (p payment, err error) {
	err = row.Scan(&p.orderID, &p.state, &p.customerID, &p.method, &p.amount.Currency, &p.amount.MinorUnits, &p.authorizedUntil, &p.lapsed)
	return p, err
}

// save writes an operation, its payment and what moved, all of which this transaction holds.
func save(ctx context.Context, tx pgx.Tx, op *ledger.Operation, p *payment, m movement) error {
	if err := savePayment(ctx, tx, p); err != nil {
		return err
	}
	if m != noMovement {
		if err := book(ctx, tx, p, m); err != nil {
			return err
		}
	}
	return ledger.Save(ctx, tx, op)
}

// authorizationHolds is how long a card network holds an authorization.
const authorizationHolds = 7 * 24 * time.Hour

func savePayment(ctx context.Context, tx pgx.Tx, p *payment) error {
	// The time is set with the first state that comes of being authorized, which is voiding where that was wanted meanwhile.
	const query = `
		UPDATE payments
		SET state = $2, customer_id = $3, payment_method = $4, currency = $5, minor_units = $6,
		    authorized_until = CASE WHEN $2 IN ('authorized', 'voiding')
		                            THEN coalesce(authorized_until, clock_timestamp() + $7::interval)
		                            ELSE authorized_until END,
		    updated_at = clock_timestamp()
		WHERE order_id = $1`
	_, err := tx.Exec(ctx, query, p.orderID, p.state, p.customerID, p.method, p.amount.Currency, p.amount.MinorUnits, authorizationHolds)
	if err != nil {
		return fmt.Errorf("save payment of %s: %w", p.orderID, err)
	}
	return nil
}

// book writes both entries of a movement in one statement: a trigger refuses entries that do not sum to zero.
func book(ctx context.Context, tx pgx.Tx, p *payment, m movement) error {
	const query = `
		INSERT INTO entries (order_id, movement, account, currency, minor_units)
		VALUES ($1, $2, $3, $5, -$6::bigint), ($1, $2, $4, $5, $6::bigint)`
	from, to := m.accounts()
	if _, err := tx.Exec(ctx, query, p.orderID, m, from, to, p.amount.Currency, p.amount.MinorUnits); err != nil {
		return fmt.Errorf("book %s of %s: %w", m, p.orderID, err)
	}
	return nil
}
