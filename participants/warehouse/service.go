package warehouse

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Kind is the warehouse as its process runs it.
var Kind = process.Kind{
	Name: app, Listen: "127.0.0.1:8081",
	Open: func(ctx context.Context, databaseURL string, log *slog.Logger) (process.Service, error) {
		return Open(ctx, Config{DatabaseURL: databaseURL}, log)
	},
}

// app names the warehouse in events.
const app = "warehouse"

// Config is what a warehouse needs.
type Config struct {
	DatabaseURL string
	// MaxConns bounds the connections to the database; 0 means 10. Fewer make calls wait for each other.
	MaxConns int32
}

// Service is the warehouse: open it, mount it on a server, have its events carried, run all of it, close it.
type Service struct {
	*ledger.Records
	store *store
	inbox *inbox.Inbox
}

var (
	_ warehousev1connect.WarehouseServiceHandler = (*Service)(nil)
	_ process.Service                            = (*Service)(nil)
)

// Open reaches the database and brings it to the newest migration. The caller closes the service when no call and no event is
// in hand.
func Open(ctx context.Context, c Config, log *slog.Logger) (*Service, error) {
	if c.DatabaseURL == "" {
		return nil, errors.New("open warehouse: no database url")
	}
	if c.MaxConns == 0 {
		c.MaxConns = 10
	}
	pool, err := pg.OpenMigrated(ctx, c.DatabaseURL, c.MaxConns, ledger.Migrations(), pg.EmbeddedMigrations(migrationFiles, ""), outbox.Migrations(), inbox.Migrations())
	if err != nil {
		return nil, fmt.Errorf("open warehouse: %w", err)
	}
	s := &Service{
		Records: ledger.NewRecords(pool, checkout, openWhy),
		store:   newStore(pool, outbox.New(app, pool, log)),
		inbox:   inbox.New(app, pool, log),
	}
	s.subscribe()
	return s, nil
}

// Mount serves the warehouse's own methods and those of the contract of participants on a server.
func (s *Service) Mount(server *rpcserver.Server) {
	server.Mount(participant.Handler(s, server.Options()...))
	server.Mount(warehousev1connect.NewWarehouseServiceHandler(s, server.Options()...))
}

// Ready tells whether the database answers.
func (s *Service) Ready(ctx context.Context) error { return s.store.pool.Ping(ctx) }

// Outbox is where the warehouse writes its events.
func (s *Service) Outbox() *outbox.Outbox { return s.store.outbox }

// Inbox is where it receives those that it reacts to.
func (s *Service) Inbox() *inbox.Inbox { return s.inbox }

// Run waits for the end: the warehouse does nothing by itself.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close ends the connections to the database.
func (s *Service) Close() { s.store.pool.Close() }

// Reserve reserves all lines or none.
func (s *Service) Reserve(ctx context.Context, req *connect.Request[warehousev1.ReserveRequest]) (*connect.Response[warehousev1.ReserveResponse], error) {
	op, err := s.reserve(ctx, order(req.Msg.OrderId), req.Msg.Lines, "")
	if err != nil {
		return nil, connectError(err)
	}
	return connect.NewResponse(&warehousev1.ReserveResponse{Result: ledger.Message(op.Answer(ledger.Doing))}), nil
}

func (s *Service) reserve(ctx context.Context, o owner, asked []*warehousev1.Line, digest string) (ledger.Operation, error) {
	var lines []line
	for _, l := range asked {
		lines = append(lines, line{sku: l.GetSku(), quantity: l.GetQuantity()})
	}
	return s.store.do(ctx, s.store.reserving(ctx, wanted{owner: o, lines: inOrder(lines), digest: digest, coordination: event.Orchestrated}))
}

// Release makes the reservation be gone, also one that is still to arrive.
func (s *Service) Release(ctx context.Context, req *connect.Request[warehousev1.ReleaseRequest]) (*connect.Response[warehousev1.ReleaseResponse], error) {
	op, err := s.store.do(ctx, s.store.releasing(ctx, order(req.Msg.OrderId), ""))
	if err != nil {
		return nil, connectError(err)
	}
	return connect.NewResponse(&warehousev1.ReleaseResponse{Result: ledger.Message(op.Answer(ledger.Undoing))}), nil
}

// Commit turns the reservation into a shipment.
func (s *Service) Commit(ctx context.Context, req *connect.Request[warehousev1.CommitRequest]) (*connect.Response[warehousev1.CommitResponse], error) {
	op, err := s.store.do(ctx, s.store.committing(ctx, order(req.Msg.OrderId), ""))
	if err != nil {
		return nil, connectError(err)
	}
	return connect.NewResponse(&warehousev1.CommitResponse{Result: ledger.Message(op.Answer(ledger.Doing))}), nil
}

// SetStock counts an article anew, or takes it into the catalogue.
func (s *Service) SetStock(ctx context.Context, req *connect.Request[warehousev1.SetStockRequest]) (*connect.Response[warehousev1.SetStockResponse], error) {
	a, err := s.store.setStock(ctx, req.Msg.Sku, req.Msg.OnHand)
	if err != nil {
		return nil, connectError(err)
	}
	return connect.NewResponse(&warehousev1.SetStockResponse{Sku: a.sku, OnHand: a.onHand, Reserved: a.reserved, Committed: a.committed}), nil
}

// GetStock tells the stock of an article.
func (s *Service) GetStock(ctx context.Context, req *connect.Request[warehousev1.GetStockRequest]) (*connect.Response[warehousev1.GetStockResponse], error) {
	a, err := s.store.stockOf(ctx, req.Msg.Sku)
	if err != nil {
		return nil, connectError(err)
	}
	return connect.NewResponse(&warehousev1.GetStockResponse{Sku: a.sku, OnHand: a.onHand, Reserved: a.reserved, Committed: a.committed}), nil
}

// ListStock lists the whole catalogue with its stock.
func (s *Service) ListStock(ctx context.Context, _ *connect.Request[warehousev1.ListStockRequest]) (*connect.Response[warehousev1.ListStockResponse], error) {
	all, err := s.store.allStock(ctx)
	if err != nil {
		return nil, err
	}
	res := &warehousev1.ListStockResponse{}
	for _, a := range all {
		res.Stock = append(res.Stock, &warehousev1.Stock{Sku: a.sku, OnHand: a.onHand, Reserved: a.reserved, Committed: a.committed})
	}
	return connect.NewResponse(res), nil
}

// GetReservation tells what an order holds, or held; nothing, in state unspecified, where no reservation was made.
func (s *Service) GetReservation(ctx context.Context, req *connect.Request[warehousev1.GetReservationRequest]) (*connect.Response[warehousev1.GetReservationResponse], error) {
	found, err := s.store.reservations(ctx, []string{req.Msg.OrderId})
	if err != nil {
		return nil, err
	}
	res := &warehousev1.GetReservationResponse{}
	if len(found) == 1 {
		res.State, res.Lines = found[0].State, found[0].Lines
	}
	return connect.NewResponse(res), nil
}

// ListReservations tells what each of the orders holds, or held, by order id.
func (s *Service) ListReservations(ctx context.Context, req *connect.Request[warehousev1.ListReservationsRequest]) (*connect.Response[warehousev1.ListReservationsResponse], error) {
	found, err := s.store.reservations(ctx, req.Msg.OrderIds)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&warehousev1.ListReservationsResponse{Reservations: found}), nil
}

// CheckBooks compares each article's counts with the lines of its reservations.
func (s *Service) CheckBooks(ctx context.Context, _ *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	found, err := s.store.checkBooks(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operationv1.CheckBooksResponse{Discrepancies: found}), nil
}

// connectError gives the warehouse's errors their Connect codes; what has none is ours to mend, and the server answers internal.
func connectError(err error) error {
	switch {
	case errors.Is(err, errNoArticle):
		return connect.NewError(connect.CodeNotFound, err)
	case errors.Is(err, errBelowReserved):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	default:
		return ledger.Error(err)
	}
}
