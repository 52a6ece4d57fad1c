package payment

import (
	"errors"
	"fmt"

	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// What a rule refuses. Nothing is recorded then.
var (
	// errWait: something else of this payment is at the network; the caller asks again.
	errWait = errors.New("something else of this payment is at the card network")
	// errAmount: the amount to capture is not the authorized one.
	errAmount = fmt.Errorf("%w: amount: must be the amount that was authorized", participant.ErrBadRequest)
)

// The rules below see a payment and its operations as they stand, held by the transaction that records what they make of them. They are
// called again from the beginning where that transaction failed.

// beginAuthorize decides a request to authorize.
func (p *payment) beginAuthorize(asked *ledger.Change, r request) error {
	if asked.Known {
		return nil
	}
	if err := p.to(authorizing); err != nil {
		return err
	}
	p.coordination, p.customerID, p.method, p.amount = r.coordination, r.customerID, r.method, r.amount
	asked.Op.Amount = r.amount
	asked.Op.Do.Start(asked.Op.IdempotencyKey(ledger.Doing))
	return nil
}

// beginCapture decides a request to capture.
func (p *payment) beginCapture(asked *ledger.Change, amount ledger.Amount) error {
	if asked.Known {
		return nil
	}
	op := &asked.Op
	op.Amount = amount
	d := p.onCapture()
	switch {
	case d.wait:
		return errWait
	case d.refused != "":
		op.Do.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
		if d.next == "" {
			return nil
		}
		p.refuse(stepCapture, d.refused)
	case amount != p.amount:
		return errAmount
	default:
		op.Do.Start(op.IdempotencyKey(ledger.Doing))
	}
	return p.to(d.next)
}

// beginVoid decides a request to void.
func (p *payment) beginVoid(asked *ledger.Change) error {
	op := &asked.Op
	if asked.Known {
		if op.Do.State != ledger.None || p.state == voided {
			return nil
		}
		return p.to(voided) // Voided before it was made: the payment remembers it too, for a capture that comes astray.
	}
	d := p.onVoid()
	switch {
	case d.wait:
		return errWait
	case d.refused != "":
		op.Undo.Reject(d.refused, fmt.Sprintf("the payment is %s", p.state))
		return nil
	case d.next == expired:
		op.Undo.Apply("")
		p.tellVoided()
	default:
		op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
	}
	if p.state == d.next {
		return nil
	}
	return p.to(d.next)
}

// beginRefund decides a request to refund.
func (p *payment) beginRefund(asked *ledger.Change) error {
	if asked.Known {
		return nil
	}
	asked.Op.Undo.Start(asked.Op.IdempotencyKey(ledger.Undoing))
	return p.to(refunding)
}

// settle takes in what the network answered about what an operation has under way in one direction, with all that follows from it:
// the payment's move, that undoing which was wanted meanwhile is started now, and, in a choreographed checkout, what payment begins by
// itself. It tells whether that is begun of the payment's other operation.
func (p *payment) settle(op, other *ledger.Operation, d ledger.Direction, refusal string) (begun bool, err error) {
	side := op.Side(d)
	if side.State != ledger.Started {
		return false, nil // Somebody else asked with the same key and was faster.
	}
	action := actionOf(op.Step, d)
	if err := p.learn(action, refusal); err != nil {
		return false, err
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
			return false, err
		}
	}
	if p.coordination == event.Choreographed && p.state == authorized {
		return p.captureOrVoid(op, other)
	}
	return false, nil
}

// captureOrVoid begins what comes next for the authorization of a choreographed checkout that an answer about op has left standing: to
// capture it, or, where that was refused, to void it, because nobody else asks for either. It tells whether that is begun of the
// other operation.
func (p *payment) captureOrVoid(op, other *ledger.Operation) (begun bool, err error) {
	if op.Step == stepCapture {
		other.Undo.Start(other.IdempotencyKey(ledger.Undoing))
		return true, p.to(voiding)
	}
	known, err := other.BeginDoing(captureDigest(p.amount))
	if err == nil && !known {
		other.Amount = p.amount
		other.Do.Start(other.IdempotencyKey(ledger.Doing))
		return true, p.to(capturing)
	}
	// Somebody asked to capture, perhaps another amount, or to refund, before there was anything to: that was answered, so it stays refused.
	p.refuse(stepCapture, noAuthorization)
	op.Undo.Start(op.IdempotencyKey(ledger.Undoing))
	return false, p.to(voiding)
}

// undoingOf is the state in which the effect of a state is being undone at the network.
func undoingOf(s state) state {
	if s == captured {
		return refunding
	}
	return voiding
}
