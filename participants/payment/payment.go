// Package payment is the participant that moves money: it authorizes, voids, captures and refunds at a card network. Each
// operation is recorded (package ledger), and because the network's effect is outside the database, it is recorded as started,
// with the network's idempotency key, before the network is asked: whoever finds it started asks again with the same key. What
// the network answered is told in an event of the transaction that records it (package outbox). It knows nothing of who calls it
// or of what else a checkout does; in a choreographed one, an event of the warehouse takes the place of the calls.
package payment

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// checkout is the definition whose sagas the typed calls and the events call orders.
const checkout = "checkout"

// payer is whose payment it is: a saga of any definition.
type payer struct{ definition, key string }

// order is the payer that the typed calls and the events know by its id.
func order(id string) payer { return payer{checkout, id} }

// operation names a step of the payer in the ledger.
func (p payer) operation(step string) participant.ID {
	return participant.ID{Definition: p.definition, Key: p.key, Step: step}
}

// payerOf is whose operation it is.
func payerOf(id participant.ID) payer { return payer{id.Definition, id.Key} }

// name is the payer's in the books and at the card network: an order's id, or the definition too. No key has a slash, so no two
// payers share a name.
func (p payer) name() string {
	if p.definition == checkout {
		return p.key
	}
	return p.definition + "/" + p.key
}

// The steps that payment records. They stand in rows and in callers' requests: renaming one is a migration.
const (
	stepAuthorize = "authorize-payment"
	stepCapture   = "capture-payment"
)

// otherStep is the one of the two that the named one is not.
func otherStep(step string) string {
	if step == stepAuthorize {
		return stepCapture
	}
	return stepAuthorize
}

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

// authorizationHolds is how long a card network holds an authorization.
const authorizationHolds = 7 * 24 * time.Hour

// payment is what is held or was taken for one order. Its row decides every race about the order's money.
type payment struct {
	payer payer
	state state
	// coordination is the checkout's, as its events say it.
	coordination string
	customerID   string
	method       string
	amount       ledger.Amount
	// authorizedUntil is nil until it was authorized; lapsed says that the database's clock is past it.
	authorizedUntil *time.Time
	lapsed          bool
	// refusedStep was refused by the card network, or because the authorization had lapsed; empty if none was.
	refusedStep, refusedReason string

	// now is the database's clock when the payment was read.
	now time.Time
	// moved says that it has moved since then; booked and told are what that means for the book, and for everybody else.
	moved  bool
	booked []movement
	told   []event.Message
}

// to moves the payment on. What that books and tells is decided here and nowhere else, so that neither happens without a move,
// or twice.
func (p *payment) to(next state) error {
	from := p.state
	if !slices.Contains(moves[from], next) {
		return fmt.Errorf("move payment of %s from %s to %s: not a legal move", p.payer.name(), from, next)
	}
	p.state, p.moved = next, true
	switch {
	case next == authorized && from == authorizing:
		until := p.now.Add(authorizationHolds)
		p.authorizedUntil = &until
		p.booked = append(p.booked, bookAuthorize)
		p.told = append(p.told, &paymentv1.PaymentAuthorized{Amount: p.money(), AuthorizedUntil: timestamppb.New(until)})
	case next == captured:
		p.booked = append(p.booked, bookCapture)
		p.told = append(p.told, &paymentv1.PaymentCompleted{Amount: p.money()})
	case next == refunded:
		p.booked = append(p.booked, bookRefund)
		p.told = append(p.told, &paymentv1.PaymentRefunded{Amount: p.money()})
	case next == voided && from == voiding:
		p.booked = append(p.booked, bookVoid)
		p.tellVoided()
	case next == expired:
		p.booked = append(p.booked, bookExpire)
	}
	// A refused payment has failed once nothing is held: where the authorization stands, that is when it is voided.
	if p.refusedStep != "" && (next == declined || next == expired || next == voided) {
		p.told = append(p.told, &paymentv1.PaymentFailed{Amount: p.money(), Step: p.refusedStep, Reason: p.refusedReason})
	}
	return nil
}

// tellVoided tells that somebody gave the authorization up. Where it had run out before, no move of the payment says so.
func (p *payment) tellVoided() {
	p.told = append(p.told, &paymentv1.PaymentVoided{Amount: p.money()})
}

// refuse notes that a step was refused; the move that follows tells it, or one that comes later.
func (p *payment) refuse(step, reason string) { p.refusedStep, p.refusedReason = step, reason }

func (p *payment) money() *operationv1.Money {
	return &operationv1.Money{Currency: p.amount.Currency, MinorUnits: p.amount.MinorUnits}
}

// decision is what a request means for a payment as it stands.
type decision struct {
	// wait: something else is at the network; nothing is recorded and the caller asks again.
	wait bool
	// refused is the reason of a refusal.
	refused string
	// next is the state to move to, if any. Where that is not at the network, the request is answered by the move.
	next state
}

// onCapture decides a capture.
func (p *payment) onCapture() decision {
	switch {
	case p.state == authorized && p.lapsed:
		return decision{refused: authorizationExpired, next: expired}
	case p.state == expired:
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

// learn moves the payment on as the card network answered. A refusal is empty where the effect is in place; voiding and
// refunding are not refused here (see Network).
func (p *payment) learn(a Action, refusal string) error {
	switch {
	case a == Authorize && refusal == "":
		return p.to(authorized)
	case a == Authorize:
		p.refuse(stepAuthorize, refusal)
		return p.to(declined)
	case a == Capture && refusal == "":
		return p.to(captured)
	case a == Capture:
		p.refuse(stepCapture, refusal)
		if refusal == authorizationExpired {
			return p.to(expired)
		}
		return p.to(authorized)
	case a == Void:
		return p.to(voided)
	default:
		return p.to(refunded)
	}
}

// actionOf tells what the network is asked for in one direction of a step.
func actionOf(step string, d ledger.Direction) Action {
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
