package warehouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// asProcess makes the test binary a warehouse on the database that it names, for tests that kill one.
const asProcess = "WAREHOUSE_TEST_DATABASE"

func TestMain(m *testing.M) {
	database := os.Getenv(asProcess)
	if database == "" {
		os.Exit(m.Run())
	}
	go func() { // The test's end is this process's, too.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	if err := serve(context.Background(), database); err != nil {
		fmt.Fprintln(os.Stderr, "warehouse:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, database string) error {
	log := slog.New(slog.DiscardHandler)
	service, err := Open(ctx, Config{DatabaseURL: database}, log)
	if err != nil {
		return err
	}
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	if err != nil {
		return err
	}
	service.Mount(server)
	fmt.Println(server.URL())
	return server.Run(ctx)
}

func TestReservingStockKeepsEveryRuleOfAParticipant(t *testing.T) {
	t.Parallel()
	w := startProcess(t)
	a := w.adapter("reserve-stock")
	a.Variants = []participanttest.Variant{participanttest.Other, participanttest.Refused}
	a.Do = func(ctx context.Context, order string, v participanttest.Variant) (*operationv1.Result, error) {
		quantity := map[participanttest.Variant]int32{participanttest.Plain: 2, participanttest.Refused: 2000, participanttest.Other: 3}[v]
		return w.reserve(ctx, order, quantity)
	}
	a.Undo = func(ctx context.Context, order string) (*operationv1.Result, error) {
		res, err := w.client().Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: order}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
	a.Prepare = func(ctx context.Context, order string, _ participanttest.Variant) error { return w.stockUp(ctx, order) }
	a.None, a.Done, a.Undone = "1000 in the building, 0 reserved, 0 shipped", "1000 in the building, 2 reserved, 0 shipped", "1000 in the building, 0 reserved, 0 shipped"
	require.Equal(t, 13, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: w.pool}).requireBooksBalance(t)
}

func TestCommittingStockKeepsEveryRuleOfAParticipant(t *testing.T) {
	t.Parallel()
	w := startProcess(t)
	a := w.adapter("commit-stock")
	a.Variants = []participanttest.Variant{participanttest.Refused}
	a.Do = func(ctx context.Context, order string, _ participanttest.Variant) (*operationv1.Result, error) {
		res, err := w.client().Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: order}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
	a.Prepare = func(ctx context.Context, order string, v participanttest.Variant) error {
		if err := w.stockUp(ctx, order); err != nil || v == participanttest.Refused {
			return err // Where nothing is reserved, nothing can be committed.
		}
		r, err := w.reserve(ctx, order, 2)
		if err == nil && r.Outcome != applied {
			err = errors.New(r.Detail)
		}
		return err
	}
	a.None, a.Done = "1000 in the building, 2 reserved, 0 shipped", "998 in the building, 0 reserved, 2 shipped"
	require.Equal(t, 7, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: w.pool}).requireBooksBalance(t)
}

func TestI2AForgottenOrderIsRefusedInEveryMethodAndAppliedInNone(t *testing.T) {
	t.Parallel()
	w := open(t)
	_, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
	require.NoError(t, err)
	_, err = w.release(t.Context(), "ord-1")
	require.NoError(t, err)
	w.publishAll(t)
	require.Equal(t, []string{"ord-1"}, w.forget(t, "ord-1").ForgottenOrderIds)

	_, reserving := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
	_, releasing := w.release(t.Context(), "ord-1")
	_, committing := w.commit(t.Context(), "ord-1")
	_, asking := w.get(t.Context(), "ord-1", stepReserve)
	for _, err := range []error{reserving, releasing, committing, asking} {
		require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), err)
		require.ErrorContains(t, err, "no longer kept")
	}
	require.Equal(t, stock{"CHAIR-OAK", 1000, 0, 0}, w.stock(t, "CHAIR-OAK"))
}

// killable is a warehouse in a process of its own, which can be killed.
type killable struct {
	*participanttest.Process
	pool *pgxpool.Pool
}

func startProcess(t *testing.T) killable {
	t.Helper()
	database := pgtest.URL(t)
	p := killable{Process: &participanttest.Process{Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asProcess+"="+database)
		cmd.Stderr = t.Output()
		return cmd
	}}}
	require.NoError(t, p.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, p.Kill(context.Background())) })
	pool, err := pg.Open(t.Context(), database, 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	p.pool = pool
	// One article is in every order, so that all wait for its row.
	require.NoError(t, p.setStock(t.Context(), "CHAIR-OAK", 1_000_000))
	return p
}

// adapter is what the steps have in common. Each order has an article of its own, so that its counts show what was done for it,
// and how often.
func (p killable) adapter(step string) participanttest.Adapter {
	return participanttest.Adapter{
		Step: step,
		Get: func(ctx context.Context, order string) (*operationv1.Operation, error) {
			res, err := p.client().GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: order, Step: step}))
			if err != nil {
				return nil, err
			}
			return res.Msg.Operation, nil
		},
		State: func(ctx context.Context, order string) (string, error) {
			res, err := p.client().GetStock(ctx, connect.NewRequest(&warehousev1.GetStockRequest{Sku: order}))
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%d in the building, %d reserved, %d shipped", res.Msg.OnHand, res.Msg.Reserved, res.Msg.Committed), nil
		},
		FailCommits: ledgertest.FailCommits(p.pool),
		Crash:       p.Kill, Restart: p.Start,
	}
}

func (p killable) client() warehousev1connect.WarehouseServiceClient {
	return warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, p.URL())
}

func (p killable) stockUp(ctx context.Context, order string) error {
	return p.setStock(ctx, order, 1000)
}

func (p killable) setStock(ctx context.Context, sku string, onHand int32) error {
	_, err := p.client().SetStock(ctx, connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku, OnHand: onHand}))
	return err
}

func (p killable) reserve(ctx context.Context, order string, quantity int32) (*operationv1.Result, error) {
	res, err := p.client().Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{
		OrderId: order, Lines: []*warehousev1.Line{pieces(order, quantity), pieces("CHAIR-OAK", 1)},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}
