package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/bojanz/currency"
	"github.com/jackc/pgx/v5"

	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Hear sets the handlers of the events that the orchestrator receives: what becomes of choreographed checkouts, and prices.
func Hear(in *inbox.Inbox, s *store.Store, o *orders.Orders) {
	inbox.On(in, learn[*warehousev1.InventoryReserved](s, orders.StockReserved))
	inbox.On(in, learn[*warehousev1.InventoryReservationRejected](s, orders.ReservationRefused))
	inbox.On(in, learn[*warehousev1.InventoryReleased](s, orders.StockReleased))
	inbox.On(in, learn[*warehousev1.InventoryCommitted](s, orders.StockCommitted))
	inbox.On(in, learn[*paymentv1.PaymentAuthorized](s, orders.PaymentAuthorized))
	inbox.On(in, learn[*paymentv1.PaymentCompleted](s, orders.PaymentCompleted))
	inbox.On(in, learn[*paymentv1.PaymentFailed](s, orders.PaymentFailed))
	inbox.On(in, setPrice(o))
}

// learn is the handler of an event that says something of a choreographed checkout.
func learn[M event.Message](s *store.Store, fact orders.Fact) func(context.Context, pgx.Tx, M) (inbox.Result, error) {
	return func(ctx context.Context, tx pgx.Tx, m M) (inbox.Result, error) {
		reason := ""
		if bad, is := any(m).(interface{ GetReason() string }); is {
			reason = bad.GetReason()
		}
		orderID := m.GetHeader().OrderId
		learned, err := s.Observe(ctx, tx, checkout.Saga(orderID), func(r *journal.Row) bool { return fact.Learn(r, reason) })
		if errors.Is(err, store.ErrNotFound) {
			// It was accepted here before anybody could hear of it, so it never will be.
			return inbox.Result{}, fmt.Errorf("%w: no order %s was accepted here", event.ErrBad, orderID)
		}
		if err != nil || learned == nil {
			return inbox.Late, err
		}
		return inbox.Result{Then: func(context.Context) { learned() }}, nil
	}
}

func setPrice(o *orders.Orders) func(context.Context, pgx.Tx, *pricingv1.PriceUpdated) (inbox.Result, error) {
	return func(ctx context.Context, tx pgx.Tx, m *pricingv1.PriceUpdated) (inbox.Result, error) {
		price := checkout.Money{Currency: m.UnitPrice.Currency, MinorUnits: m.UnitPrice.MinorUnits}
		if !currency.IsValid(price.Currency) {
			return inbox.Result{}, fmt.Errorf("%w: unit_price.currency: there is no currency %q", event.ErrBad, price.Currency)
		}
		news, err := o.SetPrice(ctx, tx, m.Header.Sku, price, m.Header.Seq)
		return inbox.Result{Late: !news}, err
	}
}
