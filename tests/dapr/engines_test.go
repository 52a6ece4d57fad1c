package dapr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestI3CheckoutsMoveBetweenTwoEnginesUnderWay has an orchestrator on Dapr and one with the embedded engine on one database. Open
// checkouts of every phase are moved from the one to the other and back, at either's door and at both at once.
func TestI3CheckoutsMoveBetweenTwoEnginesUnderWay(t *testing.T) {
	s := open(t)
	r := rowsOf(t, s)
	program, url, err := s.StartEmbedded(t.Context())
	require.NoError(t, err)
	t.Cleanup(program.Kill)
	urls := s.URLs()
	urls[stack.Orchestrator] = url
	doors := map[string]system{"dapr": s, "embedded": {System: harness.Connect(t, urls, s.Whole.Databases()), Whole: s.Whole}}
	network(t, s, "fails")
	healed := sync.OnceFunc(func() { network(t, s, "works") })
	t.Cleanup(healed)

	const each = 4
	var all []string
	want := map[string]harness.Status{}
	started := map[place]int{}
	for engine, door := range doors {
		w := wiped{system: door}
		w.start(t, authorizing, each, harness.Order{Method: held})
		w.start(t, capturing, each, harness.Order{Method: slow})
		w.start(t, voiding, each, harness.Order{Method: stubborn})
		w.start(t, awaiting, each, harness.Order{Currency: "USD"})
		for p, n := range w.started {
			started[p] += n
		}
		for _, id := range w.ids {
			want[id] = harness.Confirmed
			c, err := door.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, engine, c.Engine)
		}
		for _, id := range w.of(voiding) {
			want[id] = harness.Cancelled
		}
		all = append(all, w.ids...)
	}
	r.awaitPlaces(t, started, "authorize-payment")
	for id, status := range want {
		if status == harness.Cancelled {
			_, err := s.Cancel(t.Context(), id)
			require.NoError(t, err)
		}
	}
	r.awaitPlaces(t, started, "void-authorization")

	// There and back; each time the run on the other engine must have begun.
	for range 2 {
		for i, id := range all {
			door := []system{doors["dapr"], doors["embedded"]}[i%2]
			c, err := door.Get(t.Context(), id)
			require.NoError(t, err)
			move(t, door, id, other(c.Engine))
		}
		for _, id := range all {
			awaitRun(t, s, r, id)
		}
	}
	// At both doors at once, to both engines, and while the network comes back: whoever is asked last has it.
	var moving sync.WaitGroup
	for _, id := range all {
		for engine, door := range doors {
			moving.Go(func() {
				for range 3 {
					move(t, door, id, other(engine))
				}
			})
		}
	}
	healed()
	moving.Wait()
	for _, id := range all {
		_, err := s.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: id, Reason: "the trial", Actor: "trial"}))
		if err != nil && !harness.IsCode(err, connect.CodeFailedPrecondition) { // Most need none.
			t.Error(err)
		}
	}
	s.AwaitAllEnded(t, time.Minute)
	for id, status := range want {
		s.AwaitEnd(t, id, status)
	}
	requireOneEngineEach(t, s, r, all)
	s.Audit(t)
}

func other(engine string) string {
	if engine == "dapr" {
		return "embedded"
	}
	return "dapr"
}

// move hands a checkout to an engine; one that has ended meanwhile stays.
func move(t *testing.T, door system, id, engine string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := door.Checkouts.Redrive(ctx, connect.NewRequest(&checkoutv1.RedriveRequest{OrderId: id, Engine: engine, Reason: "the trial", Actor: "trial"}))
	if err != nil && !harness.IsCode(err, connect.CodeFailedPrecondition) {
		t.Errorf("move %s to %s: %v", id, engine, err)
	}
}

// awaitRun waits until the run of a checkout is known to the engine that the row names.
func awaitRun(t *testing.T, s system, r rows, id string) {
	t.Helper()
	harness.Eventually(t, id+" to go on in its run", func(ctx context.Context) error {
		c, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		known, err := knows(ctx, s, r, c.Engine, runs.ID(checkout.Saga(id), int(c.Run)))
		if err == nil && !known {
			err = fmt.Errorf("engine %s does not know run %d", c.Engine, c.Run)
		}
		return err
	})
}

// requireOneEngineEach demands that no run of a checkout was ever begun on both engines.
func requireOneEngineEach(t *testing.T, s system, r rows, ids []string) {
	t.Helper()
	begun := map[string]int{}
	for _, id := range ids {
		c, err := s.Get(t.Context(), id)
		require.NoError(t, err)
		for run := 1; run <= int(c.Run); run++ {
			both := true
			for _, engine := range []string{"dapr", "embedded"} {
				known, err := knows(t.Context(), s, r, engine, runs.ID(checkout.Saga(id), run))
				require.NoError(t, err)
				both = both && known
				if known {
					begun[engine]++
				}
			}
			require.False(t, both, "run %d of %s was begun on both engines", run, id)
		}
	}
	t.Logf("%d checkouts took %d runs on Dapr and %d embedded", len(ids), begun["dapr"], begun["embedded"])
	require.Greater(t, min(begun["dapr"], begun["embedded"]), len(ids), "few were moved")
}

// knows tells whether an engine has ever begun a workflow instance.
func knows(ctx context.Context, s system, r rows, engine, instance string) (known bool, err error) {
	if engine == "embedded" {
		err = r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM engine.log WHERE id = $1)`, instance).Scan(&known)
		return known, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/v1.0/workflows/dapr/%s", s.Stack.Orchestrator.Sidecar.HTTPPort, instance)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, errors.New(answer.Status)
}
