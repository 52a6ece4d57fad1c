package dapr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestI1ACancelAndThePivotRace200TimesAndHaveOneWinner(t *testing.T) {
	s := open(t)
	const races, lanes = 200, 8
	var mu sync.Mutex
	wins := map[string]int{}
	var racing sync.WaitGroup
	for lane := range lanes {
		racing.Go(func() {
			// As on the embedded engine: later after the cancel won, earlier after it was too late.
			wait := 20 * time.Millisecond
			for range races / lanes {
				winner, err := cancelAtPivot(t, s, newID(fmt.Sprintf("pivot-%d", lane)), wait)
				if err != nil {
					t.Error(err)
					return
				}
				if winner == "cancel" {
					wait = wait*5/4 + time.Millisecond
				} else {
					wait = wait * 3 / 4
				}
				wait += rand.N(time.Millisecond)
				mu.Lock()
				wins[winner]++
				mu.Unlock()
			}
		})
	}
	racing.Wait()
	t.Logf("of %d races: %v", races, wins)
	if !t.Failed() {
		require.GreaterOrEqual(t, min(wins["cancel"], wins["pivot"]), races/10, "it was no race")
	}
	s.AwaitAllEnded(t, time.Minute)
	s.Audit(t)
}

func TestI3ARunThatTheEngineLostBehindOurBackGoesOnInTheNext(t *testing.T) {
	s := open(t)
	hold(t, s)
	lost := map[string][]string{
		newID("terminated"): {"terminate"},
		newID("purged"):     {"terminate", "purge"},
	}
	for id := range lost {
		s.Start(t, harness.Order{ID: id, Method: held})
	}
	for id, operations := range lost {
		harness.Eventually(t, id+" to be in backoff", func(ctx context.Context) error {
			c, err := s.Get(ctx, id)
			if err == nil && c.Steps[1].Attempts < 2 {
				err = errors.New(harness.Steps(c))
			}
			return err
		})
		for _, operation := range operations {
			atWorkflow(t, s, runs.ID(checkout.Saga(id), 1), operation)
		}
	}
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: held, Authorize: "works"})
	began := time.Now()
	for id := range lost {
		require.EqualValues(t, 2, s.AwaitEnd(t, id, harness.Confirmed).Run, id)
	}
	t.Logf("both had ended in their second run after %s", round(time.Since(began)))
	s.AwaitAllEnded(t, time.Minute)
	s.Audit(t)
}

// atWorkflow has the sidecar do something to a workflow instance, as its own tools do, until it did.
func atWorkflow(t *testing.T, s system, id, operation string) {
	t.Helper()
	url := fmt.Sprintf("http://127.0.0.1:%d/v1.0/workflows/dapr/%s/%s", s.Stack.Orchestrator.Sidecar.HTTPPort, id, operation)
	harness.Eventually(t, operation+" of "+id, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if text, _ := io.ReadAll(answer.Body); answer.StatusCode/100 != 2 {
			return fmt.Errorf("%s: %s", answer.Status, text)
		}
		return nil
	})
}

func TestI3AParticipantThatIsDownForAllIsOneAlarm(t *testing.T) {
	s := open(t)
	r := rowsOf(t, s)
	const orders = 60
	const heldBack = `participant_held_back{participant="payment"} `
	s.Stack.Payment.App.Kill()
	w := wiped{system: s}
	began := time.Now()
	w.start(t, "down", orders, harness.Order{})
	harness.Eventually(t, "payment to be held back", func(ctx context.Context) error { return metricIs(ctx, s, heldBack+"1") })
	t.Logf("it was noticed %s after the first order", round(time.Since(began)))
	harness.Eventually(t, "all to be held back", func(ctx context.Context) error {
		var n int
		err := r.pool.QueryRow(ctx, `
			SELECT count(*) FROM checkouts WHERE order_id = ANY($1) AND phase = 'forward' AND status = 'RUNNING' AND at_step = 'authorize-payment'
			  AND progress @? '$[*] ? (@.name == "authorize-payment" && @.error starts with "held back: ")'`, w.ids).Scan(&n)
		if err == nil && n < orders {
			err = fmt.Errorf("%d are", n)
		}
		return err
	})
	_, err := s.Cancel(t.Context(), w.ids[0])
	require.NoError(t, err)
	harness.Within(t, 10*time.Second, "the cancel to be seen", func(ctx context.Context) error {
		c, err := s.Get(ctx, w.ids[0])
		if err == nil && c.Phase != "undoing" {
			err = errors.New(c.Phase)
		}
		return err
	})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Stack.Payment.App.Restart(ctx))
	// Each would ask again after two minutes by itself.
	took := s.AwaitAllEnded(t, time.Minute)
	t.Logf("all had ended %s after payment was back", round(took))
	s.AwaitEnd(t, w.ids[0], harness.Cancelled)
	var alarms int
	require.NoError(t, r.pool.QueryRow(t.Context(), `
		SELECT count(*) FROM entries WHERE key = ANY($1) AND kind = 'status' AND outcome = 'NEEDS_ATTENTION'`, w.ids).Scan(&alarms))
	require.Zero(t, alarms, "it was one alarm, not sixty")
	require.NoError(t, metricIs(t.Context(), s, heldBack+"0"))
	s.Audit(t)
}

// metricIs says when the orchestrator's metrics do not have a line.
func metricIs(ctx context.Context, s system, line string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Stack.Orchestrator.URL+"/metrics", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && !strings.Contains(string(text), "\n"+line+"\n") {
		err = fmt.Errorf("no metric says %q", line)
	}
	return err
}
