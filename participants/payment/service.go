package payment

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/participants/payment/sandbox"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	// networkTimeout is how long the card network may take. Callers give up after 2 s, so an answer that takes longer would
	// reach nobody; a repeat learns it.
	networkTimeout = time.Second
	// recordTimeout bounds recording an answer, which goes on when the caller has hung up.
	recordTimeout = 5 * time.Second
	// recoverEvery is how often recovery looks for what a crash left started.
	recoverEvery = 2 * time.Second
	// recoverBatch and recoverAtOnce bound how much of it is taken at a time, and asked side by side.
	recoverBatch  = 20
	recoverAtOnce = 5
)

// Kind is payment as its process runs it.
var Kind = process.Kind{
	Name: app, Listen: "127.0.0.1:8082",
	Open: func(ctx context.Context, databaseURL string, log *slog.Logger) (process.Service, error) {
		return Open(ctx, Config{DatabaseURL: databaseURL}, log)
	},
}

// app names payment in events.
const app = "payment"

// Config is what a payment service needs.
type Config struct {
	DatabaseURL string
	// MaxConns bounds the connections to the database; 0 means 10. Fewer make calls wait for each other.
	MaxConns int32
}

// Service is payment with its sandbox gateway: open it, mount it on a server, have its events carried, run all of it, close it.
type Service struct {
	*ledger.Records
	store   *store
	inbox   *inbox.Inbox
	network Network
	sandbox *sandbox.Controls
	log     *slog.Logger
	// askTimeout bounds one question to the card network.
	askTimeout time.Duration
}

var (
	_ paymentv1connect.PaymentServiceHandler = (*Service)(nil)
	_ process.Service                        = (*Service)(nil)
)

// Open reaches the database and brings it to the newest migration. The caller closes the service when no call and no event is
// in hand and Run has returned.
func Open(ctx context.Context, c Config, log *slog.Logger) (*Service, error) {
	if c.DatabaseURL == "" {
		return nil, errors.New("open payment: no database url")
	}
	if c.MaxConns == 0 {
		c.MaxConns = 10
	}
	pool, err := pg.OpenMigrated(ctx, c.DatabaseURL, c.MaxConns, ledger.Migrations(), pg.EmbeddedMigrations(migrationFiles, ""), outbox.Migrations(), inbox.Migrations())
	if err != nil {
		return nil, fmt.Errorf("open payment: %w", err)
	}
	gateway := sandbox.New(pool)
	s := &Service{
		Records: ledger.NewRecords(pool, checkout, openWhy),
		store:   newStore(pool, outbox.New(app, pool, log)),
		inbox:   inbox.New(app, pool, log),
		network: sandboxNetwork{gateway}, sandbox: sandbox.NewControls(gateway), log: log,
		askTimeout: networkTimeout,
	}
	s.subscribe()
	return s, nil
}

// Mount serves payment's own methods, those of the contract of participants, and the sandbox's on a server.
func (s *Service) Mount(server *rpcserver.Server) {
	server.Mount(participant.Handler(s, server.Options()...))
	server.Mount(paymentv1connect.NewPaymentServiceHandler(s, server.Options()...))
	server.Mount(paymentv1connect.NewSandboxServiceHandler(s.sandbox, server.Options()...))
}

// Ready tells whether the database answers.
func (s *Service) Ready(ctx context.Context) error { return s.store.pool.Ping(ctx) }

// Outbox is where payment writes its events.
func (s *Service) Outbox() *outbox.Outbox { return s.store.outbox }

// Inbox is where it receives those that it reacts to.
func (s *Service) Inbox() *inbox.Inbox { return s.inbox }

// Close ends the connections to the database.
func (s *Service) Close() { s.store.pool.Close() }

// Run asks the card network about what was left started, at once and then every few seconds, until ctx ends; it returns when
// the questions in hand are answered. Without it, what a crash left started stays so until somebody asks for it again.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(recoverEvery)
	defer tick.Stop()
	for {
		if err := s.recoverAll(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "recovery failed; it will look again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// recoverAll asks about everything that is due, a batch at a time.
func (s *Service) recoverAll(ctx context.Context) error {
	for ctx.Err() == nil {
		due, err := ledger.ClaimUnderWay(ctx, s.store.pool, recoverBatch)
		if err != nil {
			return err
		}
		var group errgroup.Group
		group.SetLimit(recoverAtOnce)
		for _, op := range due {
			group.Go(func() error {
				p, err := s.store.paymentOf(ctx, payerOf(op.ID))
				if err != nil {
					return err
				}
				_, err = s.advance(ctx, recorded{op, p})
				return err
			})
		}
		if err := group.Wait(); err != nil || len(due) < recoverBatch {
			return err
		}
	}
	return nil
}

// advance asks the card network about what an operation has under way, and records the answers, until nothing is under way
// or the network gives no answer; and about the operations that payment begins by itself on the way. It goes on when the
// caller hangs up: an answer once given must not be lost for that.
func (s *Service) advance(ctx context.Context, r recorded) (ledger.Operation, error) {
	ctx = context.WithoutCancel(ctx)
	for {
		d, underWay := r.op.UnderWay()
		if !underWay {
			return r.op, nil
		}
		refusal, err := s.ask(ctx, r, d)
		if action := actionOf(r.op.Step, d); err == nil && refusal != "" && (action == Void || action == Refund) {
			err = fmt.Errorf("the card network refused to %s: %s", action, refusal)
		}
		if err != nil {
			s.log.WarnContext(ctx, "the card network left an operation open",
				"definition", r.op.Definition, "key", r.op.Key, "step", r.op.Step, "direction", d, "error", err)
			r.op.Side(d).Await("the card network has not done it yet: " + err.Error())
			return r.op, nil
		}
		recording, cancel := context.WithTimeout(ctx, recordTimeout)
		var next *recorded
		r, next, err = s.store.settle(recording, r, d, refusal)
		cancel()
		if err != nil {
			return r.op, fmt.Errorf("record the card network's answer: %w", err)
		}
		if next != nil {
			if _, err := s.advance(ctx, *next); err != nil {
				return r.op, err
			}
		}
	}
}

// ask asks the card network, bounded, outside of any transaction.
func (s *Service) ask(ctx context.Context, r recorded, d ledger.Direction) (refusal string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.askTimeout)
	defer cancel()
	return s.network.Ask(ctx, Charge{
		Action: actionOf(r.op.Step, d), Key: r.op.Side(d).Key, OrderID: r.payment.payer.name(), PaymentMethod: r.payment.method,
		Amount: r.payment.amount,
	})
}

// Authorize holds money on the customer's card.
func (s *Service) Authorize(ctx context.Context, req *connect.Request[paymentv1.AuthorizeRequest]) (*connect.Response[paymentv1.AuthorizeResponse], error) {
	result, err := s.authorize(ctx, request{
		payer: order(req.Msg.OrderId), customerID: req.Msg.CustomerId, method: req.Msg.PaymentMethod, amount: amountOf(req.Msg.Amount),
	})
	if err != nil {
		return nil, ledger.Error(err)
	}
	return connect.NewResponse(&paymentv1.AuthorizeResponse{Result: ledger.Message(result)}), nil
}

// Void makes the authorization be gone, also one that is still to arrive.
func (s *Service) Void(ctx context.Context, req *connect.Request[paymentv1.VoidRequest]) (*connect.Response[paymentv1.VoidResponse], error) {
	result, err := s.void(ctx, order(req.Msg.OrderId))
	if err != nil {
		return nil, ledger.Error(err)
	}
	return connect.NewResponse(&paymentv1.VoidResponse{Result: ledger.Message(result)}), nil
}

// Capture takes the authorized money.
func (s *Service) Capture(ctx context.Context, req *connect.Request[paymentv1.CaptureRequest]) (*connect.Response[paymentv1.CaptureResponse], error) {
	result, err := s.capture(ctx, order(req.Msg.OrderId), amountOf(req.Msg.Amount), "")
	if err != nil {
		return nil, ledger.Error(err)
	}
	return connect.NewResponse(&paymentv1.CaptureResponse{Result: ledger.Message(result)}), nil
}

// Refund gives captured money back, whole.
func (s *Service) Refund(ctx context.Context, req *connect.Request[paymentv1.RefundRequest]) (*connect.Response[paymentv1.RefundResponse], error) {
	result, err := s.refund(ctx, order(req.Msg.OrderId))
	if err != nil {
		return nil, ledger.Error(err)
	}
	return connect.NewResponse(&paymentv1.RefundResponse{Result: ledger.Message(result)}), nil
}

func (s *Service) authorize(ctx context.Context, r request) (participant.Result, error) {
	r.coordination = event.Orchestrated
	begun, err := s.store.beginAuthorize(ctx, r)
	return s.outcome(ctx, begun, ledger.Doing, err)
}

func (s *Service) void(ctx context.Context, of payer) (participant.Result, error) {
	begun, err := s.store.beginVoid(ctx, of)
	return s.outcome(ctx, begun, ledger.Undoing, err)
}

func (s *Service) capture(ctx context.Context, of payer, amount ledger.Amount, digest string) (participant.Result, error) {
	begun, err := s.store.beginCapture(ctx, of, amount, digest)
	return s.outcome(ctx, begun, ledger.Doing, err)
}

func (s *Service) refund(ctx context.Context, of payer) (participant.Result, error) {
	begun, err := s.store.beginRefund(ctx, of)
	return s.outcome(ctx, begun, ledger.Undoing, err)
}

// outcome answers the caller about one direction of an operation that was begun, and carries it out first if nobody has yet.
func (s *Service) outcome(ctx context.Context, begun recorded, d ledger.Direction, err error) (participant.Result, error) {
	switch {
	case errors.Is(err, errWait):
		return participant.Result{Outcome: participant.NotKnown, Reason: "started", Detail: err.Error()}, nil
	case err != nil:
		return participant.Result{}, err
	}
	op := begun.op
	// Undoing that is only wanted is left to whoever asked for doing, or to recovery: two who ask at once would help nobody.
	if op.Side(d).State == ledger.Started {
		if op, err = s.advance(ctx, begun); err != nil {
			return participant.Result{}, err
		}
	}
	return op.Answer(d), nil
}

// GetPayment tells what is held and what was taken for an order: nothing, where there is no payment.
func (s *Service) GetPayment(ctx context.Context, req *connect.Request[paymentv1.GetPaymentRequest]) (*connect.Response[paymentv1.GetPaymentResponse], error) {
	p, err := s.store.paymentOf(ctx, order(req.Msg.OrderId))
	if err != nil {
		return nil, err
	}
	res := &paymentv1.GetPaymentResponse{}
	switch p.state {
	case authorized, voiding, capturing:
		if !p.lapsed {
			res.Authorized, res.AuthorizedUntil = p.money(), timestamppb.New(*p.authorizedUntil)
		}
	case captured, refunding:
		res.Captured = p.money()
	}
	return connect.NewResponse(res), nil
}

// CheckBooks compares each order's payment with its operations and with what was booked.
func (s *Service) CheckBooks(ctx context.Context, _ *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	found, err := s.store.checkBooks(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operationv1.CheckBooksResponse{Discrepancies: found}), nil
}

func amountOf(m *operationv1.Money) ledger.Amount {
	return ledger.Amount{Currency: m.GetCurrency(), MinorUnits: m.GetMinorUnits()}
}
