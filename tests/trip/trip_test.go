// Package trip_test attacks a stranger's saga, examples/trip, on both engines: the example's own programs as processes, which know
// nothing of this. Each way that a trip can go is one entry of a table; the table is the same for both engines, and so is the judge.
// That the trip's declaration is right whatever happens when, its own tests explore in memory; here engine, wire and processes are real.
package trip_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestI1I8EachWayOfATripOnEachEngine sends trips every way that there is, and kills each process.
func TestI1I8EachWayOfATripOnEachEngine(t *testing.T) {
	bin := build(t)
	for _, engine := range []struct {
		name  string
		start func(*testing.T, string) *system
	}{{"embedded", startEmbedded}, {"dapr", startOnDapr}} {
		t.Run(engine.name, func(t *testing.T) {
			s := engine.start(t, bin)
			t.Run("every way", s.everyWay)
			for _, v := range s.victims {
				t.Run(v.name+" is killed", func(t *testing.T) { s.killed(t, v) })
			}
			s.judge(t)
		})
	}
}

// killed has a process killed while a trip stands at each point that it has to do with.
func (s *system) killed(t *testing.T, v victim) {
	var keys []string
	var stands []stand
	for _, p := range points() {
		if v.participant == "" || v.participant == participantOf(p.step) {
			key := strings.ReplaceAll(fmt.Sprintf("%s-killed-%d", v.name, len(keys)), " ", "-")
			keys, stands = append(keys, key), append(stands, s.hold(t, key, p))
		}
	}
	var sending errgroup.Group
	for _, held := range stands {
		sending.Go(func() error {
			_, end := held.way()
			return s.send(t.Context(), held.key, held.point, end)
		})
	}
	require.NoError(t, sending.Wait())
	for _, held := range stands {
		held.await(t)
	}
	// Each point was reached. A trip that stands for long is between two attempts now and then, so that no moment has all of them.
	standing := 0
	harness.Within(t, s.goesOnWithin, "many to stand at their points at once", func(ctx context.Context) error {
		standing = 0
		for _, held := range stands {
			is, err := held.stands(ctx)
			if err != nil {
				return err
			}
			if is {
				standing++
			}
		}
		if standing <= len(stands)/3 {
			return fmt.Errorf("%d of %d do", standing, len(stands))
		}
		return nil
	})

	at := time.Now()
	v.kill()
	for _, held := range stands {
		held.lift()
	}
	ctx, cancel := context.WithTimeout(t.Context(), s.goesOnWithin)
	defer cancel()
	require.NoError(t, v.restart(ctx))
	back := time.Since(at)
	harness.Within(t, s.goesOnWithin, "all to end", func(ctx context.Context) error {
		open, err := s.open(ctx, keys)
		if err == nil && len(open) > 0 {
			err = fmt.Errorf("%d have not: %s", len(open), strings.Join(open, ", "))
		}
		return err
	})
	t.Logf("I8: killed with a trip at each of %d points, %d of them at this moment; it was back after %s, and all had ended after %s",
		len(stands), standing, back.Round(time.Millisecond), time.Since(at).Round(time.Millisecond))
}
