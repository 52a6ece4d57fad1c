package inbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// statusChanged is a handler of the only event that notification receives.
type statusChanged = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error)

func TestI2AnEventThatComesManyTimesAtOnceHasOneEffect(t *testing.T) {
	t.Parallel()
	var followed atomic.Int32
	n := setup(t, nil)
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Result{Then: func(context.Context) { followed.Add(1) }}, effect(ctx, tx, m)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if answer := n.deliver(t, changed(1)); answer != bus.Success {
				t.Errorf("answered %s", answer)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, n.effects(t))
	require.EqualValues(t, 1, followed.Load())
	receipts, err := n.in.Received(t.Context(), []string{"orders:order:ord-1:1", "orders:order:ord-1:2"})
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	require.Equal(t, "applied", receipts[0].Outcome)
	require.Empty(t, n.failures(t))
}

func TestI5AHandlersErrorUndoesTheEffectAndTheRecordAndIsWrittenDown(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	fail := errors.New("no such customer\x00 \xff" + strings.Repeat("x", 2000))
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		require.NoError(t, effect(ctx, tx, m))
		return Result{Then: func(context.Context) { t.Error("it follows what did not happen") }}, fail
	}
	for range 3 {
		require.Equal(t, bus.Retry, n.deliver(t, changed(1)))
	}
	require.Zero(t, n.effects(t))
	receipts, err := n.in.Received(t.Context(), []string{"orders:order:ord-1:1"})
	require.NoError(t, err)
	require.Empty(t, receipts)
	failures := n.failures(t)
	require.Len(t, failures, 1)
	f := failures[0]
	require.Equal(t, "orders:order:ord-1:1", f.MessageID)
	require.Equal(t, "orders.order.status_changed", f.Topic)
	require.EqualValues(t, 3, f.Attempts)
	require.False(t, f.Dropped)
	require.Contains(t, f.Error, "no such customer?")
	require.LessOrEqual(t, len(f.Error), maxError)
	require.True(t, f.LastAt.After(f.FirstAt))

	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Applied, effect(ctx, tx, m)
	}
	require.Equal(t, bus.Success, n.deliver(t, changed(1)), "the next attempt is a first one")
	require.Equal(t, 1, n.effects(t))
}

func TestWhatFollowsComesAfterTheCommit(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	followed := 0
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Result{Then: func(context.Context) {
			followed++
			require.Equal(t, 1, n.effects(t), "another connection sees the effect")
		}}, effect(ctx, tx, m)
	}
	for range 2 {
		require.Equal(t, bus.Success, n.deliver(t, changed(1)))
	}
	require.Equal(t, 1, followed)

	n.handle = func(context.Context, pgx.Tx, *ordersv1.OrderStatusChanged) (Result, error) {
		return Result{Then: func(context.Context) { panic("at the wrong moment") }}, nil
	}
	require.Equal(t, bus.Success, n.deliver(t, changed(2)), "the event was taken all the same")
}

func TestAnEventThatCanNeverSucceedIsDropped(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Applied, errors.Join(effect(ctx, tx, m), fmt.Errorf("%w: status: there is no %q", event.ErrBad, m.Status))
	}
	require.Equal(t, bus.Drop, n.deliver(t, changed(1)))
	require.Zero(t, n.effects(t))
	f := n.failures(t)[0]
	require.True(t, f.Dropped)
	require.Contains(t, f.Error, `bad event: status: there is no "placed"`)
}

func TestI9ABadDeliveryIsDroppedWithItsCause(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(context.Context, pgx.Tx, *ordersv1.OrderStatusChanged) (Result, error) {
		t.Error("it reached the handler")
		return Applied, nil
	}
	header := func(change func(*eventv1.Header)) []byte {
		m := changed(1)
		change(m.Header)
		return encode(t, m)
	}
	const topic = "orders.order.status_changed"
	for name, tc := range map[string]struct {
		delivery bus.Delivery
		says     string
	}{
		"not an envelope": {bus.Open(topic, []byte("{")), "no CloudEvent"},
		"without data":    {bus.Open(topic, []byte(`{"id": "e-0"}`)), "data is missing"},
		"null":            {bus.Open(topic, []byte(`{"id": "e-1", "data": null}`)), "JSON"},
		"another type":    {bus.Open(topic, []byte(`{"id": "e-2", "data": {"header": []}}`)), "JSON"},
		"no event id":     {bus.Delivery{Topic: topic, ID: "e-3", Data: header(func(h *eventv1.Header) { h.EventId = "" })}, "event_id"},
		"not the owner's": {bus.Delivery{Topic: topic, ID: "e-4", Data: header(func(h *eventv1.Header) { h.Producer = "payment" })}, "does not own"},
		"too large": {bus.Delivery{Topic: topic, ID: "e-5", Data: append(header(func(*eventv1.Header) {}),
			bytes.Repeat([]byte(" "), event.MaxSize)...)}, "bytes"},
		"an endless id": {bus.Delivery{Topic: topic, ID: strings.Repeat("e", 100_000), Data: []byte(`{}`)}, "header"},
		"a zero byte":   {bus.Delivery{Topic: topic, ID: "e\x00", Data: []byte(`{}`)}, "header"},
	} {
		require.Equal(t, bus.Drop, n.in.receive(t.Context(), tc.delivery), name)
		failures, err := n.in.Failures(t.Context(), []string{tc.delivery.MessageID()})
		require.NoError(t, err, name)
		require.Len(t, failures, 1, name)
		require.Contains(t, failures[0].Error, tc.says, name)
		require.True(t, failures[0].Dropped, name)
	}
}

func TestAHandlerThatPanicsHasFailed(t *testing.T) {
	t.Parallel()
	var l logs
	n := setup(t, l.logger())
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		require.NoError(t, effect(ctx, tx, m))
		panic("index out of range")
	}
	require.Equal(t, bus.Retry, n.deliver(t, changed(1)))
	require.Zero(t, n.effects(t))
	require.Equal(t, "the handler panicked: index out of range", n.failures(t)[0].Error)
	require.Contains(t, l.String(), "inbox_test.go", "the log has the stack")
	require.Zero(t, n.pool.Stat().AcquiredConns(), "the transaction has ended")
}

func TestAnEventThatComesLateIsRecordedAsLate(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(context.Context, pgx.Tx, *ordersv1.OrderStatusChanged) (Result, error) { return Late, nil }
	require.Equal(t, bus.Success, n.deliver(t, changed(1)))
	receipts, err := n.in.Received(t.Context(), []string{"orders:order:ord-1:1"})
	require.NoError(t, err)
	require.Equal(t, "late", receipts[0].Outcome)
}

func TestAParticipantTakesNoNoticeOfOrchestratedCheckouts(t *testing.T) {
	t.Parallel()
	pool := database(t)
	in := New("payment", pool, slog.New(slog.DiscardHandler))
	handled := 0
	On(in, func(context.Context, pgx.Tx, *warehousev1.InventoryReserved) (Result, error) {
		handled++
		return Applied, nil
	})
	subscriptions, err := in.Subscriptions()
	require.NoError(t, err)
	for seq, coordination := range []string{event.Orchestrated, event.Choreographed} {
		m := &warehousev1.InventoryReserved{Header: &eventv1.Header{
			EventId: coordination, Topic: "warehouse.inventory.reserved", Producer: "warehouse", OrderId: "ord-1", Seq: int64(seq) + 1,
			SchemaVersion: 1, Coordination: coordination, OccurredAt: timestamppb.Now(),
		}, Payment: &warehousev1.PaymentRequest{CustomerId: "cus-1", Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 1}, PaymentMethod: "tok_visa"}}
		require.Equal(t, bus.Success, subscriptions[0].Handle(t.Context(), bus.Delivery{Topic: m.Header.Topic, ID: coordination, Data: encode(t, m)}))
	}
	require.Equal(t, 1, handled)
	receipts, err := in.Received(t.Context(), []string{event.Orchestrated, event.Choreographed})
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	require.Equal(t, event.Choreographed, receipts[0].EventID)
}

func TestAnEventOlderThanWhatTheInboxRemembersIsRefused(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Applied, effect(ctx, tx, m)
	}
	old := changed(1)
	old.Header.OccurredAt = timestamppb.New(time.Now().Add(-Remember - time.Hour))
	require.Equal(t, bus.Drop, n.deliver(t, old))
	require.Zero(t, n.effects(t))
	require.Contains(t, n.failures(t)[0].Error, "may have been applied then")

	old.Header.OccurredAt = timestamppb.New(time.Now().Add(-Remember + time.Hour))
	require.Equal(t, bus.Success, n.deliver(t, old))
}

func TestAHandlerThatTakesTooLongIsCutOff(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		require.NoError(t, effect(ctx, tx, m))
		_, err := tx.Exec(ctx, `SELECT pg_sleep(60)`)
		return Applied, err
	}
	began := time.Now()
	require.Equal(t, bus.Retry, n.deliver(t, changed(1)))
	require.InDelta(t, bus.HandleTimeout.Seconds(), time.Since(began).Seconds(), 2)
	require.Zero(t, n.effects(t))
	require.Contains(t, n.failures(t)[0].Error, "timeout")
}

func TestI8ADatabaseThatIsAwayIsNoFaultOfTheEvent(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
		return Applied, err
	}
	require.Equal(t, bus.Away, n.deliver(t, changed(1)))
	require.Empty(t, n.failures(t), "it is no failure of this event's")
}

func TestAFailureThatCannotBeWrittenDownIsARetryAllTheSame(t *testing.T) {
	t.Parallel()
	var l logs
	n := setup(t, l.logger())
	n.handle = func(context.Context, pgx.Tx, *ordersv1.OrderStatusChanged) (Result, error) { return Applied, nil }
	n.pool.Close()
	require.Equal(t, bus.Retry, n.deliver(t, changed(1)))
	require.Contains(t, l.String(), "could not be written down")
}

func TestTheHandlersAreThoseThatTheContractsSay(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	_, err := New("notification", nil, log).Subscriptions()
	require.EqualError(t, err, "notification must receive orders.order.status_changed and has no handler for it")

	surplus := New("notification", nil, log)
	On(surplus, func(context.Context, pgx.Tx, *ordersv1.OrderStatusChanged) (Result, error) { return Applied, nil })
	On(surplus, func(context.Context, pgx.Tx, *warehousev1.InventoryReserved) (Result, error) { return Applied, nil })
	_, err = surplus.Subscriptions()
	require.EqualError(t, err, "notification has handlers for [warehouse.inventory.reserved], which its contracts do not say")
}

func TestPruningForgetsOnlyWhatWouldBeRefused(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(_ context.Context, _ pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		if m.Header.Seq > 2 {
			return Applied, errors.New("not now")
		}
		return Applied, nil
	}
	for seq := range int64(4) {
		n.deliver(t, changed(seq+1))
	}
	// What was received just as it occurred is refused after 60 days, and forgotten a day later.
	for _, age := range []string{
		`UPDATE inbox SET received_at = clock_timestamp() - CASE seq WHEN 1 THEN interval '61 days 1 hour' ELSE interval '60 days 23 hours' END`,
		`UPDATE delivery_failures SET last_at = clock_timestamp()
			- CASE message_id WHEN 'orders:order:ord-1:3' THEN interval '61 days 1 hour' ELSE interval '60 days 23 hours' END`,
	} {
		_, err := n.pool.Exec(t.Context(), age)
		require.NoError(t, err)
	}
	require.NoError(t, n.in.prune(t.Context()))
	receipts, err := n.in.Received(t.Context(), []string{"orders:order:ord-1:1", "orders:order:ord-1:2"})
	require.NoError(t, err)
	require.Len(t, receipts, 1)
	require.Equal(t, "orders:order:ord-1:2", receipts[0].EventID)
	failures := n.failures(t)
	require.Len(t, failures, 1)
	require.Equal(t, "orders:order:ord-1:4", failures[0].MessageID)
}

func TestFailuresAreCounted(t *testing.T) {
	t.Parallel()
	n := setup(t, nil)
	n.handle = func(_ context.Context, _ pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return Applied, map[int64]error{1: errors.New("not now"), 2: event.ErrBad}[m.Header.Seq]
	}
	for _, seq := range []int64{1, 1, 2, 3} {
		n.deliver(t, changed(seq))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.in.Collector())
	families, err := registry.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, m := range families[0].Metric {
		got[m.Label[0].GetValue()] = m.Counter.GetValue() // The labels are sorted: dropped, topic.
	}
	require.Equal(t, map[string]float64{"false": 2, "true": 1}, got)
}

// notification is an inbox with the one handler that the app must have.
type notification struct {
	in     *Inbox
	pool   *pgxpool.Pool
	handle statusChanged
	// subscribed is the handler as a bus has it.
	subscribed bus.Handler
}

func setup(t *testing.T, log *slog.Logger) *notification {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n := &notification{pool: database(t)}
	_, err := n.pool.Exec(t.Context(), `CREATE TABLE effects (order_id text, status text)`)
	require.NoError(t, err)
	n.in = New("notification", n.pool, log)
	On(n.in, func(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) (Result, error) {
		return n.handle(ctx, tx, m)
	})
	subscriptions, err := n.in.Subscriptions()
	require.NoError(t, err)
	require.Len(t, subscriptions, 1)
	n.subscribed = subscriptions[0].Handle
	return n
}

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, Migrations()))
	return pool
}

func (n *notification) deliver(t *testing.T, m *ordersv1.OrderStatusChanged) bus.Answer {
	t.Helper()
	return n.subscribed(t.Context(), bus.Delivery{Topic: m.Header.Topic, ID: m.Header.EventId, Data: encode(t, m)})
}

func (n *notification) effects(t *testing.T) (count int) {
	t.Helper()
	require.NoError(t, n.pool.QueryRow(t.Context(), `SELECT count(*) FROM effects`).Scan(&count))
	return count
}

// failures are those of the first four events.
func (n *notification) failures(t *testing.T) []Failure {
	t.Helper()
	var ids []string
	for seq := range 4 {
		ids = append(ids, fmt.Sprintf("orders:order:ord-1:%d", seq+1))
	}
	failures, err := n.in.Failures(t.Context(), ids)
	require.NoError(t, err)
	return failures
}

func effect(ctx context.Context, tx pgx.Tx, m *ordersv1.OrderStatusChanged) error {
	_, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, $2)`, m.Header.OrderId, m.Status)
	return err
}

func changed(seq int64) *ordersv1.OrderStatusChanged {
	return &ordersv1.OrderStatusChanged{
		Header: &eventv1.Header{
			EventId: fmt.Sprintf("orders:order:ord-1:%d", seq), Topic: "orders.order.status_changed", Producer: "orders", OrderId: "ord-1", Seq: seq,
			SchemaVersion: 1, Coordination: event.Orchestrated, OccurredAt: timestamppb.Now(),
		},
		CustomerId: "cus-1", Status: "placed",
	}
}

func encode(t testing.TB, m event.Message) []byte {
	t.Helper()
	data, err := protojson.Marshal(m)
	require.NoError(t, err)
	return data
}

// logs keeps what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
