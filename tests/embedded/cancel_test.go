package embedded_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestI1CancelAtEachPoint(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	t.Run("all", func(t *testing.T) {
		const onlyReserved = "reserve-stock done/done, authorize-payment skipped, capture-payment skipped, commit-stock skipped"
		during := []struct {
			procedure string
			hold      harness.Kind
			method    string
			tooLate   bool
			want      harness.Status
			steps     string
		}{
			{"Reserve", harness.HoldBefore, "tok_visa", false, harness.Cancelled, onlyReserved},
			{"Reserve", harness.HoldAfter, "tok_visa", false, harness.Cancelled, onlyReserved},
			{"Authorize", harness.HoldBefore, "tok_visa", false, harness.Cancelled, allUndone},
			{"Authorize", harness.HoldAfter, "tok_visa", false, harness.Cancelled, allUndone},
			{"Capture", harness.HoldBefore, "tok_visa", true, harness.Confirmed, allDone},
			{"Capture", harness.HoldAfter, "tok_visa", true, harness.Confirmed, allDone},
			{"Commit", harness.HoldBefore, "tok_visa", true, harness.Confirmed, allDone},
			{"Commit", harness.HoldAfter, "tok_visa", true, harness.Confirmed, allDone},
			// It is being undone already: the wish is granted, and the verdict stays.
			{"Release", harness.HoldBefore, "tok_declined", false, harness.Rejected,
				"reserve-stock done/done, authorize-payment rejected, capture-payment skipped, commit-stock skipped"},
			{"Release", harness.HoldAfter, "tok_expires", false, harness.Rejected,
				"reserve-stock done/done, authorize-payment done/done, capture-payment rejected, commit-stock skipped"},
		}
		for _, c := range during {
			t.Run(fmt.Sprintf("during %s, %s", c.procedure, c.hold), func(t *testing.T) {
				t.Parallel()
				id := fmt.Sprintf("during.%s.%s", c.procedure, c.hold)
				held := n.Arm(t, harness.Fault{Kind: c.hold, Procedure: c.procedure, OrderID: id})
				n.Start(t, harness.Order{ID: id, Method: c.method})
				held.Await(t)
				_, err := n.Cancel(t.Context(), id)
				if c.tooLate {
					require.True(t, harness.IsCode(err, connect.CodeFailedPrecondition), "cancel answered %v", err)
				} else {
					require.NoError(t, err)
				}
				held.Lift()
				// On a slow machine the held call is given up before it is lifted. Then nothing is known of it, and it is undone all the same.
				ended := strings.Replace(harness.Steps(n.AwaitEnd(t, id, c.want)), " unknown/done", " done/done", 1)
				require.Equal(t, c.steps, ended)
			})
		}

		// Nobody answers, and the saga waits ever longer: the cancel must end the wait.
		inBackoff := []struct{ procedure, step, steps string }{
			{"Reserve", "reserve-stock", "reserve-stock unknown/done, authorize-payment skipped, capture-payment skipped, commit-stock skipped"},
			{"Authorize", "authorize-payment", "reserve-stock done/done, authorize-payment unknown/done, capture-payment skipped, commit-stock skipped"},
		}
		for _, c := range inBackoff {
			t.Run("in backoff at "+c.step, func(t *testing.T) {
				t.Parallel()
				id := "backoff." + c.procedure
				n.Arm(t, harness.Fault{Kind: harness.Fail, Procedure: c.procedure, OrderID: id})
				n.Start(t, harness.Order{ID: id})
				awaitAttempts(t, n, id, c.step, 6) // The next wait is 8 s.
				cancelled := time.Now()
				_, err := n.Cancel(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, c.steps, harness.Steps(n.AwaitEnd(t, id, harness.Cancelled)))
				require.Less(t, time.Since(cancelled), 6*time.Second, "the cancel did not end the wait")
			})
		}
		t.Run("in backoff at capture-payment, after its claim", func(t *testing.T) {
			t.Parallel()
			fault := n.Arm(t, harness.Fault{Kind: harness.Fail, Procedure: "Capture", OrderID: "backoff.Capture"})
			n.Start(t, harness.Order{ID: "backoff.Capture"})
			awaitAttempts(t, n, "backoff.Capture", "capture-payment", 3)
			_, err := n.Cancel(t.Context(), "backoff.Capture")
			require.True(t, harness.IsCode(err, connect.CodeFailedPrecondition), "cancel answered %v", err)
			fault.Lift()
			n.AwaitEnd(t, "backoff.Capture", harness.Confirmed)
		})

		t.Run("after the end", func(t *testing.T) {
			t.Parallel()
			n.Start(t, harness.Order{ID: "ended"})
			n.AwaitEnd(t, "ended", harness.Confirmed)
			_, err := n.Cancel(t.Context(), "ended")
			require.True(t, harness.IsCode(err, connect.CodeFailedPrecondition), "cancel answered %v", err)
			n.AwaitEnd(t, "ended", harness.Confirmed)
		})
		t.Run("twice", func(t *testing.T) {
			t.Parallel()
			cancelAt(t, n, "twice", "Reserve")
			_, err := n.Cancel(t.Context(), "twice")
			require.NoError(t, err)
			n.AwaitEnd(t, "twice", harness.Cancelled)
			_, err = n.Cancel(t.Context(), "twice")
			require.NoError(t, err)
		})
	})
	n.Audit(t)
}

func TestI1CancelBeforeAnybodyWasAsked(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	release := holdEngine(t, n.Databases["orchestrator"])
	n.Start(t, harness.Order{ID: "untouched"})
	_, err := n.Cancel(t.Context(), "untouched")
	require.NoError(t, err)
	c, err := n.Get(t.Context(), "untouched")
	require.NoError(t, err)
	require.Equal(t, harness.Cancelled, c.Status, "it needs no engine to end what nobody was asked about")
	release()

	// The run that was started all the same must find that it has nothing to do: a second checkout shows that the engine has
	// come past it.
	n.Start(t, harness.Order{ID: "after"})
	n.AwaitEnd(t, "after", harness.Confirmed)
	c = n.AwaitEnd(t, "untouched", harness.Cancelled)
	require.Equal(t, "reserve-stock skipped, authorize-payment skipped, capture-payment skipped, commit-stock skipped", harness.Steps(c))
	requireNeverAsked(t, n, "untouched")
	n.Audit(t)
}

func TestI1CancelRacesWithThePivot1000Times(t *testing.T) {
	t.Parallel()
	n := harness.StartInProcess(t, harness.InProcess{})
	n.WatchSums(t)
	const races, lanes = 1000, 10
	var mu sync.Mutex
	wins := make(map[harness.Status]int)
	var racing sync.WaitGroup
	for lane := range lanes {
		racing.Go(func() {
			// When the cancel must come to meet the pivot's claim depends on the machine, so each lane feels its way there: later
			// after it won, earlier after it was too late.
			wait := 10 * time.Millisecond
			for race := range races / lanes {
				id := fmt.Sprintf("race-%d-%d", lane, race)
				ended, err := raceWithPivot(t, n, id, wait)
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				if ended == harness.Cancelled {
					wait = wait*5/4 + time.Millisecond
				} else {
					wait = wait * 3 / 4
				}
				wait += rand.N(time.Millisecond)
				mu.Lock()
				wins[ended]++
				mu.Unlock()
			}
		})
	}
	racing.Wait()
	t.Logf("of %d races the cancel won %d and the pivot %d", races, wins[harness.Cancelled], wins[harness.Confirmed])
	if !t.Failed() {
		require.GreaterOrEqual(t, min(wins[harness.Cancelled], wins[harness.Confirmed]), races/10, "it was no race")
	}
	n.Audit(t)
}

// raceWithPivot lets the authorization's answer go and cancels a moment later. The answer to the cancel must be what becomes
// of the checkout.
func raceWithPivot(t *testing.T, s *harness.System, id string, wait time.Duration) (harness.Status, error) {
	held := s.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: "Authorize", OrderID: id})
	if _, err := s.TryStart(t.Context(), harness.Order{ID: id}); err != nil {
		return 0, err
	}
	if !held.AwaitFor(30 * time.Second) {
		return 0, fmt.Errorf("was never authorized")
	}
	held.Lift()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	<-timer.C
	_, err := s.Cancel(t.Context(), id)
	want := harness.Cancelled
	if err != nil {
		want = harness.Confirmed
		if !harness.IsCode(err, connect.CodeFailedPrecondition) {
			return 0, err
		}
	}
	ended, endErr := s.EndOf(t.Context(), id)
	switch {
	case endErr != nil:
		return 0, endErr
	case ended.Status != want:
		return 0, fmt.Errorf("the cancel answered %v and the checkout ended %s", err, ended.Status)
	}
	return want, nil
}

// holdEngine keeps the embedded engine from storing anything, and so from beginning activities, until release is called.
func holdEngine(t *testing.T, databaseURL string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM engine.owner FOR UPDATE`)
	require.NoError(t, err)
	release = sync.OnceFunc(func() { _ = conn.Close(context.Background()) })
	t.Cleanup(release)
	return release
}

func awaitAttempts(t *testing.T, s *harness.System, orderID, step string, attempts int32) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("%d attempts at %s of %s", attempts, step, orderID), func(ctx context.Context) error {
		c, err := s.Get(ctx, orderID)
		if err != nil {
			return err
		}
		for _, st := range c.Steps {
			if st.Name == step && st.Attempts >= attempts {
				return nil
			}
		}
		return fmt.Errorf("it stands at %s", harness.Steps(c))
	})
}

// requireNeverAsked demands that no participant knows the order.
func requireNeverAsked(t *testing.T, s *harness.System, orderID string) {
	t.Helper()
	known, err := s.Judge.Knows(t.Context(), orderID)
	require.NoError(t, err)
	require.Empty(t, known, "participants were asked")
}
