package process

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

var errGone = errors.New("the database is gone")

// quickKeeper takes a part for working as soon as it has run for a moment.
func quickKeeper() *Keeper {
	k := NewKeeper(discard)
	k.proven = 20 * time.Millisecond
	return k
}

func TestI8APartThatEndsIsStartedAgainAndToldOfUntilItWorks(t *testing.T) {
	t.Parallel()
	k := quickKeeper()
	var runs atomic.Int32
	part := k.Keep(Part{Name: "relay", Run: func(ctx context.Context) error {
		switch runs.Add(1) {
		case 1:
			return errGone
		case 2:
			return nil // A part that ends by itself has failed, too.
		}
		<-ctx.Done()
		return nil
	}})
	stop := runParts(t, []Part{part})
	require.Eventually(t, func() bool { return runs.Load() == 2 && len(k.Missing()) == 1 && k.Missing()[0].Failures == 2 }, 5*time.Second, time.Millisecond)
	require.ErrorContains(t, k.Ready(), "relay: missing since ")
	require.ErrorContains(t, k.Ready(), errEnded.Error())
	require.Equal(t, 2.0, testutil.ToFloat64(k.failures.WithLabelValues("relay")))
	require.Equal(t, 2, testutil.CollectAndCount(k.Collector()), "what is missing, and what failed")

	require.Eventually(t, func() bool { return k.Ready() == nil }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, 3, runs.Load())
	require.Equal(t, 1, testutil.CollectAndCount(k.Collector()), "nothing is missing any more")
	stop()
}

func TestAPartThatIsToldToEndWhileItFailsEndsInOrder(t *testing.T) {
	t.Parallel()
	k := quickKeeper()
	part := k.Keep(Part{Name: "relay", Run: func(context.Context) error { return errGone }})
	stop := runParts(t, []Part{part})
	require.Eventually(t, func() bool { return k.Ready() != nil }, 5*time.Second, time.Millisecond)
	stop()
	require.NoError(t, k.Ready(), "nothing is missing of what was told to end")
}

func TestWhatAPartSaysAtItsEndIsHeard(t *testing.T) {
	t.Parallel()
	part := quickKeeper().Keep(Part{Name: "engine", Run: func(ctx context.Context) error { <-ctx.Done(); return errGone }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, part.Run(ctx), errGone)
}

func TestADependencyIsMissingSinceItDidNotAnswerFirst(t *testing.T) {
	t.Parallel()
	k := NewKeeper(discard)
	var gone atomic.Bool
	gone.Store(true)
	began := time.Now()
	stop := runParts(t, []Part{k.Watch("database", func(context.Context) error {
		if gone.Load() {
			return errGone
		}
		return nil
	})})
	defer stop()
	require.Eventually(t, func() bool { return len(k.Missing()) == 1 && k.Missing()[0].Failures >= 2 }, 10*time.Second, time.Millisecond)
	require.WithinRange(t, k.Missing()[0].Since, began, began.Add(lookEvery+time.Second), "not since the last look")
	gone.Store(false)
	require.Eventually(t, func() bool { return k.Ready() == nil }, 5*time.Second, time.Millisecond)
}

func TestAProcessWaitsForWhatIsAwayAndNotForWhatIsWrong(t *testing.T) {
	t.Parallel()
	away := func() error {
		_, err := pg.Open(t.Context(), "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", 1)
		return err
	}
	tries := 0
	opened, err := Opened(t.Context(), discard, func(context.Context) (string, error) {
		if tries++; tries < 3 {
			return "", away()
		}
		return "open", nil
	})
	require.NoError(t, err)
	require.Equal(t, "open", opened)

	tries = 0
	_, err = Opened(t.Context(), discard, func(context.Context) (string, error) { tries++; return "", errGone })
	require.ErrorIs(t, err, errGone)
	require.Equal(t, 1, tries)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = Opened(ctx, discard, func(context.Context) (string, error) { cancel(); return "", away() })
	require.Error(t, err)
}

func TestAParticipantWhosePartFailsIsNotReadyAndSaysSinceWhen(t *testing.T) {
	t.Parallel()
	from := orders(t)
	p := open(t, from.kind("orders"))
	stop := runParts(t, p.Parts())
	defer stop()
	require.Equal(t, "ok\n", get(t, p.URL()+"/readyz"))
	p.keeper.isMissing("orders: outbox", errGone)
	res, err := http.Get(p.URL() + "/readyz")
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.True(t, strings.HasPrefix(get(t, p.URL()+"/readyz"), "orders: outbox: missing since "))
	require.Equal(t, "ok\n", get(t, p.URL()+"/apphealthz"), "it takes deliveries all the same")
}
