// Package payment is the participant that moves money: it authorizes, voids, captures and refunds at a card network. Each
// operation is recorded (package ledger), and because the network's effect is outside the database, it is recorded as started,
// with the network's idempotency key, before the network is asked: whoever finds it started asks again with the same key. It
// knows nothing of who calls it or of what else a checkout does.
package payment

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/checkoutsaga/orchestrator/participants/internal/ledger"
)

// The steps that payment records. They stand in rows and in callers' requests: renaming one is a migration.
const (
	stepAuthorize = "authorize-payment"
	stepCapture   = "capture-payment"
)

// Why payment refuses. The card network adds reasons of its own, such as card_declined.
const (
	alreadyCaptured      = "already_captured"
	authorizationExpired = "authorization_expired"
	noAuthorization      = "no_authorization"
	voidedBefore         = "voided"
)

// state is where an order's payment stands. The states that end in -ing are at the card network; its answer moves them on.
type state string

const (
	none        state = "none"
	authorizing state = "authorizing"
	declined    state = "declined"
	authorized  state = "authorized"
	expired     state = "expired"
	voiding     state = "voiding"
	voided      state = "voided"
	capturing   state = "capturing"
	captured    state = "captured"
	refunding   state = "refunding"
	refunded    state = "refunded"
)

// moves are all legal moves of a payment.
var moves = map[state][]state{
	none:        {authorizing, voided},
	authorizing: {authorized, declined},
	authorized:  {voiding, capturing, expired},
	voiding:     {voided},
	capturing:   {captured, expired, authorized}, // back to authorized: the network refused, but the authorization stands
	captured:    {refunding},
	refunding:   {refunded},
}

// movement is a transfer between two accounts of the book. An order has each at most once.
type movement string

const (
	noMovement    movement = ""
	bookAuthorize movement = "authorize"
	bookVoid      movement = "void"
	bookExpire    movement = "expire"
	bookCapture   movement = "capture"
	bookRefund    movement = "refund"
)

// accounts tells from which account to which a movement goes.
func (m movement) accounts() (from, to string) {
	const customer, held, merchant = "customer", "held", "merchant"
	switch m {
	case bookAuthorize:
		return customer, held
	case bookCapture:
		return held, merchant
	case bookRefund:
		return merchant, customer
	default:
		return held, customer
	}
}

// payment is what is held or was taken for one order. Its row decides every race about the order's money.
type payment struct {
	orderID    string
	state      state
	customerID string
	method     string
	amount     ledger.Amount
	// authorizedUntil is zero until it was authorized; lapsed says that the database's clock is past it.
	authorizedUntil time.Time
	lapsed          bool
}

// to moves the payment on.
func (p *payment) to(next state) error {
	if !slices.Contains(moves[p.state], next) {
		return fmt.Errorf("move payment of %s from %s to %s: not a legal move", p.orderID, p.state, next)
	}
	p.state = next
	return nil
}

// decision is what a request means for a payment as it stands: one of the three.
type decision struct {
	// wait: something else is at the network; nothing is recorded and the caller asks again.
	wait bool
	// refused is the reason of a refusal.
	refused string
	// next is the state to move to. Where that is not at the network, the request is fulfilled by the move.
	next state
}

// onCapture decides a capture.
func (p *payment) onCapture() decision {
	switch {
	case p.state == authorized && p.lapsed, p.state == expired:
		return decision{refused: authorizationExpired}
	case p.state == authorized:
		return decision{next: capturing}
	case p.state == voiding, p.state == voided:
		return decision{refused: voidedBefore}
	case p.state == none, p.state == declined:
		return decision{refused: noAuthorization}
	default:
		return decision{wait: true}
	}
}

// onVoid decides the voiding of an authorization that was made.
func (p *payment) onVoid() decision {
	switch {
	case p.state == authorized && p.lapsed:
		return decision{next: expired}
	case p.state == authorized:
		return decision{next: voiding}
	case p.state == captured, p.state == refunding, p.state == refunded:
		return decision{refused: alreadyCaptured}
	case p.state == expired:
		return decision{next: expired}
	default:
		return decision{wait: true}
	}
}

// learn moves the payment on as the card network answered, and tells what to book. A refusal is empty where the effect is
// in place; voiding and refunding are not refused here (see Network).
func (p *payment) learn(kind Kind, refusal string) (movement, error) {
	switch {
	case kind == Authorize && refusal == "":
		return bookAuthorize, p.to(authorized)
	case kind == Authorize:
		return noMovement, p.to(declined)
	case kind == Capture && refusal == "":
		return bookCapture, p.to(captured)
	case kind == Capture && refusal == authorizationExpired:
		return bookExpire, p.to(expired)
	case kind == Capture:
		return noMovement, p.to(authorized)
	case kind == Void:
		return bookVoid, p.to(voided)
	default:
		return bookRefund, p.to(refunded)
	}
}

// kindOf tells what the network is asked for in one direction of a step.
func kindOf(step string, d ledger.Direction) Kind {
	switch {
	case step == stepAuthorize && d == ledger.Doing:
		return Authorize
	case step == stepAuthorize:
		return Void
	case d == ledger.Doing:
		return Capture
	default:
		return Refund
	}
}

func authorizeDigest(customerID, method string, a ledger.Amount) string {
	return ledger.Digest(1, "customer_id", customerID, "currency", a.Currency,
		"minor_units", strconv.FormatInt(a.MinorUnits, 10), "payment_method", method)
}

func captureDigest(a ledger.Amount) string {
	return ledger.Digest(1, "currency", a.Currency, "minor_units", strconv.FormatInt(a.MinorUnits, 10))
}
