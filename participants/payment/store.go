package payment

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// What the store refuses.
var (
	// errWait: something else of this payment is at the network. Nothing is recorded; the caller asks again.
	errWait = errors.New("something else of this payment is at the card network")
	// errAmount: the amount to capture is not the authorized one. Nothing is recorded.
	errAmount = fmt.Errorf("%w: amount: must be the amount that was authorized", participant.ErrBadRequest)
)

// store runs payment's SQL. Locks are taken in this order: payment, operation. The payment comes first because one answer of the
// card network may concern two operations. No transaction waits for the network.
type store struct {
	pool   *pgxpool.Pool
	outbox *outbox.Outbox
}

// withPayment runs work in a transaction that alone holds the order's payment, and has the events relayed that come of it.
func (s *store) withPayment(ctx context.Context, of payer, work func(tx pgx.Tx, p *payment) error) error {
	var p payment
	err := pg.InTx(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if p, err = lockPayment(ctx, tx, of); err != nil {
			return err
		}
		return work(tx, &p)
	})
	if err == nil && len(p.told) > 0 {
		s.outbox.Committed()
	}
	return err
}

// request asks for an authorization.
type request struct {
	payer              payer
	coordination       string
	customerID, method string
	amount             ledger.Amount
	// digest of what asks for it; empty for that of the fields above.
	digest string
}

// beginAuthorize records that an authorization is started, or returns what is recorded.
func (s *store) beginAuthorize(ctx context.Context, r request) (op ledger.Operation, err error) {
	err = s.withPayment(ctx, r.payer, func(tx pgx.Tx, p *payment) (err error) {
		op, _, err = s.authorizeIn(ctx, tx, p, r)
		return err
	})
	return op, err
}

// authorizeIn is beginAuthorize in a transaction that holds the payment. If known is true, this call has started nothing.
func (s *store) authorizeIn(ctx context.Context, tx pgx.Tx, p *payment, r request) (op ledger.Operation, known bool, err error) {
	op, known, err = ledger.BeginDoing(ctx, tx, r.payer.operation(stepAuthorize), cmp.Or(r.digest, authorizeDigest(r.customerID, r.method, r.amount)))
	if err != nil || known {
		return op, known, err
	}
	if err := p.to(authorizing); err != nil {
		return op, false, err
	}
	p.coordination, p.customerID, p.method, p.amount = r.coordination, r.customerID, r.method, r.amount
	op.Amount = r.amount
	op.Do.Start(op.IdempotencyKey(ledger.Doing))
	return op, false, s.save(ctx, tx, p, &op)
}

// beginCapture records that a capture is started or refused, or returns what is recorded. An empty digest is that of the amount.
func (s *store) beginCapture(ctx context.Context, of payer, amount ledger.Amount, digest string) (op ledger.Operation, err error) {
	err = s.withPayment(ctx, of, func(tx pgx.Tx, p *payment) (err error) {
		var known bool
		op, known, err = ledger.BeginDoing(ctx, tx, of.operation(stepCapture), cmp.Or(digest, captureDigest(amount)))
		if err != nil || known {
			return err
		}
		op.Amount = amount
		d := p.onCapture()
		switch {
		case d.wait:
			return errWait
		case d.refused != "":
			op.Do.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
			if d.next == "" {
				return ledger.Save(ctx, tx, &op)
			}
			p.refuse(stepCapture, d.refused)
		case amount != p.amount:
			return errAmount
		default:
			op.Do.Start(op.IdempotencyKey(ledger.Doing))
		}
		if err := p.to(d.next); err != nil {
			return err
		}
		return s.save(ctx, tx, p, &op)
	})
	return op, err
}

// beginVoid records that a void is started, wanted, refused or done, or returns what is recorded.
func (s *store) beginVoid(ctx context.Context, of payer) (op ledger.Operation, err error) {
	err = s.withPayment(ctx, of, func(tx pgx.Tx, p *payment) (err error) {
		var known bool
		op, known, err = ledger.BeginUndoing(ctx, tx, of.operation(stepAuthorize))
		if err != nil || known && op.Do.State != ledger.None {
			return err
		}
		if known { // Voided before it was made: the payment remembers it too, for a capture that comes astray.
			if p.state == voided {
				return nil
			}
			if err := p.to(voided); err != nil {
				return err
			}
			return s.save(ctx, tx, p)
		}
		d := p.onVoid()
		switch {
		case d.wait:
			return errWait
		case d.refused != "":
			op.Undo.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
			return ledger.Save(ctx, tx, &op)
		case d.next == expired:
			op.Undo.Apply("")
			p.tellVoided()
		default:
			op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
		}
		if p.state != d.next {
			if err := p.to(d.next); err != nil {
				return err
			}
		}
		return s.save(ctx, tx, p, &op)
	})
	return op, err
}

// beginRefund records that a refund is started, wanted or done, or returns what is recorded.
func (s *store) beginRefund(ctx context.Context, of payer) (op ledger.Operation, err error) {
	err = s.withPayment(ctx, of, func(tx pgx.Tx, p *payment) (err error) {
		var known bool
		op, known, err = ledger.BeginUndoing(ctx, tx, of.operation(stepCapture))
		if err != nil || known {
			return err
		}
		if err := p.to(refunding); err != nil {
			return err
		}
		op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
		return s.save(ctx, tx, p, &op)
	})
	return op, err
}

// settle records what the network answered about what an operation has under way in one direction, with all that follows
// from it: the payment, the book, the events, where undoing was wanted meanwhile, that it is started now, and, in a
// choreographed checkout, the operation that payment begins by itself: next, if it is another one.
func (s *store) settle(ctx context.Context, asked ledger.Operation, d ledger.Direction, refusal string) (op ledger.Operation, next *ledger.Operation, err error) {
	err = s.withPayment(ctx, payerOf(asked.ID), func(tx pgx.Tx, p *payment) (err error) {
		next = nil
		op, err = ledger.Lock(ctx, tx, asked.ID)
		if err != nil {
			return err
		}
		side := op.Side(d)
		if side.State != ledger.Started {
			return nil // Somebody else asked with the same key and was faster.
		}
		action := actionOf(op.Step, d)
		if err := p.learn(action, refusal); err != nil {
			return err
		}
		if refusal == "" {
			side.Apply(string(action) + "-" + p.payer.name())
			if action == Authorize {
				op.ValidUntil = *p.authorizedUntil
			}
		} else {
			side.Reject(refusal, fmt.Sprintf("the card network refused to %s", action))
		}
		switch {
		case op.Undo.State == ledger.Wanted && op.Do.State == ledger.Rejected:
			op.Undo.Apply("")
		case op.Undo.State == ledger.Wanted:
			op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
			if err := p.to(undoingOf(p.state)); err != nil {
				return err
			}
		}
		changed := []*ledger.Operation{&op}
		if p.coordination == event.Choreographed && p.state == authorized {
			if next, err = captureOrVoid(ctx, tx, p, &op); err != nil {
				return err
			}
			if next != nil {
				changed = append(changed, next)
			}
		}
		return s.save(ctx, tx, p, changed...)
	})
	return op, next, err
}

// undoingOf is the state in which the effect of a state is being undone at the network.
func undoingOf(s state) state {
	if s == captured {
		return refunding
	}
	return voiding
}

// lockPayment makes sure that this transaction alone holds the order's payment.
func lockPayment(ctx context.Context, tx pgx.Tx, of payer) (payment, error) {
	const (
		insert = `INSERT INTO payments (order_id) VALUES ($1) ON CONFLICT (order_id) DO NOTHING`
		lock   = readPayment + ` FOR UPDATE`
	)
	batch := &pgx.Batch{}
	batch.Queue(insert, of.name())
	batch.Queue(lock, of.name())
	results := tx.SendBatch(ctx, batch)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return payment{}, fmt.Errorf("insert payment of %s: %w", of.name(), err)
	}
	p, err := scanPayment(results.QueryRow(), of)
	if err != nil {
		return p, fmt.Errorf("lock payment of %s: %w", of.name(), err)
	}
	return p, results.Close()
}

// The database's clock judges whether an authorization has lapsed.
const readPayment = `
	SELECT state, coordination, customer_id, payment_method, currency, minor_units,
	       authorized_until, coalesce(authorized_until <= clock_timestamp(), false), refused_step, refused_reason, clock_timestamp()
	FROM payments WHERE order_id = $1`

// paymentOf tells how an order's payment stands; one in state none where there is no payment.
func (s *store) paymentOf(ctx context.Context, of payer) (payment, error) {
	p, err := scanPayment(s.pool.QueryRow(ctx, readPayment, of.name()), of)
	if errors.Is(err, pgx.ErrNoRows) {
		return payment{payer: of, state: none}, nil
	}
	if err != nil {
		return p, fmt.Errorf("read payment of %s: %w", of.name(), err)
	}
	return p, nil
}

func scanPayment(row pgx.Row, of payer) (payment, error) {
	p := payment{payer: of}
	err := row.Scan(&p.state, &p.coordination, &p.customerID, &p.method, &p.amount.Currency, &p.amount.MinorUnits,
		&p.authorizedUntil, &p.lapsed, &p.refusedStep, &p.refusedReason, &p.now)
	return p, err
}

// save writes the payment, what its moves book and tell, and the operations, all of which this transaction holds, in one batch.
func (s *store) save(ctx context.Context, tx pgx.Tx, p *payment, operations ...*ledger.Operation) error {
	writes := &pgx.Batch{}
	queuePayment(writes, p)
	for _, m := range p.booked {
		queueEntries(writes, p, m)
	}
	for _, op := range operations {
		ledger.QueueSave(writes, op)
	}
	if p.payer.definition == checkout { // Of another payer no event tells: their topics are about orders.
		for _, told := range p.told {
			if err := s.outbox.Queue(ctx, writes, outbox.Order(p.payer.key, p.coordination), told); err != nil {
				return err
			}
		}
	}
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return fmt.Errorf("save payment of %s: %w", p.payer.name(), err)
	}
	return nil
}

func queuePayment(writes *pgx.Batch, p *payment) {
	const query = `
		UPDATE payments
		SET state = $2, coordination = $3, customer_id = $4, payment_method = $5, currency = $6, minor_units = $7,
		    authorized_until = $8, refused_step = $9, refused_reason = $10,
		    updated_at = clock_timestamp()
		WHERE order_id = $1`
	writes.Queue(query, p.payer.name(), p.state, p.coordination, p.customerID, p.method, p.amount.Currency, p.amount.MinorUnits,
		p.authorizedUntil, p.refusedStep, p.refusedReason)
}

// queueEntries writes both entries of a movement in one statement: a trigger refuses entries that do not sum to zero.
func queueEntries(writes *pgx.Batch, p *payment, m movement) {
	const query = `
		INSERT INTO entries (order_id, movement, account, currency, minor_units)
		VALUES ($1, $2, $3, $5, -$6::bigint), ($1, $2, $4, $5, $6::bigint)`
	from, to := m.accounts()
	writes.Queue(query, p.payer.name(), m, from, to, p.amount.Currency, p.amount.MinorUnits)
}
