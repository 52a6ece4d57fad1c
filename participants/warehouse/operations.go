package warehouse

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// operation is one that the warehouse is asked for: what the ledger records of it, and what it does to the stock. Calls and events ask
// for the same ones.
type operation struct {
	recorded *ledger.Change
	changes  []*commit.Change
}

// do carries out an operation in a transaction that it shares with others, and has its event relayed.
func (s *store) do(ctx context.Context, o operation) (ledger.Operation, error) {
	if err := s.committer.Do(ctx, o.changes...); err != nil {
		return ledger.Operation{}, err
	}
	s.outbox.Committed()
	return o.recorded.Op, nil
}

// doIn carries out an operation in the caller's transaction.
func doIn(ctx context.Context, tx pgx.Tx, o operation) (ledger.Operation, error) {
	if err := commit.In(ctx, tx, o.changes...); err != nil {
		return ledger.Operation{}, err
	}
	return o.recorded.Op, nil
}

// wanted is a reservation that is asked for.
type wanted struct {
	owner owner
	// lines are in order.
	lines []line
	// digest of what asks for it; empty for that of the lines.
	digest string
	// coordination of the checkout, which its events say from now on.
	coordination string
	// payment is handed on in the event; nil in an orchestrated checkout.
	payment *warehousev1.PaymentRequest
}

// reserving reserves all lines or none.
func (s *store) reserving(ctx context.Context, w wanted) operation {
	recorded, change := s.operations.Doing(w.owner.operation(stepReserve), cmp.Or(w.digest, digest(w.lines)))
	return s.operation(ctx, change, &changed{owner: w.owner, recorded: recorded, asked: w.lines, decide: func(c *changed) error {
		if reason, detail := refusal(w.lines, c.stock); reason != "" {
			c.op().Do.Reject(reason, detail)
			c.tell(w.coordination, &warehousev1.InventoryReservationRejected{Reason: c.op().Do.Reason, Detail: c.op().Do.Detail})
			return nil
		}
		c.become(reserved, reservation{coordination: w.coordination, lines: w.lines}, movement{reserved: +1})
		c.op().Do.Apply("rsv-" + w.owner.name())
		c.tell(w.coordination, &warehousev1.InventoryReserved{Lines: messages(w.lines), Payment: w.payment})
		return nil
	}})
}

// releasing makes the reservation be gone, for a reason, which is empty where somebody asked for it.
func (s *store) releasing(ctx context.Context, o owner, reason string) operation {
	recorded, change := s.operations.Undoing(o.operation(stepReserve))
	return s.operation(ctx, change, &changed{owner: o, recorded: recorded, decide: func(c *changed) error {
		switch {
		case c.held == nil:
			return errNoReservation
		case c.held.state == committed:
			c.op().Undo.Reject(alreadyCommitted, "the stock has been shipped")
			return nil
		}
		c.become(released, *c.held, movement{reserved: -1})
		c.op().Undo.Apply("rsv-" + o.name())
		c.tell(c.held.coordination, &warehousev1.InventoryReleased{Lines: messages(c.held.lines), Reason: reason})
		return nil
	}})
}

// committing turns the reservation into a shipment. An empty digest is that of a request that says no more than whose it is.
func (s *store) committing(ctx context.Context, o owner, digest string) operation {
	recorded, change := s.operations.Doing(o.operation(stepCommit), cmp.Or(digest, ledger.Digest(1)))
	return s.operation(ctx, change, &changed{owner: o, recorded: recorded, decide: func(c *changed) error {
		if c.held == nil || c.held.state != reserved {
			c.op().Do.Reject(noReservation, "nothing is reserved for this order")
			return nil
		}
		c.become(committed, *c.held, movement{onHand: -1, reserved: -1, committed: +1})
		c.op().Do.Apply("shp-" + o.name())
		c.tell(c.held.coordination, &warehousev1.InventoryCommitted{Lines: messages(c.held.lines)})
		return nil
	}})
}

func (s *store) operation(ctx context.Context, record *commit.Change, c *changed) operation {
	c.ctx = ctx
	return operation{recorded: c.recorded, changes: []*commit.Change{record, {Of: s.table, What: c}}}
}

// changed is what one operation sees of the stock, and what it makes of it.
type changed struct {
	// ctx is its caller's, for the trace that the event is in.
	ctx      context.Context
	owner    owner
	recorded *ledger.Change
	// asked are the lines that it names; nil where they are those of the reservation.
	asked []line
	// decide is called unless the answer is known.
	decide func(*changed) error

	// held is the owner's reservation; nil if none was made.
	held *reservation
	// stock is what there is of the articles, by sku, as the operations before it in the transaction leave it.
	stock map[string]stock

	outcome
}

// outcome is what was decided. The zero value changes nothing.
type outcome struct {
	// state is what the reservation becomes; empty if it stays.
	state       reservationState
	reservation reservation
	movement    movement
	// told is the event; nil for none.
	told         event.Message
	coordination string
}

func (c *changed) op() *ledger.Operation { return &c.recorded.Op }

// become moves the pieces of a reservation, which the operations after this one in the transaction see.
func (c *changed) become(state reservationState, r reservation, m movement) {
	c.state, c.reservation, c.movement = state, r, m
	for _, l := range r.lines {
		c.stock[l.sku] = c.stock[l.sku].moved(m.of(l.quantity))
	}
}

// tell has an event tell what becomes of an order. Of another owner none tells: their topics are about orders.
func (c *changed) tell(coordination string, told event.Message) {
	if c.owner.definition == checkout {
		c.coordination, c.told = coordination, told
	}
}
