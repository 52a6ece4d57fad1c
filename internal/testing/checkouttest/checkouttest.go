// Package checkouttest has what tests of checkouts in several packages need alike.
package checkouttest

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/events/deadletter"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
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
	return Definition().Plan()
}

// Definition is that of checkouts.
func Definition() *saga.Definition {
	definition, err := workflows.Checkout()
	if err != nil {
		panic(err) // The list is a constant, which package workflows tests.
	}
	return definition
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

// Desk is where an operator steers the checkouts of a store, at participants that have these records.
func Desk(s *store.Store, e engine.Engine, warehouse, payment Records) operator.Desk {
	return operator.Desk{
		Store: s, Runs: runs.Runs{Engine: e, Log: slog.New(slog.DiscardHandler)},
		Participants: map[string]participant.Participant{checkout.Warehouse: recorded{of: warehouse}, checkout.Payment: recorded{of: payment}},
	}
}

// Records are what a participant tells of its operations.
type Records interface {
	GetOperation(context.Context, *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error)
	ListOperations(context.Context, *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error)
}

// recorded is a participant that is asked about its records alone; a call of anything else is a nil dereference, so a failed test.
type recorded struct {
	participant.Participant
	participant.Keeper
	of Records
}

func (r recorded) Get(ctx context.Context, id participant.ID) (participant.Operation, error) {
	answer, err := r.of.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: id.Key, Step: id.Step}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return participant.Operation{}, nil
	case err != nil:
		return participant.Operation{}, err
	}
	return operation(answer.Msg.Operation), nil
}

func (r recorded) List(ctx context.Context, q participant.Query) (participant.Page, error) {
	answer, err := r.of.ListOperations(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{OrderIds: q.Keys}))
	if err != nil {
		return participant.Page{}, err
	}
	var page participant.Page
	for _, op := range answer.Msg.Operations {
		page.Operations = append(page.Operations, operation(op))
	}
	return page, nil
}

func operation(op *operationv1.Operation) participant.Operation {
	outcomes := map[operationv1.Outcome]participant.Outcome{
		operationv1.Outcome_OUTCOME_APPLIED: participant.Applied, operationv1.Outcome_OUTCOME_REJECTED: participant.Rejected,
		operationv1.Outcome_OUTCOME_UNKNOWN: participant.NotKnown, operationv1.Outcome_OUTCOME_UNDONE_BEFORE: participant.UndoneBefore,
	}
	return participant.Operation{
		Definition: checkout.Definition, Key: op.OrderId, Step: op.Step, Do: outcomes[op.Do], Undo: outcomes[op.Undo],
		Reason: op.Reason, Reference: op.Reference, CreatedAt: op.CreatedAt.AsTime(), UpdatedAt: op.UpdatedAt.AsTime(),
	}
}

// Doctor is that of a process with this database, engine and desk. Nothing is wrong with it: a sweeper leads until the test ends.
func Doctor(t *testing.T, pool *pgxpool.Pool, e engine.Engine, desk operator.Desk) *doctor.Doctor {
	t.Helper()
	definition, err := workflows.Checkout()
	require.NoError(t, err)
	const lock = -0x7f6b6f75740001 // PostgreSQL shows a key in two unsigned halves.
	leader, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = leader.Exec(t.Context(), `SELECT pg_advisory_lock_shared($1)`, lock)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, leader.Conn().Close(context.Background()))
		leader.Release()
	})
	return &doctor.Doctor{
		Pool: pool, Store: desk.Store, Engine: e, Migrations: Migrations(), SweeperLock: lock,
		Missing: func() []process.Missing { return nil }, HeldBack: func() []breaker.State { return nil },
		Definitions: []*saga.Definition{definition}, Participants: slices.Collect(maps.Keys(desk.Participants)),
		Probe: func(ctx context.Context, name string) error {
			_, err := desk.Participants[name].Get(ctx, participant.ID{Definition: checkout.Definition, Key: "probe", Step: checkout.ReserveStock})
			return err
		},
	}
}
