package breaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("connection refused")

// fixture is a breaker for payment and one for warehouse that run, in a bubble of synctest: time passes when all wait.
type fixture struct {
	*Breakers
	log bytes.Buffer

	mu sync.Mutex
	// down and deaf say how the prober and the waker fare.
	down, deaf     error
	probes, wakes  int
	wakeHangs      bool
	wakesCancelled int
}

// bubble runs a test against running breakers. It fails if anything of them is left when it ends.
func bubble(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{down: errAway}
		f.Breakers = New(Config{
			Participants: []string{"payment", "warehouse"}, Probe: f.probe, Wake: f.wake,
			Log: slog.New(slog.NewTextHandler(&f.log, nil)),
		})
		go f.Run(t.Context())
		test(t, f)
	})
}

func (f *fixture) probe(ctx context.Context, participant string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes++
	if participant != "payment" {
		return fmt.Errorf("probed %s", participant)
	}
	return f.down
}

func (f *fixture) wake(ctx context.Context, _ string) error {
	f.mu.Lock()
	f.wakes++
	hangs, err := f.wakeHangs, f.deaf
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.wakesCancelled++
		return ctx.Err()
	}
	return err
}

// set changes how prober and waker fare from now on.
func (f *fixture) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fixture) counted() (probes, wakes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.probes, f.wakes
}

// fail lets so many orders in a row get no answer from payment, spread over the time.
func (f *fixture) fail(orders int, over time.Duration) {
	for i := range orders {
		if i > 0 {
			time.Sleep(over / time.Duration(orders-1))
		}
		f.Unanswered("payment", fmt.Sprintf("ord-%d", i), errAway)
	}
}

func TestAParticipantThatAnswersNobodyIsHeldBackUntilItAnswersTheProber(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		began := time.Now()
		f.fail(enough, patience)
		why := f.HeldBack("payment")
		require.Equal(t, "payment has not answered since "+began.UTC().Format("15:04:05Z"), why)
		require.Empty(t, f.HeldBack("warehouse"), "each is held back for itself")

		time.Sleep(10*time.Second + 500*time.Millisecond)
		require.Equal(t, why, f.HeldBack("payment"), "the sentence stays the same")
		probes, wakes := f.counted()
		require.Equal(t, 10, probes, "once a second")
		require.Zero(t, wakes)
		f.Answered("payment")
		require.Equal(t, why, f.HeldBack("payment"), "a call that began long ago is for the prober to confirm")
		require.Equal(t, State{Participant: "payment", HeldBack: why, Since: began, LastError: errAway.Error(), Opened: 1}, f.States()[0])

		f.set(func() { f.down = nil })
		time.Sleep(probePause)
		require.Empty(t, f.HeldBack("payment"))
		require.Equal(t, State{Participant: "payment", Opened: 1}, f.States()[0])
		time.Sleep(time.Minute)
		probes, wakes = f.counted()
		require.Equal(t, 11, probes, "nobody asks one that is not held back")
		require.Equal(t, 1, wakes)
		require.Equal(t, 1, strings.Count(f.log.String(), "level=ERROR"), "one alarm:\n%s", &f.log)
		require.Equal(t, 1, strings.Count(f.log.String(), "answers again"))
		require.Equal(t, 2, strings.Count(f.log.String(), "\n"))
	})
}

func TestWhatHoldsNobodyBack(t *testing.T) {
	for name, test := range map[string]func(f *fixture){
		"one poison order, however often it is tried": func(f *fixture) {
			for range 1000 {
				f.Unanswered("payment", "ord-poison", errAway)
				time.Sleep(time.Second)
			}
		},
		"a few poison orders, however often they are tried": func(f *fixture) {
			for range 10 {
				f.fail(enough-1, time.Minute)
			}
		},
		"many orders at once: a restart in between": func(f *fixture) {
			f.fail(1000, patience-time.Millisecond)
		},
		"an answer now and then among many failures": func(f *fixture) {
			for i := range 100 {
				f.Unanswered("payment", fmt.Sprintf("ord-%d", i), errAway)
				time.Sleep(time.Second)
				if i%(enough-1) == 0 {
					f.Answered("payment")
				}
			}
		},
		"a name that nobody gave": func(f *fixture) {
			for i := range 10 {
				f.Unanswered("pricing", fmt.Sprint(i), errAway)
				f.Answered("pricing")
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fixture) {
				test(f)
				for _, name := range []string{"payment", "warehouse", "pricing"} {
					require.Empty(t, f.HeldBack(name))
				}
				require.Zero(t, f.States()[0].Opened)
			})
		})
	}
}

func TestAProberThatGetsNoAnswerAsksAgainInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		b := New(Config{
			Participants: []string{"payment"}, Log: slog.New(slog.DiscardHandler),
			Probe: func(ctx context.Context, _ string) error {
				asked = append(asked, time.Now())
				if len(asked) == 3 {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			},
			Wake: func(context.Context, string) error { return nil },
		})
		go b.Run(t.Context())
		f := &fixture{Breakers: b}
		f.fail(enough, patience)
		opened := time.Now()
		time.Sleep(time.Minute)
		require.Empty(t, b.HeldBack("payment"))
		each := probePause + probeBudget
		require.Equal(t, []time.Time{opened.Add(probePause), opened.Add(probePause + each), opened.Add(probePause + 2*each)}, asked)
	})
}

func TestWakingIsTriedUntilItSucceeds(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.set(func() { f.down, f.deaf = nil, errors.New("database is away") })
		f.fail(enough, patience)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		_, wakes := f.counted()
		require.GreaterOrEqual(t, wakes, 8)
		require.Equal(t, 1, strings.Count(f.log.String(), "level=WARN"))

		f.set(func() { f.deaf = nil })
		time.Sleep(time.Minute)
		_, after := f.counted()
		require.Equal(t, wakes+1, after)
	})
}

func TestWakingThatHangsKeepsNoParticipantHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.set(func() { f.down, f.wakeHangs = nil, true })
		f.fail(enough, patience)
		time.Sleep(10 * time.Second)
		require.Empty(t, f.HeldBack("payment"))

		f.Answered("payment")
		f.fail(enough, patience)
		require.NotEmpty(t, f.HeldBack("payment"))
		f.set(func() { f.wakeHangs = false })
		time.Sleep(10 * time.Second)
		require.Empty(t, f.HeldBack("payment"))
		_, wakes := f.counted()
		require.Equal(t, 2, wakes)
		f.set(func() { require.Equal(t, 1, f.wakesCancelled) })
	})
}

func TestAParticipantThatAnswersTheProberAndNobodyElseIsLeftAloneForLonger(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		f.set(func() { f.down = nil })
		held := func() time.Duration {
			f.fail(enough, patience)
			require.NotEmpty(t, f.HeldBack("payment"))
			began := time.Now()
			for f.HeldBack("payment") != "" {
				time.Sleep(100 * time.Millisecond)
			}
			return time.Since(began).Round(time.Second)
		}
		for _, want := range []time.Duration{probePause, doubted, 2 * doubted, mostDoubted, mostDoubted} {
			require.Equal(t, want, held())
		}
		f.Answered("payment")
		require.Equal(t, probePause, held(), "the prober is believed again once a call was answered")
	})
}

func TestMetricsTellWhoIsHeldBackAndForHowLong(t *testing.T) {
	bubble(t, func(t *testing.T, f *fixture) {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(f.Collector())
		f.fail(enough, patience)
		time.Sleep(3 * time.Second)
		require.Equal(t, map[string]float64{
			"participant_held_back payment": 1, "participant_held_back warehouse": 0,
			"participant_held_back_seconds payment": 5, "participant_held_back_seconds warehouse": 0,
			"participant_breaker_opened_total payment": 1, "participant_breaker_opened_total warehouse": 0,
		}, gathered(t, registry))

		f.set(func() { f.down = nil })
		time.Sleep(3*time.Second + 500*time.Millisecond)
		metrics := gathered(t, registry)
		require.Zero(t, metrics["participant_held_back payment"])
		require.Zero(t, metrics["participant_held_back_seconds payment"])
		require.EqualValues(t, 1, metrics["participant_breaker_opened_total payment"])
	})
}

func gathered(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			values[family.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// Callers, prober, waker and readers at once, for the race detector. However they meet, each opening is followed by one wake-up.
func TestCallersProberAndReadersMayMeetInAnyWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Bool
		var wakes atomic.Int32
		b := New(Config{
			Participants: []string{"payment"}, Log: slog.New(slog.DiscardHandler),
			Probe: func(context.Context, string) error {
				if sick.Load() {
					return errAway
				}
				return nil
			},
			Wake: func(context.Context, string) error { wakes.Add(1); return nil },
		})
		ctx, stop := context.WithCancel(t.Context())
		var all, callers sync.WaitGroup
		all.Go(func() { b.Run(ctx) })
		all.Go(func() {
			for ctx.Err() == nil {
				sick.Store(!sick.Load())
				time.Sleep(5 * time.Second)
			}
		})
		for caller := range 16 {
			callers.Go(func() {
				for n := range 500 {
					if b.HeldBack("payment") == "" {
						if sick.Load() {
							b.Unanswered("payment", fmt.Sprintf("ord-%d-%d", caller, n), errAway)
						} else {
							b.Answered("payment")
						}
					}
					b.States()
					time.Sleep(time.Duration(50+caller) * time.Millisecond)
				}
			})
		}
		callers.Wait()
		sick.Store(false)
		time.Sleep(time.Minute) // The last opening closes, now or while it is sick no more.
		stop()
		all.Wait()
		state := b.States()[0]
		require.Empty(t, state.HeldBack)
		require.Greater(t, state.Opened, 1)
		require.EqualValues(t, state.Opened, wakes.Load())
	})
}
