package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	sagaapi "github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/attempts"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// reserving has stock for everybody, and payment is down: every checkout stays open at authorize-payment.
type reserving struct{ participant.Participant }

func (reserving) Do(context.Context, participant.Request) (participant.Result, error) {
	return participant.Result{Outcome: participant.Applied}, nil
}

type down struct{ participant.Participant }

func (down) Do(context.Context, participant.Request) (participant.Result, error) {
	return participant.Result{}, errors.New("connection refused")
}

// open is a gate that holds nobody back.
type open struct{}

func (open) HeldBack(string) string           { return "" }
func (open) Answered(string)                  {}
func (open) Unanswered(string, string, error) {}

// deployed is an orchestrator with the embedded engine, whose build is what register registers.
type deployed struct {
	url  string
	pool *pgxpool.Pool
	api  checkoutv1connect.CheckoutServiceClient
}

func deploy(t *testing.T, register func(*task.TaskRegistry, *store.Store) error) *deployed {
	t.Helper()
	url := pgtest.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pg.Migrate(t.Context(), pool, append(checkouttest.Migrations(), embedded.Migrations())...))
	log := slog.New(slog.DiscardHandler)
	s := checkouttest.Store(pool)
	registry := task.NewTaskRegistry()
	require.NoError(t, register(registry, s))
	engine := embedded.New(embedded.Config{Pool: pool, Committer: commit.New(pool), Registry: registry, Log: log})
	running, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- engine.Run(running) }()
	t.Cleanup(func() { stop(); <-stopped })

	desk := checkouttest.Desk(s, engine, nil, nil)
	examined := checkouttest.Doctor(t, pool, engine, desk)
	service := api.New(api.Config{
		Store: s, Orders: checkouttest.Orders(pool), Pool: pool, Engine: engine, Definition: checkouttest.Definition(),
		Desk: desk, Doctor: examined, Log: log, Metrics: prometheus.NewRegistry(),
	})
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(service))
	mux.Handle(sagav1connect.NewSagaServiceHandler(sagaapi.New(desk, examined, nil, "orchestrator", nil)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &deployed{url: server.URL, pool: pool, api: checkoutv1connect.NewCheckoutServiceClient(server.Client(), server.URL)}
}

func (d *deployed) start(t *testing.T, orderID string) {
	t.Helper()
	_, err := d.api.Start(t.Context(), connect.NewRequest(&checkoutv1.StartRequest{
		OrderId: orderID, CustomerId: "cus-17", Currency: "EUR", PaymentMethod: "tok_visa", Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 1}},
	}))
	require.NoError(t, err)
}

func (d *deployed) types(t *testing.T, args ...string) answer {
	t.Helper()
	return typed(t, "", map[string]string{cli.ServerVariable: d.url}, args...)
}

// replayView is what `doctor --replay -o json` prints.
type replayView struct {
	Replayed                int
	Differences, Unreadable []struct {
		OrderID string `json:"order_id"`
		Run     int32
		Step    string
		// Difference or Why.
		Difference, Why string
	}
}

// replayed is `doctor --replay -o json`.
func (d *deployed) replayed(t *testing.T) (view replayView, got answer) {
	t.Helper()
	got = d.types(t, "doctor", "--replay", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(got.out), &view), got.err)
	return view, got
}

func TestReplayTellsThatOpenCheckoutsOfThisBuildFitIt(t *testing.T) {
	d := deploy(t, func(registry *task.TaskRegistry, s *store.Store) error {
		return errors.Join(saga.Register(registry, saga.Policy{}),
			attempts.Register(registry, s, map[string]participant.Participant{
				checkout.Warehouse: reserving{}, checkout.Payment: down{},
			}, open{}))
	})
	view, got := d.replayed(t)
	require.Zero(t, got.status, got.err)
	require.Equal(t, "0 of 0 open checkouts fit this build\n", got.err)
	require.JSONEq(t, `{"replayed": 0, "differences": [], "unreadable": []}`, got.out)
	require.Zero(t, view.Replayed)

	const orders = 5
	for n := range orders {
		d.start(t, fmt.Sprintf("ord-%d", n))
	}
	// A history with a lost answer, the wait after it and another attempt has all kinds of events that a run without a person has.
	require.Eventually(t, func() bool {
		var failing int
		err := d.pool.QueryRow(t.Context(), `SELECT count(*) FROM steps WHERE name = 'authorize-payment' AND attempts >= 2`).Scan(&failing)
		return err == nil && failing == orders
	}, 20*time.Second, 50*time.Millisecond)
	view, got = d.replayed(t)
	require.Zero(t, got.status, got.err)
	require.Equal(t, orders, view.Replayed)
	require.Equal(t, "5 of 5 open checkouts fit this build\n", got.err)
	require.Equal(t, "ORDER ID   RUN   STEP   DIFFERENCE\n", d.types(t, "doctor", "--replay").out)
}

func TestReplayNamesOpenCheckoutsThatThisBuildDoesNotFit(t *testing.T) {
	// The interpreter of the build that runs asks for the second step first; this one for the first.
	d := deploy(t, func(registry *task.TaskRegistry, _ *store.Store) error {
		other := func(ctx *task.WorkflowContext) (any, error) {
			var input saga.Input
			if err := ctx.GetInput(&input); err != nil {
				return nil, err
			}
			call := saga.Call{Definition: checkout.Definition, Key: input.Key, Run: input.Run, Step: input.Plan.Steps[1].Name, Round: 1}
			if err := ctx.CallActivity(call.Step, task.WithActivityInput(call)).Await(nil); err != nil {
				return nil, err
			}
			return nil, ctx.WaitForSingleEvent(saga.CommandEvent, -1).Await(nil)
		}
		applied := func(ctx task.ActivityContext) (any, error) {
			var call saga.Call
			err := ctx.GetInput(&call)
			return saga.Reply{Step: call.Step, Outcome: saga.Applied}, err
		}
		return errors.Join(registry.AddWorkflowN(saga.WorkflowName, other), registry.AddActivityN(checkout.AuthorizePayment, applied))
	})
	d.start(t, "ord-1")
	d.start(t, "ord-2")
	_, err := d.pool.Exec(t.Context(), `UPDATE sagas SET at_step = 'authorize-payment' WHERE key = 'ord-2'`)
	require.NoError(t, err)
	var view replayView
	var got answer
	require.Eventually(t, func() bool { // Until both have had their first turn.
		view, got = d.replayed(t)
		return len(view.Differences) == 2
	}, 20*time.Second, 50*time.Millisecond)

	require.Equal(t, cli.ExitFindings, got.status)
	require.Contains(t, got.err, "0 of 2 open checkouts fit this build\n")
	require.Contains(t, got.err, "2 open checkouts do not fit this build")
	require.Equal(t, 2, view.Replayed)
	require.Empty(t, view.Unreadable)
	for n, step := range []string{"reserve-stock", "authorize-payment"} {
		difference := view.Differences[n]
		require.Equal(t, fmt.Sprintf("ord-%d", n+1), difference.OrderID)
		require.EqualValues(t, 1, difference.Run)
		require.Equal(t, step, difference.Step)
		require.Contains(t, difference.Difference, "turn 1 (on ExecutionStarted): action 0: expected activity authorize-payment")
		require.Contains(t, difference.Difference, "got activity reserve-stock")
	}
	require.Equal(t, "ord-1\nord-2\n", d.types(t, "doctor", "--replay", "-o", "ids").out)
}

// told is a server that has these histories.
type told struct {
	sagav1connect.UnimplementedSagaServiceHandler
	histories []*sagav1.ListOpenHistoriesResponse
	end       error
}

func (s told) ListOpenHistories(_ context.Context, _ *connect.Request[sagav1.ListOpenHistoriesRequest], stream *connect.ServerStream[sagav1.ListOpenHistoriesResponse]) error {
	for _, h := range s.histories {
		if err := stream.Send(h); err != nil {
			return err
		}
	}
	return s.end
}

func (s told) types(t *testing.T, args ...string) answer {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(sagav1connect.NewSagaServiceHandler(s))
	server := httptest.NewServer(mux)
	defer server.Close()
	return typed(t, "", map[string]string{cli.ServerVariable: server.URL}, args...)
}

func TestReplayDoesNotPassOverWhatCannotBeRead(t *testing.T) {
	s := told{histories: []*sagav1.ListOpenHistoriesResponse{
		{Key: "ord-1", Run: 2, InstanceId: "ord-1-2", Step: "capture-payment", Unreadable: "the engine sleeps"},
		{Key: "ord-2", Run: 1, InstanceId: "ord-2-1", Events: [][]byte{{0xff}}},
		{Key: "ord-3", Run: 1, InstanceId: "ord-3-1"}, // Not begun.
	}}
	got := s.types(t, "doctor", "--replay")
	require.Equal(t, cli.ExitFindings, got.status)
	require.Contains(t, got.out, `ORDER ID   RUN   STEP              NOT READ, BECAUSE
ord-1      2     capture-payment   the engine sleeps
ord-2      1     -                 read event 0: `)
	require.Contains(t, got.err, "0 of 2 open checkouts fit this build\n1 more have no history")
	require.Contains(t, got.err, "2 histories could not be read")

	s.histories = s.histories[2:]
	require.Zero(t, s.types(t, "doctor", "--replay").status)
	s.end = connect.NewError(connect.CodeUnavailable, errors.New("going down"))
	require.Equal(t, cli.ExitUnreachable, s.types(t, "doctor", "--replay").status, "a list that broke off says nothing of the rest")
}
