package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// goesOnWithin is I8's bound for the embedded engine.
const goesOnWithin = 10 * time.Second

// fifty starts fifty orders and returns when they stand at different steps: some held at each call of the saga, also while
// undoing, and some anywhere. They are released by release, or when the process that waits for them dies.
func fifty(t *testing.T, s *harness.System) (release func()) {
	t.Helper()
	var faults []*harness.Armed
	hold := func(id, method, procedure string, kind harness.Kind) {
		faults = append(faults, s.Arm(t, harness.Fault{Kind: kind, Procedure: procedure, OrderID: id}))
		s.Start(t, harness.Order{ID: id, Method: method})
	}
	// Fewer in all than the engine runs activities at once, so that each of them comes to its place.
	for i := range 3 {
		hold(fmt.Sprintf("reserve-before-%d", i), "tok_visa", "Reserve", harness.HoldBefore)
		hold(fmt.Sprintf("reserve-after-%d", i), "tok_visa", "Reserve", harness.HoldAfter)
		hold(fmt.Sprintf("authorize-before-%d", i), "tok_visa", "Authorize", harness.HoldBefore)
		hold(fmt.Sprintf("authorize-after-%d", i), "tok_flaky", "Authorize", harness.HoldAfter)
		hold(fmt.Sprintf("capture-before-%d", i), "tok_visa", "Capture", harness.HoldBefore)
		hold(fmt.Sprintf("capture-after-%d", i), "tok_expires", "Capture", harness.HoldAfter)
		hold(fmt.Sprintf("commit-%d", i), "tok_visa", "Commit", harness.HoldAfter)
		hold(fmt.Sprintf("release-%d", i), "tok_declined", "Release", harness.HoldAfter)
	}
	for i := range 26 {
		order := harness.Order{ID: fmt.Sprintf("free-%d", i), Method: []string{"tok_visa", "tok_timeout", "tok_flaky", "tok_declined", "tok_expires"}[i%5]}
		if i%9 == 0 {
			order.Items = []*checkoutv1.Item{{Sku: "LAMP-BRASS", Quantity: 1}, {Sku: "SOFA-LINEN", Quantity: 5000}}
		}
		s.Start(t, order)
	}
	for _, fault := range faults {
		fault.Await(t)
	}
	return func() {
		for _, fault := range faults {
			fault.Lift()
		}
	}
}

func TestI8TheOrchestratorIsKilledWith50OrdersAtDifferentSteps(t *testing.T) {
	t.Parallel()
	p := harness.StartProcesses(t)
	p.WatchSums(t)
	release := fifty(t, &p.System)
	p.OrchestratorProcess.Kill(t)
	release()
	restarted := time.Now()
	p.OrchestratorProcess.Launch(t)
	requireProgress(t, &p.System, "orchestrator", restarted)
	p.AwaitAllEnded(t, 2*time.Minute)
	requireEnds(t, &p.System, 50)
	p.Audit(t)
}

func TestI8AParticipantIsKilledWith50OrdersAtDifferentSteps(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"warehouse", "payment"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := harness.StartProcesses(t)
			p.WatchSums(t)
			release := fifty(t, &p.System)
			victim := p.WarehouseProcess
			if name == "payment" {
				victim = p.PaymentProcess
			}
			victim.Kill(t)
			release()
			harness.Eventually(t, "checkouts to notice that "+name+" is gone", func(ctx context.Context) error {
				failing, err := p.Judge.Failing(ctx)
				if err == nil && failing < 3 {
					err = fmt.Errorf("%d did", failing)
				}
				return err
			})
			restarted := time.Now()
			victim.Launch(t)
			requireProgress(t, &p.System, name, restarted)
			p.AwaitAllEnded(t, 2*time.Minute)
			requireEnds(t, &p.System, 50)
			p.Audit(t)
		})
	}
}

// Killed in the middle of everything, again and again: whatever is not written in one transaction falls apart here.
func TestI8EachProcessIsKilledOverAndOverUnderLoad(t *testing.T) {
	t.Parallel()
	const orders, kills = 400, 18
	p := harness.StartProcesses(t)
	p.WatchSums(t)
	clients, ctx := errgroup.WithContext(t.Context())
	for lane := range 8 {
		clients.Go(func() error {
			for i := lane; i < orders; i += 8 {
				order := harness.Order{ID: fmt.Sprintf("ord-%d", i), Method: []string{"tok_visa", "tok_visa", "tok_declined", "tok_expires"}[i%4]}
				if err := startAtLast(ctx, &p.System, order); err != nil {
					return err
				}
			}
			return nil
		})
	}
	victims := []*harness.Process{p.WarehouseProcess, p.PaymentProcess, p.OrchestratorProcess}
	for kill := range kills {
		harness.Eventually(t, "more checkouts to end", func(ctx context.Context) error {
			final, err := p.Judge.Final(ctx)
			if err != nil {
				return err
			}
			ended := 0
			for _, n := range final {
				ended += n
			}
			if ended < (kill+1)*orders/(kills+4) {
				return fmt.Errorf("%d have ended", ended)
			}
			return nil
		})
		victim := victims[kill%len(victims)]
		victim.Kill(t)
		victim.Start(t)
	}
	require.NoError(t, clients.Wait())
	p.AwaitAllEnded(t, 2*time.Minute)
	requireEnds(t, &p.System, orders)
	p.Audit(t)
}

// startAtLast repeats a start until somebody says that it was accepted.
func startAtLast(ctx context.Context, s *harness.System, order harness.Order) error {
	for {
		_, err := s.TryStart(ctx, order)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func TestI8SIGTERMUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	p := harness.StartProcesses(t)
	p.WatchSums(t)
	// Some calls are answered by nobody, so that there are activities in hand whatever the moment.
	p.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: "Authorize", OrderID: "load-3", Times: 6})
	p.Arm(t, harness.Fault{Kind: harness.HoldBefore, Procedure: "Capture", OrderID: "load-5", Times: 6})
	load := startLoad(t, &p.System)
	harness.Eventually(t, "some checkouts to have ended", func(ctx context.Context) error {
		final, err := p.Judge.Final(ctx)
		if err == nil && final["CONFIRMED"] < 20 {
			err = fmt.Errorf("so far %v", final)
		}
		return err
	})
	// The API drains for at most 10 s, then the engine for at most 12 s.
	status, took := p.OrchestratorProcess.Terminate(t, 25*time.Second)
	t.Logf("SIGTERM: exit status %d after %s", status, took.Round(time.Millisecond))
	require.Equal(t, 0, status)
	accepted := load()
	open, err := p.Judge.Open(t.Context())
	require.NoError(t, err)
	t.Logf("%d orders were accepted, %d of them are open", len(accepted), open)
	require.Positive(t, open, "nothing was under way, so nothing could get lost")

	restarted := time.Now()
	p.OrchestratorProcess.Launch(t)
	requireProgress(t, &p.System, "orchestrator", restarted)
	p.AwaitAllEnded(t, 2*time.Minute)
	for _, id := range accepted {
		_, err := p.Get(t.Context(), id)
		require.NoError(t, err, "%s was accepted", id)
	}
	p.Audit(t)
}

// startLoad starts orders without pause until the API is gone; stop returns those that were accepted.
func startLoad(t *testing.T, s *harness.System) (stop func() (accepted []string)) {
	t.Helper()
	var mu sync.Mutex
	var accepted []string
	next := 0
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				id := fmt.Sprintf("load-%d", next)
				next++
				mu.Unlock()
				if _, err := s.TryStart(ctx, harness.Order{ID: id}); err != nil {
					return // The API has stopped; whether this one was accepted nobody knows, and nobody was told.
				}
				mu.Lock()
				accepted = append(accepted, id)
				mu.Unlock()
			}
		})
	}
	return func() []string {
		cancel()
		clients.Wait()
		return accepted
	}
}

// requireProgress demands that after a restart something is learned again within I8's time, and prints when.
func requireProgress(t *testing.T, s *harness.System, where string, since time.Time) {
	t.Helper()
	var first time.Time
	harness.Eventually(t, "progress after the restart", func(ctx context.Context) (err error) {
		first, err = s.Judge.FirstProgress(ctx, where, since)
		if err == nil && first.IsZero() {
			err = errors.New("there is none")
		}
		return err
	})
	took := first.Sub(since)
	t.Logf("I8: first progress %s after the restart of the %s", took.Round(time.Millisecond), where)
	require.Less(t, took, goesOnWithin)
}

func requireEnds(t *testing.T, s *harness.System, want int) {
	t.Helper()
	final, err := s.Judge.Final(t.Context())
	require.NoError(t, err)
	t.Logf("ends: %v", final)
	all := 0
	for _, n := range final {
		all += n
	}
	require.Equal(t, want, all)
	require.Positive(t, final["CONFIRMED"])
	require.Positive(t, final["REJECTED"])
}
