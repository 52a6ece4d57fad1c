package brokers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

const (
	// stormOrders is how many orders are placed in a storm, half of them choreographed.
	stormOrders = 1000
	// stormOpen is how many may be open at once; more would only wait in queues.
	stormOpen = 200
	// brokerAway is how long the broker is stopped.
	brokerAway = 20 * time.Second
)

func TestI1ToI6HoldInAStormOnRedis(t *testing.T) { storm(t, localstack.Redis) }

func TestI1ToI6HoldInAStormOnRabbitMQ(t *testing.T) {
	t.Parallel() // Beside TestComponents.
	storm(t, localstack.RabbitMQ)
}

// storm places orders of both coordinations while every process is killed in turn, over and over, and while the broker is away
// for a while. In the end nothing may be lost, doubled or out of order.
func storm(t *testing.T, broker string) {
	s := startShop(t, broker)
	s.SetStock(t, scarce, 100)
	began := time.Now()
	placing, stopKilling := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	killer.Go(func() { s.killInTurn(placing, t) })

	var placed, away atomic.Int64
	var clients, outage sync.WaitGroup
	next := make(chan int)
	for range 24 {
		clients.Go(func() {
			for i := range next {
				s.startUntilAccepted(t, stormOrder(i))
				if n := placed.Add(1); n == stormOrders/3 {
					outage.Go(func() { away.Store(int64(s.stopBroker(t))) })
				}
			}
		})
	}
	for i := range stormOrders {
		s.awaitRoom(t)
		next <- i
	}
	close(next)
	clients.Wait()
	outage.Wait()
	stopKilling()
	killer.Wait()
	placedAfter := time.Since(began)

	// Lost messages would hold choreographed checkouts up; so events are settled first, and then all must end.
	lost, dead := s.settle(t, 90*time.Second)
	s.AwaitAllEnded(t, 4*time.Minute)
	moreLost, moreDead := s.settle(t, time.Minute)
	t.Logf("%d orders placed in %s, all settled after %s; the broker was away for %s; events that it lost, by order: %d; dead letters replayed: %d",
		stormOrders, placedAfter.Round(time.Second), time.Since(began).Round(time.Second), time.Duration(away.Load()).Round(time.Second),
		lost+moreLost, dead+moreDead)
	final, err := s.Judge.Final(within(t, time.Minute))
	require.NoError(t, err)
	t.Logf("ended: %v", final)
	s.Audit(t)
}

// scarce is the article that is out of stock.
const scarce = "SHELF-WALNUT"

// stormOrder is the i-th order of a storm: 1 in 10 is declined, 1 in 20 out of stock, some are slow or flaky.
func stormOrder(i int) harness.Order {
	o := harness.Order{
		ID: fmt.Sprintf("storm-%04d", i), Items: []*checkoutv1.Item{{Sku: articles[i%len(articles)], Quantity: 1}},
		// What nobody brings to its end by then is undone, or brought forward: also that is tried here.
		Deadline: 2 * time.Minute,
	}
	if i%2 == 1 {
		o.Coordination = "choreographed"
	}
	switch i % 40 {
	case 3, 14, 25, 36:
		o.Method = "tok_declined"
	case 8, 29:
		o.Items[0] = &checkoutv1.Item{Sku: scarce, Quantity: 1}
	case 10, 21:
		o.Method = "tok_timeout"
	case 12, 33:
		o.Method = "tok_flaky"
	case 16, 37:
		o.Method = "tok_expires"
	}
	return o
}

// awaitRoom waits while too many orders are open.
func (s system) awaitRoom(t *testing.T) {
	t.Helper()
	harness.Within(t, 5*time.Minute, "orders to end", func(ctx context.Context) error {
		open, err := s.Judge.Open(ctx)
		if err == nil && open > stormOpen {
			err = fmt.Errorf("%d are open", open)
		}
		return err
	})
}

// startUntilAccepted repeats a start until it has an answer, as a client does that got none.
func (s system) startUntilAccepted(t *testing.T, o harness.Order) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := s.TryStart(ctx, o)
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Errorf("start %s: %v", o.ID, err)
			return
		}
	}
}

// killInTurn kills one process after the other, applications and sidecars, without warning, and starts each again, as a
// supervisor does, until ctx ends.
func (s system) killInTurn(ctx context.Context, t *testing.T) {
	kills := make(map[string]int)
	defer func() { t.Logf("killed: %v", kills) }()
	for {
		for _, name := range stack.Names() {
			for _, victim := range []string{"app", "sidecar"} {
				if ctx.Err() != nil {
					return
				}
				// What is begun is ended: a process must not stay dead when the storm is over.
				limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
				if err := s.killAndRestart(limit, name, victim); err != nil {
					t.Errorf("restart the %s of %s: %v", victim, name, err)
				}
				cancel()
				kills[name+" "+victim]++
				pause(ctx, time.Duration(rand.Int64N(int64(2*time.Second))))
			}
		}
	}
}

func (s system) killAndRestart(ctx context.Context, name, victim string) error {
	service := s.Services[name]
	kill, restart := service.App.Kill, service.App.Restart
	switch {
	case victim == "sidecar":
		kill, restart = service.Sidecar.Kill, service.Sidecar.Restart
	case name == stack.Orchestrator:
		restart = s.RestartOrchestrator
	}
	kill()
	for {
		// A sidecar ends at its start while the broker is away, so a supervisor tries on.
		err := restart(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, time.Second)
	}
}

// stopBroker kills the broker and starts it again after a while. It returns for how long it was away.
func (s system) stopBroker(t *testing.T) time.Duration {
	began := time.Now()
	s.Broker.Kill()
	pause(t.Context(), brokerAway)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.Broker.Start(ctx); err != nil {
		t.Errorf("start the broker again: %v", err)
	}
	return time.Since(began)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
