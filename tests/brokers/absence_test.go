package brokers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// Who only listens may be away: nobody waits for it, and when it comes back it hears all that was said.
func TestOnRedisNobodyWaitsForWhoOnlyListens(t *testing.T) {
	s := startShop(t, localstack.Redis)

	t.Run("500 checkouts end while orders and notification are away, which then catch up", func(t *testing.T) {
		s.takeDown(stack.Orders, stack.Notification)
		began := time.Now()
		want := s.placeAll(t, "away", 500)
		s.AwaitAllEnded(t, 2*time.Minute)
		t.Logf("500 checkouts ended within %s", time.Since(began).Round(time.Second))
		for id, status := range want {
			c, err := s.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, status, c.Status, "%s: %s", id, c.Reason)
		}
		back := time.Now()
		s.bringBack(t, stack.Orders, stack.Notification)
		s.AwaitEvents(t, 2*time.Minute)
		t.Logf("orders and notification had caught up %s after they were started", time.Since(back).Round(time.Second))
		s.Audit(t)
	})

	t.Run("I5: what the broker has lost is found by the audit and mended by republishing", func(t *testing.T) {
		s.takeDown(stack.Orders)
		s.placeAll(t, "trimmed", 20)
		s.AwaitAllEnded(t, time.Minute)
		s.awaitPublished(t)
		// Published, not read by orders, and gone: what a broker does that keeps too little.
		for _, topic := range []string{"checkout.order.created", "checkout.order.confirmed", "checkout.order.cancelled"} {
			s.redis(t, "XTRIM", topic, "MAXLEN", "0")
		}
		s.bringBack(t, stack.Orders)
		require.NotEmpty(t, s.missing(t))

		stdout, stderr, status, err := s.CLI(within(t, time.Minute), "audit")
		require.NoError(t, err)
		require.Equal(t, 8, status, "%s%s", stdout, stderr)
		t.Logf("the audit says:\n%s", firstLines(stdout, 6))
		for i := range 20 {
			require.Contains(t, stdout, fmt.Sprintf("trimmed-%03d", i))
		}
		for _, id := range s.missing(t) {
			stdout, stderr, status, err := s.CLI(within(t, time.Minute), "event", "republish", "--order-id", id, "--reason", "the broker lost them")
			require.NoError(t, err)
			require.Zero(t, status, "%s%s", stdout, stderr)
		}
		s.AwaitEvents(t, time.Minute)
		stdout, stderr, status, err = s.CLI(within(t, time.Minute), "audit")
		require.NoError(t, err)
		require.Zero(t, status, "%s%s", stdout, stderr)
		s.Audit(t)
	})

	t.Run("I8: every process that is told to stop finishes what it has in hand, flushes, and says so", func(t *testing.T) {
		var placing sync.WaitGroup
		placing.Go(func() { s.placeAll(t, "stopped", 200) })
		for _, name := range stack.Names() {
			service := s.Services[name]
			before := len(s.logOf(t, name))
			service.App.Stop(20 * time.Second)
			said := s.logOf(t, name)[before:]
			require.Contains(t, said, "stopped: nothing is in hand any more", name)
			if name != stack.Notification { // It has no events of its own.
				require.Contains(t, said, "the outbox is empty: every event was handed over", name)
			}
			restart := service.App.Restart
			if name == stack.Orchestrator {
				restart = s.RestartOrchestrator
			}
			require.NoError(t, restart(within(t, 2*time.Minute)))
		}
		placing.Wait()
		s.AwaitAllEnded(t, 2*time.Minute)
		lost, dead := s.settle(t, time.Minute)
		t.Logf("six stops under load: %d orders with lost events, %d dead letters", lost, dead)
		s.Audit(t)
	})

	t.Run("an orchestrated checkout whose events are all delivered has captured nothing before its pivot", func(t *testing.T) {
		// The orchestrator is killed between authorize and capture: the card network is slow to authorize, and by the time it
		// has, nobody is there to go on.
		orders := s.haltBeforeCapture(t)
		s.AwaitEvents(t, time.Minute)
		for _, id := range orders {
			authorized, captured := s.moneyOf(t, id)
			require.EqualValues(t, 4999, authorized, "%s is authorized", id)
			require.Zero(t, captured, "%s has captured, and nobody asked for it", id)
		}
		require.NoError(t, s.RestartOrchestrator(within(t, 2*time.Minute)))
		s.AwaitAllEnded(t, 2*time.Minute)
		s.Audit(t)
	})
}

// The same on every broker, by another file of components alone.
func TestEndToEndOnEveryBroker(t *testing.T) {
	for _, broker := range localstack.Brokers {
		t.Run(broker, func(t *testing.T) {
			s := startShop(t, broker)
			began := time.Now()
			want := s.placeAll(t, "shop", 200)
			s.AwaitAllEnded(t, 2*time.Minute)
			for id, status := range want {
				c, err := s.Get(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, status, c.Status, "%s: %s", id, c.Reason)
			}
			lost, dead := s.settle(t, time.Minute)
			t.Logf("200 checkouts and all their events: %s; lost by the broker: %d, dead letters: %d", time.Since(began).Round(time.Second), lost, dead)
			s.pricesFollow(t, broker == localstack.Kafka)
			s.Audit(t)
		})
	}
}

// takeDown kills services with their sidecars.
func (s system) takeDown(names ...string) {
	for _, name := range names {
		s.Services[name].App.Kill()
		s.Services[name].Sidecar.Kill()
	}
}

func (s system) bringBack(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		require.NoError(t, s.Services[name].Sidecar.Restart(within(t, time.Minute)))
		require.NoError(t, s.Services[name].App.Restart(within(t, time.Minute)))
	}
}

func (s system) logOf(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(s.Services[name].App.LogFile())
	require.NoError(t, err)
	return string(text)
}

// placeAll places orders of both coordinations and tells how each must end.
func (s system) placeAll(t *testing.T, prefix string, n int) map[string]harness.Status {
	t.Helper()
	want := make(map[string]harness.Status, n)
	for i := range n {
		o := harness.Order{ID: fmt.Sprintf("%s-%03d", prefix, i), Items: []*checkoutv1.Item{{Sku: articles[i%len(articles)], Quantity: 1}}}
		if i%2 == 1 {
			o.Coordination = "choreographed"
		}
		want[o.ID] = harness.Confirmed
		switch i % 10 {
		case 3, 6:
			o.Method, want[o.ID] = "tok_declined", harness.Rejected
		case 8:
			o.Items[0], want[o.ID] = &checkoutv1.Item{Sku: scarce, Quantity: 10_000}, harness.Rejected
		}
		s.startUntilAccepted(t, o)
	}
	return want
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "")
}

// awaitPublished waits until every event that was written is on the broker.
func (s system) awaitPublished(t *testing.T) {
	t.Helper()
	harness.Within(t, time.Minute, "all events to be published", func(ctx context.Context) error {
		found, err := s.Judge.EventsMissing(ctx)
		for _, v := range found {
			if strings.Contains(v.What, "was not published") {
				return fmt.Errorf("%s", v)
			}
		}
		return err
	})
}

// redis sends one command to the broker, which is Redis.
func (s system) redis(t *testing.T, command ...string) {
	t.Helper()
	conn, err := s.Broker.DialRedis(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = fmt.Fprintf(conn, "%s\r\n", strings.Join(command, " "))
	require.NoError(t, err)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.NotContains(t, answer, "ERR")
}

// haltBeforeCapture starts orchestrated orders whose money is authorized when the orchestrator is dead already, so that none has
// reached its pivot.
func (s system) haltBeforeCapture(t *testing.T) (orders []string) {
	t.Helper()
	const method = "tok_void_fails" // Nobody voids here.
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: method, Authorize: "times_out_before"})
	for i := range 10 {
		id := fmt.Sprintf("halted-%d", i)
		s.Start(t, harness.Order{ID: id, Method: method})
		orders = append(orders, id)
	}
	for _, id := range orders {
		harness.Eventually(t, "payment to be asked for "+id, func(ctx context.Context) error {
			_, err := s.Payment.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: id, Step: "authorize-payment"}))
			return err
		})
	}
	s.Services[stack.Orchestrator].App.Kill()
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: method, Authorize: "works"})
	for _, id := range orders {
		harness.Eventually(t, id+" to be authorized", func(context.Context) error {
			if authorized, _ := s.moneyOf(t, id); authorized == 0 {
				return errors.New("it is not")
			}
			return nil
		})
	}
	return orders
}

func (s system) moneyOf(t *testing.T, orderID string) (authorized, captured int64) {
	t.Helper()
	answer, err := s.Payment.GetPayment(within(t, 10*time.Second), connect.NewRequest(&paymentv1.GetPaymentRequest{OrderId: orderID}))
	require.NoError(t, err)
	return answer.Msg.Authorized.GetMinorUnits(), answer.Msg.Captured.GetMinorUnits()
}

// pricesFollow changes a price many times and demands that the newest one holds. Where the broker keeps order, none may come late.
func (s system) pricesFollow(t *testing.T, inOrder bool) {
	t.Helper()
	const changes = 50
	for i := range changes {
		_, err := s.Pricing.SetPrice(within(t, 10*time.Second), connect.NewRequest(&pricingv1.SetPriceRequest{
			Sku: "BOWL-OLIVE", UnitPrice: &operationv1.Money{Currency: "EUR", MinorUnits: int64(3000 + i)},
		}))
		require.NoError(t, err)
	}
	s.AwaitEvents(t, time.Minute)
	c := s.Start(t, harness.Order{ID: "priced-anew", Items: []*checkoutv1.Item{{Sku: "BOWL-OLIVE", Quantity: 1}}})
	require.EqualValues(t, 3000+changes-1, c.Amount.MinorUnits)
	s.AwaitEnd(t, c.OrderId, harness.Confirmed)

	conn, err := pgx.Connect(t.Context(), s.DatabaseURL(stack.Orchestrator))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var received, late int
	require.NoError(t, conn.QueryRow(t.Context(),
		`SELECT count(*), count(*) FILTER (WHERE outcome = 'late') FROM inbox WHERE topic = 'pricing.price.updated'`).Scan(&received, &late))
	require.Equal(t, changes, received)
	t.Logf("of %d changes of a price, %d came late and changed nothing", received, late)
	if inOrder {
		require.Zero(t, late, "this broker keeps the order of what has one key")
	}
}
