package brokers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	catalogue "github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// TestWhatNobodyCanTakeBecomesADeadLetterAndHoldsUpNothing puts on the topics of one shop what its consumers can never take,
// and what they cannot take now. An operator mends what can be mended by the command line; the judge finds nothing in the end.
func TestWhatNobodyCanTakeBecomesADeadLetterAndHoldsUpNothing(t *testing.T) {
	s := startShop(t, localstack.Redis)
	pids := s.processes(t)

	t.Run("I9 bad input is kept with its cause, and checkouts go on", s.keepsBadInput)
	t.Run("what cannot be read comes back when it is replayed, and stays away when it is archived", s.archivesWhatCannotBeRead)
	t.Run("what is older than inboxes remember is not replayed", s.refusesToReplayTheOld)
	t.Run("a dead letter that cannot be kept now is kept later", s.keepsLetterInTheEnd)
	t.Run("a poison event delays no other, and a replay mends it", s.mendsPoison)
	t.Run("events are listed, those too that the broker has not taken", s.listsEvents)

	requireAlive(t, pids)
	require.Equal(t, pids, s.processes(t))
	before := s.arrivals(t)
	s.awaitDrained(t)
	cli[settled](t, s, 0, "dead-letter", "archive", "--all", "--reason", "nobody can take them")
	require.Empty(t, s.letters(t, &deadletterv1.Selection{}))
	require.Equal(t, before, s.arrivals(t), "nothing goes round in a loop")
	s.Audit(t)
}

// Ways to put a message on a topic.
const (
	pastSidecars = iota
	// asItIs: a sidecar puts the bytes on the topic.
	asItIs
	// wrapped: a sidecar makes an event of it.
	wrappedText
	wrappedJSON
	wrappedBytes
)

// wrapping is what a sidecar is told of a message.
var wrapping = map[int]string{wrappedText: "text/plain", wrappedJSON: "application/json", wrappedBytes: "application/octet-stream"}

// badMessage is one that no consumer can take.
type badMessage struct {
	topic   string
	way     int
	message []byte
	// mark stands in what the sidecar made of the message. Others are kept byte for byte.
	mark string
	// consumers are those whose handlers say why. There is none where the sidecar itself cannot read the message.
	consumers []string
	says      []string
}

func (s system) keepsBadInput(t *testing.T) {
	const mib = 1 << 20
	const confirmed, created, changed = "checkout.order.confirmed", "checkout.order.created", "orders.order.status_changed"
	const reserved, committed, completed, failed = "warehouse.inventory.reserved", "warehouse.inventory.committed", "payments.payment.completed", "payments.payment.failed"

	// broken is an event of which one thing was made wrong.
	broken := func(topic, mark string, change func(payload, header map[string]any)) []byte {
		return inEnvelope(t, topic, mark, payload(t, topic, mark, func(p, header map[string]any) {
			header["event_id"] = mark
			change(p, header)
		}))
	}
	// spoilt is a well-formed event with one more attribute.
	spoilt := func(attribute string) []byte {
		message := inEnvelope(t, confirmed, "bad-attribute", payload(t, confirmed, "bad-attribute", nil))
		return append([]byte("{"+attribute+","), message[1:]...)
	}
	all := map[string]badMessage{
		"nothing":                                {topic: confirmed, says: []string{"no consumer has it on record", "it is empty"}},
		"bytes":                                  {topic: confirmed, message: []byte("bad-bytes \x00\xff"), says: []string{"it is no CloudEvent: invalid character"}},
		"bytes to two consumers":                 {topic: failed, way: asItIs, message: []byte("bad-bytes-2"), says: []string{"it is no CloudEvent: invalid character"}},
		"bytes to a streaming consumer":          {topic: changed, way: asItIs, message: []byte("<bad-bytes-3/>"), says: []string{"it is no CloudEvent: invalid character"}},
		"a MiB of bytes":                         {topic: confirmed, message: append(bytes.Repeat([]byte("x"), mib), "bad-mib"...), says: []string{"it is no CloudEvent: invalid character"}},
		"bytes as an event's data":               {topic: confirmed, way: wrappedBytes, message: []byte("bad-binary\x00"), mark: "YmFkLWJpbmFyeQA=", consumers: []string{"orders"}, says: []string{"data is missing"}},
		"text as an event's data":                {topic: failed, way: wrappedText, message: []byte("bad-text"), mark: "bad-text", consumers: []string{"orchestrator", "warehouse"}, says: []string{"it is not the JSON of payment.v1.PaymentFailed"}},
		"9 MiB of bytes":                         {topic: "checkout.order.cancelled", message: bytes.Repeat([]byte("x"), 9*mib), says: []string{"it is no CloudEvent: invalid character"}},
		"a trace context that is no text":        {topic: confirmed, message: spoilt(`"traceparent": 5`), says: []string{"its traceparent is no text"}},
		"a message that has expired":             {topic: confirmed, message: spoilt(`"expiration": "2020-01-02T03:04:05Z"`), says: []string{"it expired at 2020-01-02T03:04:05Z"}},
		"null":                                   {topic: committed, message: []byte("null"), consumers: []string{"orchestrator"}, says: []string{"data is missing"}},
		"a list":                                 {topic: reserved, message: []byte(`["bad-list"]`), says: []string{"it is no CloudEvent: json: cannot unmarshal array"}},
		"a list as an event's data":              {topic: "warehouse.inventory.released", way: wrappedJSON, message: []byte(`["bad-list-2"]`), mark: "bad-list-2", consumers: []string{"orchestrator"}, says: []string{"it is not the JSON of warehouse.v1.InventoryReleased"}},
		"somebody else's JSON":                   {topic: "pricing.price.updated", message: []byte(`{"temperature": 21.5, "at": "bad-json"}`), consumers: []string{"orchestrator"}, says: []string{"data is missing"}},
		"an event of another topic":              {topic: "checkout.order.cancelled", message: broken(confirmed, "bad-topic", func(p, h map[string]any) {}), consumers: []string{"orders"}, says: []string{"header.topic: must be checkout.order.cancelled"}},
		"an event without data":                  {topic: created, message: []byte(`{"specversion": "1.0", "id": "bad-data", "source": "orchestrator", "type": "checkout.order.created"}`), consumers: []string{"orders", "warehouse"}, says: []string{"orders: ", "warehouse: ", "data is missing"}},
		"an event without data over a stream":    {topic: changed, message: []byte(`{"specversion": "1.0", "id": "bad-data-2", "source": "orders", "type": "orders.order.status_changed"}`), consumers: []string{"notification"}, says: []string{"it is not the JSON of orders.v1.OrderStatusChanged"}},
		"an unknown version":                     {topic: confirmed, message: broken(confirmed, "bad-version", func(_, h map[string]any) { h["schema_version"] = 99 }), consumers: []string{"orders"}, says: []string{"header.schema_version: this build reads 1 to 1, not 99"}},
		"no event id":                            {topic: completed, message: broken(completed, "bad-id", func(_, h map[string]any) { delete(h, "event_id") }), consumers: []string{"orchestrator", "warehouse"}, says: []string{"header.event_id: is missing"}},
		"no order id":                            {topic: reserved, message: broken(reserved, "bad-order", func(_, h map[string]any) { delete(h, "order_id") }), consumers: []string{"orchestrator", "payment"}, says: []string{"header.order_id: is missing"}},
		"an event of a MiB":                      {topic: confirmed, message: broken(confirmed, "bad-large", func(p, _ map[string]any) { p["more"] = strings.Repeat("x", mib) }), consumers: []string{"orders"}, says: []string{"and 262144 are the most"}},
		"an event of a MiB over a stream":        {topic: changed, way: asItIs, message: broken(changed, "bad-large-2", func(p, _ map[string]any) { p["more"] = strings.Repeat("x", mib) }), consumers: []string{"notification"}, says: []string{"and 262144 are the most"}},
		"an order that nobody accepted":          {topic: committed, message: broken(committed, "bad-unknown", func(_, _ map[string]any) {}), consumers: []string{"orchestrator"}, says: []string{"no order bad-unknown was accepted here"}},
		"a producer that does not own its topic": {topic: committed, message: broken(committed, "bad-producer", func(_, h map[string]any) { h["producer"] = "payment" }), consumers: []string{"orchestrator"}, says: []string{`header.producer: "payment" does not own warehouse.inventory.committed; warehouse does`}},
		"an order of nothing":                    {topic: created, message: broken(created, "bad-items", func(p, _ map[string]any) { p["order"].(map[string]any)["items"] = []any{} }), consumers: []string{"orders", "warehouse"}, says: []string{"orders: ", "warehouse: ", "order.items: is missing"}},
	}
	for _, m := range all {
		switch m.way {
		case pastSidecars:
			s.add(t, m.topic, m.message)
		case asItIs:
			s.publish(t, m.topic, "application/octet-stream", true, m.message)
		default:
			s.publish(t, m.topic, wrapping[m.way], false, m.message)
		}
	}
	s.awaitDrained(t)
	for name, m := range all {
		t.Run(name, func(t *testing.T) {
			fits := has(m.mark)
			if m.way == pastSidecars || m.way == asItIs {
				fits = is(m.message)
			}
			got := s.letterOf(t, m.topic, fits)
			letter := got.DeadLetter
			consumers := slices.Sorted(slices.Values(letter.Consumers))
			require.Equal(t, m.consumers, consumers, "its cause: %s", letter.Cause)
			for _, text := range m.says {
				require.Contains(t, letter.Cause, text)
			}
			tries := int32(1) // A try that can never succeed is the only one.
			if len(m.consumers) == 0 {
				tries = 0
			}
			require.Equal(t, tries, letter.Attempts)
			topic, _ := catalogue.Find(m.topic)
			gaveUp := len(topic.Consumers)
			if len(m.consumers) > 0 {
				gaveUp = len(m.consumers)
			}
			require.EqualValues(t, gaveUp, letter.Arrivals, "it comes once from each consumer that gave it up")
		})
	}
	for id, coordination := range map[string]string{"after-bad-1": catalogue.Orchestrated, "after-bad-2": catalogue.Choreographed} {
		s.Start(t, harness.Order{ID: id, Coordination: coordination})
		s.AwaitEnd(t, id, harness.Confirmed)
		s.awaitView(t, id, "confirmed")
	}
}

func (s system) archivesWhatCannotBeRead(t *testing.T) {
	const topic, message = "checkout.order.confirmed", "bad-bytes \x00\xff"
	letter := s.letterOf(t, topic, is([]byte(message))).DeadLetter
	s.replayAsOperator(t, letter.Id)
	harness.Eventually(t, letter.Id+" to arrive again", func(context.Context) error {
		if again := s.letterOf(t, topic, is([]byte(message))).DeadLetter; again.Arrivals != letter.Arrivals+1 {
			return fmt.Errorf("it has arrived %d times", again.Arrivals)
		}
		return nil
	})

	type shown struct {
		State, Cause  string
		MessageBase64 []byte `json:"message_base64"`
	}
	before, _ := cli[shown](t, s, 0, "dead-letter", "show", letter.Id)
	require.Equal(t, "open", before.State)
	require.Equal(t, message, string(before.MessageBase64))
	done, _ := cli[settled](t, s, 0, "dead-letter", "archive", letter.Id, "--reason", "to be read by hand")
	require.Equal(t, []string{letter.Id}, done.Archived)
	s.awaitDrained(t)
	after, _ := cli[shown](t, s, 0, "dead-letter", "show", letter.Id)
	require.Equal(t, "archived", after.State)
	require.Equal(t, before.MessageBase64, after.MessageBase64)

	// Past the sidecars there was no limit to its size; a replay goes through one.
	large := s.letterOf(t, "checkout.order.cancelled", is(bytes.Repeat([]byte("x"), 9<<20))).DeadLetter
	done, _ = cli[settled](t, s, 4, "dead-letter", "replay", large.Id, "--reason", "to see what happens")
	require.Len(t, done.Refused, 1)
	require.Contains(t, done.Refused[0].Why, "it was not published: ")

	_, _, status, err := s.CLI(within(t, time.Minute), "dead-letter", "replay", "dl-999999", "--reason", "a typing error")
	require.NoError(t, err)
	require.Equal(t, 3, status, "there is no such dead letter")
}

func (s system) refusesToReplayTheOld(t *testing.T) {
	const topic, mark = "checkout.order.confirmed", "too-old"
	s.add(t, topic, inEnvelope(t, topic, mark, payload(t, topic, mark, func(_, header map[string]any) {
		header["event_id"], header["occurred_at"] = mark, time.Now().Add(-61*24*time.Hour).UTC().Format(time.RFC3339)
	})))
	letter := s.letterOf(t, topic, has(mark)).DeadLetter
	require.Equal(t, []string{"orders"}, letter.Consumers)
	require.Contains(t, letter.Cause, "it may have been applied then")

	done, stderr := cli[settled](t, s, 4, "dead-letter", "replay", letter.Id, "--reason", "perhaps it is of use")
	require.Empty(t, done.Replayed)
	require.Len(t, done.Refused, 1)
	require.Contains(t, done.Refused[0].Why, "its event occurred 61 days ago and inboxes remember 60")
	require.Contains(t, stderr, "1 of 1 were refused")
	require.Zero(t, s.letterOf(t, topic, has(mark)).DeadLetter.Replays)
}

// keepsLetterInTheEnd has the table of dead letters refuse rows, and then not answer, each until the subscriber has been told
// again and again.
func (s system) keepsLetterInTheEnd(t *testing.T) {
	const topic = "payments.payment.authorized"
	pool := s.database(t, stack.Orchestrator)
	refusals := func() int {
		log, err := os.ReadFile(s.Orchestrator.App.LogFile())
		require.NoError(t, err)
		return bytes.Count(log, []byte("a dead letter was not kept; it comes again"))
	}
	awaitRefusals := func(n int) {
		harness.Eventually(t, fmt.Sprintf("%d refusals", n), func(context.Context) error {
			if got := refusals(); got < n {
				return fmt.Errorf("there are %d", got)
			}
			return nil
		})
	}

	exec(t, pool, `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION refuse()`)
	release := func() { exec(t, pool, `DROP TRIGGER IF EXISTS refuse ON dead_letters`) }
	defer release() // Also after a failure: the tests that follow need the table.
	before := refusals()
	s.add(t, topic, []byte("refused at first"))
	awaitRefusals(before + 3)
	release()
	require.EqualValues(t, 1, s.letterOf(t, topic, has("refused at first")).DeadLetter.Arrivals)

	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `LOCK TABLE dead_letters IN EXCLUSIVE MODE`) // Readers pass.
	require.NoError(t, err)
	before = refusals()
	s.add(t, topic, []byte("not answered at first"))
	awaitRefusals(before + 2)
	require.NoError(t, tx.Rollback(t.Context()))
	s.letterOf(t, topic, has("not answered at first"))

	s.awaitDrained(t)
	streams, err := redisDo(within(t, 10*time.Second), s.Broker, "KEYS", "dlq.dlq.*")
	require.NoError(t, err)
	require.Empty(t, streams, "dead letters of dead letters")
}

// view is the customer's view of an order; empty if there is none.
func (s system) view(t *testing.T, orderID string) *ordersv1.Order {
	t.Helper()
	answer, err := s.Orders.GetOrder(within(t, 10*time.Second), connect.NewRequest(&ordersv1.GetOrderRequest{OrderId: orderID}))
	if harness.IsCode(err, connect.CodeNotFound) {
		return &ordersv1.Order{}
	}
	require.NoError(t, err)
	return answer.Msg.Order
}

func (s system) awaitView(t *testing.T, orderID, status string) {
	t.Helper()
	harness.Eventually(t, "the customer to see "+orderID+" as "+status, func(context.Context) error {
		if v := s.view(t, orderID); v.Status != status {
			return fmt.Errorf("it is seen as %q", v.Status)
		}
		return nil
	})
}

// mendsPoison has orders fail for good at the events of some orders, with others on their way.
func (s system) mendsPoison(t *testing.T) {
	const total = 200
	poisoned := []string{"poison-1", "poison-2", "poison-3"}
	ordersDB, notificationDB := s.database(t, stack.Orders), s.database(t, stack.Notification)
	s.pace(t, "warm-up", 50)
	before := s.pace(t, "before-poison", total)

	exec(t, ordersDB, `
		CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.order_id LIKE 'poison-%' THEN RAISE EXCEPTION 'no room for order %', NEW.order_id; END IF; RETURN NEW; END $$;
		CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION poison()`)
	mend := func() { exec(t, ordersDB, `DROP TRIGGER IF EXISTS poison ON orders`) }
	defer mend()
	// One after the other, so that some are being tried again all the time.
	with := s.pace(t, "with-poison", total, poisoned...)
	letters := s.lettersOfOrders(t, poisoned)
	require.Len(t, letters, 2*len(poisoned), "orders hears of the beginning and of the end of each")
	var ids []string
	for _, l := range letters {
		require.Equal(t, []string{"orders"}, l.Consumers)
		require.Contains(t, l.Cause, "no room for order "+l.OrderId)
		require.EqualValues(t, deliveries, l.Attempts)
		require.EqualValues(t, 1, l.Arrivals)
		ids = append(ids, l.Id)
	}
	for _, id := range poisoned {
		s.AwaitEnd(t, id, harness.Confirmed)
		require.Empty(t, s.view(t, id).Status)
	}

	mend()
	after := s.pace(t, "after-poison", total)
	without := (before + after) / 2
	t.Logf("orders that the customer sees as confirmed, per second: %.1f before, %.1f with poison, %.1f after: %.0f %% of the pace without",
		before, with, after, 100*with/without)
	// The lower one: others use the machine too, and the pace without poison may differ by as much.
	require.Greater(t, with, min(before, after)/2, "the rest of the traffic keeps its pace")

	s.replayAsOperator(t, ids...)
	for _, id := range poisoned {
		s.awaitView(t, id, "confirmed")
	}
	snapshot := func() (all string) {
		s.awaitDrained(t)
		s.AwaitEvents(t, time.Minute)
		for _, id := range poisoned {
			all += fmt.Sprintf("%v; %d received, %d told, %d notifications\n", s.view(t, id),
				count(t, ordersDB, `SELECT count(*) FROM inbox WHERE key = $1`, id),
				count(t, ordersDB, `SELECT count(*) FROM outbox WHERE key = $1`, id),
				count(t, notificationDB, `SELECT count(*) FROM notifications WHERE order_id = $1`, id))
		}
		return all
	}
	mended := snapshot()
	s.replayAsOperator(t, ids...)
	require.Equal(t, mended, snapshot(), "a second replay changes nothing")
	for _, l := range s.letters(t, &deadletterv1.Selection{Ids: ids}) {
		require.Equal(t, "replayed", l.DeadLetter.State)
		require.EqualValues(t, 2, l.DeadLetter.Replays)
		require.EqualValues(t, 1, l.DeadLetter.Arrivals)
		require.Len(t, l.Acts, 2)
	}
}

// lettersOfOrders waits until nothing is being tried again, and returns what is left of orders.
func (s system) lettersOfOrders(t *testing.T, orderIDs []string) (of []*deadletterv1.DeadLetter) {
	t.Helper()
	s.awaitDrained(t)
	for _, l := range s.letters(t, &deadletterv1.Selection{State: "all"}) {
		if slices.Contains(orderIDs, l.DeadLetter.OrderId) {
			of = append(of, l.DeadLetter)
		}
	}
	return of
}

// pace places orders, and others evenly among them. It returns how many of the former a second came through until the customer
// saw all of them as confirmed.
func (s system) pace(t *testing.T, name string, total int, others ...string) (perSecond float64) {
	t.Helper()
	pool := s.database(t, stack.Orders)
	began := time.Now()
	next := make(chan string)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for id := range next {
				s.startUntilAccepted(t, harness.Order{ID: id})
			}
		})
	}
	for i := range total {
		if every := total / max(len(others), 1); i%every == 0 && i/every < len(others) {
			next <- others[i/every]
		}
		next <- fmt.Sprintf("%s-%03d", name, i)
	}
	close(next)
	clients.Wait()
	harness.Within(t, 3*time.Minute, "all orders to be seen as confirmed", func(context.Context) error {
		if n := count(t, pool, `SELECT count(*) FROM orders WHERE order_id LIKE $1 || '-%' AND status = 'confirmed'`, name); n < total {
			return fmt.Errorf("%d of %d are", n, total)
		}
		return nil
	})
	return float64(total) / time.Since(began).Seconds()
}

func (s system) listsEvents(t *testing.T) {
	const listed, waiting = "listed", "waiting"
	s.Start(t, harness.Order{ID: listed})
	s.AwaitEnd(t, listed, harness.Confirmed)
	s.awaitView(t, listed, "confirmed")
	s.AwaitEvents(t, time.Minute)
	s.awaitDrained(t) // The last to hear is notification, of the view.

	events, _ := cli[[]listedEvent](t, s, 0, "event", "list", "--order-id", listed)
	counted := make(map[string]int)
	for _, e := range events {
		counted[e.Topic]++
		require.NotNil(t, e.PublishedAt, "%+v", e)
		for _, d := range e.Deliveries {
			require.Equal(t, "applied", d.Outcome, "%+v", e)
		}
	}
	require.Equal(t, map[string]int{
		"checkout.order.created": 1, "checkout.order.confirmed": 1, "warehouse.inventory.reserved": 1, "warehouse.inventory.committed": 1,
		"payments.payment.authorized": 1, "payments.payment.completed": 1, "orders.order.status_changed": 2,
	}, counted)

	query := url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {fmt.Sprintf(`{"selection": {"order_ids": [%q]}}`, listed)}}
	resp, err := http.Get(s.Orchestrator.URL + "/checkout.v1.CheckoutService/ListEvents?" + query.Encode())
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", body)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	var got struct {
		Events []struct {
			Event struct{ Header map[string]any }
		}
	}
	require.NoError(t, json.Unmarshal(body, &got), "%s", body)
	require.Len(t, got.Events, len(events))
	for i, e := range got.Events {
		require.Equal(t, events[i].Topic, e.Event.Header["topic"])
	}

	s.Broker.Stop()
	s.Start(t, harness.Order{ID: waiting})
	s.AwaitEnd(t, waiting, harness.Confirmed)
	events, _ = cli[[]listedEvent](t, s, 0, "event", "list", "--unpublished", "--order-id", waiting)
	require.Len(t, events, 6, "of the orchestrator, the warehouse and payment; orders has not heard of it")
	for _, e := range events {
		require.Nil(t, e.PublishedAt, "%+v", e)
		for _, d := range e.Deliveries {
			require.Equal(t, "missing", d.Outcome, "%+v", e)
		}
	}
	require.NoError(t, s.Broker.Start(within(t, time.Minute)))
	s.awaitView(t, waiting, "confirmed")
	harness.Eventually(t, "all events to be published", func(context.Context) error {
		if events, _ := cli[[]listedEvent](t, s, 0, "event", "list", "--unpublished"); len(events) > 0 {
			return fmt.Errorf("%d are not", len(events))
		}
		return nil
	})
}
