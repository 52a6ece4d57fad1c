package embedded

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

const topic = "pricing.price.updated"

// app is a subscriber that answers as it is told and keeps what it was given.
type app struct {
	mu      sync.Mutex
	got     []bus.Delivery
	answers []bus.Answer // in turn; the last one for ever
	takes   time.Duration
}

func answering(answers ...bus.Answer) *app { return &app{answers: answers} }

func (a *app) subscription(topic string) bus.Subscription {
	return bus.Subscription{Topic: topic, Handle: func(ctx context.Context, d bus.Delivery) bus.Answer {
		if a.takes > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(a.takes):
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.got = append(a.got, d)
		return a.answers[min(len(a.got), len(a.answers))-1]
	}}
}

func (a *app) ids() (ids []string) {
	for _, d := range a.got {
		ids = append(ids, d.ID)
	}
	return ids
}

func priced(id, sku string) bus.Event {
	return bus.Event{ID: id, Topic: topic, Source: "pricing", Key: sku, Data: []byte(`{"sku":"` + sku + `"}`)}
}

// publish publishes on a bus with these subscribers, in time that does not really pass.
func publish(t *testing.T, events []bus.Event, subscribed, deadLetters []*app) (errs []error, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := New()
		for _, a := range subscribed {
			b.Subscribe(a.subscription(topic))
		}
		for _, a := range deadLetters {
			b.Subscribe(a.subscription(bus.DeadLettersOf(topic)))
		}
		began := time.Now()
		errs = b.Publish(t.Context(), events)
		took = time.Since(began)
	})
	return errs, took
}

func TestEverySubscriberGetsAnEventInTheOrderOfItsKey(t *testing.T) {
	t.Parallel()
	first, second := answering(bus.Success), answering(bus.Success)
	errs, _ := publish(t, []bus.Event{priced("e-1", "A"), priced("e-2", "A"), priced("e-3", "A")}, []*app{first, second}, nil)
	require.Equal(t, []error{nil, nil, nil}, errs)
	for _, a := range []*app{first, second} {
		require.Equal(t, []string{"e-1", "e-2", "e-3"}, a.ids())
		require.Equal(t, topic, a.got[0].Topic)
		require.JSONEq(t, `{"sku": "A"}`, string(a.got[0].Data))
	}
}

func TestAnEventWithoutSubscribersIsTaken(t *testing.T) {
	t.Parallel()
	errs, _ := publish(t, []bus.Event{priced("e-1", "A")}, nil, nil)
	require.Equal(t, []error{nil}, errs)
}

func TestARetryIsTriedAgainAFewTimesAndThenADeadLetter(t *testing.T) {
	t.Parallel()
	recovering, failing, deadLetters := answering(bus.Retry, bus.Retry, bus.Success), answering(bus.Retry), answering(bus.Success)
	e := priced("e-1", "A")
	errs, took := publish(t, []bus.Event{e}, []*app{recovering, failing}, []*app{deadLetters})
	require.Equal(t, []error{nil}, errs)
	require.Len(t, recovering.got, 3)
	require.Len(t, failing.got, tries)
	require.Less(t, took, time.Second)

	require.Len(t, deadLetters.got, 1)
	message, err := e.CloudEvent()
	require.NoError(t, err)
	require.Equal(t, bus.Delivery{Topic: "dlq." + topic, Data: message}, deadLetters.got[0], "the message as it is, and not opened")
	require.Equal(t, failing.got[0].MessageID(), bus.Open(topic, deadLetters.got[0].Data).MessageID())
}

func TestWhatIsDroppedIsADeadLetterAtOnceAndTheOthersGetIt(t *testing.T) {
	t.Parallel()
	dropping, other, deadLetters := answering(bus.Drop), answering(bus.Success), answering(bus.Success)
	errs, took := publish(t, []bus.Event{priced("e-1", "A")}, []*app{dropping, other}, []*app{deadLetters})
	require.Equal(t, []error{nil}, errs)
	require.Len(t, dropping.got, 1)
	require.Len(t, other.got, 1)
	require.Len(t, deadLetters.got, 1)
	require.Zero(t, took)
}

func TestI8AnEventWhoseConsumerIsAwayStaysWhereItIsAndIsNoDeadLetter(t *testing.T) {
	t.Parallel()
	away, other, deadLetters := answering(bus.Away), answering(bus.Success), answering(bus.Success)
	errs, took := publish(t, []bus.Event{priced("e-1", "A")}, []*app{away, other}, []*app{deadLetters})
	require.ErrorIs(t, errs[0], errAway)
	require.Len(t, away.got, 1, "its outbox brings it again")
	require.Len(t, other.got, 1)
	require.Empty(t, deadLetters.got)
	require.Zero(t, took)
}

func TestAnEventThatNobodyTakesStaysWhereItIs(t *testing.T) {
	t.Parallel()
	for name, deadLetters := range map[string][]*app{"no dead letters": nil, "they fail too": {answering(bus.Retry)}} {
		failing, other := answering(bus.Drop), answering(bus.Success)
		errs, _ := publish(t, []bus.Event{priced("e-1", "A"), priced("e-2", "A"), priced("e-3", "B")}, []*app{failing, other}, deadLetters)
		require.ErrorContains(t, errs[0], topic, name)
		require.ErrorContains(t, errs[1], "e-1 before it", name)
		require.Error(t, errs[2], name)
		require.ElementsMatch(t, []string{"e-1", "e-3"}, other.ids(), name)
	}
}

func TestAHandlerThatHangsIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	hanging, deadLetters := answering(bus.Retry), answering(bus.Success)
	hanging.takes = bus.HandleTimeout
	errs, took := publish(t, []bus.Event{priced("e-1", "A")}, []*app{hanging}, []*app{deadLetters})
	require.Equal(t, []error{nil}, errs)
	require.Len(t, deadLetters.got, 1)
	require.Equal(t, bus.HandleTimeout, took)
}

func TestAPublisherThatGivesUpLeavesNoDeadLetter(t *testing.T) {
	t.Parallel()
	failing, deadLetters := answering(bus.Retry), answering(bus.Success)
	synctest.Test(t, func(t *testing.T) {
		b := New()
		b.Subscribe(failing.subscription(topic), deadLetters.subscription("dlq."+topic))
		ctx, cancel := context.WithTimeout(t.Context(), 2*firstPause)
		defer cancel()
		require.ErrorIs(t, b.Publish(ctx, []bus.Event{priced("e-1", "A")})[0], context.DeadlineExceeded)
	})
	require.Empty(t, deadLetters.got)
}

func TestAMessageIsReplayedAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, a, deadLetters := New(), answering(bus.Drop), answering(bus.Success)
		b.Subscribe(a.subscription(topic), deadLetters.subscription("dlq."+topic))
		const message = "\x00 not JSON"
		require.NoError(t, b.PublishRaw(t.Context(), topic, []byte(message)))
		require.Equal(t, message, string(a.got[0].Data))
		require.Error(t, a.got[0].Broken)
		require.Equal(t, message, string(deadLetters.got[0].Data))
	})
}

// together is an app that takes all at once, or nothing, and has a use for the events of one coordination alone.
type together struct {
	takes bool
	got   [][]string
}

func (a *together) Expects(_, coordination string) bool { return coordination == "choreographed" }

func (a *together) TakeAll(_ context.Context, deliveries []bus.Delivery) bool {
	var ids []string
	for _, d := range deliveries {
		ids = append(ids, d.ID)
	}
	a.got = append(a.got, ids)
	return a.takes
}

func TestAnAppGetsWhatItHasAUseForAtOnceAndOneByOneOnlyWhatItCouldNotTakeSo(t *testing.T) {
	t.Parallel()
	const other = "pricing.price.withdrawn"
	for takes, single := range map[bool][]string{true: nil, false: {"e-1", "e-3"}} {
		whole, alone := &together{takes: takes}, answering(bus.Success)
		b := New()
		for _, topic := range []string{topic, other} {
			s := alone.subscription(topic)
			s.App = whole
			b.Subscribe(s)
		}
		events := []bus.Event{priced("e-1", "A"), priced("e-2", "A"), priced("e-3", "A")}
		events[0].Coordination, events[1].Coordination, events[2].Coordination = "choreographed", "orchestrated", "choreographed"
		events[2].Topic = other
		require.Equal(t, []error{nil, nil, nil}, b.Publish(t.Context(), events))
		require.Equal(t, [][]string{{"e-1", "e-3"}}, whole.got, "of all topics, in their order")
		require.Equal(t, single, alone.ids())
	}
}
