package payment

import (
	"context"
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
	"golang.org/x/sync/errgroup"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// asProcess makes the test binary a payment service on the database that it names, for tests that kill one.
const asProcess = "PAYMENT_TEST_DATABASE"

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
		fmt.Fprintln(os.Stderr, "payment:", err)
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
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return service.Run(ctx) })
	return group.Wait()
}

// methods are the payment methods by which the sandbox's network does what a variant says.
var methods = map[participanttest.Variant]string{
	participanttest.Plain: "tok_visa", participanttest.Other: "tok_visa", participanttest.Lost: "tok_timeout",
}

func TestAuthorizingAPaymentKeepsEveryRuleOfAParticipant(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.adapter(stepAuthorize, "authorize", "void")
	a.Do = func(ctx context.Context, order string, v participanttest.Variant) (*operationv1.Result, error) {
		if v == participanttest.Refused {
			return p.authorize(ctx, order, "tok_declined", 4999)
		}
		return p.authorize(ctx, order, methods[v], amounts[v])
	}
	a.Undo = func(ctx context.Context, order string) (*operationv1.Result, error) {
		res, err := p.client().Void(ctx, connect.NewRequest(&paymentv1.VoidRequest{OrderId: order}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
	a.None, a.Done, a.Undone = "0 held, 0 taken, 0 movements", "4999 held, 0 taken, 1 movements", "0 held, 0 taken, 2 movements"
	require.Equal(t, 16, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBookBalances(t)
}

func TestCapturingAPaymentKeepsEveryRuleOfAParticipant(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.adapter(stepCapture, "capture", "refund")
	a.Prepare = func(ctx context.Context, order string, v participanttest.Variant) error {
		method := methods[v]
		if v == participanttest.Refused {
			method = "tok_expires"
		}
		for { // An authorization whose answer is lost is learnt by asking again.
			r, err := p.authorize(ctx, order, method, 4999)
			if err != nil || r.Outcome == applied {
				return err
			}
			if r.Outcome != unknown {
				return fmt.Errorf("authorization: %s", r.Detail)
			}
		}
	}
	a.Do = func(ctx context.Context, order string, v participanttest.Variant) (*operationv1.Result, error) {
		res, err := p.client().Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{OrderId: order, Amount: euros(amounts[v])}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
	a.Undo = func(ctx context.Context, order string) (*operationv1.Result, error) {
		res, err := p.client().Refund(ctx, connect.NewRequest(&paymentv1.RefundRequest{OrderId: order}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Result, nil
	}
	a.None, a.Done, a.Undone = "4999 held, 0 taken, 1 movements", "0 held, 4999 taken, 2 movements", "0 held, 0 taken, 3 movements"
	require.Equal(t, 16, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBookBalances(t)
}

func TestI2AForgottenOrderIsRefusedInEveryMethodAndChargedInNone(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, applied, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
	require.Equal(t, applied, p.void(t, "ord-1").Outcome)
	p.publishAll(t)
	require.Equal(t, []string{"ord-1"}, p.forget(t, "ord-1").ForgottenOrderIds)

	before := p.effect(t, "ord-1")
	for _, call := range []participanttest.Call{p.authorizing("tok_visa", 100), p.voiding, p.capturing(100), p.refunding} {
		_, err := call(t.Context(), "ord-1")
		require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), err)
		require.ErrorContains(t, err, "no longer kept")
	}
	_, err := p.get(t.Context(), "ord-1", stepAuthorize)
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), err)
	require.Equal(t, before, p.effect(t, "ord-1"))
}

// killable is a payment service in a process of its own, which can be killed. The sandbox's network dies with it, but keeps what it
// did by key.
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
	return p
}

// amounts are what the variants ask for.
var amounts = map[participanttest.Variant]int64{
	participanttest.Plain: 4999, participanttest.Other: 5000, participanttest.Lost: 4999, participanttest.Refused: 4999,
}

// adapter is what the steps have in common: their state is in the book, what the network did is told by the network.
func (p killable) adapter(step, does, undoes string) participanttest.Adapter {
	return participanttest.Adapter{
		Step:     step,
		Variants: []participanttest.Variant{participanttest.Other, participanttest.Refused, participanttest.Lost},
		Get: func(ctx context.Context, order string) (*operationv1.Operation, error) {
			res, err := p.client().GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: order, Step: step}))
			if err != nil {
				return nil, err
			}
			return res.Msg.Operation, nil
		},
		State: func(ctx context.Context, order string) (state string, err error) {
			const query = `
				SELECT format('%s held, %s taken, %s movements', coalesce(sum(minor_units) FILTER (WHERE account = 'held'), 0),
				              coalesce(sum(minor_units) FILTER (WHERE account = 'merchant'), 0), count(DISTINCT movement))
				FROM entries WHERE order_id = $1`
			err = p.pool.QueryRow(ctx, query, order).Scan(&state)
			return state, err
		},
		Outer: func(ctx context.Context, order string) (effects []participanttest.OuterEffect, err error) {
			sandbox := paymentv1connect.NewSandboxServiceClient(http.DefaultClient, p.URL())
			res, err := sandbox.ListCharges(ctx, connect.NewRequest(&paymentv1.ListChargesRequest{OrderId: order}))
			if err != nil {
				return nil, err
			}
			for _, c := range res.Msg.Charges {
				if c.Kind == does || c.Kind == undoes {
					effects = append(effects, participanttest.OuterEffect{Undoes: c.Kind == undoes, Key: c.IdempotencyKey})
				}
			}
			return effects, nil
		},
		FailCommits: ledgertest.FailCommits(p.pool),
		Crash:       p.Kill, Restart: p.Start,
	}
}

func (p killable) client() paymentv1connect.PaymentServiceClient {
	return paymentv1connect.NewPaymentServiceClient(http.DefaultClient, p.URL())
}

func (p killable) authorize(ctx context.Context, order, method string, units int64) (*operationv1.Result, error) {
	res, err := p.client().Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
		OrderId: order, CustomerId: "cus-1", PaymentMethod: method, Amount: euros(units),
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func euros(units int64) *operationv1.Money {
	return &operationv1.Money{Currency: "EUR", MinorUnits: units}
}
