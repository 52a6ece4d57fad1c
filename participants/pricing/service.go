package pricing

import (
	"context"
	"embed"
	"log/slog"

	"connectrpc.com/connect"
	"github.com/bojanz/currency"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/gen/pricing/v1/pricingv1connect"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	// name is the app's.
	name = "pricing"
	// maxConns bounds the connections to the database. Fewer make calls wait for each other.
	maxConns = 10
)

// Kind is this participant's kind.
var Kind = process.Kind{
	Name: name, Listen: "127.0.0.1:8085",
	Open: func(ctx context.Context, databaseURL string, log *slog.Logger) (process.Service, error) {
		return open(ctx, databaseURL, log)
	},
}

// Service is the participant.
type Service struct{ store *store }

var (
	_ process.Service                        = (*Service)(nil)
	_ pricingv1connect.PricingServiceHandler = (*Service)(nil)
)

func open(ctx context.Context, databaseURL string, log *slog.Logger) (*Service, error) {
	pool, err := pg.OpenMigrated(ctx, databaseURL, maxConns, pg.EmbeddedMigrations(migrationFiles, ""), outbox.Migrations())
	if err != nil {
		return nil, err
	}
	return &Service{store: &store{pool: pool, outbox: outbox.New(name, pool, log)}}, nil
}

// Mount serves its methods on a server.
func (s *Service) Mount(server *rpcserver.Server) {
	server.Mount(pricingv1connect.NewPricingServiceHandler(s, server.Options()...))
}

// Ready tells whether the database answers.
func (s *Service) Ready(ctx context.Context) error { return s.store.pool.Ping(ctx) }

// Outbox is where changes of price are written.
func (s *Service) Outbox() *outbox.Outbox { return s.store.outbox }

// Inbox is none: pricing receives no events.
func (s *Service) Inbox() *inbox.Inbox { return nil }

// Run waits for the end: there are only calls.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close ends the connections to the database.
func (s *Service) Close() { s.store.pool.Close() }

// SetPrice sets what an article costs in one currency. It may be a new article.
func (s *Service) SetPrice(ctx context.Context, req *connect.Request[pricingv1.SetPriceRequest]) (*connect.Response[pricingv1.SetPriceResponse], error) {
	if code := req.Msg.UnitPrice.Currency; !currency.IsValid(code) {
		return nil, contract.BadInput(contract.BadField("unit_price.currency", "there is no currency %q", code))
	}
	p, changed, err := s.store.set(ctx, price{
		sku: req.Msg.Sku, currency: req.Msg.UnitPrice.Currency, minorUnits: req.Msg.UnitPrice.MinorUnits,
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pricingv1.SetPriceResponse{Price: p.message(), Changed: changed}), nil
}

// ListPrices lists the prices of one article, or all.
func (s *Service) ListPrices(ctx context.Context, req *connect.Request[pricingv1.ListPricesRequest]) (*connect.Response[pricingv1.ListPricesResponse], error) {
	found, err := s.store.list(ctx, req.Msg.Sku)
	if err != nil {
		return nil, err
	}
	res := &pricingv1.ListPricesResponse{}
	for _, p := range found {
		res.Prices = append(res.Prices, p.message())
	}
	return connect.NewResponse(res), nil
}

func (p price) message() *pricingv1.Price {
	return &pricingv1.Price{
		Sku: p.sku, UnitPrice: &operationv1.Money{Currency: p.currency, MinorUnits: p.minorUnits}, UpdatedAt: timestamppb.New(p.updatedAt),
	}
}
