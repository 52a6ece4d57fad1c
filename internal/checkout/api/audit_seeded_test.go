package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	checkoutorders "github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/eventrpc"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/participants/notification"
	"github.com/checkoutsaga/orchestrator/participants/orders"
	"github.com/checkoutsaga/orchestrator/participants/payment"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// shop is the API with real participants, each with its database, on a real bus. Only the engine is not real, and a test does what
// activities would.
type shop struct {
	*fixture
	goods warehousev1connect.WarehouseServiceClient
	money paymentv1connect.PaymentServiceClient
	pools map[string]*pgxpool.Pool
	urls  map[string]string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	f := &fixture{pool: pgtest.Pool(t), engine: &fakeEngine{}}
	require.NoError(t, pg.Migrate(t.Context(), f.pool, checkouttest.Migrations()...))
	own := outbox.New("orchestrator", f.pool, log)
	f.store = store.New(f.pool, commit.New(f.pool), map[string]store.Guest{checkout.Definition: checkoutorders.New(f.pool, own)})
	s := &shop{fixture: f, pools: map[string]*pgxpool.Pool{"orchestrator": f.pool}, urls: make(map[string]string)}

	carrier := embedded.New()
	events := map[string]eventv1connect.EventServiceClient{"orchestrator": eventrpc.Service{Outbox: own}}
	parts := []process.Part{{Name: "outbox", Run: func(ctx context.Context) error { return own.Relay(ctx, carrier) }}}
	var opened []*process.Participant
	for _, kind := range []process.Kind{warehouse.Kind, payment.Kind, orders.Kind, notification.NewKind(notification.FromEnv(func(string) string { return "" }))} {
		url := pgtest.URL(t)
		p, err := process.Open(t.Context(), kind, process.Settings{DatabaseURL: url, Listen: "127.0.0.1:0"}, log)
		require.NoError(t, err)
		p.UseEmbedded(carrier)
		parts, opened, s.urls[kind.Name] = append(parts, p.Parts()...), append(opened, p), p.URL()
		events[kind.Name] = eventv1connect.NewEventServiceClient(http.DefaultClient, p.URL())
		s.pools[kind.Name], err = pg.Open(t.Context(), url, 2)
		require.NoError(t, err)
		t.Cleanup(s.pools[kind.Name].Close)
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- process.RunParts(running, log, parts...) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
		for _, p := range opened {
			p.Close()
		}
	})
	s.goods = warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.urls["warehouse"])
	s.money = paymentv1connect.NewPaymentServiceClient(http.DefaultClient, s.urls["payment"])
	s.serve(t, s.goods, s.money, events)
	return s
}

// serve has the API ask these participants.
func (f *fixture) serve(t *testing.T, goods warehousev1connect.WarehouseServiceClient, money paymentv1connect.PaymentServiceClient, events map[string]eventv1connect.EventServiceClient) {
	t.Helper()
	service := api.New(api.Config{
		Store: f.store, Orders: checkouttest.Orders(f.pool), Pool: f.pool, Engine: f.engine, Plan: checkouttest.PlanWithApproval(), Warehouse: goods, Payment: money,
		Desk: checkouttest.Desk(f.store, f.engine, goods, money), Events: events, HasBus: true,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(service))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	f.api = checkoutv1connect.NewCheckoutServiceClient(server.Client(), server.URL)
}

// call does a step at the participant, as the activity does.
func (s *shop) call(t *testing.T, o checkout.Order, step string, undo bool) {
	t.Helper()
	amount := &operationv1.Money{Currency: o.Amount.Currency, MinorUnits: o.Amount.MinorUnits}
	var err error
	switch {
	case step == checkout.ReserveStock && undo:
		_, err = s.goods.Release(t.Context(), connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: o.ID}))
	case step == checkout.ReserveStock:
		var lines []*warehousev1.Line
		for _, item := range o.Items {
			lines = append(lines, &warehousev1.Line{Sku: item.SKU, Quantity: item.Quantity})
		}
		_, err = s.goods.Reserve(t.Context(), connect.NewRequest(&warehousev1.ReserveRequest{OrderId: o.ID, Lines: lines}))
	case step == checkout.AuthorizePayment && undo:
		_, err = s.money.Void(t.Context(), connect.NewRequest(&paymentv1.VoidRequest{OrderId: o.ID}))
	case step == checkout.AuthorizePayment:
		_, err = s.money.Authorize(t.Context(), connect.NewRequest(&paymentv1.AuthorizeRequest{
			OrderId: o.ID, CustomerId: o.CustomerID, Amount: amount, PaymentMethod: o.PaymentMethod,
		}))
	case step == checkout.CapturePayment && undo:
		_, err = s.money.Refund(t.Context(), connect.NewRequest(&paymentv1.RefundRequest{OrderId: o.ID}))
	case step == checkout.CapturePayment:
		_, err = s.money.Capture(t.Context(), connect.NewRequest(&paymentv1.CaptureRequest{OrderId: o.ID, Amount: amount}))
	case step == checkout.CommitStock:
		_, err = s.goods.Commit(t.Context(), connect.NewRequest(&warehousev1.CommitRequest{OrderId: o.ID}))
	}
	require.NoError(t, err)
}

// step does a step of the first run at its participant and records that it is applied. Edits make the participant be asked for
// something else; an edit that returns false has it not be asked at all.
func (s *shop) step(t *testing.T, orderID, step string, undo bool, edits ...func(*checkout.Order) bool) {
	t.Helper()
	attempt := journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: orderID, Run: 1, Step: step, Undo: undo, Round: 1}}
	pass, err := s.store.Fence(t.Context(), attempt)
	require.NoError(t, err)
	require.Equal(t, journal.Go, pass.Leave, pass.Reason)
	o, err := checkout.OrderOf(orderID, pass.Input)
	require.NoError(t, err)
	ask := true
	for _, edit := range edits {
		ask = ask && edit(&o)
	}
	if ask {
		s.call(t, o, step, undo)
	}
	_, err = s.store.Record(t.Context(), attempt, journal.Learned{Outcome: saga.Applied}, nil)
	require.NoError(t, err)
}

// walk does all steps up to one, in which edits apply to the named step.
func (s *shop) walk(t *testing.T, orderID, upTo string, edits map[string]func(*checkout.Order) bool) {
	t.Helper()
	c := s.start(t, order(withID(orderID))).Checkout
	for _, step := range c.Steps {
		if edit := edits[step.Name]; edit != nil {
			s.step(t, orderID, step.Name, false, edit)
		} else {
			s.step(t, orderID, step.Name, false)
		}
		if step.Name == upTo {
			return
		}
	}
}

func (s *shop) confirmed(t *testing.T, orderID string) { s.walk(t, orderID, "", nil) }

// cancelled is a checkout that is cancelled once its money is authorized; the undoings named are not asked for.
func (s *shop) cancelled(t *testing.T, orderID string, without ...string) {
	t.Helper()
	s.walk(t, orderID, checkout.AuthorizePayment, nil)
	_, err := s.cancel(t, &checkoutv1.CancelRequest{OrderId: orderID, Reason: "r"})
	require.NoError(t, err)
	pass, err := s.store.Fence(t.Context(), journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: orderID, Run: 1, Step: checkout.CapturePayment, Round: 1}})
	require.NoError(t, err)
	require.Equal(t, journal.TurnBack, pass.Leave, pass.Reason)
	for _, step := range []string{checkout.AuthorizePayment, checkout.ReserveStock} {
		s.step(t, orderID, step, true, func(*checkout.Order) bool { return !slices.Contains(without, step) })
	}
}

func (s *shop) sql(t *testing.T, database, sql string) {
	t.Helper()
	_, err := s.pools[database].Exec(t.Context(), sql)
	require.NoError(t, err)
}

func nothing(*checkout.Order) bool { return false }

func TestI1I3I4I5AuditFindsEverySeededWrongStateOnRealParticipants(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.confirmed(t, "right")
	s.cancelled(t, "right-too")
	s.walk(t, "open", checkout.CapturePayment, nil)
	clean := s.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, clean.violations)
	require.EqualValues(t, 3, clean.checked)

	want := make(map[string][]string)
	seed := func(orderID string, violations ...string) { want[orderID] = violations }

	s.cancelled(t, "held", checkout.ReserveStock)
	seed("held", "I1: CANCELLED, but the warehouse still holds its stock (reserve-stock applied)")

	s.cancelled(t, "held-in-secret")
	s.sql(t, "warehouse", `UPDATE reservations SET state = 'reserved' WHERE order_id = 'held-in-secret'`)
	seed("held-in-secret", "I1: CANCELLED, but its reservation of [CHAIR-OAK×2 LAMP-BRASS×1] is reserved (reserve-stock applied, undo applied)")

	s.cancelled(t, "authorized", checkout.AuthorizePayment)
	seed("authorized", "I1: CANCELLED, but payment still holds its authorization (authorize-payment applied)")

	s.cancelled(t, "captured", checkout.AuthorizePayment)
	s.call(t, checkout.Order{ID: "captured", Amount: checkout.Money{Currency: "EUR", MinorUnits: 12997}}, checkout.CapturePayment, false)
	seed("captured", "I1: CANCELLED, but payment has captured 129.97 EUR and not given it back (capture-payment applied)")

	s.walk(t, "not-captured", "", map[string]func(*checkout.Order) bool{checkout.CapturePayment: nothing})
	seed("not-captured", "I1: CONFIRMED, but payment has captured nothing of 129.97 EUR (capture-payment not on record)")

	s.walk(t, "not-shipped", "", map[string]func(*checkout.Order) bool{checkout.CommitStock: nothing})
	seed("not-shipped", "I1: CONFIRMED, but the warehouse has not committed its stock (reserve-stock applied, commit-stock not on record)")

	s.walk(t, "other-goods", "", map[string]func(*checkout.Order) bool{checkout.ReserveStock: func(o *checkout.Order) bool {
		o.Items = []checkout.Item{{SKU: "CHAIR-OAK", Quantity: 3}}
		return true
	}})
	seed("other-goods", "I1: CONFIRMED, but the warehouse has committed [CHAIR-OAK×3] and the order is for [CHAIR-OAK×2 LAMP-BRASS×1]")

	more := func(o *checkout.Order) bool { o.Amount.MinorUnits++; return true }
	dearer := map[string]func(*checkout.Order) bool{checkout.AuthorizePayment: more, checkout.CapturePayment: more}
	s.walk(t, "dearer", "", dearer)
	seed("dearer", "I1: CONFIRMED, but payment has captured 129.98 EUR of 129.97 EUR",
		"I5: payments.payment.completed (payment:order:dearer:2) says 129.98 EUR, and the order is for 129.97 EUR")

	s.walk(t, "dearer-and-open", checkout.CapturePayment, dearer)
	seed("dearer-and-open", "I1: RUNNING, but payment has captured 129.98 EUR and the order is for 129.97 EUR")

	s.walk(t, "captured-too-early", checkout.AuthorizePayment, nil)
	s.call(t, checkout.Order{ID: "captured-too-early", Amount: checkout.Money{Currency: "EUR", MinorUnits: 12997}}, checkout.CapturePayment, false)
	seed("captured-too-early", "I1: RUNNING, but payment has captured 129.97 EUR while it is in phase forward")

	s.call(t, checkout.Order{ID: "stranger", Items: []checkout.Item{{SKU: "LAMP-BRASS", Quantity: 1}}}, checkout.ReserveStock, false)
	seed("stranger", "I1: warehouse has a record of reserve-stock (applied) for an order that was never accepted here")

	s.confirmed(t, "untold")
	s.settleEvents(t)
	s.sql(t, "warehouse", `DELETE FROM outbox WHERE key = 'untold' AND topic = 'warehouse.inventory.committed'`)
	seed("untold", "I5: commit-stock is applied, and warehouse has written no warehouse.inventory.committed among its 1 events of it: "+
		"nothing can send it again; was its outbox restored from a backup?")

	s.confirmed(t, "unheard")
	s.settleEvents(t)
	s.sql(t, "orders", `DELETE FROM inbox WHERE event_id = 'orchestrator:order:unheard:2'`)
	s.sql(t, "orchestrator", `UPDATE outbox SET published_at = published_at - interval '1 minute' WHERE key = 'unheard'`)
	seed("unheard", "I5: orders has 1 of the 2 events of it that orchestrator wrote for it, and lacks checkout.order.confirmed")

	s.walk(t, "lost", checkout.ReserveStock, nil)
	s.engineSays(func(id string) (engine.Instance, error) {
		if id == "checkout.lost-1" {
			return engine.Instance{}, engine.ErrGone
		}
		return engine.Instance{State: engine.Running}, nil
	})
	seed("lost", "I3: is RUNNING, but engine embedded does not know its run 1 (checkout.lost-1); the sweeper looks at it at 20")

	s.start(t, order(withID("hangs")))
	s.sql(t, "orchestrator", `UPDATE checkouts SET updated_at = now() - interval '11 minutes' WHERE order_id = 'hangs'`)
	seed("hangs", "I3: is RUNNING in phase forward, and nothing has been written since 20")

	s.confirmed(t, "shipped-twice")
	s.sql(t, "warehouse", `UPDATE stock SET on_hand = on_hand - 2, committed = committed + 2 WHERE sku = 'CHAIR-OAK'`)

	found := s.auditAll(t, &checkoutv1.AuditRequest{})
	got := make(map[string][]string)
	for _, v := range found.violations {
		orderID, what, _ := strings.Cut(v, " ")
		if strings.HasPrefix(v, "I4: ") {
			orderID, what = "books", v
		}
		got[orderID] = append(got[orderID], what)
	}
	require.Regexp(t, `I4: warehouse states (\d+) as committed of CHAIR-OAK, and its own records come to \d+`, strings.Join(got["books"], "\n"))
	delete(got, "books") // What was seeded in the orders shows there too.
	for orderID, violations := range want {
		require.Len(t, got[orderID], len(violations), "%s: %v", orderID, got[orderID])
		for i, violation := range violations {
			require.True(t, strings.HasPrefix(got[orderID][i], violation), "%s: %s\nand not: %s", orderID, got[orderID][i], violation)
		}
		delete(got, orderID)
	}
	require.Empty(t, got, "and nothing else")

	ended := s.auditAll(t, &checkoutv1.AuditRequest{Since: timestamppb.New(time.Now().Add(time.Hour))})
	require.EqualValues(t, 5, ended.checked, "what is open is looked at, whenever it began")

	// Each is found by the audit of its order, too; whoever is no checkout cannot be asked for.
	delete(want, "stranger")
	for orderID, violations := range want {
		t.Run(orderID, func(t *testing.T) {
			t.Parallel()
			one := s.auditAll(t, &checkoutv1.AuditRequest{OrderId: orderID})
			require.EqualValues(t, 1, one.checked)
			for i, violation := range violations {
				require.True(t, strings.HasPrefix(one.violations[i], orderID+" "+violation), one.violations)
			}
		})
	}
}

// settleEvents waits until everything told is received.
func (s *shop) settleEvents(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		for name, pool := range s.pools {
			if name == "notification" {
				continue // It tells nobody.
			}
			var waiting int
			if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox WHERE published_at IS NULL`).Scan(&waiting); err != nil || waiting > 0 {
				return false
			}
		}
		return true
	}, soon, 20*time.Millisecond)
}

func TestI1ARefundedCheckoutIsInOrder(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.refunded(t, "refunded")
	h := s.auditAll(t, &checkoutv1.AuditRequest{OrderId: "refunded"})
	require.Empty(t, h.violations, "its authorization was used up by the capture, so there is nothing to void")
	require.EqualValues(t, 1, h.checked)

	s.sql(t, "payment", `UPDATE operations SET undo_state = 'started', undo_key = 'k', ask_at = now() + interval '1 hour'
		WHERE key = 'refunded' AND step = 'capture-payment'`)
	h = s.auditAll(t, &checkoutv1.AuditRequest{OrderId: "refunded"})
	require.Contains(t, h.violations[0], "refunded I1: CANCELLED, but payment has captured 129.97 EUR and not given it back (capture-payment applied, undo unknown)")
}

// refunded is a checkout that ended cancelled after the pivot: its stock released, then its money given back.
func (s *shop) refunded(t *testing.T, orderID string) {
	t.Helper()
	s.walk(t, orderID, checkout.CapturePayment, nil)
	o := checkout.Order{ID: orderID}
	s.call(t, o, checkout.ReserveStock, true)
	s.call(t, o, checkout.CapturePayment, true)
	s.end(t, orderID, journal.Cancelled)
}

// end ends a checkout as no activity would.
func (s *shop) end(t *testing.T, orderID string, status journal.Status) {
	t.Helper()
	topic := "checkout.order.cancelled"
	if status == journal.Confirmed {
		topic = "checkout.order.confirmed"
	}
	_, err := s.pool.Exec(t.Context(), `
		UPDATE checkouts SET phase = 'final', status = $2, verdict = CASE WHEN $2 <> 'CONFIRMED' THEN $2 END, attention = NULL,
		       ended_at = now(), check_at = NULL, at_step = '' WHERE order_id = $1`, orderID, status)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `
		WITH counted AS (UPDATE outbox_counters SET seq = 2 WHERE key = $1)
		INSERT INTO outbox (event_id, topic, about, key, seq, schema_version, coordination, payload)
		SELECT 'orchestrator:order:' || key || ':2', $2, about, key, 2, schema_version, coordination,
		       json_build_object('order', payload -> 'order', 'status', $3::text)
		FROM outbox WHERE key = $1`, orderID, topic, status)
	require.NoError(t, err)
}

func TestI1ACheckoutThatOneParticipantHasForgottenIsNoViolation(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.confirmed(t, "old")
	s.confirmed(t, "lost") // As when a backup was restored.
	s.settleEvents(t)
	s.sql(t, "orchestrator", `UPDATE checkouts SET started_at = now() - interval '60 days', ended_at = now() - interval '59 days'`)
	forgotten, err := s.goods.ForgetOperations(t.Context(), connect.NewRequest(&operationv1.ForgetOperationsRequest{OrderIds: []string{"old"}}))
	require.NoError(t, err)
	require.Equal(t, []string{"old"}, forgotten.Msg.ForgottenOrderIds)
	s.sql(t, "warehouse", `DELETE FROM operations WHERE key = 'lost'`)
	h := s.auditAll(t, &checkoutv1.AuditRequest{})
	require.NotEmpty(t, h.violations)
	for _, v := range h.violations {
		require.True(t, strings.HasPrefix(v, "lost "), v)
	}
	require.Contains(t, h.notes, "1 checkouts are kept although a participant has forgotten their operations, because the other one keeps them (old): they were not compared")
}
