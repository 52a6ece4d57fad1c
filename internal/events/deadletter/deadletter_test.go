package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
)

func TestI5WhatAConsumerCannotTakeIsADeadLetterWithItsCause(t *testing.T) {
	w := setup(t)
	w.orders.set(errors.New("column status does not exist"), false)
	w.write(t, "ord-1", &checkoutv1.OrderCreated{Order: anOrder})

	l := w.only(t)
	require.Equal(t, "dl-1", l.Id)
	require.Equal(t, created, l.Topic)
	require.Equal(t, []string{"orders"}, l.Consumers)
	require.Equal(t, "column status does not exist", l.Cause)
	require.EqualValues(t, 5, l.Attempts)
	require.Equal(t, "orchestrator:order:ord-1:1", l.EventId)
	require.Equal(t, "ord-1", l.OrderId)
	require.Equal(t, "open", l.State)
	require.Equal(t, []string{l.EventId}, w.warehouse.has(), "the other consumer has it")

	got, err := w.service.Get(t.Context(), connect.NewRequest(&deadletterv1.GetRequest{Id: l.Id}))
	require.NoError(t, err)
	require.EqualValues(t, l.SizeBytes, len(got.Msg.Message))
	m, err := event.Decode(created, bus.Open(created, got.Msg.Message).Data)
	require.NoError(t, err)
	require.Equal(t, "cus-1", m.(*checkoutv1.OrderCreated).Order.CustomerId)
}

func TestI5EachTopicThatAnybodyReceivesHasItsDeadLettersTakenIn(t *testing.T) {
	var topics []string
	for _, s := range setup(t).service.Subscriptions() {
		topics = append(topics, s.Topic)
	}
	require.Len(t, topics, len(event.Consumed()))
	require.Contains(t, topics, "dlq.orders.order.status_changed")
	require.NotContains(t, topics, "dlq.payments.payment.voided", "nobody receives it")
}

func TestI5AnythingIsKeptByteForByteWithWhatIsWrongWithIt(t *testing.T) {
	w := setup(t)
	header := func(edit string) string {
		return fmt.Sprintf(`{"header":{"event_id":"evt-1","topic":%q,"producer":"orchestrator","order_id":"ord-1","seq":"1","schema_version":1,`+
			`"coordination":"orchestrated","occurred_at":"%s"%s}}`, cancelled, time.Now().UTC().Format(time.RFC3339), edit)
	}
	for name, c := range map[string]struct {
		message          []byte
		cause            string
		eventID, orderID string
	}{
		"nothing":                {nil, "it is no CloudEvent", "", ""},
		"no JSON":                {[]byte("hello"), "it is no CloudEvent", "", ""},
		"bytes":                  {[]byte{0, 0xff, 0xfe, 1}, "it is no CloudEvent", "", ""},
		"JSON":                   {[]byte(`[1, 2]`), "it is no CloudEvent", "", ""},
		"no data":                {[]byte(`{"id":"x"}`), "data is missing", "x", ""},
		"an event without a key": {[]byte(`{"data":{"header":{"event_id":"evt-2"}}}`), "header.topic: must be", "evt-2", ""},
		"another type":           {cloudEvent(t, cancelled, `{"header":{"event_id":7,"order_id":"ord-7"}}`), "it is not the JSON of", "evt-1", "ord-7"},
		"a zero byte in the ids": {cloudEvent(t, cancelled, `{"header":{"event_id":"a\u0000b","order_id":"c\u0000"}}`), "header.topic: must be", "a?b", "c?"},
		"a text for a time":      {cloudEvent(t, cancelled, `{"header":{"occurred_at":"soon","order_id":"ord-8"}}`), "it is not the JSON of", "evt-1", "ord-8"},
		"an endless id":          {[]byte(`{"id":"` + strings.Repeat("i", 5000) + `","data":{}}`), "header: is missing", strings.Repeat("i", 200), ""},
		"another owner":          {cloudEvent(t, cancelled, header(`,"producer":"orders"`)), "duplicate", "evt-1", "ord-1"},
		"1 MiB":                  {cloudEvent(t, cancelled, header(`,"traceparent":"`+strings.Repeat("a", 1<<20)+`"`)), "bytes, and 262144 are the most", "evt-1", "ord-1"},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.list(t, &deadletterv1.Selection{State: all})
			require.NoError(t, w.bus.PublishRaw(t.Context(), cancelled, c.message))
			after := w.list(t, &deadletterv1.Selection{State: all})
			require.Len(t, after, len(before)+1)
			l := after[len(before)]
			require.Equal(t, []string{"orders"}, l.Consumers)
			require.Contains(t, l.Cause, c.cause)
			require.Equal(t, c.eventID, l.EventId)
			require.Equal(t, c.orderID, l.OrderId)
			got, err := w.service.Get(t.Context(), connect.NewRequest(&deadletterv1.GetRequest{Id: l.Id}))
			require.NoError(t, err)
			require.True(t, bytes.Equal(c.message, got.Msg.Message))
		})
	}
}

func TestI5WhatNoConsumerHasOnRecordSaysSoAndWhatCanBeSeen(t *testing.T) {
	w := setup(t)
	// As when the sidecar itself could not read it, or gave up before any consumer was there.
	require.Equal(t, bus.Success, w.arrive(t, created, []byte("{")))
	require.Contains(t, w.only(t).Cause, "no consumer has it on record; what can be seen: it is no CloudEvent: ")
	require.Empty(t, w.only(t).Consumers)

	require.Equal(t, bus.Success, w.arrive(t, created, []byte{}))
	require.Equal(t, "no consumer has it on record; what can be seen: it is empty", w.list(t, nil)[1].Cause)

	for i, c := range []struct{ envelope, cause string }{
		{`{"traceparent": 5, "data": {}}`, "its traceparent is no text"},
		{`{"traceparent": "00-1-2-01", "traceid": null, "data": {}}`, "its traceid is no text"},
		{`{"expiration": "2020-01-02T03:04:05Z", "data": {}}`, "it expired at 2020-01-02T03:04:05Z"},
		{`{"expiration": "2999-01-02T03:04:05Z", "data": {}}`, "header: is missing"},
	} {
		require.Equal(t, bus.Success, w.arrive(t, created, []byte(c.envelope)))
		require.Equal(t, "no consumer has it on record; what can be seen: "+c.cause, w.list(t, nil)[2+i].Cause)
	}
}

// arrive hands a message to the subscription of a topic's dead letters.
func (w *world) arrive(t *testing.T, topic string, message []byte) bus.Answer {
	t.Helper()
	for _, s := range w.service.Subscriptions() {
		if s.Topic == bus.DeadLettersOf(topic) {
			return s.Handle(t.Context(), bus.Delivery{Topic: s.Topic, Data: message})
		}
	}
	t.Fatalf("nobody takes the dead letters of %s", topic)
	return bus.Drop
}

func TestI5TheSameMessageIsOneLetterHoweverOftenItArrives(t *testing.T) {
	w := setup(t)
	message := cloudEvent(t, created, `{"a":1,"b":2}`)
	rewritten := bytes.ReplaceAll(message, []byte(`{"a":1,"b":2}`), []byte(`{"b": 2, "a": 1}`))
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { require.Equal(t, bus.Success, w.arrive(t, created, message)) })
		all.Go(func() { require.Equal(t, bus.Success, w.arrive(t, created, rewritten)) })
	}
	all.Wait()
	require.EqualValues(t, 20, w.only(t).Arrivals)

	require.Equal(t, bus.Success, w.arrive(t, cancelled, message))
	require.Equal(t, bus.Success, w.arrive(t, created, cloudEvent(t, created, `{"a":1,"b":3}`)))
	require.Len(t, w.list(t, nil), 3, "another topic, and another content under the same id, are other letters")
}

func TestI5BothConsumersOfAMessageAreNamed(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: orders cannot", event.ErrBad), false)
	w.warehouse.set(fmt.Errorf("%w: warehouse cannot", event.ErrBad), false)
	w.write(t, "ord-1", &checkoutv1.OrderCreated{Order: anOrder})
	l := w.only(t)
	require.ElementsMatch(t, []string{"orders", "warehouse"}, l.Consumers)
	require.Contains(t, l.Cause, "orders: bad event: orders cannot")
	require.Contains(t, l.Cause, "warehouse: bad event: warehouse cannot")
	require.EqualValues(t, 2, l.Arrivals)
	require.Len(t, w.list(t, &deadletterv1.Selection{Consumer: "warehouse"}), 1)
}

func TestI5AConsumerThatTookItInTheEndIsNotNamed(t *testing.T) {
	w := setup(t)
	w.orders.set(errors.New("deadlock detected"), false)
	w.orders.once = true
	w.warehouse.set(fmt.Errorf("%w: poison", event.ErrBad), false)
	w.write(t, "ord-1", &checkoutv1.OrderCreated{Order: anOrder})
	require.Equal(t, []string{"warehouse"}, w.only(t).Consumers)
	require.Equal(t, "bad event: poison", w.only(t).Cause)
}

func TestI5AnAnswerAboutAnEarlierArrivalLeavesTheLaterOneToBeAsked(t *testing.T) {
	w := setup(t)
	w.arrive(t, cancelled, []byte("x"))
	asked, err := w.service.letters.questions(t.Context(), "orders", 10)
	require.NoError(t, err)
	require.Len(t, asked, 1)
	w.arrive(t, cancelled, []byte("x"))
	require.NoError(t, w.service.letters.answer(t.Context(), "orders", asked, nil))
	again, err := w.service.letters.questions(t.Context(), "orders", 10)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.NoError(t, w.service.letters.answer(t.Context(), "orders", again, nil))
	again, err = w.service.letters.questions(t.Context(), "orders", 10)
	require.NoError(t, err)
	require.Empty(t, again)
}

func TestI5AConsumerThatIsDownIsAskedAgainAndOnceForAllLetters(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: poison", event.ErrBad), true)
	w.write(t, "ord-1", slices.Repeat([]event.Message{&checkoutv1.OrderCancelled{Order: anOrder, Status: "CANCELLED"}}, 30)...)
	for _, l := range w.list(t, nil) {
		require.Equal(t, "orders could not be asked yet; nothing is wrong with the message itself that could be seen here", l.Cause)
	}
	w.orders.set(nil, false)
	asked := w.orders.asked
	for _, l := range w.list(t, nil) {
		require.Equal(t, "bad event: poison", l.Cause)
	}
	require.Equal(t, asked+1, w.orders.asked, "one question for all")
	w.orders.set(nil, true)
	require.Equal(t, "bad event: poison", w.list(t, nil)[0].Cause, "what was found is kept")
	require.Equal(t, asked+1, w.orders.asked, "and not asked again")
}

func TestI5CausesAreLearnedInTheBackgroundToo(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: poison", event.ErrBad), false)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.service.Run(ctx) }()
	w.write(t, "ord-1", &checkoutv1.OrderCancelled{Order: anOrder, Status: "CANCELLED"})
	require.Eventually(t, func() bool {
		var n int
		return w.pool.QueryRow(t.Context(), `SELECT count(*) FROM dead_letter_failures`).Scan(&n) == nil && n == 1
	}, 10*time.Second, 10*time.Millisecond)
	stop()
	require.NoError(t, <-ran)
}

func TestI5WithoutItsDatabaseALetterIsNotTakenAndComesAgain(t *testing.T) {
	w := setup(t)
	w.pool.Close()
	require.Equal(t, bus.Retry, w.arrive(t, created, []byte("x")))
}

func TestI2ReplayReachesTheConsumerThatFailedAndTheOthersAbsorbIt(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: not yet known", event.ErrBad), false)
	w.write(t, "ord-1", &checkoutv1.OrderCreated{Order: anOrder})
	w.orders.set(nil, false)

	require.Equal(t, []string{"dl-1"}, w.replay(t, nil).Replayed)
	l := w.only(t)
	require.Equal(t, "replayed", l.State)
	require.Equal(t, "ann", l.Actor)
	require.Equal(t, "mended", l.Reason)
	require.NotNil(t, l.SettledAt)
	require.Equal(t, "bad event: not yet known", l.Cause, "why it was a dead letter stays known")
	require.Empty(t, w.list(t, nil), "nothing is open")

	require.Equal(t, []string{"dl-1"}, w.replay(t, ids("dl-1")).Replayed, "named ones also if they are not open")
	require.Equal(t, []string{l.EventId}, w.orders.has(), "replaying twice changes nothing")
	require.Equal(t, []string{l.EventId}, w.warehouse.has())
	require.EqualValues(t, 2, w.only(t).Replays)
	got, err := w.service.Get(t.Context(), connect.NewRequest(&deadletterv1.GetRequest{Id: "dl-1"}))
	require.NoError(t, err)
	require.Len(t, got.Msg.Acts, 2, "every act is kept")
}

func TestI5AReplayThatFailsAgainIsOpenAgain(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: first", event.ErrBad), false)
	w.write(t, "ord-1", &checkoutv1.OrderCancelled{Order: anOrder, Status: "CANCELLED"})
	w.orders.set(fmt.Errorf("%w: second", event.ErrBad), false)
	require.Equal(t, []string{"dl-1"}, w.replay(t, nil).Replayed)
	l := w.only(t)
	require.Equal(t, "open", l.State)
	require.Nil(t, l.SettledAt)
	require.Equal(t, "bad event: second", l.Cause)
	require.EqualValues(t, 2, l.Attempts)
	require.EqualValues(t, 1, l.Replays)

	// Later too, as on a broker.
	w.orders.set(nil, false)
	w.replay(t, nil)
	require.Equal(t, "replayed", w.only(t).State)
	got, err := w.service.Get(t.Context(), connect.NewRequest(&deadletterv1.GetRequest{Id: "dl-1"}))
	require.NoError(t, err)
	require.Equal(t, bus.Success, w.arrive(t, cancelled, got.Msg.Message))
	require.Equal(t, "open", w.only(t).State)
}

func TestI2WhatIsOlderThanInboxesRememberIsNotReplayed(t *testing.T) {
	w := setup(t)
	old := time.Now().Add(-inbox.Remember - time.Hour).UTC().Format(time.RFC3339)
	w.arrive(t, cancelled, cloudEvent(t, cancelled, `{"header":{"order_id":"ord-1","occurred_at":"`+old+`"}}`))
	w.arrive(t, cancelled, []byte("no event at all"))
	for _, dryRun := range []bool{true, false} {
		answer, err := w.service.Replay(t.Context(), connect.NewRequest(&deadletterv1.ReplayRequest{Reason: "r", DryRun: dryRun}))
		require.NoError(t, err)
		require.Equal(t, []string{"dl-2"}, answer.Msg.Replayed, "what tells no time is replayed as it is")
		require.Len(t, answer.Msg.Refused, 1)
		require.Equal(t, "dl-1", answer.Msg.Refused[0].Id)
		require.Contains(t, answer.Msg.Refused[0].Why, "occurred 60 days ago and inboxes remember 60")
	}
	require.Len(t, w.list(t, nil), 2, "one was refused, the other has failed again")
	require.EqualValues(t, 1, w.list(t, nil)[1].Replays, "a dry run did nothing")
}

func TestI5WhatTheBusDoesNotTakeStaysOpen(t *testing.T) {
	w := setup(t)
	w.arrive(t, cancelled, []byte("x"))
	w.service.publisher = refusing{}
	answer := w.replay(t, nil)
	require.Empty(t, answer.Replayed)
	require.Equal(t, "it was not published: the broker is away", answer.Refused[0].Why)
	require.Equal(t, "open", w.only(t).State)
	require.Zero(t, w.only(t).Replays)

	w.service.publisher = nil
	_, err := w.service.Replay(t.Context(), connect.NewRequest(&deadletterv1.ReplayRequest{Reason: "r"}))
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err))
}

type refusing struct{ bus.Publisher }

func (refusing) PublishRaw(context.Context, string, []byte) error {
	return errors.New("the broker is away")
}

func TestArchivedLettersAreKeptAndNoLongerOpen(t *testing.T) {
	w := setup(t)
	w.arrive(t, cancelled, []byte("one"))
	w.arrive(t, created, []byte("two"))
	archive := func(s *deadletterv1.Selection, dryRun bool) *deadletterv1.ArchiveResponse {
		answer, err := w.service.Archive(t.Context(), connect.NewRequest(&deadletterv1.ArchiveRequest{Selection: s, Reason: "not ours", DryRun: dryRun}))
		require.NoError(t, err)
		return answer.Msg
	}
	require.Equal(t, []string{"dl-2"}, archive(&deadletterv1.Selection{Topic: created}, true).Archived)
	require.Len(t, w.list(t, nil), 2, "a dry run does nothing")
	require.Equal(t, []string{"dl-2"}, archive(&deadletterv1.Selection{Topic: created}, false).Archived)
	require.Len(t, w.list(t, nil), 1)
	kept := w.list(t, &deadletterv1.Selection{State: "archived"})
	require.Len(t, kept, 1)
	require.Equal(t, "api", kept[0].Actor)
	require.Equal(t, "not ours", kept[0].Reason)

	answer := archive(ids("dl-1", "dl-99", "nonsense", "dl-99", "dl-01"), false)
	require.Equal(t, []string{"dl-1"}, answer.Archived)
	var refused []string
	for _, r := range answer.Refused {
		require.Equal(t, "no such dead letter", r.Why)
		refused = append(refused, r.Id)
	}
	require.Equal(t, []string{"dl-99", "nonsense", "dl-01"}, refused)

	_, err := w.service.Get(t.Context(), connect.NewRequest(&deadletterv1.GetRequest{Id: "dl-99"}))
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestListGoesPageByPage(t *testing.T) {
	w := setup(t)
	for i := range 5 {
		w.arrive(t, cancelled, []byte(fmt.Sprint("message ", i)))
	}
	var seen []string
	req := &deadletterv1.ListRequest{PageSize: 2}
	for {
		answer, err := w.service.List(t.Context(), connect.NewRequest(req))
		require.NoError(t, err)
		for _, l := range answer.Msg.DeadLetters {
			seen = append(seen, l.Id)
		}
		if req.PageToken = answer.Msg.NextPageToken; req.PageToken == "" {
			break
		}
	}
	require.Equal(t, []string{"dl-1", "dl-2", "dl-3", "dl-4", "dl-5"}, seen)
}

func TestI9BadInputIsRefusedAndSaysWhere(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(deadletterv1connect.NewDeadLetterServiceHandler(setup(t).service, connect.WithInterceptors(contract.Interceptor{})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	api := deadletterv1connect.NewDeadLetterServiceClient(server.Client(), server.URL)
	for want, selection := range map[string]*deadletterv1.Selection{
		"selection.topic: ":    {Topic: "checkout.order.eaten"},
		"selection.consumer: ": {Consumer: "ordrs"},
		"selection.state: ":    {State: "closed"},
		"selection.ids: ":      {Ids: slices.Repeat([]string{"dl-1"}, 1001)},
	} {
		_, err := api.List(t.Context(), connect.NewRequest(&deadletterv1.ListRequest{Selection: selection}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
		require.ErrorContains(t, err, want)
		_, err = api.Replay(t.Context(), connect.NewRequest(&deadletterv1.ReplayRequest{Selection: selection, Reason: "r"}))
		require.ErrorContains(t, err, want)
	}
	for want, act := range map[string]*deadletterv1.ReplayRequest{
		"reason: is missing": {},
		"reason: must be":    {Reason: "a\nb"},
		"actor: must be":     {Reason: "r", Actor: strings.Repeat("a", 200)},
	} {
		_, err := api.Replay(t.Context(), connect.NewRequest(act))
		require.ErrorContains(t, err, want)
		_, err = api.Archive(t.Context(), connect.NewRequest(&deadletterv1.ArchiveRequest{Reason: act.Reason, Actor: act.Actor}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
	for want, req := range map[string]*deadletterv1.ListRequest{"page_size: ": {PageSize: 1001}, "page_token: ": {PageToken: "x"}} {
		_, err := api.List(t.Context(), connect.NewRequest(req))
		require.ErrorContains(t, err, want)
	}
}

func TestSettledLettersAreForgottenAfterAWhileAndOpenOnesNever(t *testing.T) {
	w := setup(t)
	for _, message := range []string{"open", "settled", "settled long ago"} {
		w.arrive(t, cancelled, []byte(message))
	}
	_, err := w.pool.Exec(t.Context(), `
		UPDATE dead_letters SET arrived_at = now() - interval '200 days';
		UPDATE dead_letters SET state = 'archived', settled_at = now() - interval '89 days' WHERE id = 2;
		UPDATE dead_letters SET state = 'replayed', settled_at = now() - interval '91 days' WHERE id = 3`)
	require.NoError(t, err)
	w.service.prune(t.Context())
	var left []string
	for _, l := range w.list(t, &deadletterv1.Selection{State: all}) {
		left = append(left, l.Id)
	}
	require.Equal(t, []string{"dl-1", "dl-2"}, left)
}

func TestHeldTellsWhichEventsNobodyHasReplayed(t *testing.T) {
	w := setup(t)
	w.orders.set(fmt.Errorf("%w: poison", event.ErrBad), false)
	w.write(t, "ord-1", &checkoutv1.OrderCreated{Order: anOrder})
	const id = "orchestrator:order:ord-1:1"
	held, err := w.service.HeldOf(t.Context(), []string{id, "another"})
	require.NoError(t, err)
	require.Len(t, held, 1)
	require.True(t, held[0].For("orders"))
	require.False(t, held[0].For("warehouse"))
	w.orders.set(nil, false)
	w.replay(t, nil)
	held, err = w.service.HeldOf(t.Context(), []string{id})
	require.NoError(t, err)
	require.Empty(t, held)
}
