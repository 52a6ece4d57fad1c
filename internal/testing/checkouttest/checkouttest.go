// Package checkouttest has what tests of checkouts in several packages need alike.
package checkouttest

import (
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/activities"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/events/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// Plan is the list of a checkout that needs no approval.
func Plan() saga.Plan { return PlanWithApproval().WithoutDecision() }

// PlanWithApproval is the list of a checkout that a person has to approve.
func PlanWithApproval() saga.Plan {
	definition, err := workflows.Checkout()
	if err != nil {
		panic(err) // The list is a constant, which package workflows tests.
	}
	return definition.Plan()
}

// Migrations make a database in which an orchestrator keeps checkouts.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations(), outbox.Migrations(), inbox.Migrations(), deadletter.Migrations(), orders.Migrations()}
}

// Store is a store of checkouts whose events nobody publishes.
func Store(pool *pgxpool.Pool) *store.Store {
	return store.New(pool, commit.New(pool), map[string]store.Guest{checkout.Definition: Orders(pool)})
}

// Orders are the orders of a database, whose events nobody publishes.
func Orders(pool *pgxpool.Pool) *orders.Orders {
	return orders.New(pool, outbox.New("orchestrator", pool, slog.New(slog.DiscardHandler)))
}

// Order is one of somebody who buys a number of chairs.
func Order(id string, chairs int32) checkout.Order {
	const price = 4999
	return checkout.Order{
		ID: id, CustomerID: "cus-1", Items: []checkout.Item{{SKU: "CHAIR-OAK", Quantity: chairs, UnitPrice: price}},
		Amount: checkout.Money{Currency: "EUR", MinorUnits: int64(chairs) * price}, PaymentMethod: "tok_visa",
	}
}

// Start is an order as the embedded engine's store accepts it.
func Start(o checkout.Order) store.NewSaga {
	return store.NewSaga{
		Key: o.ID, IdempotencyKey: o.ID, Digest: "v1:first", Request: []byte("{}"), Input: o.Input(),
		About: saga.About{Whom: o.CustomerID, Money: o.Amount}, Plan: Plan(), Engine: "embedded", Deadline: time.Hour,
	}
}

// Desk is where an operator steers the checkouts of a store, at these participants.
func Desk(s *store.Store, e engine.Engine, warehouse warehousev1connect.WarehouseServiceClient, payment paymentv1connect.PaymentServiceClient) operator.Desk {
	return operator.Desk{
		Store: s, Runs: runs.Runs{Engine: e, Log: slog.New(slog.DiscardHandler)},
		Participants: map[string]participant.Participant{checkout.Warehouse: activities.Warehouse(warehouse), checkout.Payment: activities.Payment(payment)},
	}
}
