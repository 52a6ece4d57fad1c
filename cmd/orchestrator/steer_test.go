package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// bridge is a server that takes every verb by which checkouts are steered, and keeps what it was asked.
type bridge struct {
	checkoutv1connect.UnimplementedCheckoutServiceHandler
	url string
	// pages is what List finds, page by page.
	pages [][]*checkoutv1.Checkout
	// refusals are answers to verbs, by order id.
	refusals map[string]error
	// before is called before a verb is answered.
	before func(orderID string)

	mu     sync.Mutex
	listed []*checkoutv1.ListRequest
	asked  []proto.Message
	ids    []string
}

func openBridge(t *testing.T, pages ...[]*checkoutv1.Checkout) *bridge {
	t.Helper()
	b := &bridge{pages: pages, refusals: make(map[string]error), before: func(string) {}}
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(b))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *bridge) List(_ context.Context, req *connect.Request[checkoutv1.ListRequest]) (*connect.Response[checkoutv1.ListResponse], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listed = append(b.listed, req.Msg)
	page := 0
	if req.Msg.PageToken != "" {
		if _, err := fmt.Sscanf(req.Msg.PageToken, "page-%d", &page); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
	}
	answer := &checkoutv1.ListResponse{}
	if page < len(b.pages) {
		answer.Checkouts = b.pages[page][:min(len(b.pages[page]), int(req.Msg.Limit))]
	}
	if page+1 < len(b.pages) {
		answer.NextPageToken = fmt.Sprintf("page-%d", page+1)
	}
	return connect.NewResponse(answer), nil
}

func (b *bridge) take(orderID string, msg proto.Message) (*checkoutv1.Checkout, error) {
	b.before(orderID)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.ids = append(b.asked, msg), append(b.ids, orderID)
	c := compensating()
	c.OrderId = orderID
	return c, b.refusals[orderID]
}

func (b *bridge) Cancel(_ context.Context, req *connect.Request[checkoutv1.CancelRequest]) (*connect.Response[checkoutv1.CancelResponse], error) {
	c, err := b.take(req.Msg.OrderId, req.Msg)
	return connect.NewResponse(&checkoutv1.CancelResponse{Checkout: c, Undone: []string{"authorize-payment"}, ToUndo: []string{"reserve-stock"}}), err
}

func (b *bridge) Approve(_ context.Context, req *connect.Request[checkoutv1.ApproveRequest]) (*connect.Response[checkoutv1.ApproveResponse], error) {
	c, err := b.take(req.Msg.OrderId, req.Msg)
	return connect.NewResponse(&checkoutv1.ApproveResponse{Checkout: c}), err
}

func (b *bridge) Reject(_ context.Context, req *connect.Request[checkoutv1.RejectRequest]) (*connect.Response[checkoutv1.RejectResponse], error) {
	c, err := b.take(req.Msg.OrderId, req.Msg)
	return connect.NewResponse(&checkoutv1.RejectResponse{Checkout: c}), err
}

func (b *bridge) Resolve(_ context.Context, req *connect.Request[checkoutv1.ResolveRequest]) (*connect.Response[checkoutv1.ResolveResponse], error) {
	c, err := b.take(req.Msg.OrderId, req.Msg)
	return connect.NewResponse(&checkoutv1.ResolveResponse{Checkout: c, What: "release-stock is tried at once"}), err
}

func (b *bridge) Redrive(_ context.Context, req *connect.Request[checkoutv1.RedriveRequest]) (*connect.Response[checkoutv1.RedriveResponse], error) {
	c, err := b.take(req.Msg.OrderId, req.Msg)
	return connect.NewResponse(&checkoutv1.RedriveResponse{Checkout: c, What: "run 2 goes on"}), err
}

// types runs one command line where nobody can be asked.
func (b *bridge) types(t *testing.T, line string) answer {
	t.Helper()
	return typed(t, "", map[string]string{cli.ServerVariable: b.url}, strings.Fields(line)...)
}

// typesAtTerminal runs one where somebody types in.
func (b *bridge) typesAtTerminal(ctx context.Context, stdin, line string) answer {
	return typedAtTerminal(ctx, stdin, b.url, line)
}

func typedAtTerminal(ctx context.Context, stdin, server, line string) answer {
	var out, err bytes.Buffer
	status := ourProgram().Run(ctx, strings.Fields(line), cli.Surroundings{
		In: strings.NewReader(stdin), Out: cli.Printer{To: &out}, Err: cli.Printer{To: &err}, Now: func() time.Time { return noon }, Terminal: true,
		Getenv: func(name string) string { return map[string]string{cli.ServerVariable: server}[name] },
	})
	return answer{status: status, out: out.String(), err: err.String()}
}

// waiting are checkouts that a query may find.
func waiting(ids ...string) []*checkoutv1.Checkout {
	var all []*checkoutv1.Checkout
	for _, id := range ids {
		c := needingAttention()
		c.OrderId = id
		all = append(all, c)
	}
	return all
}

func TestEachVerbOfAnOperatorAsksForWhatWasTyped(t *testing.T) {
	b := openBridge(t)
	for line, want := range map[string]proto.Message{
		"approve ord-1 --reason known":                            &checkoutv1.ApproveRequest{OrderId: "ord-1", Reason: "known"},
		"approve ord-1 --reason known --dry-run":                  &checkoutv1.ApproveRequest{OrderId: "ord-1", Reason: "known", DryRun: true},
		"reject ord-1 --reason fraud":                             &checkoutv1.RejectRequest{OrderId: "ord-1", Reason: "fraud"},
		"reject ord-1 --reason fraud --dry-run":                   &checkoutv1.RejectRequest{OrderId: "ord-1", Reason: "fraud", DryRun: true},
		"cancel ord-1 --reason typo":                              &checkoutv1.CancelRequest{OrderId: "ord-1", Reason: "typo"},
		"redrive ord-1 --reason lost":                             &checkoutv1.RedriveRequest{OrderId: "ord-1", Reason: "lost"},
		"redrive ord-1 --reason lost --engine embedded --dry-run": &checkoutv1.RedriveRequest{OrderId: "ord-1", Reason: "lost", Engine: "embedded", DryRun: true},
		"resolve ord-1 --step release-stock --as retry --reason up": &checkoutv1.ResolveRequest{
			OrderId: "ord-1", Step: "release-stock", As: checkoutv1.Resolution_RESOLUTION_RETRY, Reason: "up"},
		"resolve ord-1 --step release-stock --as done --reason up --dry-run": &checkoutv1.ResolveRequest{
			OrderId: "ord-1", Step: "release-stock", As: checkoutv1.Resolution_RESOLUTION_DONE, Reason: "up", DryRun: true},
		"resolve ord-1 --step release-stock --as done --without-proof --reason counted": &checkoutv1.ResolveRequest{
			OrderId: "ord-1", Step: "release-stock", As: checkoutv1.Resolution_RESOLUTION_DONE, Reason: "counted", WithoutProof: true},
		"resolve ord-1 --step commit-stock --as refund --reason broken": &checkoutv1.ResolveRequest{
			OrderId: "ord-1", Step: "commit-stock", As: checkoutv1.Resolution_RESOLUTION_REFUND, Reason: "broken"},
	} {
		t.Run(line, func(t *testing.T) {
			b.asked, b.listed = nil, nil
			got := b.types(t, "checkout "+line+" -o ids")
			require.Equal(t, answer{out: "ord-1\n"}, got)
			require.Len(t, b.asked, 1)
			by := b.asked[0].ProtoReflect()
			name := by.Descriptor().Fields().ByName("actor")
			require.NotEmpty(t, by.Get(name).String(), "who asks is told")
			by.Clear(name)
			require.Empty(t, cmp.Diff(want, b.asked[0], protocmp.Transform()))
			require.Empty(t, b.listed)
		})
	}
}

func TestAVerbTellsHowTheCheckoutStandsAndWhatItDid(t *testing.T) {
	b := openBridge(t)
	for line, want := range map[string]string{
		"approve ord-1 --reason r":                                 "approved: the payment is captured next",
		"approve ord-1 --reason r --dry-run":                       "would be approved: the payment would be captured next",
		"reject ord-1 --reason r":                                  "rejected: what it holds is given back",
		"reject ord-1 --reason r --dry-run":                        "would be rejected: what it holds would be given back",
		"redrive ord-1 --reason r":                                 "run 2 goes on",
		"resolve ord-1 --step release-stock --as retry --reason r": "release-stock is tried at once",
	} {
		t.Run(line, func(t *testing.T) {
			require.Equal(t, answer{out: "ORDER ID   STATUS         WHAT\nord-1      COMPENSATING   " + want + "\n"}, b.types(t, "checkout "+line))
			require.Contains(t, b.types(t, "checkout "+line+" -o wide").out, "\nauthorize-payment   payment       rejected")
			var view struct {
				OrderID string `json:"order_id"`
				Status  string `json:"status"`
				DryRun  bool   `json:"dry_run"`
				What    string `json:"what"`
				Steps   []any  `json:"steps"`
			}
			require.NoError(t, json.Unmarshal([]byte(b.types(t, "checkout "+line+" -o json").out), &view))
			require.Equal(t, "ord-1", view.OrderID)
			require.Equal(t, "COMPENSATING", view.Status)
			require.Equal(t, want, view.What)
			require.Equal(t, strings.Contains(line, "--dry-run"), view.DryRun)
			require.Len(t, view.Steps, 2)
		})
	}
}

func TestAVerbThatTheStateDoesNotAllowEndsWithFourAndTheServersSentence(t *testing.T) {
	b := openBridge(t)
	for _, line := range []string{
		"approve x", "reject x", "cancel x", "redrive x", "resolve x --step release-stock --as retry", "cancel x --dry-run",
	} {
		for _, code := range []connect.Code{connect.CodeFailedPrecondition, connect.CodeAlreadyExists} {
			b.refusals["x"] = connect.NewError(code, errText("x ended CONFIRMED"))
			require.Equal(t, answer{status: cli.ExitConflict, err: "orchestrator: x ended CONFIRMED\n"}, b.types(t, "checkout "+line+" --reason r"), line)
		}
		b.refusals["x"] = connect.NewError(connect.CodeNotFound, errText("there is no x"))
		require.Equal(t, cli.ExitNotFound, b.types(t, "checkout "+line+" --reason r").status, line)
	}
}

func TestI9AVerbThatIsNotSaidRightAsksNobody(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2"))
	for _, args := range [][]string{
		strings.Fields("approve --reason r"), strings.Fields("approve x"), strings.Fields("approve x y --reason r"),
		strings.Fields("approve x --reason r --status RUNNING"), strings.Fields("approve x --reason r --yes"), {"approve", "x", "--reason", " "},
		{"approve", "", "--reason", "r"}, strings.Fields("reject --reason r"), strings.Fields("reject x"), strings.Fields("reject x --reason r -o xml"),

		strings.Fields("cancel --reason r"), strings.Fields("cancel --reason r --yes"), strings.Fields("cancel --reason r --yes --limit 5"),
		strings.Fields("cancel x"), strings.Fields("cancel --status RUNNING --yes"), strings.Fields("cancel x y --reason r"),
		{"cancel", "", "--reason", "r"}, {"cancel", "", "--status", "RUNNING", "--reason", "r", "--yes"},
		{"cancel", "--customer", "", "--reason", "r", "--yes"}, {"cancel", "--customer", "", "--status", "RUNNING", "--reason", "r", "--yes"},
		{"cancel", "--status", "", "--reason", "r", "--yes"}, strings.Fields("cancel --attention=false --reason r --yes"),
		strings.Fields("cancel --amount-over 0 --reason r --yes"), strings.Fields("cancel --older-than 0 --reason r --yes"),
		strings.Fields("cancel --amount-over -1 --reason r --yes"), strings.Fields("cancel --status DONE --reason r --yes"),
		strings.Fields("cancel --step juggle --reason r --yes"), strings.Fields("cancel --since yesterday --reason r --yes"),
		strings.Fields("cancel x --status RUNNING --reason r --yes"), strings.Fields("cancel x --step release-stock --reason r"),
		strings.Fields("cancel x --limit 5 --reason r"), strings.Fields("cancel x --rps 5 --reason r"),
		strings.Fields("cancel --attention --reason r --yes --rps 0"), strings.Fields("cancel --attention --reason r --yes --rps -1"),
		strings.Fields("cancel --attention --reason r --yes --rps 1001"), strings.Fields("cancel --attention --reason r --yes --rps many"),
		strings.Fields("cancel --attention --reason r --yes --limit -1"), strings.Fields("cancel --attention --reason r --yes --page-token t"),

		strings.Fields("redrive --reason r --yes"), strings.Fields("redrive x --reason r --engine temporal"), strings.Fields("redrive x"),
		strings.Fields("redrive x --attention --reason r"), strings.Fields("redrive --engine dapr --reason r --yes"),

		strings.Fields("resolve x --as retry --reason r"), strings.Fields("resolve x --step release-stock --reason r"),
		strings.Fields("resolve x --step release-stock --as retry"), strings.Fields("resolve x --step juggle --as retry --reason r"),
		strings.Fields("resolve x --step release-stock --as skip --reason r"),
		strings.Fields("resolve x --step release-stock --as retry --without-proof --reason r"),
		strings.Fields("resolve x --step release-stock --as refund --without-proof --reason r"),
		strings.Fields("resolve x --attention --step release-stock --as retry --reason r"), strings.Fields("resolve --as retry --reason r --yes"),
		strings.Fields("resolve --attention --as retry --reason r --yes"),
	} {
		got := typed(t, "", map[string]string{cli.ServerVariable: b.url}, append([]string{"checkout"}, args...)...)
		require.Equal(t, cli.ExitUsage, got.status, "%q: %s", args, got.err)
		require.Empty(t, got.out, args)
		require.NotEmpty(t, got.err, args)
	}
	require.Empty(t, b.asked)
	require.Empty(t, b.listed)
}

func TestAQueryIsWorkedThroughAllItsPages(t *testing.T) {
	b := openBridge(t, waiting("ord-3", "ord-2"), waiting("ord-1"))
	b.pages[1][0].Amount = &operationv1.Money{Currency: "USD", MinorUnits: 1005}
	b.pages[1][0].Status = checkoutv1.Status_STATUS_RUNNING
	got := b.types(t, "checkout cancel --status running --status needs-attention --customer c --step release-stock --reason-code deadline --amount-over 5 "+
		"--older-than 10m --since 1h --attention --reason stolen --yes --rps 1000")
	require.Equal(t, answer{
		out: `ORDER ID   RESULT   WHY
ord-3      done     undone: authorize-payment; still to undo: reserve-stock
ord-2      done     undone: authorize-payment; still to undo: reserve-stock
ord-1      done     undone: authorize-payment; still to undo: reserve-stock
`,
		err: "cancel 3 checkouts (2 NEEDS_ATTENTION, 1 RUNNING), 259.94 EUR and 10.05 USD in all, because: stolen\n",
	}, got)
	first := &checkoutv1.ListRequest{
		Statuses:   []checkoutv1.Status{checkoutv1.Status_STATUS_RUNNING, checkoutv1.Status_STATUS_NEEDS_ATTENTION},
		CustomerId: "c", Step: "release-stock", ReasonCode: "deadline", AmountOver: 5, OlderThan: durationpb.New(10 * time.Minute),
		Since: ago(time.Hour), Attention: true, Limit: 1000,
	}
	second := proto.CloneOf(first)
	second.PageToken = "page-1"
	require.Empty(t, cmp.Diff([]*checkoutv1.ListRequest{first, second}, b.listed, protocmp.Transform()))
	require.Equal(t, []string{"ord-3", "ord-2", "ord-1"}, b.ids)

	var views []map[string]any
	got = b.types(t, "checkout redrive --attention --reason r --yes --rps 1000 --limit 2 --dry-run -o json")
	require.NoError(t, json.Unmarshal([]byte(got.out), &views))
	require.Equal(t, map[string]any{
		"order_id": "ord-3", "done": false, "dry_run": true, "status": "COMPENSATING", "what": "run 2 goes on", "error": "",
	}, views[0], "nothing was done, and nothing stands against it")
	require.Len(t, views, 2, "the newest two only")
	require.EqualValues(t, 2, b.listed[len(b.listed)-1].Limit)
	require.True(t, b.asked[len(b.asked)-1].(*checkoutv1.RedriveRequest).DryRun)

	got = b.types(t, "checkout redrive --attention --reason r --dry-run --rps 1000 --limit 3")
	require.Zero(t, got.status, "a dry run needs no --yes")
	require.Contains(t, got.out, "ord-1      would be done   run 2 goes on\n")
}

func TestResolveOfAQueryIsAboutThoseAtTheStep(t *testing.T) {
	b := openBridge(t, waiting("ord-1"))
	got := b.types(t, "checkout resolve --step release-stock --as retry --reason up --yes -o json")
	require.Zero(t, got.status, got.err)
	require.Equal(t, `[{"order_id":"ord-1","done":true,"dry_run":false,"status":"COMPENSATING","what":"release-stockistriedatonce","error":""}]`,
		strings.Join(strings.Fields(got.out), ""))
	require.Equal(t, "release-stock", b.listed[0].Step)
	require.Equal(t, "release-stock", b.asked[0].(*checkoutv1.ResolveRequest).Step)
}

func TestAQueryThatFitsNothingIsFine(t *testing.T) {
	b := openBridge(t)
	require.Equal(t, answer{out: "[]\n", err: "no checkout fits\n"}, b.types(t, "checkout cancel --attention --reason r -o json"))
	require.Equal(t, answer{out: "ORDER ID   RESULT   WHY\n", err: "no checkout fits\n"}, b.types(t, "checkout cancel --attention --reason r --yes"))
}

func TestAVerbOverAQueryAsksFirst(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2"))
	told := "cancel 2 checkouts (2 NEEDS_ATTENTION), 259.94 EUR in all, because: r\n"
	const line = "checkout cancel --attention --reason r --rps 1000 -o ids"

	got := b.types(t, line)
	require.Equal(t, cli.ExitUsage, got.status)
	require.Contains(t, got.err, told+"orchestrator: nobody can be asked here, so nothing was changed; --yes")
	for _, no := range []string{"\n", "n\n", "yes please\n", "", "no"} {
		got = b.typesAtTerminal(t.Context(), no, line)
		require.Equal(t, answer{status: cli.ExitUsage, err: told + "go on? [y/N] orchestrator: nothing was changed\n"}, got, "%q", no)
	}
	require.Empty(t, b.asked)

	for _, yes := range []string{"y\n", " Yes \n", "y"} {
		b.ids = nil
		require.Equal(t, answer{out: "ord-1\nord-2\n", err: told + "go on? [y/N] "}, b.typesAtTerminal(t.Context(), yes, line))
		require.Equal(t, []string{"ord-1", "ord-2"}, b.ids)
	}
	require.Equal(t, answer{out: "ord-1\nord-2\n", err: told}, b.typesAtTerminal(t.Context(), "", line+" --yes"))
	require.Equal(t, answer{out: "ord-1\n"}, b.typesAtTerminal(t.Context(), "", "checkout cancel ord-1 --reason r -o ids"), "one that is named is not asked about")
}

func TestOneOfManyThatItsStateDoesNotAllowIsPassedOver(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2", "ord-3", "ord-4"))
	b.refusals["ord-2"] = connect.NewError(connect.CodeFailedPrecondition, errText("too late: it is CONFIRMED"))
	b.refusals["ord-3"] = connect.NewError(connect.CodeNotFound, errText("there is no checkout ord-3"))
	got := b.types(t, "checkout cancel --attention --reason r --yes --rps 1000")
	require.Equal(t, cli.ExitConflict, got.status)
	require.Equal(t, `ORDER ID   RESULT    WHY
ord-1      done      undone: authorize-payment; still to undo: reserve-stock
ord-2      refused   too late: it is CONFIRMED
ord-3      refused   there is no checkout ord-3
ord-4      done      undone: authorize-payment; still to undo: reserve-stock
`, got.out)
	require.Contains(t, got.err, "orchestrator: 2 of 4 were refused\n")
	require.Equal(t, "ord-1\nord-4\n", b.types(t, "checkout cancel --attention --reason r --yes --rps 1000 -o ids").out)
	require.Contains(t, strings.Join(strings.Fields(b.types(t, "checkout cancel --attention --reason r --yes --rps 1000 -o json").out), " "),
		`{ "order_id": "ord-2", "done": false, "dry_run": false, "status": "NEEDS_ATTENTION", "what": "", "error": "too late: it is CONFIRMED" }`)
	require.Equal(t, cli.ExitConflict, b.types(t, "checkout cancel --attention --reason r --dry-run --rps 1000").status)
}

func TestWhatWouldMeetTheRestTooEndsItAndTellsHowFarItCame(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2", "ord-3", "ord-4"))
	b.refusals["ord-1"] = connect.NewError(connect.CodeFailedPrecondition, errText("too late"))
	const line = "checkout cancel --attention --reason r --yes --rps 1000"
	for name, c := range map[string]struct {
		code   connect.Code
		status int
		word   string
	}{
		"bad input":   {connect.CodeInvalidArgument, cli.ExitUsage, "failed"},
		"not allowed": {connect.CodePermissionDenied, cli.ExitForbidden, "failed"},
		"unreachable": {connect.CodeUnavailable, cli.ExitUnreachable, "not known"},
		"our error":   {connect.CodeInternal, cli.ExitFailed, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			b.ids, b.refusals["ord-3"] = nil, connect.NewError(c.code, errText("oops"))
			got := b.types(t, line)
			require.Equal(t, c.status, got.status)
			require.Contains(t, got.err, "orchestrator: stopped at ord-3, after 2 of 4, of which 1 were refused: oops\n")
			require.Contains(t, got.out, "ord-2      done")
			require.Regexp(t, `\nord-3 +`+c.word+` +oops\n$`, got.out)
			require.Equal(t, []string{"ord-1", "ord-2", "ord-3"}, b.ids)
		})
	}

	b.before = func(orderID string) {
		if orderID == "ord-2" {
			panic(http.ErrAbortHandler) // As when the server is killed.
		}
	}
	got := b.types(t, line)
	require.Equal(t, cli.ExitUnreachable, got.status, got.err)
	require.Contains(t, got.err, "stopped at ord-2, after 1 of 4")
	require.Regexp(t, `\nord-2 +not known +`, got.out)
}

func TestAnInterruptStopsBetweenTwoCheckouts(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2", "ord-3", "ord-4"))
	ctx, interrupt := context.WithCancel(t.Context())
	b.before = func(orderID string) {
		if orderID == "ord-2" {
			interrupt()
		}
	}
	got := b.typesAtTerminal(ctx, "", "checkout cancel --attention --reason r --yes -o ids --rps 1000")
	require.Equal(t, cli.ExitFailed, got.status)
	require.Equal(t, "ord-1\nord-2\n", got.out, "the one that is under way is waited for")
	require.Contains(t, got.err, "orchestrator: interrupted after 2 of 4\n")
	require.Equal(t, []string{"ord-1", "ord-2"}, b.ids)
}

func TestAnInterruptEndsTheQuestion(t *testing.T) {
	b := openBridge(t, waiting("ord-1"))
	ctx, interrupt := context.WithCancel(t.Context())
	var out bytes.Buffer
	prompt := &watched{upon: "[y/N] ", call: interrupt}
	stdin := blocked{t.Context()}
	status := ourProgram().Run(ctx, strings.Fields("checkout cancel --attention --reason r --server "+b.url), cli.Surroundings{
		In: stdin, Out: cli.Printer{To: &out}, Err: cli.Printer{To: prompt}, Now: func() time.Time { return noon }, Terminal: true, Getenv: func(string) string { return "" },
	})
	require.Equal(t, cli.ExitFailed, status)
	require.Contains(t, prompt.String(), "nothing was changed")
	require.Empty(t, b.asked)
}

// blocked is a terminal at which nobody types.
type blocked struct{ test context.Context }

func (b blocked) Read([]byte) (int, error) {
	<-b.test.Done()
	return 0, b.test.Err()
}

// watched calls back when something is written.
type watched struct {
	bytes.Buffer
	upon string
	call func()
}

func (w *watched) Write(text []byte) (int, error) {
	if strings.HasSuffix(string(text), w.upon) {
		w.call()
	}
	return w.Buffer.Write(text)
}

func TestManyAreDoneNoFasterThanWasSaid(t *testing.T) {
	b := openBridge(t, waiting("ord-1", "ord-2", "ord-3", "ord-4", "ord-5"))
	began := time.Now()
	got := b.types(t, "checkout redrive --attention --reason r --yes --rps 20")
	require.Zero(t, got.status, got.err)
	require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond, "four pauses of 50 ms")
	require.Len(t, b.ids, 5)
}

func TestEveryVerbThatSteersExplainsItselfWithAnExample(t *testing.T) {
	for _, verb := range []string{"cancel", "approve", "reject", "resolve", "redrive", "list", "status", "history", "wait"} {
		got := typed(t, "", nil, "checkout", verb, "--help")
		require.Zero(t, got.status)
		require.Contains(t, got.out, "Examples:\n  orchestrator checkout "+verb, verb)
		for line := range strings.Lines(got.out) {
			if strings.HasPrefix(line, "Flags:") {
				break
			}
			require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), 130, line)
		}
	}
	require.Contains(t, typed(t, "", nil, "checkout", "resolve", "--help").out, "the step or compensation to settle (required); a query finds only")
}
