package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// A choreographed checkout is driven by the participants themselves, by events. The orchestrator looks on: it learns from their
// events how far the checkout is and ends it. Only when the deadline has passed, when somebody cancels, or when the events do
// not come does it take over, with a run of the same saga: back from the phase undoing, forward from the phase pivoted. Going
// back it asks payment first and the warehouse only when payment says that there will be no charge; if payment says that it has
// captured, the checkout goes forward.

// eventPatience is how long the orchestrator waits for the events that must follow from one that it has seen, before it takes
// over. Too short takes over what is only slow, which does no harm; too long leaves an order waiting for a lost event.
const eventPatience = 2 * time.Minute

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
		if r.ended {
			s.outbox.Committed()
		}
	}, nil
}

// TakeOver prepares a choreographed checkout for a run of its own, if its time has come. It returns false if the events may still
// bring it to its end, and then says when to look again.
func (s *Store) TakeOver(ctx context.Context, o Overdue) (next Overdue, takenOver bool, err error) {
	if _, err := s.change(ctx, o.OrderID, func(r *row) bool {
		if r.Run != o.Run || r.Phase == checkout.Final {
			return false
		}
		takenOver = r.takeOver()
		next = Overdue{OrderID: r.OrderID, Run: r.Run, Phase: r.RunPhase(), Plan: r.Plan, Coordination: r.Coordination}
		return true
	}); err != nil {
		return Overdue{}, false, fmt.Errorf("take over %s: %w", o.OrderID, err)
	}
	return next, takenOver, nil
}

// learn takes in a fact. Facts come in any order, and what a later one has told includes what an earlier one would have.
func (r *row) learn(fact Fact, reason string) (news bool) {
	if r.Phase == checkout.Final {
		return false
	}
	before := r.standingOfSteps()
	switch fact {
	case StockReserved:
		r.done(checkout.ReserveStock)
	case ReservationRefused:
		r.refused(checkout.ReserveStock, reason)
		if r.Phase == checkout.Forward {
			r.finish(checkout.Rejected, word(reason, "rejected"), checkout.ReserveStock+": "+reason)
		}
	case PaymentAuthorized:
		r.done(checkout.ReserveStock, checkout.AuthorizePayment)
	case PaymentCompleted:
		r.captured()
	case PaymentFailed:
		r.paymentFailed(reason)
	case StockReleased:
		r.released(reason)
	case StockCommitted:
		if r.refunding() {
			r.shippedAfterAll()
			break
		}
		r.captured()
		r.done(checkout.CommitStock)
		r.finish(checkout.Confirmed, "", "")
	}
	return r.Phase == checkout.Final || r.standingOfSteps() != before
}

// standingOfSteps is what learn compares: where every step and the phase stand.
func (r *row) standingOfSteps() string {
	standing := string(r.Phase)
	for _, s := range r.Steps {
		standing += " " + s.State + "/" + s.CompensationState
	}
	return standing
}

// done notes that steps are done, and that the one behind them is next.
func (r *row) done(steps ...string) {
	for _, name := range steps {
		s := &r.Steps[r.index(name)]
		if s.done() || s.State == StateRejected {
			continue
		}
		s.State, s.Error, s.Attempts = StateDone, "", max(s.Attempts, 1)
		if s.StartedAt == nil {
			s.StartedAt = &r.now
		}
		s.EndedAt = &r.now
	}
	if i := r.index(steps[len(steps)-1]) + 1; i < len(r.Steps) && r.Steps[i].State == StatePending && r.Phase != checkout.Undoing {
		r.Steps[i].State, r.Steps[i].StartedAt = StateRunning, &r.now
	}
}

func (r *row) refused(step, reason string) {
	s := &r.Steps[r.index(step)]
	if !s.done() {
		s.State, s.Error, s.EndedAt, s.Attempts = StateRejected, reason, &r.now, max(s.Attempts, 1)
	}
}

// captured notes that the money was taken: from here on the checkout goes forward, also if it was being undone, because the
// money was taken before anybody could say no.
func (r *row) captured() {
	if r.refunding() {
		return // That is known, and an operator has decided to give it back.
	}
	if r.Phase != checkout.Pivoted {
		r.verdict, r.Reason, r.ReasonCode, r.Attention = "", "", "", nil
		for i := range r.Steps {
			r.Steps[i].CompensationState = CompensationNotNeeded
			if r.Steps[i].State == StateSkipped {
				r.Steps[i].State = StatePending
			}
		}
		r.setPhase(checkout.Pivoted)
		r.checkAt = r.now.Add(eventPatience)
	}
	r.done(checkout.ReserveStock, checkout.AuthorizePayment, checkout.CapturePayment)
}

// paymentFailed notes that there will be no charge; the warehouse hears of it too and gives the stock back.
func (r *row) paymentFailed(reason string) {
	r.done(checkout.ReserveStock)
	r.refused(checkout.AuthorizePayment, reason)
	if r.Phase != checkout.Forward {
		return // It is being undone already.
	}
	r.turnBack(bar{checkout.Rejected, word(reason, "rejected"), checkout.AuthorizePayment + ": " + reason})
	r.checkAt = r.now.Add(eventPatience)
}

// released notes that the warehouse has given the stock back: it does so only when there will be no charge.
func (r *row) released(reason string) {
	if r.Phase == checkout.Pivoted {
		return // Nothing that was captured is released. The audit would tell.
	}
	if r.Phase == checkout.Forward {
		r.paymentFailed(reason)
	}
	refunding := r.refunding()
	for i := range r.Steps {
		if s := &r.Steps[i]; s.CompensationState != CompensationNotNeeded && !(s.Pivot && refunding) {
			s.CompensationState = CompensationDone
		}
	}
	r.nextCompensation() // What an operator has refunded is not told by the warehouse.
}

// takeOver tells whether the orchestrator must drive a choreographed checkout from now on, and turns it back if something
// stands against going forward.
func (r *row) takeOver() bool {
	if r.Phase != checkout.Forward {
		r.lookAgain()
		return true
	}
	because := r.wayBarred()
	if because == nil {
		r.checkAt = r.Deadline
		return false
	}
	// Whatever the events have told so far, more may have been done.
	for _, step := range []string{checkout.ReserveStock, checkout.AuthorizePayment} {
		if s := &r.Steps[r.index(step)]; !s.done() && s.State != StateRejected {
			s.State = StateUnknown
		}
	}
	r.turnBack(*because)
	r.lookAgain()
	return true
}
