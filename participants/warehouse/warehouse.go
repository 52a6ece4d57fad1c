// Package warehouse is the participant that keeps stock: it reserves it for orders, releases it and ships it. Each operation is
// recorded with its effect and the event that tells of it in one transaction (packages ledger and outbox), so that it may be
// asked for any number of times, undone before it arrives, and asked about afterwards. It knows nothing of who calls it or of
// what else a checkout does; in a choreographed one, events of others take the place of the calls.
package warehouse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// checkout is the definition whose sagas the typed calls and the events call orders.
const checkout = "checkout"

// The steps that the warehouse records. They stand in rows and in callers' requests: renaming one is a migration.
const (
	stepReserve = "reserve-stock"
	stepCommit  = "commit-stock"
)

// owner is whose stock it is: a saga of any definition.
type owner struct{ definition, key string }

// order is the owner that the typed calls and the events know by its id.
func order(id string) owner { return owner{checkout, id} }

// operation names a step of the owner in the ledger.
func (o owner) operation(step string) participant.ID {
	return participant.ID{Definition: o.definition, Key: o.key, Step: step}
}

// name is the owner's in the books: an order's id, or the definition too. No key has a slash, so no two owners share a name.
func (o owner) name() string {
	if o.definition == checkout {
		return o.key
	}
	return o.definition + "/" + o.key
}

// Why the warehouse refuses.
const (
	outOfStock       = "out_of_stock"
	unknownArticle   = "unknown_article"
	noReservation    = "no_reservation"
	alreadyCommitted = "already_committed"
)

// line is a number of pieces of one article.
type line struct {
	sku      string
	quantity int32
}

// stock is what there is of an article.
type stock struct {
	sku string
	// onHand counts the pieces in the building, reserved ones included.
	onHand, reserved, committed int32
}

// movement says with which sign the quantities of lines are added to each count.
type movement struct{ onHand, reserved, committed int32 }

func (m movement) plus(n movement) movement {
	return movement{m.onHand + n.onHand, m.reserved + n.reserved, m.committed + n.committed}
}

// of is a movement of so many pieces.
func (m movement) of(quantity int32) movement {
	return movement{m.onHand * quantity, m.reserved * quantity, m.committed * quantity}
}

func (s stock) moved(m movement) stock {
	return stock{s.sku, s.onHand + m.onHand, s.reserved + m.reserved, s.committed + m.committed}
}

// reservationState is what became of a reservation: reserved → released | committed.
type reservationState string

const (
	reserved  reservationState = "reserved"
	released  reservationState = "released"
	committed reservationState = "committed"
)

func (s reservationState) message() warehousev1.ReservationState {
	switch s {
	case reserved:
		return warehousev1.ReservationState_RESERVATION_STATE_RESERVED
	case released:
		return warehousev1.ReservationState_RESERVATION_STATE_RELEASED
	default:
		return warehousev1.ReservationState_RESERVATION_STATE_COMMITTED
	}
}

// reservation is one that was made, or is to be.
type reservation struct {
	state        reservationState
	coordination string
	// lines are in order.
	lines []line
}

// inOrder sorts lines by article. Everything about several articles goes in this order: the digest, so that the same order
// written differently is the same, and row locks, so that two orders cannot wait for each other.
func inOrder(lines []line) []line {
	return slices.SortedFunc(slices.Values(lines), func(a, b line) int { return strings.Compare(a.sku, b.sku) })
}

// digest identifies what a reservation asks for; the lines are in order.
func digest(lines []line) string {
	var fields []string
	for _, l := range lines {
		fields = append(fields, "sku", l.sku, "quantity", strconv.Itoa(int(l.quantity)))
	}
	return ledger.Digest(1, fields...)
}

// refusal tells why the lines cannot be reserved from the stock there is; reason is empty if they can be.
func refusal(lines []line, have map[string]stock) (reason, detail string) {
	for _, l := range lines {
		s, known := have[l.sku]
		if !known {
			return unknownArticle, fmt.Sprintf("there is no article %s", l.sku)
		}
		if free := s.onHand - s.reserved; l.quantity > free {
			return outOfStock, fmt.Sprintf("%d of %s are wanted and %d are free", l.quantity, l.sku, free)
		}
	}
	return "", ""
}
