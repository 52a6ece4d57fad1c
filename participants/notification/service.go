package notification

import (
	"context"
	"embed"
	"errors"
	"log/slog"
	"slices"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/checkoutsaga/orchestrator/gen/notification/v1"
	"github.com/checkoutsaga/orchestrator/gen/notification/v1/notificationv1connect"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
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
	name = "notification"
	// maxConns bounds the connections to the database. Fewer make deliveries wait for each other.
	maxConns = 10
)

// NewKind makes the participant's kind. Opening it tells what is wrong with c.
func NewKind(c Config) process.Kind {
	return process.Kind{
		Name: name, Listen: "127.0.0.1:8084", Streams: true,
		Open: func(ctx context.Context, databaseURL string, log *slog.Logger) (process.Service, error) {
			sender, err := newSender(c, log)
			if err != nil {
				return nil, err
			}
			return open(ctx, databaseURL, sender, log)
		},
	}
}

func newSender(c Config, log *slog.Logger) (Sender, error) {
	switch {
	case c.SMTPAddress != "":
		return newSMTP(c)
	case c != Config{}:
		return nil, errors.New("NOTIFICATION_SMTP_ADDR: is missing, and the other settings of mail are there; without it nobody is mailed")
	}
	log.Warn("there is no mail server (NOTIFICATION_SMTP_ADDR), so notifications go to the log")
	return logSender{log: log}, nil
}

// Service is the participant.
type Service struct {
	store  *store
	inbox  *inbox.Inbox
	sender Sender
	pace   pace
	log    *slog.Logger
	// due has a value while there may be something to send and no sender has looked.
	due chan struct{}
}

var (
	_ process.Service                                  = (*Service)(nil)
	_ notificationv1connect.NotificationServiceHandler = (*Service)(nil)
)

func open(ctx context.Context, databaseURL string, sender Sender, log *slog.Logger) (*Service, error) {
	pool, err := pg.OpenMigrated(ctx, databaseURL, maxConns, pg.EmbeddedMigrations(migrationFiles, ""), inbox.Migrations())
	if err != nil {
		return nil, err
	}
	s := &Service{
		store: &store{pool: pool}, inbox: inbox.New(name, pool, log), sender: sender, pace: usual, log: log, due: make(chan struct{}, 1),
	}
	inbox.OnAll(s.inbox, s.onStatusChanged, &ordersv1.OrderStatusChanged{})
	return s, nil
}

// Mount serves its methods on a server.
func (s *Service) Mount(server *rpcserver.Server) {
	server.Mount(notificationv1connect.NewNotificationServiceHandler(s, server.Options()...))
}

// Ready tells whether the database answers. The mail server does not matter: what is to be sent waits.
func (s *Service) Ready(ctx context.Context) error { return s.store.pool.Ping(ctx) }

// Outbox is none: notification writes no events.
func (s *Service) Outbox() *outbox.Outbox { return nil }

// Inbox is where the events of orders are received.
func (s *Service) Inbox() *inbox.Inbox { return s.inbox }

// Close ends the connections to the database.
func (s *Service) Close() { s.store.pool.Close() }

// onStatusChanged stores what customers are to be told. Run sends it later: a slow mail server must not use up the events'
// deliveries.
func (s *Service) onStatusChanged(ctx context.Context, tx pgx.Tx, events []inbox.Event) ([]inbox.Result, error) {
	all := make([]told, len(events))
	for i, e := range events {
		m := e.Message.(*ordersv1.OrderStatusChanged)
		message, err := tells(m)
		if err != nil {
			return nil, err
		}
		all[i] = told{message, m.Header.Seq}
	}
	late, err := record(ctx, tx, all)
	if err != nil {
		return nil, err
	}
	results := make([]inbox.Result, len(events))
	for i := range results {
		results[i].Late = late[i]
	}
	if i := slices.Index(late, false); i >= 0 {
		results[i].Then = func(context.Context) { s.wake() }
	}
	return results, nil
}

// ListNotifications lists the notifications of an order, oldest first; none if no event told of it yet.
func (s *Service) ListNotifications(ctx context.Context, req *connect.Request[notificationv1.ListNotificationsRequest]) (*connect.Response[notificationv1.ListNotificationsResponse], error) {
	found, err := s.store.list(ctx, req.Msg.OrderId)
	if err != nil {
		return nil, err
	}
	res := &notificationv1.ListNotificationsResponse{}
	for _, n := range found {
		res.Notifications = append(res.Notifications, n.message())
	}
	return connect.NewResponse(res), nil
}

func (n notification) message() *notificationv1.Notification {
	m := &notificationv1.Notification{
		EventId: n.EventID, OrderId: n.OrderID, CustomerId: n.CustomerID, Subject: n.Subject,
		Attempts: int32(n.attempts), Error: n.error, CreatedAt: timestamppb.New(n.CreatedAt), State: string(n.state),
	}
	if n.sentAt != nil {
		m.SentAt = timestamppb.New(*n.sentAt)
	}
	return m
}
