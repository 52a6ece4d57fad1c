package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	deadletterv1 "github.com/checkoutsaga/orchestrator/gen/deadletter/v1"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// postOffice is a server of dead letters and events that answers what a test puts into it, and keeps what it was asked.
type postOffice struct {
	deadletterv1connect.UnimplementedDeadLetterServiceHandler
	url string

	letters []*deadletterv1.DeadLetter
	message []byte
	refused []*deadletterv1.Refusal
	refusal error
	events  *eventDesk

	listed   []*deadletterv1.ListRequest
	replayed []*deadletterv1.ReplayRequest
	archived []*deadletterv1.ArchiveRequest
}

// eventDesk is the part of it that is called by another service's name.
type eventDesk struct {
	checkoutv1connect.UnimplementedCheckoutServiceHandler
	list        *checkoutv1.ListEventsResponse
	republish   *checkoutv1.RepublishEventsResponse
	history     *checkoutv1.HistoryResponse
	audit       *checkoutv1.AuditResponse
	listed      *checkoutv1.ListEventsRequest
	republished *checkoutv1.RepublishEventsRequest
}

func openPostOffice(t *testing.T) *postOffice {
	t.Helper()
	p := &postOffice{events: &eventDesk{}}
	mux := http.NewServeMux()
	mux.Handle(deadletterv1connect.NewDeadLetterServiceHandler(p))
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(p.events))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *postOffice) types(t *testing.T, line string) answer {
	t.Helper()
	return typed(t, "", map[string]string{cli.ServerVariable: p.url}, strings.Fields(line)...)
}

func (p *postOffice) List(_ context.Context, req *connect.Request[deadletterv1.ListRequest]) (*connect.Response[deadletterv1.ListResponse], error) {
	p.listed = append(p.listed, req.Msg)
	res := &deadletterv1.ListResponse{DeadLetters: p.letters}
	if req.Msg.PageToken == "" && len(p.letters) > 100 {
		res.DeadLetters, res.NextPageToken = p.letters[:100], "100"
	} else if req.Msg.PageToken == "100" {
		res.DeadLetters = p.letters[100:]
	}
	return connect.NewResponse(res), p.refusal
}

func (p *postOffice) Get(context.Context, *connect.Request[deadletterv1.GetRequest]) (*connect.Response[deadletterv1.GetResponse], error) {
	return connect.NewResponse(&deadletterv1.GetResponse{
		DeadLetter: p.letters[0], Message: p.message,
		Acts: []*deadletterv1.Act{{At: ago(time.Minute), What: "replayed", Actor: "ann", Reason: "mended"}},
	}), p.refusal
}

func (p *postOffice) Replay(_ context.Context, req *connect.Request[deadletterv1.ReplayRequest]) (*connect.Response[deadletterv1.ReplayResponse], error) {
	p.replayed = append(p.replayed, req.Msg)
	res := &deadletterv1.ReplayResponse{Refused: p.refused}
	if len(p.refused) == 0 {
		res.Replayed = req.Msg.Selection.Ids
	}
	return connect.NewResponse(res), p.refusal
}

func (p *postOffice) Archive(_ context.Context, req *connect.Request[deadletterv1.ArchiveRequest]) (*connect.Response[deadletterv1.ArchiveResponse], error) {
	p.archived = append(p.archived, req.Msg)
	return connect.NewResponse(&deadletterv1.ArchiveResponse{Archived: req.Msg.Selection.Ids}), p.refusal
}

func (e *eventDesk) ListEvents(_ context.Context, req *connect.Request[checkoutv1.ListEventsRequest]) (*connect.Response[checkoutv1.ListEventsResponse], error) {
	e.listed = req.Msg
	return connect.NewResponse(e.list), nil
}

func (e *eventDesk) RepublishEvents(_ context.Context, req *connect.Request[checkoutv1.RepublishEventsRequest]) (*connect.Response[checkoutv1.RepublishEventsResponse], error) {
	e.republished = req.Msg
	return connect.NewResponse(e.republish), nil
}

func (e *eventDesk) History(context.Context, *connect.Request[checkoutv1.HistoryRequest]) (*connect.Response[checkoutv1.HistoryResponse], error) {
	return connect.NewResponse(e.history), nil
}

func (e *eventDesk) Audit(_ context.Context, _ *connect.Request[checkoutv1.AuditRequest], stream *connect.ServerStream[checkoutv1.AuditResponse]) error {
	return stream.Send(e.audit)
}

func poisoned(id string) *deadletterv1.DeadLetter {
	return &deadletterv1.DeadLetter{
		Id: id, Topic: "checkout.order.created", Consumers: []string{"orders"}, EventId: "e-1", OrderId: "ord-1001", Attempts: 9,
		Cause: "no answer\x1b[2J", State: "open", ArrivedAt: ago(time.Hour), LastArrivedAt: ago(2 * time.Minute), Arrivals: 2, Replays: 1,
		Actor: "ann", Reason: "mended", SizeBytes: 412,
	}
}

func TestDeadLetterListInEachForm(t *testing.T) {
	p := openPostOffice(t)
	require.Equal(t, "[]\n", p.types(t, "dead-letter list -o json").out)
	p.letters = []*deadletterv1.DeadLetter{poisoned("dl-7")}
	for form, want := range map[string]string{
		"table": `ID     STATE   AGE   TOPIC                    FAILED AT   ORDER ID   TRIES   CAUSE
dl-7   open    2m    checkout.order.created   orders      ord-1001   9       no answer\x1b[2J
`,
		"wide": `ID     STATE   AGE   TOPIC                    FAILED AT   ORDER ID   TRIES   CAUSE              EVENT ID   ARRIVALS   REPLAYS   BY    REASON   BYTES
dl-7   open    2m    checkout.order.created   orders      ord-1001   9       no answer\x1b[2J   e-1        2          1         ann   mended   412
`,
		"ids": "dl-7\n",
	} {
		require.Empty(t, cmp.Diff(answer{out: want}, p.types(t, "dead-letter list -o "+form), cmp.AllowUnexported(answer{})))
	}
	var views []map[string]any
	require.NoError(t, json.Unmarshal([]byte(p.types(t, "dead-letter list -o json").out), &views))
	require.Equal(t, map[string]any{
		"id": "dl-7", "state": "open", "topic": "checkout.order.created", "consumers": []any{"orders"}, "event_id": "e-1", "order_id": "ord-1001",
		"attempts": 9.0, "cause": "no answer\x1b[2J", "arrived_at": "2026-01-31T11:00:00Z", "last_arrived_at": "2026-01-31T11:58:00Z",
		"arrivals": 2.0, "replays": 1.0, "settled_at": nil, "actor": "ann", "reason": "mended", "size_bytes": 412.0,
	}, views[0])

	p.types(t, "dead-letter list --topic checkout.order.created --consumer orders --state all --limit 5 --page-token x")
	require.Empty(t, cmp.Diff(&deadletterv1.ListRequest{
		Selection: &deadletterv1.Selection{Topic: "checkout.order.created", Consumer: "orders", State: "all"}, PageSize: 5, PageToken: "x",
	}, p.listed[len(p.listed)-1], protocmp.Transform()))
}

func TestDeadLetterShowPrintsTheMessageWhateverItIs(t *testing.T) {
	p := openPostOffice(t)
	p.letters = []*deadletterv1.DeadLetter{poisoned("dl-7")}
	for name, c := range map[string]struct {
		message    []byte
		text, json string
	}{
		"JSON":     {[]byte(`{"id":"e-1","data":{"n":12345678901234567890}}`), "{\n  \"id\": \"e-1\",\n", "12345678901234567890"},
		"text":     {[]byte("hello\x1b[2J"), `"hello\x1b[2J"` + "\n", `"hello\u001b[2J"`},
		"bytes":    {[]byte{0, 1, 0xff}, "00000000  00 01 ff", "null"},
		"nothing":  {nil, `""` + "\n", `""`},
		"a lot":    {[]byte(strings.Repeat("a", 5000)), "and 904 bytes more; -o json has all\n", `"aaa`},
		"controls": {[]byte("{\"a\":\"\u009b2J\"}"), `"a": "\u009b2J"`, `"a"`},
	} {
		t.Run(name, func(t *testing.T) {
			p.message = c.message
			got := p.types(t, "dead-letter show dl-7")
			require.Zero(t, got.status, got.err)
			require.Contains(t, got.out, "cause         no answer\\x1b[2J\n")
			require.Contains(t, got.out, "arrived       1h ago, 2 times, the last 2m ago\n")
			require.Contains(t, got.out, "1m    replayed   ann   mended\n")
			require.Contains(t, got.out, c.text)
			require.NotContains(t, got.out, "\x1b")

			var view struct {
				ID            string          `json:"id"`
				Message       json.RawMessage `json:"message"`
				MessageBase64 []byte          `json:"message_base64"`
				Acts          []actView       `json:"acts"`
			}
			require.NoError(t, json.Unmarshal([]byte(p.types(t, "dead-letter show dl-7 -o json").out), &view))
			require.Equal(t, "dl-7", view.ID)
			require.Contains(t, string(view.Message), c.json)
			require.Equal(t, string(c.message), string(view.MessageBase64))
			require.Len(t, view.Acts, 1)
			require.Equal(t, "dl-7\n", p.types(t, "dead-letter show dl-7 -o ids").out)
			require.Contains(t, p.types(t, "dead-letter show dl-7 -o yaml").out, "id: dl-7\n")
		})
	}
	p.refusal = connect.NewError(connect.CodeNotFound, errText(`no such dead letter: "dl-9"`))
	require.Equal(t, answer{status: cli.ExitNotFound, err: "orchestrator: no such dead letter: \"dl-9\"\n"}, p.types(t, "dead-letter show dl-9"))
}

func TestReplayAndArchiveTakeIDsFlagsOrAll(t *testing.T) {
	p := openPostOffice(t)
	got := p.types(t, "dead-letter replay dl-1 dl-2 --reason mended")
	require.Equal(t, answer{out: "ID     WHAT       WHY NOT\ndl-1   replayed   -\ndl-2   replayed   -\n"}, got)
	require.Equal(t, []string{"dl-1", "dl-2"}, p.replayed[0].Selection.Ids)
	require.Empty(t, p.replayed[0].Selection.State, "a named one whatever its state")
	require.Equal(t, "mended", p.replayed[0].Reason)
	require.NotEmpty(t, p.replayed[0].Actor)
	require.Empty(t, p.listed)

	for i := range 130 {
		p.letters = append(p.letters, poisoned(fmt.Sprintf("dl-%d", i)))
	}
	p.replayed = nil
	got = p.types(t, "dead-letter replay --topic checkout.order.created --consumer orders --reason r -o json --rps 1000")
	require.Zero(t, got.status, got.err)
	require.Equal(t, "100 of 130\n130 of 130\n", got.err)
	require.Len(t, p.replayed, 2, "in batches")
	require.Equal(t, "open", p.replayed[1].Selection.State)
	require.Equal(t, "orders", p.replayed[1].Selection.Consumer)
	var view struct {
		DryRun   bool     `json:"dry_run"`
		Replayed []string `json:"replayed"`
		Refused  []any    `json:"refused"`
	}
	require.NoError(t, json.Unmarshal([]byte(got.out), &view))
	require.Len(t, view.Replayed, 130)
	require.NotNil(t, view.Refused)

	p.letters = p.letters[:1]
	got = p.types(t, "dead-letter archive --all --reason r --dry-run")
	require.Equal(t, "ID     WHAT                WHY NOT\ndl-0   would be archived   -\n", got.out)
	require.True(t, p.archived[0].DryRun)
	require.Contains(t, p.types(t, "dead-letter archive dl-0 --reason r -o json").out, `"archived": [`)

	p.letters = nil
	require.Equal(t, answer{out: "ID   WHAT   WHY NOT\n"}, p.types(t, "dead-letter replay --all --reason r"), "nothing to do is fine")
}

func TestDeadLettersThatAreNotNamedAreAskedAboutOnATerminal(t *testing.T) {
	p := openPostOffice(t)
	p.letters = []*deadletterv1.DeadLetter{poisoned("dl-1"), poisoned("dl-2")}
	at := func(stdin, line string) answer { return typedAtTerminal(t.Context(), stdin, p.url, line) }
	for _, verb := range []string{"replay", "archive"} {
		told := verb + " 2 dead letters, because: r\ngo on? [y/N] "
		require.Equal(t, answer{status: cli.ExitUsage, err: told + "orchestrator: nothing was changed\n"}, at("n\n", "dead-letter "+verb+" --all --reason r"))
		require.Empty(t, p.replayed)
		require.Empty(t, p.archived)
		require.Equal(t, answer{out: "dl-1\ndl-2\n", err: told}, at("y\n", "dead-letter "+verb+" --consumer orders --reason r -o ids"))
		for _, unasked := range []string{" --all --yes", " --all --dry-run", " dl-1 dl-2"} {
			require.Equal(t, answer{out: "dl-1\ndl-2\n"}, at("", "dead-letter "+verb+unasked+" --reason r -o ids"), unasked)
		}
		p.replayed, p.archived = nil, nil
	}
	require.Zero(t, p.types(t, "dead-letter replay --all --reason r").status, "a script goes on as it always has")
	require.Len(t, p.replayed, 1)
}

func TestDeadLettersAreSettledNoFasterThanWasSaid(t *testing.T) {
	p := openPostOffice(t)
	for i := range 8 {
		p.letters = append(p.letters, poisoned(fmt.Sprintf("dl-%d", i)))
	}
	began := time.Now()
	got := p.types(t, "dead-letter replay --all --reason r --rps 5")
	require.Zero(t, got.status, got.err)
	require.GreaterOrEqual(t, time.Since(began), time.Second, "a pause for the first five")
	require.Equal(t, "5 of 8\n8 of 8\n", got.err)
	require.Len(t, p.replayed, 2)
}

func TestWhatIsRefusedIsToldAndDecidesTheExitStatus(t *testing.T) {
	p := openPostOffice(t)
	p.refused = []*deadletterv1.Refusal{{Id: "dl-9", Why: "no such dead letter"}}
	got := p.types(t, "dead-letter replay dl-9 --reason r")
	require.Equal(t, cli.ExitNotFound, got.status)
	require.Equal(t, "ID     WHAT      WHY NOT\ndl-9   refused   no such dead letter\n", got.out)
	require.Equal(t, "orchestrator: there is no such dead letter\n", got.err)

	p.refused[0].Why = "its event occurred 61 days ago"
	got = p.types(t, "dead-letter replay dl-9 --reason r")
	require.Equal(t, cli.ExitConflict, got.status)
	require.Contains(t, got.err, "1 of 1 were refused")
}

func TestWrongUsageOfEventsAndDeadLettersIsExitStatusTwo(t *testing.T) {
	p := openPostOffice(t)
	for _, line := range []string{
		"dead-letter", "dead-letter eat", "dead-letter list x", "dead-letter list --topic nope", "dead-letter list --consumer nope", "dead-letter list --state shut",
		"dead-letter list --limit 0", "dead-letter list -o xml", "dead-letter show", "dead-letter replay --reason r", "dead-letter replay dl-1",
		"dead-letter replay dl-1 --all --reason r", "dead-letter replay --all --reason r --rps 0", "dead-letter archive dl-1 --reason r --rps 1001", "dead-letter archive --all --topic checkout.order.created --reason r", "dead-letter archive --all",
		"event", "event list x", "event list --topic nope", "event list --since yesterday", "event list --limit 0",
		"event republish", "event republish x", "event republish --topic nope", "event republish --dry-run",
	} {
		got := p.types(t, line)
		require.Equal(t, cli.ExitUsage, got.status, "%q: %s", line, got.err)
		require.Empty(t, got.out, line)
	}
	require.Empty(t, p.replayed)
	require.Empty(t, p.archived)
}

func TestEventListShowsWhoReceivedWhat(t *testing.T) {
	p := openPostOffice(t)
	p.events.list = &checkoutv1.ListEventsResponse{}
	require.Equal(t, "[]\n", p.types(t, "event list -o json").out)
	p.events.list = &checkoutv1.ListEventsResponse{
		Events: []*checkoutv1.TracedEvent{{
			Event: &eventv1.Event{
				Header: &eventv1.Header{EventId: "e-1", Topic: "checkout.order.created", Producer: "orchestrator", OrderId: "ord-1", Seq: 1,
					SchemaVersion: 1, Coordination: "choreographed", OccurredAt: ago(time.Hour), Traceparent: "00-a-b-01"},
				PublishedAt: ago(time.Minute), Data: `{"order": {"customer_id": "cus-1"}}`,
			},
			Deliveries: []*checkoutv1.Delivery{{Consumer: "orders", Outcome: "applied", ReceivedAt: ago(time.Second)}, {Consumer: "warehouse", Outcome: "missing"}},
		}},
		Unreachable: []string{"payment: connection refused"}, More: true,
	}
	require.Empty(t, cmp.Diff(answer{
		out: `AGE   TOPIC                    ABOUT   SEQ   PUBLISHED   RECEIVED
1h    checkout.order.created   ord-1   1     1m          orders applied, warehouse missing
`,
		err: "cannot be asked: payment: connection refused\nthere are older ones: see --limit and --since\n",
	}, p.types(t, "event list --order-id ord-1 --order-id ord-2 --topic checkout.order.created --unpublished --since 1h --limit 7"), cmp.AllowUnexported(answer{})))
	require.Empty(t, cmp.Diff(&checkoutv1.ListEventsRequest{
		Selection: &eventv1.Selection{OrderIds: []string{"ord-1", "ord-2"}, Topic: "checkout.order.created", Unpublished: true, Since: ago(time.Hour)},
		Limit:     7,
	}, p.events.listed, protocmp.Transform()))
	require.Contains(t, p.types(t, "event list -o wide").out, "e-1        choreographed\n")
	require.Equal(t, "e-1\n", p.types(t, "event list -o ids").out)
	json := strings.Join(strings.Fields(p.types(t, "event list -o json").out), "")
	require.Equal(t, `[{"event_id":"e-1","topic":"checkout.order.created","producer":"orchestrator","order_id":"ord-1","sku":"","seq":1,`+
		`"schema_version":1,"coordination":"choreographed","occurred_at":"2026-01-31T11:00:00Z","published_at":"2026-01-31T11:59:00Z",`+
		`"traceparent":"00-a-b-01","deliveries":[{"consumer":"orders","outcome":"applied","received_at":"2026-01-31T11:59:59Z"},`+
		`{"consumer":"warehouse","outcome":"missing","received_at":null}],"data":{"order":{"customer_id":"cus-1"}}}]`, json)
}

func TestEventRepublishTellsHowManyAndWhoCouldNotBeTold(t *testing.T) {
	p := openPostOffice(t)
	p.events.republish = &checkoutv1.RepublishEventsResponse{Events: 3}
	require.Equal(t, answer{out: "EVENTS   WHAT\n3        would be published again\n"}, p.types(t, "event republish --since 2026-01-01 --dry-run --reason r"))
	require.True(t, p.events.republished.DryRun)
	require.Equal(t, "r", p.events.republished.Reason)
	require.NotEmpty(t, p.events.republished.Actor)

	p.events.republish.Unreachable = []string{"orders: gone"}
	got := p.types(t, "event republish --unpublished -o json")
	require.Equal(t, cli.ExitUnreachable, got.status)
	require.Equal(t, `{"events":3,"dry_run":false,"unreachable":["orders:gone"]}`, strings.Join(strings.Fields(got.out), ""))
	require.Contains(t, got.err, "not all apps could be told: orders: gone")
}

func TestHistoryShowsEventsAndWhoseAreMissing(t *testing.T) {
	p := openPostOffice(t)
	p.events.history = &checkoutv1.HistoryResponse{
		OrderId: "ord-1", Request: &checkoutv1.StartRequest{}, Unreachable: []string{"payment: connection refused"},
		Entries: []*checkoutv1.Entry{{At: ago(time.Second), Kind: "event", Topic: "checkout.order.created", EventId: "e-1", Actor: "orchestrator", Outcome: "published"}},
	}
	require.Equal(t, answer{
		out: `AGE   WHAT    STEP                     ATTEMPT   OUTCOME     TOOK   BY             WHY
1s    event   checkout.order.created   -         published   -      orchestrator   -
`,
		err: "events are missing here: payment: connection refused\n",
	}, p.types(t, "checkout history ord-1"))
}

func TestAuditTellsNotesWhichAreNoFindings(t *testing.T) {
	p := openPostOffice(t)
	p.events.audit = &checkoutv1.AuditResponse{Checked: 3, Notes: []string{"orders cannot be asked"}}
	require.Equal(t, answer{out: "CHECKED   VIOLATIONS\n3         0\n", err: "note: orders cannot be asked\n"}, p.types(t, "audit"))
	got := p.types(t, "audit -o json")
	require.Equal(t, `{"checked":3,"violations":[],"notes":["orderscannotbeasked"],"accepted":[]}`, strings.Join(strings.Fields(got.out), ""))
	require.Empty(t, got.err)
}

func TestCompletionOffersTopicsConsumersAndDeadLetters(t *testing.T) {
	p := openPostOffice(t)
	p.letters = []*deadletterv1.DeadLetter{poisoned("dl-2"), poisoned("dl-10"), poisoned("x")}
	for line, want := range map[string]string{
		"dead-letter show dl-":               "dl-2\ndl-10\n",
		"dead-letter replay dl-2 dl-1":       "dl-10\n",
		"dead-letter list --topic checkout.": "checkout.order.cancelled\ncheckout.order.confirmed\ncheckout.order.created\n",
		"dead-letter archive --consumer o":   "orchestrator\norders\n",
		"dead-letter list --state o":         "open\n",
		"event list --topic pricing":         "pricing.price.updated\n",
	} {
		got := p.types(t, "__complete "+line)
		require.Zero(t, got.status)
		var offered []string
		for _, word := range strings.Split(got.out, "\n") {
			if typed := line[strings.LastIndex(line, " ")+1:]; strings.HasPrefix(word, typed) {
				offered = append(offered, word)
			}
		}
		require.Equal(t, want, strings.Join(offered, "\n")+"\n", line)
	}
}
