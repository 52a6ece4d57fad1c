package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// A choreographed checkout is driven by the participants themselves, by events. The orchestrator looks on: it learns from their
// events how far the checkout is and ends it. Only when the deadline has passed, when somebody cancels, or when the events do
// not come does it take over, with a run of the same saga: back from the phase undoing, forward from the phase pivoted. Going
// back it asks payment first and the warehouse only when payment says that there will be no charge; if payment says that it has
// captured, the checkout goes forward.

// Fact is what a participant's event says of a checkout.
type Fact string

// The facts.
const (
	StockReserved      Fact = "stock reserved"
	ReservationRefused Fact = "reservation refused"
	StockReleased      Fact = "stock released"
	StockCommitted     Fact = "stock committed"
	PaymentAuthorized  Fact = "payment authorized"
	PaymentCompleted   Fact = "payment completed"
	PaymentFailed      Fact = "payment failed"
)

// Learn takes in, in the caller's transaction, what a participant's event says of a choreographed checkout, with its reason where
// it is bad news. ErrNotFound where there is no such checkout. The caller calls learned once the transaction has committed: it tells
// watchers, the meter and the outbox. It is nil where the event says nothing new.
func (s *Store) Learn(ctx context.Context, tx pgx.Tx, orderID string, fact Fact, reason string) (learned func(), err error) {
	r, err := scanCheckout(tx.QueryRow(ctx, selectCheckout+" FOR UPDATE", orderID))
	if err != nil {
		return nil, notFound(err, orderID)
	}
	was := pastOf(r)
	if news := r.learn(fact, reason); !news {
		return nil, nil
	}
	writes := &pgx.Batch{}
	if err := s.queueSave(ctx, writes, r); err != nil {
		return nil, err
	}
	if err := tx.SendBatch(ctx, writes).Close(); err != nil {
		return nil, fmt.Errorf("write checkout %s: %w", orderID, err)
	}
	return func() {
		s.meter.committed(was, r)
		s.watchers.changed(orderID, kindOf(r.Status))
		if r.Ended {
			s.outbox.Committed()
		}
	}, nil
}

// TakeOver prepares a choreographed checkout for a run of its own, if its time has come. It returns false if the events may still
// bring it to its end, and then says when to look again.
func (s *Store) TakeOver(ctx context.Context, o Overdue) (next Overdue, takenOver bool, err error) {
	if _, err := s.change(ctx, o.OrderID, func(r *row) bool {
		if r.Run != o.Run || r.Phase == journal.Final {
			return false
		}
		takenOver = r.TakeOver()
		next = Overdue{OrderID: r.Key, Run: r.Run, Phase: r.RunPhase(), Plan: r.Plan, Elsewhere: r.Elsewhere}
		return true
	}); err != nil {
		return Overdue{}, false, fmt.Errorf("take over %s: %w", o.OrderID, err)
	}
	return next, takenOver, nil
}

// learn takes in a fact. Facts come in any order, and what a later one has told includes what an earlier one would have.
func (r *row) learn(fact Fact, reason string) (news bool) {
	if r.Phase == journal.Final {
		return false
	}
	before := r.Stands()
	switch fact {
	case StockReserved:
		r.HeardDone(checkout.ReserveStock)
	case ReservationRefused:
		r.HeardRefused(checkout.ReserveStock, reason)
	case PaymentAuthorized:
		r.HeardDone(checkout.ReserveStock, checkout.AuthorizePayment)
	case PaymentCompleted:
		r.HeardPivot()
	case PaymentFailed:
		r.paymentFailed(reason)
	case StockReleased:
		r.released(reason)
	case StockCommitted:
		r.HeardCompleted()
	}
	return r.Phase == journal.Final || r.Stands() != before
}

// paymentFailed notes that there will be no charge; the warehouse hears of it too and gives the stock back.
func (r *row) paymentFailed(reason string) {
	r.HeardDone(checkout.ReserveStock)
	r.HeardRefused(checkout.AuthorizePayment, reason)
}

// released notes that the warehouse has given the stock back: it does so only when there will be no charge.
func (r *row) released(reason string) {
	if r.Phase == saga.Pivoted {
		return // Nothing that was captured is released. The audit would tell.
	}
	if r.Phase == saga.Forward {
		r.paymentFailed(reason)
	}
	r.HeardUndone()
}
