package payment

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// store commits what is begun and what the card network answers, each as one party of a transaction that many share. No transaction
// waits for the network.
type store struct {
	pool       *pgxpool.Pool
	committer  *commit.Committer
	operations *ledger.Table
	payments   *payments
	outbox     *outbox.Outbox
}

func newStore(pool *pgxpool.Pool, events *outbox.Outbox) *store {
	return &store{
		pool: pool, committer: commit.New(pool), operations: ledger.NewTable(), payments: &payments{outbox: events}, outbox: events,
	}
}

// recorded is an operation and its payment, as they were last read or committed.
type recorded struct {
	op      ledger.Operation
	payment payment
}

// change commits what a rule makes of a payment and of operations of it, which the rule sees as they stand; and has the events relayed
// that come of it.
func (s *store) change(ctx context.Context, of payer, rule func(p *payment) error, operations ...*commit.Change) (payment, error) {
	m, change := s.payments.moveOf(ctx, of, rule)
	if err := s.committer.Do(ctx, append(operations, change)...); err != nil {
		return payment{}, err
	}
	if len(m.payment.told) > 0 {
		s.outbox.Committed()
	}
	return m.payment, nil
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

// asks is the change of the operation that a request asks for.
func (s *store) asks(r request) (*ledger.Change, *commit.Change) {
	return s.operations.Doing(r.payer.operation(stepAuthorize), cmp.Or(r.digest, authorizeDigest(r.customerID, r.method, r.amount)))
}

// beginAuthorize records that an authorization is started, or returns what is recorded.
func (s *store) beginAuthorize(ctx context.Context, r request) (recorded, error) {
	asked, operation := s.asks(r)
	p, err := s.change(ctx, r.payer, func(p *payment) error { return p.beginAuthorize(asked, r) }, operation)
	return recorded{asked.Op, p}, err
}

// beginAuthorizeIn is beginAuthorize in somebody's transaction. If known is true, this call has started nothing.
func (s *store) beginAuthorizeIn(ctx context.Context, tx pgx.Tx, r request) (now recorded, known bool, err error) {
	asked, operation := s.asks(r)
	m, change := s.payments.moveOf(ctx, r.payer, func(p *payment) error { return p.beginAuthorize(asked, r) })
	err = commit.In(ctx, tx, operation, change)
	return recorded{asked.Op, m.payment}, asked.Known, err
}

// beginCapture records that a capture is started or refused, or returns what is recorded. An empty digest is that of the amount.
func (s *store) beginCapture(ctx context.Context, of payer, amount ledger.Amount, digest string) (recorded, error) {
	asked, operation := s.operations.Doing(of.operation(stepCapture), cmp.Or(digest, captureDigest(amount)))
	p, err := s.change(ctx, of, func(p *payment) error { return p.beginCapture(asked, amount) }, operation)
	return recorded{asked.Op, p}, err
}

// beginVoid records that a void is started, wanted, refused or done, or returns what is recorded.
func (s *store) beginVoid(ctx context.Context, of payer) (recorded, error) {
	asked, operation := s.operations.Undoing(of.operation(stepAuthorize))
	p, err := s.change(ctx, of, func(p *payment) error { return p.beginVoid(asked) }, operation)
	return recorded{asked.Op, p}, err
}

// beginRefund records that a refund is started, wanted or done, or returns what is recorded.
func (s *store) beginRefund(ctx context.Context, of payer) (recorded, error) {
	asked, operation := s.operations.Undoing(of.operation(stepCapture))
	p, err := s.change(ctx, of, func(p *payment) error { return p.beginRefund(asked) }, operation)
	return recorded{asked.Op, p}, err
}

// settle records what the network answered about what an operation has under way in one direction, with all that follows from it
// (payment.settle): next is what payment begins by itself of another operation, if anything.
func (s *store) settle(ctx context.Context, asked recorded, d ledger.Direction, refusal string) (now recorded, next *recorded, err error) {
	of := payerOf(asked.op.ID)
	settled, operation := s.operations.Seeing(asked.op.ID)
	operations := []*commit.Change{operation}
	other := &ledger.Change{}
	if asked.payment.coordination != event.Orchestrated { // Else nobody looks at it.
		other, operation = s.operations.Seeing(of.operation(otherStep(asked.op.Step)))
		operations = append(operations, operation)
	}
	var begun bool
	p, err := s.change(ctx, of, func(p *payment) (err error) {
		begun, err = p.settle(&settled.Op, &other.Op, d, refusal)
		return err
	}, operations...)
	if err != nil {
		return asked, nil, err
	}
	if begun {
		next = &recorded{other.Op, p}
	}
	return recorded{settled.Op, p}, next, nil
}

// paymentOf tells how an order's payment stands; one in state none where there is no payment.
func (s *store) paymentOf(ctx context.Context, of payer) (payment, error) {
	const query = `SELECT ` + paymentColumns + ` FROM payments WHERE order_id = $1`
	p, err := scanPayment(s.pool.QueryRow(ctx, query, of.name()))
	p.payer = of
	if errors.Is(err, pgx.ErrNoRows) {
		return payment{payer: of, state: none}, nil
	}
	if err != nil {
		return p, fmt.Errorf("read payment of %s: %w", of.name(), err)
	}
	return p, nil
}
