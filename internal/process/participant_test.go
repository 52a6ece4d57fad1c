package process

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// service is the least that a participant can be.
type service struct {
	pool   *pgxpool.Pool
	outbox *outbox.Outbox
	inbox  *inbox.Inbox
	// atEnd is called when its own work is told to end.
	atEnd  func()
	closed int
}

func (s *service) Mount(server *rpcserver.Server) {
	server.Mount("/hello", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
}
func (s *service) Ready(ctx context.Context) error { return s.pool.Ping(ctx) }
func (s *service) Outbox() *outbox.Outbox          { return s.outbox }
func (s *service) Inbox() *inbox.Inbox             { return s.inbox }
func (s *service) Close()                          { s.closed++ }
func (s *service) Run(ctx context.Context) error {
	<-ctx.Done()
	if s.atEnd != nil {
		s.atEnd()
	}
	return nil
}

var discard = slog.New(slog.DiscardHandler)

// orders writes events and receives none, which its contracts do not say; notification receives those and writes none.
func orders(t *testing.T) *service {
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, outbox.Migrations()))
	return &service{pool: pool, outbox: outbox.New("orders", pool, discard)}
}

func notification(t *testing.T, handle func(m *ordersv1.OrderStatusChanged)) *service {
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, inbox.Migrations()))
	s := &service{pool: pool, inbox: inbox.New("notification", pool, discard)}
	if handle != nil {
		inbox.On(s.inbox, func(_ context.Context, _ pgx.Tx, m *ordersv1.OrderStatusChanged) (inbox.Result, error) {
			handle(m)
			return inbox.Applied, nil
		})
	}
	return s
}

func (s *service) kind(name string) Kind {
	return Kind{Name: name, Listen: "127.0.0.1:0", Open: func(context.Context, string, *slog.Logger) (Service, error) { return s, nil }}
}

func open(t *testing.T, k Kind) *Participant {
	t.Helper()
	p, err := Open(t.Context(), k, Settings{DatabaseURL: "not read", Listen: k.Listen}, discard)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// run runs the parts until stop, which waits for their end.
func runParts(t *testing.T, parts []Part) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- RunParts(ctx, discard, parts...) }()
	return func() {
		t.Helper()
		cancel()
		require.NoError(t, <-ended)
	}
}

func write(t *testing.T, o *outbox.Outbox, pool *pgxpool.Pool, order string) {
	t.Helper()
	require.NoError(t, pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return o.Write(t.Context(), tx, outbox.Order(order, event.Orchestrated), &ordersv1.OrderStatusChanged{CustomerId: "cus-1", Status: "placed"})
	}))
}

func TestParticipantsOfOneProcessExchangeEventsAndHandOverTheLastAtTheEnd(t *testing.T) {
	t.Parallel()
	received := make(chan string, 10)
	from := orders(t)
	to := notification(t, func(m *ordersv1.OrderStatusChanged) { received <- m.Header.OrderId })
	writer, reader, carrier := open(t, from.kind("orders")), open(t, to.kind("notification")), embedded.New()
	writer.UseEmbedded(carrier)
	reader.UseEmbedded(carrier)
	from.atEnd = func() { write(t, from.outbox, from.pool, "ord-2") } // After the server's end, and before the outbox's.
	stop := runParts(t, append(writer.Parts(), reader.Parts()...))

	write(t, from.outbox, from.pool, "ord-1")
	from.outbox.Committed()
	require.Equal(t, "ord-1", <-received)
	stop()
	require.Equal(t, "ord-2", <-received)
}

func TestAParticipantServesItsMethodsItsEventsAndItsMetrics(t *testing.T) {
	t.Parallel()
	from := orders(t)
	p := open(t, from.kind("orders"))
	stop := runParts(t, p.Parts())
	defer stop()
	require.Equal(t, "hello", get(t, p.URL()+"/hello"))
	require.Equal(t, "ok\n", get(t, p.URL()+"/readyz"))

	write(t, from.outbox, from.pool, "ord-1") // There is no bus, so it waits.
	require.Contains(t, get(t, p.URL()+"/metrics"), "outbox_backlog_events 1\n")
	client := eventv1connect.NewEventServiceClient(http.DefaultClient, p.URL())
	res, err := client.ListEvents(t.Context(), connect.NewRequest(&eventv1.ListEventsRequest{}))
	require.NoError(t, err)
	require.Equal(t, "orders:order:ord-1:1", res.Msg.Events[0].Header.EventId)
	received, err := client.CheckReceived(t.Context(), connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: []string{"orders:order:ord-1:1"}}))
	require.NoError(t, err)
	require.Empty(t, received.Msg.Receipts, "it has no inbox")
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(text)
}

func names(parts []Part) (names []string) {
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return names
}

func TestPartsEndInTheOrderThatLosesNothing(t *testing.T) {
	t.Parallel()
	both := orders(t)
	receiving := notification(t, func(*ordersv1.OrderStatusChanged) {})
	both.inbox = receiving.inbox
	streams := both.kind("notification")
	streams.Streams = true
	p := open(t, streams)
	require.Equal(t, []string{"notification: server", "notification: database", "notification: work", "notification: inbox"}, names(p.Parts()), "without a bus nothing is relayed")
	p.UseDapr(nil)
	require.Equal(t, []string{"notification: server", "notification: database", "notification: subscriptions", "notification: work", "notification: inbox", "notification: outbox"}, names(p.Parts()))
}

func TestOnlyWhoIsPushedEventsHasARouteForThem(t *testing.T) {
	t.Parallel()
	for streams, want := range map[bool]int{true: http.StatusNotFound, false: http.StatusOK} {
		k := notification(t, func(*ordersv1.OrderStatusChanged) {}).kind("notification")
		k.Streams = streams
		p := open(t, k)
		p.UseDapr(nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Parts()[0].Run(ctx) }() // The server alone.
		res, err := http.Post(p.URL()+"/events/orders.order.status_changed", "application/cloudevents+json", strings.NewReader("{}"))
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want, res.StatusCode)
		cancel()
		require.NoError(t, <-ended)
	}
}

func TestAParticipantAnswersForTheHostsThatItWasTold(t *testing.T) {
	t.Parallel()
	k := orders(t).kind("orders")
	p, err := Open(t.Context(), k, Settings{DatabaseURL: "not read", Listen: k.Listen, Hosts: "orders.example"}, discard)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	defer runParts(t, p.Parts()[:1])()
	for host, want := range map[string]int{"orders.example": http.StatusOK, "evil.example": http.StatusMisdirectedRequest} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL()+"/hello", nil)
		require.NoError(t, err)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want, res.StatusCode)
	}
	_, err = Open(t.Context(), k, Settings{DatabaseURL: "not read", Listen: k.Listen, Hosts: "http://orders"}, discard)
	require.ErrorContains(t, err, "open orders: ORDERS_HOSTS: must be hosts without a port")
}

func TestWhatCannotBeOpenedIsClosed(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	fails := errors.New("the database is from the future")
	for name, tc := range map[string]struct {
		service  *service
		open     error
		settings Settings
		says     string
		closed   int
	}{
		"no database":         {&service{}, nil, Settings{}, "open notification: NOTIFICATION_DATABASE_URL is missing", 0},
		"it does not open":    {&service{}, fails, Settings{DatabaseURL: "x"}, "open notification: the database is from the future", 0},
		"the address is used": {&service{}, nil, Settings{DatabaseURL: "x", Listen: taken.Addr().String()}, "address already in use", 1},
		"a handler is missing": {notification(t, nil), nil, Settings{DatabaseURL: "x", Listen: "127.0.0.1:0"},
			"must receive orders.order.status_changed", 1},
	} {
		k := tc.service.kind("notification")
		if tc.open != nil {
			k.Open = func(context.Context, string, *slog.Logger) (Service, error) { return nil, tc.open }
		}
		_, err := Open(t.Context(), k, tc.settings, discard)
		require.ErrorContains(t, err, tc.says, name)
		require.Equal(t, tc.closed, tc.service.closed, name)
	}
}

func TestAProgramWithoutASidecarServesUntilItIsStopped(t *testing.T) {
	from := orders(t)
	k := from.kind("orders")
	k.Listen = "127.0.0.1:0"
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	require.NoError(t, run(ctx, k, func(name string) string { return map[string]string{"ORDERS_DATABASE_URL": "not read"}[name] }))
	require.Equal(t, 1, from.closed)

	require.ErrorContains(t, run(ctx, k, func(name string) string { return map[string]string{"LOG_LEVEL": "loud"}[name] }), "LOG_LEVEL")
}

func TestWrongSettingsAreNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	k := Kind{Name: "warehouse", Listen: "127.0.0.1:8081"}
	err := k.Check(Settings{Listen: "8081", Hosts: "warehouse:8081"})
	require.ErrorContains(t, err, "WAREHOUSE_DATABASE_URL: is missing")
	require.ErrorContains(t, err, `WAREHOUSE_LISTEN: must be an address such as 127.0.0.1:8081, an IPv6 one in brackets, not "8081"`)
	require.ErrorContains(t, err, `WAREHOUSE_HOSTS: must be hosts without a port`)
	s := k.FromEnv(func(name string) string {
		return map[string]string{"WAREHOUSE_DATABASE_URL": "postgres:///x", "WAREHOUSE_HOSTS": "warehouse"}[name]
	})
	require.Equal(t, Settings{DatabaseURL: "postgres:///x", Listen: "127.0.0.1:8081", Hosts: "warehouse"}, s)
	require.NoError(t, k.Check(s))
}
