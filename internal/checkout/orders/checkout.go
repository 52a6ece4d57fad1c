package orders

import (
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

// Checkout is a saga with the order that it carries out.
type Checkout struct {
	store.Saga
	checkout.Order
}

// Of reads a saga as a checkout.
func Of(s store.Saga) (Checkout, error) {
	order, err := checkout.OrderOf(s.Key, s.Input)
	return Checkout{Saga: s, Order: order}, err
}

// OfAll reads sagas as checkouts.
func OfAll(sagas []store.Saga) ([]Checkout, error) {
	all := make([]Checkout, len(sagas))
	for i, s := range sagas {
		var err error
		if all[i], err = Of(s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Coordination is event.Orchestrated or event.Choreographed.
func (c Checkout) Coordination() string { return Coordination(c.Saga) }
