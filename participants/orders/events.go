package orders

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
)

func (s *Service) subscribe() {
	inbox.OnAll(s.inbox, s.learn, &checkoutv1.OrderCreated{}, &checkoutv1.OrderConfirmed{}, &checkoutv1.OrderCancelled{})
}

// tells is what one of the orchestrator's events tells of an order.
func tells(m event.Message) order {
	switch m := m.(type) {
	case *checkoutv1.OrderConfirmed:
		return toldBy(m.Header, m.Order, confirmed, "")
	case *checkoutv1.OrderCancelled:
		return toldBy(m.Header, m.Order, cancelled, whyCancelled(m))
	}
	created := m.(*checkoutv1.OrderCreated)
	return toldBy(created.Header, created.Order, placed, "")
}

// learn stores what events tell of orders and, for each that changes the status, writes an event of its own in the same transaction.
func (s *Service) learn(ctx context.Context, tx pgx.Tx, events []inbox.Event) ([]inbox.Result, error) {
	told := make([]order, len(events))
	for i, e := range events {
		told[i] = tells(e.Message)
	}
	writes := &pgx.Batch{}
	changes, err := keep(ctx, tx, writes, told)
	if err != nil {
		return nil, err
	}
	results := make([]inbox.Result, len(events))
	var changed []outbox.Told
	for i, c := range changes {
		results[i].Late = c.late
		if o := told[i]; !c.late && c.before != o.status {
			changed = append(changed, outbox.Told{
				Subject: outbox.Order(o.id, events[i].Message.GetHeader().Coordination), Trace: event.TraceOf(events[i].Context),
				Message: &ordersv1.OrderStatusChanged{
					CustomerId: o.customerID, Status: string(o.status), PreviousStatus: string(c.before), Reason: o.reason,
					Amount: &operationv1.Money{Currency: o.currency, MinorUnits: o.minorUnits},
				},
			})
		}
	}
	if err := s.outbox.QueueAll(writes, changed); err != nil {
		return nil, err
	}
	if writes.Len() > 0 {
		if err := tx.SendBatch(ctx, writes).Close(); err != nil {
			return nil, fmt.Errorf("write orders: %w", err)
		}
	}
	if len(changed) > 0 {
		results[0].Then = func(context.Context) { s.outbox.Committed() }
	}
	return results, nil
}
