package brokers

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// system is a whole shop on real Dapr and one broker, for one test.
type system struct {
	*harness.System
	*stack.Whole
}

// startShop starts all services on a broker and waits until events get through: a broker such as RabbitMQ knows nobody to
// keep an event for before the subscribers have come.
func startShop(t *testing.T, broker string) system {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr and a broker")
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	w, err := stack.StartWhole(root, broker, "test-brokers-postgres-"+broker)
	t.Cleanup(func() {
		if err := w.Stop(t.Failed(), os.Stderr); err != nil {
			t.Errorf("stop the stack: %v", err)
		}
	})
	require.NoError(t, err)
	s := system{System: harness.Connect(t, w.URLs(), w.Databases()), Whole: w}
	for _, sku := range articles {
		s.SetStock(t, sku, 1_000_000)
	}
	s.Start(t, harness.Order{ID: "first-orchestrated"})
	s.Start(t, harness.Order{ID: "first-choreographed", Coordination: "choreographed"})
	s.AwaitEnd(t, "first-orchestrated", harness.Confirmed)
	s.settle(t, 20*time.Second)
	s.AwaitEnd(t, "first-choreographed", harness.Confirmed)
	return s
}

// settle waits until every event was received and has what a broker has lost, and what became a dead letter, sent again. It
// returns how many of each there were.
func (s system) settle(t *testing.T, limit time.Duration) (lost, dead int) {
	t.Helper()
	for range 5 {
		s.AwaitEvents(t, limit)
		dead += s.replayAll(t)
		missing := s.missing(t)
		if len(missing) == 0 && s.replayAll(t) == 0 {
			return lost, dead
		}
		lost += len(missing)
		s.republish(t, missing)
	}
	return lost, dead
}

// articles are those of the catalogue but scarce, of which there are too few.
var articles = []string{
	"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "DESK-OAK", "SOFA-LINEN", "ARMCHAIR-WOOL", "BED-ASH",
	"WARDROBE-PINE", "MIRROR-ROUND", "RUG-JUTE", "CUSHION-VELVET", "VASE-CLAY", "CLOCK-STEEL", "LAMP-PAPER", "BASKET-WILLOW", "BOWL-OLIVE", "COAT-RACK",
}

// within is a context of the test's with an end.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// missing are the orders and articles about which an event has not reached everybody.
func (s system) missing(t *testing.T) (subjects []string) {
	t.Helper()
	found, err := s.Judge.EventsMissing(within(t, time.Minute))
	require.NoError(t, err)
	for _, v := range found {
		subjects = append(subjects, v.Subject)
	}
	slices.Sort(subjects)
	return slices.Compact(subjects)
}

// republish is what an operator does about events that the broker has lost.
func (s system) republish(t *testing.T, orders []string) {
	t.Helper()
	for some := range slices.Chunk(orders, 1000) {
		_, err := s.Checkouts.RepublishEvents(within(t, time.Minute), connect.NewRequest(&checkoutv1.RepublishEventsRequest{
			Selection: &eventv1.Selection{OrderIds: some}, Reason: "the broker has lost them", Actor: "test",
		}))
		require.NoError(t, err)
	}
}

// replayAll is what an operator does about dead letters whose cause is gone.
func (s system) replayAll(t *testing.T) int {
	t.Helper()
	answer, err := s.DeadLetters.Replay(within(t, time.Minute), connect.NewRequest(&deadletterv1.ReplayRequest{
		Selection: &deadletterv1.Selection{}, Reason: "whatever was down is up again", Actor: "test",
	}))
	require.NoError(t, err)
	return len(answer.Msg.Replayed)
}
