package dapr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestI1EveryWayToAnEnd is the matrix of the embedded tests as far as Dapr has a part in it.
func TestI1EveryWayToAnEnd(t *testing.T) {
	s := open(t)
	t.Run("at once", func(t *testing.T) {
		for name, way := range map[string]struct {
			order harness.Order
			want  harness.Status
			steps string
		}{
			"a good order is confirmed": {
				want:  harness.Confirmed,
				steps: "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done",
			},
			"a declined card gives the stock back": {
				order: harness.Order{Method: "tok_declined"}, want: harness.Rejected,
				steps: "reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped",
			},
			"what is not in stock ends it at once": {
				order: harness.Order{Items: []*checkoutv1.Item{{Sku: "COAT-RACK", Quantity: 5000}}}, want: harness.Rejected,
				steps: "reserve-stock rejected, authorize-payment skipped, capture-payment skipped, commit-stock skipped",
			},
			"a payment whose answer is lost is not made twice": {
				order: harness.Order{Method: "tok_timeout"}, want: harness.Confirmed,
				steps: "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done",
			},
			"a payment that fails twice is tried again": {
				order: harness.Order{Method: "tok_flaky"}, want: harness.Confirmed,
				steps: "reserve-stock done, authorize-payment done, capture-payment done, commit-stock done",
			},
			"a refused capture turns back": {
				order: harness.Order{Method: "tok_expires"}, want: harness.Rejected,
				steps: "reserve-stock done/done, authorize-payment done/done, capture-payment rejected, commit-stock skipped",
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				way.order.ID = newID("way")
				s.Start(t, way.order)
				c := s.AwaitEnd(t, way.order.ID, way.want)
				require.Equal(t, way.steps, harness.Steps(c))
				require.EqualValues(t, 1, c.Run)
				require.Equal(t, "dapr", c.Engine)
			})
		}
		t.Run("a cancel is heard during backoff", func(t *testing.T) {
			t.Parallel()
			cancelInBackoff(t, s)
		})
		t.Run("I7 of 64 starts at once one is a checkout", func(t *testing.T) {
			t.Parallel()
			startTogether(t, s)
		})
	})
	s.AwaitAllEnded(t, time.Minute)
	s.Audit(t)
}

// held is the payment method whose authorization is made to fail, so that checkouts stand in backoff.
const held = "tok_insufficient_funds"

func hold(t *testing.T, s system) {
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: held, Authorize: "fails"})
}

// release makes the network refuse what was held.
func release(t *testing.T, s system) {
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: held, Authorize: "refused"})
}

func cancelInBackoff(t *testing.T, s system) {
	hold(t, s)
	id := newID("backoff")
	s.Start(t, harness.Order{ID: id, Method: held})
	// Three attempts: the next wait is a second or longer.
	harness.Eventually(t, "the third attempt", func(ctx context.Context) error {
		c, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		if c.Steps[1].Attempts < 3 {
			return errors.New(harness.Steps(c))
		}
		return nil
	})
	_, err := s.Cancel(t.Context(), id)
	require.NoError(t, err)
	heard := harness.Within(t, 10*time.Second, "the cancel to be heard", func(ctx context.Context) error {
		c, err := s.Get(ctx, id)
		if err == nil && c.Phase != "undoing" {
			err = fmt.Errorf("its phase is %s", c.Phase)
		}
		return err
	})
	t.Logf("the cancel was heard after %s", heard.Round(time.Millisecond))
	// Nothing is known of the authorization until the network speaks again.
	release(t, s)
	s.AwaitEnd(t, id, harness.Cancelled)
}

func startTogether(t *testing.T, s system) {
	id := newID("together")
	var mu sync.Mutex
	created, refused := 0, 0
	var others []error
	var starts sync.WaitGroup
	for i := range 64 {
		starts.Go(func() {
			order := harness.Order{ID: id}
			if i%16 == 15 { // Another order under the same id.
				order.Items = []*checkoutv1.Item{{Sku: "TABLE-OAK", Quantity: 1}}
			}
			answer, err := s.TryStart(t.Context(), order)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && answer.Created:
				created++
			case harness.IsCode(err, connect.CodeAlreadyExists):
				refused++
			case err != nil:
				others = append(others, err)
			}
		})
	}
	starts.Wait()
	require.Empty(t, others)
	require.Equal(t, 1, created)
	require.Contains(t, []int{4, 60}, refused) // By which of the two orders came first.
	c := s.AwaitEnd(t, id, harness.Confirmed)
	require.EqualValues(t, 1, c.Run)
}

// cancelAtPivot starts a checkout and cancels it a moment after its authorization is done. The answer to the cancel must be what
// comes of the checkout.
func cancelAtPivot(t *testing.T, s system, id string, moment time.Duration) (winner string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.TryStart(ctx, harness.Order{ID: id}); err != nil {
		return "", err
	}
	stream, err := s.Checkouts.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: id}))
	if err != nil {
		return "", err
	}
	defer stream.Close()
	cancelled := make(chan error, 1)
	asked := false
	var last *checkoutv1.Checkout
	for stream.Receive() {
		last = stream.Msg().Checkout
		if asked || last.Steps[1].State != "done" {
			continue
		}
		asked = true
		go func() {
			<-time.After(moment) // Not a wait for anything: it spreads the races over the time that a claim takes.
			_, err := s.Cancel(ctx, id)
			cancelled <- err
		}()
	}
	if err := stream.Err(); err != nil {
		return "", fmt.Errorf("watch %s: %w", id, err)
	}
	if !asked {
		return "", fmt.Errorf("%s ended %s before it was cancelled", id, last.Status)
	}
	answer := <-cancelled
	switch {
	case answer == nil && last.Status == harness.Cancelled:
		return "cancel", nil
	case harness.IsCode(answer, connect.CodeFailedPrecondition) && last.Status == harness.Confirmed:
		return "pivot", nil
	}
	return "nobody", fmt.Errorf("the cancel of %s was answered with %v, and it ended %s", id, answer, last.Status)
}

// TestI3AParticipantIsAwayFor20Seconds kills the warehouse while one checkout wants stock reserved and another wants it
// released.
func TestI3AParticipantIsAwayFor20Seconds(t *testing.T) {
	s := open(t)
	hold(t, s)
	releasing := newID("release")
	s.Start(t, harness.Order{ID: releasing, Method: held})
	harness.Eventually(t, "the payment to be tried", func(ctx context.Context) error {
		c, err := s.Get(ctx, releasing)
		if err == nil && c.Steps[1].Attempts < 1 {
			err = errors.New(harness.Steps(c))
		}
		return err
	})

	s.Stack.Warehouse.App.Kill()
	away := time.Now()
	release(t, s)
	reserving, cancelled := newID("reserve"), newID("cancelled")
	s.Start(t, harness.Order{ID: reserving})
	s.Start(t, harness.Order{ID: cancelled})
	harness.Within(t, 20*time.Second, "all three to miss the warehouse", func(ctx context.Context) error {
		for id, want := range map[string]string{
			releasing: "reserve-stock done/failing", reserving: "reserve-stock failing", cancelled: "reserve-stock failing",
		} {
			c, err := s.Get(ctx, id)
			if err != nil {
				return err
			}
			if steps := harness.Steps(c); !strings.HasPrefix(steps, want) {
				return errors.New(id + ": " + steps)
			}
		}
		return nil
	})
	_, err := s.Cancel(t.Context(), cancelled)
	require.NoError(t, err)

	// The rest of its absence is the fault itself.
	<-time.After(time.Until(away.Add(20 * time.Second)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Stack.Warehouse.App.Restart(ctx))
	back := time.Now()
	s.AwaitEnd(t, reserving, harness.Confirmed)
	s.AwaitEnd(t, releasing, harness.Rejected)
	s.AwaitEnd(t, cancelled, harness.Cancelled)
	t.Logf("all had ended %s after the warehouse was back", time.Since(back).Round(time.Millisecond))
	s.AwaitAllEnded(t, time.Minute)
	s.Audit(t)
}
