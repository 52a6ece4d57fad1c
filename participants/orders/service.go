package orders

import (
	"context"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/gen/orders/v1/ordersv1connect"
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
	name = "orders"
	// maxConns bounds the connections to the database. Fewer make deliveries wait for each other.
	maxConns = 10
	// usualPage is the size of a page that does not say.
	usualPage = 100
)

// Kind is this participant's kind.
var Kind = process.Kind{
	Name: name, Listen: "127.0.0.1:8083",
	Open: func(ctx context.Context, databaseURL string, log *slog.Logger) (process.Service, error) {
		return open(ctx, databaseURL, log)
	},
}

// Service is the participant.
type Service struct {
	store  *store
	outbox *outbox.Outbox
	inbox  *inbox.Inbox
}

var (
	_ process.Service                      = (*Service)(nil)
	_ ordersv1connect.OrdersServiceHandler = (*Service)(nil)
)

func open(ctx context.Context, databaseURL string, log *slog.Logger) (*Service, error) {
	pool, err := pg.OpenMigrated(ctx, databaseURL, maxConns, pg.EmbeddedMigrations(migrationFiles, ""), outbox.Migrations(), inbox.Migrations())
	if err != nil {
		return nil, err
	}
	s := &Service{store: &store{pool: pool}, outbox: outbox.New(name, pool, log), inbox: inbox.New(name, pool, log)}
	s.subscribe()
	return s, nil
}

// Mount serves its methods on a server.
func (s *Service) Mount(server *rpcserver.Server) {
	server.Mount(ordersv1connect.NewOrdersServiceHandler(s, server.Options()...))
}

// Ready tells whether the database answers.
func (s *Service) Ready(ctx context.Context) error { return s.store.pool.Ping(ctx) }

// Outbox is where changes of status are written.
func (s *Service) Outbox() *outbox.Outbox { return s.outbox }

// Inbox is where the orchestrator's events are received.
func (s *Service) Inbox() *inbox.Inbox { return s.inbox }

// Run waits for the end: there are only events and calls.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close ends the connections to the database.
func (s *Service) Close() { s.store.pool.Close() }

// GetOrder tells of one order; not_found if no event told of it yet.
func (s *Service) GetOrder(ctx context.Context, req *connect.Request[ordersv1.GetOrderRequest]) (*connect.Response[ordersv1.GetOrderResponse], error) {
	o, err := s.store.get(ctx, req.Msg.OrderId)
	if errors.Is(err, errNoOrder) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("get order %s: %w", req.Msg.OrderId, err))
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&ordersv1.GetOrderResponse{Order: o.message()}), nil
}

// ListOrders lists a customer's orders, newest first.
func (s *Service) ListOrders(ctx context.Context, req *connect.Request[ordersv1.ListOrdersRequest]) (*connect.Response[ordersv1.ListOrdersResponse], error) {
	size := int(req.Msg.PageSize)
	if size == 0 {
		size = usualPage
	}
	after, err := parsePlace(req.Msg.PageToken)
	if err != nil {
		return nil, contract.BadInput(contract.BadField("page_token", "must be one that a page ended with"))
	}
	// One more than the page, to know whether there is a next.
	found, err := s.store.list(ctx, req.Msg.CustomerId, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &ordersv1.ListOrdersResponse{}
	if len(found) > size {
		found = found[:size]
		res.NextPageToken = place{placedAt: found[size-1].placedAt, orderID: found[size-1].id}.token()
	}
	for _, o := range found {
		res.Orders = append(res.Orders, o.message())
	}
	return connect.NewResponse(res), nil
}

func (o order) message() *ordersv1.Order {
	m := &ordersv1.Order{
		OrderId: o.id, CustomerId: o.customerID, Status: string(o.status), Reason: o.reason,
		Amount:   &operationv1.Money{Currency: o.currency, MinorUnits: o.minorUnits},
		PlacedAt: timestamppb.New(o.placedAt), UpdatedAt: timestamppb.New(o.updatedAt),
	}
	for _, l := range o.lines {
		m.Lines = append(m.Lines, &ordersv1.Line{Sku: l.sku, Quantity: l.quantity})
	}
	return m
}

// newest is the place before every order.
var newest = place{placedAt: time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)}

// token is a place as text; PostgreSQL's clock counts microseconds.
func (p place) token() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", p.placedAt.UnixMicro(), p.orderID))
}

func parsePlace(token string) (place, error) {
	if token == "" {
		return newest, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return place{}, err
	}
	at, orderID, _ := strings.Cut(string(text), " ")
	micro, err := strconv.ParseInt(at, 10, 64)
	if err != nil || micro < 0 || micro > newest.placedAt.UnixMicro() || len(contract.Check(&ordersv1.GetOrderRequest{OrderId: orderID})) > 0 {
		return place{}, errors.New("not a place")
	}
	return place{placedAt: time.UnixMicro(micro), orderID: orderID}, nil
}
