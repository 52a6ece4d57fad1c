package deadletter

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

const (
	created   = "checkout.order.created"
	cancelled = "checkout.order.cancelled"
)

// world is a producer and two consumers, each with a database of its own, on one bus, and the dead letters.
type world struct {
	service           *Service
	pool              *pgxpool.Pool
	bus               *embedded.Bus
	outbox            *outbox.Outbox
	orders, warehouse *consumer
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{pool: pgtest.Pool(t), bus: embedded.New()}
	require.NoError(t, pg.Migrate(t.Context(), w.pool, outbox.Migrations(), Migrations()))
	log := slog.New(slog.DiscardHandler)
	w.outbox = outbox.New("orchestrator", w.pool, log)
	w.orders, w.warehouse = newConsumer(t, "orders"), newConsumer(t, "warehouse")
	inbox.On(w.orders.in, effect[*checkoutv1.OrderCreated](w.orders))
	inbox.On(w.orders.in, effect[*checkoutv1.OrderConfirmed](w.orders))
	inbox.On(w.orders.in, effect[*checkoutv1.OrderCancelled](w.orders))
	inbox.On(w.warehouse.in, effect[*checkoutv1.OrderCreated](w.warehouse))
	inbox.On(w.warehouse.in, effect[*paymentv1.PaymentCompleted](w.warehouse))
	inbox.On(w.warehouse.in, effect[*paymentv1.PaymentFailed](w.warehouse))
	for _, c := range []*consumer{w.orders, w.warehouse} {
		subscriptions, err := c.in.Subscriptions()
		require.NoError(t, err)
		w.bus.Subscribe(subscriptions...)
	}
	w.service = New(Config{
		Pool: w.pool, Publisher: w.bus, Log: log,
		Consumers: map[string]eventv1connect.EventServiceClient{"orders": w.orders, "warehouse": w.warehouse},
	})
	w.bus.Subscribe(w.service.Subscriptions()...)
	return w
}

// write writes an event about an order and has the relay publish it.
func (w *world) write(t *testing.T, orderID string, messages ...event.Message) {
	t.Helper()
	require.NoError(t, pg.InTx(t.Context(), w.pool, func(tx pgx.Tx) error {
		for _, m := range messages {
			if err := w.outbox.Write(t.Context(), tx, outbox.Order(orderID, event.Choreographed), m); err != nil {
				return err
			}
		}
		return nil
	}))
	ctx, stop := context.WithCancel(t.Context())
	relayed := make(chan error, 1)
	go func() { relayed <- w.outbox.Relay(ctx, w.bus) }()
	require.Eventually(t, func() bool {
		backlog, err := w.outbox.Backlog(t.Context())
		return err == nil && backlog.Events == 0
	}, 20*time.Second, 10*time.Millisecond)
	stop()
	require.NoError(t, <-relayed)
}

func (w *world) list(t *testing.T, s *deadletterv1.Selection) []*deadletterv1.DeadLetter {
	t.Helper()
	answer, err := w.service.List(t.Context(), connect.NewRequest(&deadletterv1.ListRequest{Selection: s}))
	require.NoError(t, err)
	return answer.Msg.DeadLetters
}

// only is the one letter that there is, of any state.
func (w *world) only(t *testing.T) *deadletterv1.DeadLetter {
	t.Helper()
	letters := w.list(t, &deadletterv1.Selection{State: all})
	require.Len(t, letters, 1)
	return letters[0]
}

func (w *world) replay(t *testing.T, s *deadletterv1.Selection) *deadletterv1.ReplayResponse {
	t.Helper()
	answer, err := w.service.Replay(t.Context(), connect.NewRequest(&deadletterv1.ReplayRequest{Selection: s, Reason: "mended", Actor: "ann"}))
	require.NoError(t, err)
	return answer.Msg
}

func ids(ids ...string) *deadletterv1.Selection { return &deadletterv1.Selection{Ids: ids} }

var errDown = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))

// consumer is an app that receives events, and the client by which it is asked about them.
type consumer struct {
	eventrpc.Service
	in *inbox.Inbox

	mu sync.Mutex
	// failing is what its handlers answer; once says that they do so only once.
	failing error
	once    bool
	// applied are the ids of the events that took effect.
	applied []string
	// down says that it cannot be asked; asked counts how often it was.
	down  bool
	asked int
}

// anOrder is what events tell of an order.
var anOrder = &checkoutv1.Order{
	CustomerId: "cus-1", Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 1}},
	Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 4730}, PaymentMethod: "tok_visa",
}

func newConsumer(t *testing.T, app string) *consumer {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, inbox.Migrations()))
	in := inbox.New(app, pool, slog.New(slog.DiscardHandler))
	return &consumer{Service: eventrpc.Service{Inbox: in}, in: in}
}

func effect[M event.Message](c *consumer) func(context.Context, pgx.Tx, M) (inbox.Result, error) {
	return func(_ context.Context, _ pgx.Tx, m M) (inbox.Result, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		failing := c.failing
		if c.once {
			c.failing = nil
		}
		if failing == nil {
			c.applied = append(c.applied, m.GetHeader().EventId)
		}
		return inbox.Applied, failing
	}
}

func (c *consumer) set(failing error, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing, c.down = failing, down
}

func (c *consumer) has() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

func (c *consumer) ListFailures(ctx context.Context, req *connect.Request[eventv1.ListFailuresRequest]) (*connect.Response[eventv1.ListFailuresResponse], error) {
	c.mu.Lock()
	c.asked++
	down := c.down
	c.mu.Unlock()
	if down {
		return nil, errDown
	}
	return c.Service.ListFailures(ctx, req)
}

// cloudEvent is an event as it lies on a topic; edits break it.
func cloudEvent(t *testing.T, topic, data string) []byte {
	t.Helper()
	message, err := bus.Event{ID: "evt-1", Topic: topic, Source: "orchestrator", Key: "ord-1", Time: time.Now(), Data: []byte(data)}.CloudEvent()
	require.NoError(t, err)
	return message
}
