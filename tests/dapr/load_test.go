package dapr

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestI1Under2000Checkouts is the load: 10 % declined, 5 % out of stock, 64 in flight.
func TestI1Under2000Checkouts(t *testing.T) {
	s := open(t)
	const total, inFlight = 2000, 64
	pid := s.Stack.Orchestrator.App.PID()
	began := time.Now()
	var before int64
	next := make(chan int)
	var clients sync.WaitGroup
	for range inFlight {
		clients.Go(func() {
			for i := range next {
				id := newID(fmt.Sprintf("load-%04d", i))
				if want, is, err := runOne(t.Context(), s, id, i); err != nil {
					t.Errorf("%s: %v", id, err)
				} else if want != is {
					t.Errorf("%s ended %s, not %s", id, is, want)
				}
			}
		})
	}
	for i := range total {
		if i == total/5 { // Pools and buffers have their size by now.
			before = resident(t, pid)
		}
		next <- i
	}
	close(next)
	clients.Wait()
	took := time.Since(began)
	after := resident(t, pid)
	t.Logf("%d checkouts in %s: %.1f/s; resident memory of the orchestrator %d MiB after a fifth, %d MiB at the end", total,
		took.Round(time.Second), total/took.Seconds(), before>>20, after>>20)
	require.Less(t, after, before+32<<20, "the orchestrator's memory grows with the checkouts that it has seen")
	s.AwaitAllEnded(t, 10*time.Second)
	s.Audit(t)
}

var articles = []string{
	"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "SHELF-WALNUT", "DESK-OAK", "SOFA-LINEN", "ARMCHAIR-WOOL", "BED-ASH",
	"WARDROBE-PINE", "MIRROR-ROUND", "RUG-JUTE", "CUSHION-VELVET", "VASE-CLAY", "CLOCK-STEEL", "LAMP-PAPER", "BASKET-WILLOW", "BOWL-OLIVE", "COAT-RACK",
}

// runOne runs the i-th checkout of the load to its end.
func runOne(ctx context.Context, s system, id string, i int) (want, is harness.Status, err error) {
	order := harness.Order{ID: id, Items: []*checkoutv1.Item{{Sku: articles[i%len(articles)], Quantity: 1}}}
	want = harness.Confirmed
	switch {
	case i%10 == 3:
		order.Method, want = "tok_declined", harness.Rejected
	case i%20 == 8:
		order.Items[0].Quantity, want = 5000, harness.Rejected
	}
	if _, err := s.TryStart(ctx, order); err != nil {
		return want, 0, err
	}
	is, err = watchToEnd(ctx, s, id)
	return want, is, err
}

// resident is the resident memory of a process, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	var kb int64
	_, line, found := strings.Cut(string(text), "VmRSS:")
	require.True(t, found)
	_, err = fmt.Sscan(line, &kb)
	require.NoError(t, err)
	return kb << 10
}

// watchToEnd waits for the end of a checkout on the stream that is pushed to.
func watchToEnd(ctx context.Context, s system, id string) (status harness.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := s.Checkouts.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: id}))
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	for stream.Receive() {
		status = stream.Msg().Checkout.Status
	}
	return status, stream.Err()
}
