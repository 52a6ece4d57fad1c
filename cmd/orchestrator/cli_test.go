package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// noon is what every clock in these tests shows.
var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// shop is a server that answers what a test puts into it, and keeps what it was asked.
type shop struct {
	checkoutv1connect.UnimplementedCheckoutServiceHandler
	url string

	checkout *checkoutv1.Checkout
	// watched is what Watch sends; a nil entry breaks the connection off.
	watched []*checkoutv1.Checkout
	hold    bool // Watch does not end by itself.
	// followed is what FollowHistory sends; a nil entry breaks the connection off.
	followed []*checkoutv1.FollowHistoryResponse

	list    *checkoutv1.ListResponse
	history *checkoutv1.HistoryResponse
	cancel  *checkoutv1.CancelResponse
	audit   []*checkoutv1.AuditResponse
	doctor  *sagav1.DoctorResponse
	refusal error

	started *checkoutv1.StartRequest
	listed  *checkoutv1.ListRequest
	asked   *checkoutv1.CancelRequest
}

func openShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{checkout: confirmed()}
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(s))
	mux.Handle(sagav1connect.NewSagaServiceHandler(shopDoctor{shop: s}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *shop) Start(_ context.Context, req *connect.Request[checkoutv1.StartRequest]) (*connect.Response[checkoutv1.StartResponse], error) {
	s.started = req.Msg
	if s.refusal != nil {
		return nil, s.refusal
	}
	s.checkout.OrderId = req.Msg.OrderId
	return connect.NewResponse(&checkoutv1.StartResponse{Checkout: s.checkout, Created: true}), nil
}

func (s *shop) Get(context.Context, *connect.Request[checkoutv1.GetRequest]) (*connect.Response[checkoutv1.GetResponse], error) {
	return connect.NewResponse(&checkoutv1.GetResponse{Checkout: s.checkout}), s.refusal
}

func (s *shop) List(_ context.Context, req *connect.Request[checkoutv1.ListRequest]) (*connect.Response[checkoutv1.ListResponse], error) {
	s.listed = req.Msg
	return connect.NewResponse(s.list), s.refusal
}

func (s *shop) History(context.Context, *connect.Request[checkoutv1.HistoryRequest]) (*connect.Response[checkoutv1.HistoryResponse], error) {
	return connect.NewResponse(s.history), s.refusal
}

func (s *shop) Watch(ctx context.Context, _ *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	if s.refusal != nil {
		return s.refusal
	}
	for len(s.watched) > 0 {
		next := s.watched[0]
		s.watched = s.watched[1:]
		if next == nil {
			panic(http.ErrAbortHandler) // As when the process is killed.
		}
		if err := stream.Send(&checkoutv1.WatchResponse{Checkout: next}); err != nil {
			return err
		}
	}
	if s.hold {
		<-ctx.Done()
	}
	return nil
}

func (s *shop) FollowHistory(_ context.Context, _ *connect.Request[checkoutv1.FollowHistoryRequest], stream *connect.ServerStream[checkoutv1.FollowHistoryResponse]) error {
	for len(s.followed) > 0 && s.refusal == nil {
		next := s.followed[0]
		s.followed = s.followed[1:]
		if next == nil {
			panic(http.ErrAbortHandler) // As when the process is killed.
		}
		if err := stream.Send(next); err != nil {
			return err
		}
	}
	return s.refusal
}

func (s *shop) Cancel(_ context.Context, req *connect.Request[checkoutv1.CancelRequest]) (*connect.Response[checkoutv1.CancelResponse], error) {
	s.asked = req.Msg
	return connect.NewResponse(s.cancel), s.refusal
}

func (s *shop) Audit(_ context.Context, _ *connect.Request[checkoutv1.AuditRequest], stream *connect.ServerStream[checkoutv1.AuditResponse]) error {
	for _, message := range s.audit {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return s.refusal
}

// shopDoctor is what the shop is asked of any saga.
type shopDoctor struct {
	sagav1connect.UnimplementedSagaServiceHandler
	shop *shop
}

func (d shopDoctor) Doctor(context.Context, *connect.Request[sagav1.DoctorRequest]) (*connect.Response[sagav1.DoctorResponse], error) {
	return connect.NewResponse(d.shop.doctor), d.shop.refusal
}

// answer is what one command line left behind.
type answer struct {
	status   int
	out, err string
}

// types runs one command line against the shop.
func (s *shop) types(t *testing.T, args ...string) answer {
	t.Helper()
	return typed(t, "", map[string]string{cli.ServerVariable: s.url}, args...)
}

func typed(t *testing.T, stdin string, env map[string]string, args ...string) answer {
	t.Helper()
	var out, err bytes.Buffer
	status := ourProgram().Run(t.Context(), args, cli.Surroundings{
		In: strings.NewReader(stdin), Out: cli.Printer{To: &out}, Err: cli.Printer{To: &err}, Getenv: func(name string) string { return env[name] },
		WorkDir: t.TempDir(), Now: func() time.Time { return noon },
	})
	return answer{status: status, out: out.String(), err: err.String()}
}

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }

func euros(cents int64) *operationv1.Money {
	return &operationv1.Money{Currency: "EUR", MinorUnits: cents}
}

func confirmed() *checkoutv1.Checkout {
	return &checkoutv1.Checkout{
		OrderId: "ord-1001", Status: checkoutv1.Status_STATUS_CONFIRMED, Phase: "final", Coordination: "orchestrated", Engine: "dapr", Run: 1,
		CustomerId: "cus-17", Amount: euros(12997), StartedAt: ago(3 * time.Minute), UpdatedAt: ago(2 * time.Minute), EndedAt: ago(2 * time.Minute),
		Deadline: timestamppb.New(noon.Add(12 * time.Minute)),
		Held:     &checkoutv1.Held{Stock: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}}, Captured: euros(12997)},
		Steps: []*checkoutv1.Step{{
			Name: "reserve-stock", Participant: "warehouse", State: "done", Attempts: 1, StartedAt: ago(3 * time.Minute),
			EndedAt: ago(3*time.Minute - 12*time.Millisecond), Compensation: "not-needed",
		}},
	}
}

func compensating() *checkoutv1.Checkout {
	c := confirmed()
	c.Status, c.Phase, c.EndedAt, c.Reason = checkoutv1.Status_STATUS_COMPENSATING, "undoing", nil, "authorize-payment: card_declined"
	c.Held = &checkoutv1.Held{Stock: c.Held.Stock}
	c.Steps[0].Compensation = "running"
	c.Steps = append(c.Steps, &checkoutv1.Step{
		Name: "authorize-payment", Participant: "payment", State: "rejected", Attempts: 1, Error: "card_declined", Compensation: "not-needed",
	})
	return c
}

func ending(status checkoutv1.Status, reason string) *checkoutv1.Checkout {
	c := confirmed()
	c.Status, c.Reason, c.Held = status, reason, &checkoutv1.Held{}
	return c
}

func needingAttention() *checkoutv1.Checkout {
	c := compensating()
	c.Status = checkoutv1.Status_STATUS_NEEDS_ATTENTION
	c.ReasonCode = "card_declined"
	c.Held.Authorized, c.Held.AuthorizedUntil = euros(12997), timestamppb.New(noon.Add(6*time.Hour))
	c.Attention = &checkoutv1.Attention{
		Step: "release-stock", Cause: "release-stock has failed 12 times", Since: ago(time.Hour), Attempts: 12,
		LastError: "no answer\x1b[2J", Next: timestamppb.New(noon.Add(30 * time.Second)),
		Advice: "look at the warehouse, then `orchestrator checkout resolve ord-1001 --step release-stock --as retry --reason …`; " +
			"`orchestrator checkout cancel ord-1001 --reason …` gives it up",
		Code: "failing",
	}
	return c
}

func awaitingApproval() *checkoutv1.Checkout {
	c := confirmed()
	c.Status, c.Phase, c.EndedAt, c.ApprovalDeadline = checkoutv1.Status_STATUS_AWAITING_APPROVAL, "forward", nil, timestamppb.New(noon.Add(23*time.Hour))
	c.Held = &checkoutv1.Held{Stock: c.Held.Stock, Authorized: euros(12997), AuthorizedUntil: ago(2 * time.Hour)}
	return c
}

func turnedDown() *checkoutv1.Checkout {
	c := ending(checkoutv1.Status_STATUS_REJECTED, "approval: fraud")
	c.Steps = append(c.Steps, &checkoutv1.Step{Name: "approval", Participant: "operator", State: "rejected", Error: "fraud", Compensation: "not-needed"})
	return c
}

func TestStatusInEachForm(t *testing.T) {
	s := openShop(t)
	for form, want := range map[string]string{
		"table": `ORDER ID   STATUS      AMOUNT       CUSTOMER   AGE   AT
ord-1001   CONFIRMED   129.97 EUR   cus-17     3m    -

STEP            PARTICIPANT   STATE   ATTEMPTS   TOOK   UNDOING      ERROR
reserve-stock   warehouse     done    1          12ms   not-needed   -
`,
		"wide": `ORDER ID   STATUS      AMOUNT       CUSTOMER   AGE   AT   PHASE   ENGINE   RUN   UPDATED   ENDED   DEADLINE   REASON   REASON CODE   HELD
ord-1001   CONFIRMED   129.97 EUR   cus-17     3m    -    final   dapr     1     2m        2m      -          -        -             2 CHAIR-OAK; 129.97 EUR captured

STEP            PARTICIPANT   STATE   ATTEMPTS   TOOK   UNDOING      ERROR   STARTED   ENDED
reserve-stock   warehouse     done    1          12ms   not-needed   -       3m        2m
`,
		"json": `{
  "order_id": "ord-1001",
  "status": "CONFIRMED",
  "phase": "final",
  "coordination": "orchestrated",
  "engine": "dapr",
  "run": 1,
  "customer_id": "cus-17",
  "amount": {
    "currency": "EUR",
    "minor_units": 12997
  },
  "started_at": "2026-01-31T11:57:00Z",
  "updated_at": "2026-01-31T11:58:00Z",
  "ended_at": "2026-01-31T11:58:00Z",
  "deadline": "2026-01-31T12:12:00Z",
  "approval_deadline": null,
  "reason": "",
  "reason_code": "",
  "held": {
    "stock": [
      {
        "sku": "CHAIR-OAK",
        "quantity": 2
      }
    ],
    "authorized": null,
    "authorized_until": null,
    "captured": {
      "currency": "EUR",
      "minor_units": 12997
    }
  },
  "attention": null,
  "steps": [
    {
      "name": "reserve-stock",
      "participant": "warehouse",
      "state": "done",
      "attempts": 1,
      "started_at": "2026-01-31T11:57:00Z",
      "ended_at": "2026-01-31T11:57:00.012Z",
      "error": "",
      "compensation": "not-needed"
    }
  ]
}
`,
		"ids": "ord-1001\n",
	} {
		t.Run(form, func(t *testing.T) {
			got := s.types(t, "checkout", "status", "ord-1001", "-o", form)
			require.Empty(t, cmp.Diff(answer{out: want}, got, cmp.AllowUnexported(answer{})))
		})
	}
	yaml := s.types(t, "checkout", "status", "ord-1001", "-o", "yaml")
	require.Contains(t, yaml.out, "order_id: ord-1001\nstatus: CONFIRMED\n")
	require.Contains(t, yaml.out, "attention: null\n")
	require.Contains(t, yaml.out, "    - sku: CHAIR-OAK\n      quantity: 2\n")
	require.Equal(t, cli.ExitUsage, s.types(t, "checkout", "status", "ord-1001", "-o", "xml").status)
}

func TestStatusShowsWhatNeedsAttention(t *testing.T) {
	s := openShop(t)
	s.checkout = needingAttention()
	got := s.types(t, "checkout", "status", "ord-1001")
	require.Contains(t, got.out, `
NEEDS ATTENTION   release-stock
cause             release-stock has failed 12 times
since             1h
attempts          12
next attempt      in 30s
last error        no answer\x1b[2J
held              2 CHAIR-OAK; 129.97 EUR authorized for another 6h
what to do        look at the warehouse, then `+"`orchestrator checkout resolve ord-1001 --step release-stock --as retry --reason …`"+`
                  `+"`orchestrator checkout cancel ord-1001 --reason …`"+` gives it up

STEP`)
	require.NotContains(t, got.out, "\x1b", "a participant's text does not steer the terminal")
	require.Contains(t, s.types(t, "checkout", "status", "ord-1001", "-o", "wide").out, "\ncode              failing\n")
	json := strings.Join(strings.Fields(s.types(t, "checkout", "status", "ord-1001", "-o", "json").out), " ")
	require.Contains(t, json, `"attention": { "step": "release-stock", "cause": "release-stock has failed 12 times", "since": "2026-01-31T11:00:00Z", `+
		`"attempts": 12, "last_error": "no answer\u001b[2J", "next": "`+s.checkout.Attention.Advice+`", `+
		`"next_attempt": "2026-01-31T12:00:30Z", "code": "failing" }`)
	require.Contains(t, json, `"authorized_until": "2026-01-31T18:00:00Z"`)
	require.Contains(t, json, `"reason": "authorize-payment: card_declined", "reason_code": "card_declined"`)
}

func TestStatusShowsWhatAwaitsApproval(t *testing.T) {
	s := openShop(t)
	s.checkout = awaitingApproval()
	require.Contains(t, s.types(t, "checkout", "status", "ord-1001").out, `ord-1001   AWAITING_APPROVAL   129.97 EUR   cus-17     3m    approval

AWAITS APPROVAL   of 129.97 EUR
is undone         in 23h
held              2 CHAIR-OAK; 129.97 EUR authorized, which expired 2h ago
approve           orchestrator checkout approve ord-1001 --reason "..."
reject            orchestrator checkout reject ord-1001 --reason "..."
`)
	require.Contains(t, s.types(t, "checkout", "status", "ord-1001", "-o", "wide").out, "   in 23h     -", "the checkout's own deadline rests")
	require.Contains(t, s.types(t, "checkout", "status", "ord-1001", "-o", "json").out, `"approval_deadline": "2026-02-01T11:00:00Z"`)
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	s := openShop(t)
	var out bytes.Buffer
	status := ourProgram().Run(t.Context(), []string{"checkout", "status", "x", "--server", s.url}, cli.Surroundings{
		Out: cli.Printer{To: &out}, Err: cli.Printer{To: &bytes.Buffer{}}, Getenv: func(string) string { return "" }, Now: func() time.Time { return noon }, Colour: true,
	})
	require.Zero(t, status)
	require.Contains(t, out.String(), "\x1b[32mCONFIRMED\x1b[0m")
	require.NotContains(t, s.types(t, "checkout", "status", "x").out, "\x1b")
}

func TestListIsAnArrayAlsoWhenEmpty(t *testing.T) {
	s := openShop(t)
	s.list = &checkoutv1.ListResponse{}
	require.Equal(t, "[]\n", s.types(t, "checkout", "list", "-o", "json").out)
	require.Equal(t, "ORDER ID   STATUS   AMOUNT   CUSTOMER   AGE   AT\n", s.types(t, "checkout", "list").out)
	require.Empty(t, s.types(t, "checkout", "list", "-o", "ids").out)

	s.list = &checkoutv1.ListResponse{Checkouts: []*checkoutv1.Checkout{compensating(), confirmed()}, NextPageToken: "abc"}
	got := s.types(t, "checkout", "list", "--status", "confirmed", "--status", "needs-attention", "--customer", "c", "--step", "release-stock",
		"--amount-over", "5", "--older-than", "10m", "--since", "1h", "--attention", "--reason-code", "card_declined", "--limit", "2", "--page-token", "t")
	require.Equal(t, `ORDER ID   STATUS         AMOUNT       CUSTOMER   AGE   AT
ord-1001   COMPENSATING   129.97 EUR   cus-17     3m    undoing reserve-stock
ord-1001   CONFIRMED      129.97 EUR   cus-17     3m    -
`, got.out)
	require.Equal(t, "there are more: --page-token abc\n", got.err)
	require.Empty(t, cmp.Diff(&checkoutv1.ListRequest{
		Statuses:   []checkoutv1.Status{checkoutv1.Status_STATUS_CONFIRMED, checkoutv1.Status_STATUS_NEEDS_ATTENTION},
		CustomerId: "c", Step: "release-stock", AmountOver: 5, OlderThan: durationpb.New(10 * time.Minute),
		Since: ago(time.Hour), Attention: true, ReasonCode: "card_declined", Limit: 2, PageToken: "t",
	}, s.listed, protocmp.Transform()))
}

func TestStartTakesAnOrderFromAFileOrFromFlags(t *testing.T) {
	s := openShop(t)
	file := filepath.Join(t.TempDir(), "order.json")
	text := `{"order_id": "ord-1001", "customer_id": "cus-17", "currency": "EUR",
		"items": [{"sku": "CHAIR-OAK", "quantity": 2}, {"sku": "LAMP-BRASS", "quantity": 1}], "payment_method": "tok_visa"}`
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	want := &checkoutv1.StartRequest{
		OrderId: "ord-1001", CustomerId: "cus-17", Currency: "EUR", PaymentMethod: "tok_visa",
		Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}, {Sku: "LAMP-BRASS", Quantity: 1}},
	}
	env := map[string]string{cli.ServerVariable: s.url}
	for name, args := range map[string][]string{
		"a file":      {"-f", file},
		"stdin":       {"-f", "-"},
		"a lone dash": {"-"},
		"flags": {"--order-id", "ord-1001", "--customer", "cus-17", "--item", "CHAIR-OAK=2", "--item", "LAMP-BRASS=1",
			"--payment-method", "tok_visa"},
	} {
		t.Run(name, func(t *testing.T) {
			got := typed(t, text, env, append([]string{"checkout", "start"}, args...)...)
			require.Zero(t, got.status, got.err)
			require.Empty(t, cmp.Diff(want, s.started, protocmp.Transform()))
		})
	}

	got := typed(t, text, env, "checkout", "start", "-f", "-", "--order-id", "other", "--deadline", "1h", "--approval-deadline", "2h")
	require.Zero(t, got.status, got.err)
	require.Equal(t, "other", s.started.OrderId)
	require.Equal(t, time.Hour, s.started.Deadline.AsDuration())
	require.Equal(t, 2*time.Hour, s.started.ApprovalDeadline.AsDuration())

	text = strings.Replace(text, "{", `{"approval_deadline": "30m", `, 1)
	got = typed(t, text, env, "checkout", "start", "-f", "-")
	require.Zero(t, got.status, got.err)
	require.Equal(t, 30*time.Minute, s.started.ApprovalDeadline.AsDuration())
	require.Nil(t, s.started.Deadline)
}

func TestStartMakesAnOrderIDWhichARepeatCanUse(t *testing.T) {
	s := openShop(t)
	got := s.types(t, "checkout", "start", "--item", "CHAIR-OAK=1", "--payment-method", "tok_visa", "-o", "ids")
	require.Zero(t, got.status)
	require.Regexp(t, `^ord-[a-z0-9]{16}$`, s.started.OrderId)
	require.Equal(t, s.started.OrderId+"\n", got.out)
	require.Equal(t, "order id "+s.started.OrderId+"\n", got.err)
	require.Equal(t, "EUR", s.started.Currency)
	require.Equal(t, "cus-cli", s.started.CustomerId)
}

func TestI9AFileThatIsNoOrderIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	s := openShop(t)
	env := map[string]string{cli.ServerVariable: s.url}
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":           {`{"order_id": "a", "quantity": 3}`, "quantity is no field of an order"},
		"unknown field in a line": {`{"items": [{"sku": "A", "qty": 3}]}`, "qty is no field of an order"},
		"empty":                   {" \n", "the order on stdin is empty"},
		"not JSON":                {"order_id: a", "is not a JSON object"},
		"an array":                {"[]", "is not a JSON object"},
		"broken JSON":             {`{"order_id": "a",}`, "is not JSON"},
		"cut off":                 {`{"order_id": "a"`, "it ends too early"},
		"two orders":              {`{"order_id": "a"} {"order_id": "b"}`, "holds more than one JSON object"},
		"a fraction of a piece":   {`{"items": [{"sku": "A", "quantity": 1.5}]}`, "quantity: number 1.5 is not what belongs there"},
		"far too many pieces":     {`{"items": [{"sku": "A", "quantity": 99999999999}]}`, "quantity: number 99999999999 is not what belongs there"},
		"a text for a number":     {`{"items": [{"sku": "A", "quantity": "2"}]}`, "quantity: string is not what belongs there"},
		"no duration":             {`{"deadline": "soon"}`, `deadline: "soon" is not a duration such as 15m`},
		"no such duration":        {`{"approval_deadline": "1 day"}`, `approval_deadline: "1 day" is not a duration such as 15m`},
		"over 1 MiB":              {`{"order_id": "` + strings.Repeat("a", 1<<20) + `"}`, "is larger than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			got := typed(t, c.text, env, "checkout", "start", "-f", "-")
			require.Equal(t, cli.ExitUsage, got.status)
			require.Contains(t, got.err, c.want)
			require.Empty(t, got.out)
			require.Nil(t, s.started)
		})
	}
	for name, args := range map[string][]string{
		"no such file":              {"-f", filepath.Join(t.TempDir(), "nope.json")},
		"a folder":                  {"-f", t.TempDir()},
		"an item without a number":  {"--item", "CHAIR-OAK"},
		"an item with a bad number": {"--item", "CHAIR-OAK=two"},
		"an empty order id":         {"--order-id", ""},
		"--timeout without --wait":  {"--item", "CHAIR-OAK=1", "--timeout", "5s"},
		"a negative timeout":        {"--item", "CHAIR-OAK=1", "--wait", "--timeout", "-5s"},
		"an argument too many":      {"order.json"},
		"an unknown flag":           {"--items", "CHAIR-OAK=1"},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.types(t, append([]string{"checkout", "start"}, args...)...)
			require.Equal(t, cli.ExitUsage, got.status, got.err)
			require.Nil(t, s.started)
		})
	}
}

func TestRefusalsEndWithTheirExitStatus(t *testing.T) {
	s := openShop(t)
	bad := connect.NewError(connect.CodeInvalidArgument, nil)
	detail, err := connect.NewErrorDetail(&checkoutv1.BadField{Field: "items[0].sku", Problem: `there is no article "A"`})
	require.NoError(t, err)
	bad.AddDetail(detail)
	start := []string{"checkout", "start", "--item", "A=1", "--order-id", "ord-1"}
	for name, c := range map[string]struct {
		args    []string
		refusal error
		status  int
		stderr  string
	}{
		"bad input": {start, bad, cli.ExitUsage, "orchestrator: refused, nothing was changed:\n  items[0].sku: there is no article \"A\"\n"},
		"another order": {start, connect.NewError(connect.CodeAlreadyExists, errText("order id ord-1 was accepted with another order")),
			cli.ExitConflict, "orchestrator: order id ord-1 was accepted with another order\n"},
		"no such checkout": {[]string{"checkout", "status", "x"}, connect.NewError(connect.CodeNotFound, errText(`there is no checkout "x"`)),
			cli.ExitNotFound, "orchestrator: there is no checkout \"x\"\n"},
		"no such checkout to wait for": {[]string{"checkout", "wait", "x"}, connect.NewError(connect.CodeNotFound, errText(`there is no checkout "x"`)),
			cli.ExitNotFound, "orchestrator: there is no checkout \"x\"\n"},
		"too late": {[]string{"checkout", "cancel", "x", "--reason", "r"}, connect.NewError(connect.CodeFailedPrecondition, errText("too late")),
			cli.ExitConflict, "orchestrator: too late\n"},
		"not allowed": {[]string{"checkout", "cancel", "x", "--reason", "r"}, connect.NewError(connect.CodePermissionDenied, errText("no")),
			cli.ExitForbidden, "orchestrator: no\n"},
		"a participant is down": {[]string{"audit"}, connect.NewError(connect.CodeUnavailable, errText("ask warehouse: refused")),
			cli.ExitUnreachable, "orchestrator: ask warehouse: refused\n"},
		"an error of ours": {[]string{"checkout", "history", "x"}, connect.NewError(connect.CodeInternal, errText("oops")),
			cli.ExitFailed, "orchestrator: oops\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.refusal = c.refusal
			got := s.types(t, c.args...)
			require.Equal(t, c.status, got.status, got.err)
			require.Equal(t, c.stderr, got.err)
			require.Empty(t, got.out)
		})
	}
}

type errText string

func (e errText) Error() string { return string(e) }

func TestWrongUsageIsExitStatusTwo(t *testing.T) {
	s := openShop(t)
	for _, line := range []string{
		"", "chekout", "checkout", "checkout begin", "checkout status", "checkout status a b", "checkout list --status DONE",
		"checkout list --step juggle", "checkout list --amount-over -1", "checkout list --older-than -1m", "checkout list --since yesterday", "checkout list --limit 0", "checkout list -o xml",
		"checkout cancel x", "checkout cancel --reason r", "audit now", "serve", "serve --engine temporal", "dev", "audit --server ftp://x",
	} {
		got := s.types(t, strings.Fields(line)...)
		require.Equal(t, cli.ExitUsage, got.status, "%q: %s", line, got.err)
		require.Empty(t, got.out, line)
		require.NotEmpty(t, got.err, line)
	}
}

func TestWaitEndsAsTheCheckoutDoes(t *testing.T) {
	s := openShop(t)
	for name, c := range map[string]struct {
		watched []*checkoutv1.Checkout
		status  int
		stderr  string
	}{
		"confirmed": {[]*checkoutv1.Checkout{confirmed()}, cli.ExitDone, "ord-1001  CONFIRMED\n"},
		"rejected": {[]*checkoutv1.Checkout{compensating(), ending(checkoutv1.Status_STATUS_REJECTED, "card_declined")}, cli.ExitRejected,
			"ord-1001 was rejected (card_declined); all is undone\n"},
		"it awaits approval, and is refused": {[]*checkoutv1.Checkout{awaitingApproval(), turnedDown()}, cli.ExitRejected,
			"ord-1001  approval          rejected: fraud\n"},
		"cancelled":                           {[]*checkoutv1.Checkout{ending(checkoutv1.Status_STATUS_CANCELLED, "typo")}, cli.ExitUndone, "was cancelled (typo)"},
		"expired":                             {[]*checkoutv1.Checkout{ending(checkoutv1.Status_STATUS_EXPIRED, "late")}, cli.ExitUndone, "expired (late)"},
		"needs attention":                     {[]*checkoutv1.Checkout{needingAttention()}, cli.ExitAttention, "needs attention: release-stock has failed 12 times\n"},
		"it awaits approval, and is approved": {[]*checkoutv1.Checkout{awaitingApproval(), confirmed()}, cli.ExitDone, "ord-1001  AWAITING_APPROVAL\nord-1001  CONFIRMED\n"},
		"the server was killed and came back": {[]*checkoutv1.Checkout{compensating(), nil, confirmed()}, cli.ExitDone, "ord-1001  CONFIRMED\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s.watched = c.watched
			got := s.types(t, "checkout", "wait", "ord-1001", "-o", "ids")
			require.Equal(t, c.status, got.status, got.err)
			require.Contains(t, got.err, c.stderr)
			require.Equal(t, "ord-1001\n", got.out, "the result is on stdout, and nothing else")
		})
	}
}

func TestWaitThatEndsTooEarlySaysSo(t *testing.T) {
	s := openShop(t)
	s.watched, s.hold = []*checkoutv1.Checkout{compensating()}, true
	got := s.types(t, "checkout", "wait", "ord-1001", "--timeout", "100ms")
	require.Equal(t, cli.ExitNotEnded, got.status, got.err)
	require.Contains(t, got.err, "ord-1001 has not ended within 100ms; it goes on\n")
	require.Contains(t, got.out, "COMPENSATING")

	s.watched = []*checkoutv1.Checkout{awaitingApproval()}
	got = s.types(t, "checkout", "start", "--item", "A=1", "--payment-method", "t", "--wait", "--timeout", "100ms")
	require.Equal(t, cli.ExitNotEnded, got.status, got.err)
	require.Contains(t, got.err, "ord-1001 has not ended within 100ms; it awaits approval\n")
}

func TestStartWithWaitTellsProgressOnStderr(t *testing.T) {
	s := openShop(t)
	s.watched = []*checkoutv1.Checkout{compensating(), ending(checkoutv1.Status_STATUS_REJECTED, "card_declined")}
	got := s.types(t, "checkout", "start", "--order-id", "ord-1001", "--item", "A=1", "--payment-method", "t", "--wait", "-o", "ids")
	require.Equal(t, cli.ExitRejected, got.status)
	require.Equal(t, "ord-1001\n", got.out)
	require.Equal(t, `ord-1001  reserve-stock     done
ord-1001  reserve-stock     undoing it: running
ord-1001  authorize-payment rejected, attempt 1: card_declined
ord-1001  COMPENSATING
ord-1001  REJECTED
orchestrator: ord-1001 was rejected (card_declined); all is undone
`, got.err)
}

func TestStatusWatchPrintsOneObjectALine(t *testing.T) {
	s := openShop(t)
	s.watched = []*checkoutv1.Checkout{compensating(), confirmed()}
	got := s.types(t, "checkout", "status", "ord-1001", "--watch", "-o", "json")
	require.Zero(t, got.status)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `{"order_id":"ord-1001","status":"COMPENSATING"`)
	require.Contains(t, lines[1], `"status":"CONFIRMED"`)
}

func TestHistoryInEachForm(t *testing.T) {
	s := openShop(t)
	s.history = &checkoutv1.HistoryResponse{
		OrderId: "ord-1001",
		Request: &checkoutv1.StartRequest{OrderId: "ord-1001", CustomerId: "cus-17", Currency: "EUR", PaymentMethod: "tok_visa",
			Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 2}}},
		Prices: []*checkoutv1.Price{{Sku: "CHAIR-OAK", UnitPrice: euros(4999)}},
		Entries: []*checkoutv1.Entry{
			{At: ago(time.Minute), Kind: "attempt", Step: "reserve-stock", Attempt: 1, DurationMs: 12, Outcome: "applied"},
			{At: ago(time.Second), Kind: "command", Actor: "ann", Reason: "typo", Outcome: "cancel accepted"},
			{At: ago(0), Kind: "event", Topic: "checkout.order.cancelled", EventId: "e-1", Outcome: "published", Data: `{"n": 12345678901234567890}`},
		},
		Operations: []*checkoutv1.ParticipantOperation{
			{Participant: "warehouse", Step: "reserve-stock", Do: "applied", Reference: "r-1", CreatedAt: ago(time.Minute), UpdatedAt: ago(time.Second)},
			{Participant: "payment", Step: "authorize-payment", Do: "rejected", Reason: "card_declined", Amount: euros(12997)},
		},
		Unreachable: []string{"orders: gone"},
	}
	require.Equal(t, `AGE   WHAT      STEP                       ATTEMPT   OUTCOME           TOOK   BY    WHY
1m    attempt   reserve-stock              1         applied           12ms   -     -
1s    command   -                          -         cancel accepted   -      ann   typo
0ms   event     checkout.order.cancelled   -         published         -      -     -

PARTICIPANT   STEP                DO         UNDO   REFERENCE   AMOUNT       WHY
warehouse     reserve-stock       applied    -      r-1         -            -
payment       authorize-payment   rejected   -      -           129.97 EUR   card_declined
`, s.types(t, "checkout", "history", "ord-1001").out)

	json := strings.Join(strings.Fields(s.types(t, "checkout", "history", "ord-1001", "-o", "json").out), "")
	require.Equal(t, `{"order_id":"ord-1001","request":{"order_id":"ord-1001","customer_id":"cus-17","currency":"EUR",`+
		`"items":[{"sku":"CHAIR-OAK","quantity":2}],"payment_method":"tok_visa"},`+
		`"prices":[{"sku":"CHAIR-OAK","unit_price":{"currency":"EUR","minor_units":4999}}],`+
		`"entries":[{"at":"2026-01-31T11:59:00Z","kind":"attempt","step":"reserve-stock","attempt":1,"actor":"","reason":"","topic":"",`+
		`"event_id":"","duration_ms":12,"outcome":"applied","error":"","data":null},`+
		`{"at":"2026-01-31T11:59:59Z","kind":"command","step":"","attempt":0,"actor":"ann","reason":"typo","topic":"",`+
		`"event_id":"","duration_ms":0,"outcome":"cancelaccepted","error":"","data":null},`+
		`{"at":"2026-01-31T12:00:00Z","kind":"event","step":"","attempt":0,"actor":"","reason":"","topic":"checkout.order.cancelled",`+
		`"event_id":"e-1","duration_ms":0,"outcome":"published","error":"","data":{"n":12345678901234567890}}],`+
		`"operations":[{"participant":"warehouse","step":"reserve-stock","do":"applied","undo":"","reference":"r-1","reason":"","amount":null,`+
		`"created_at":"2026-01-31T11:59:00Z","updated_at":"2026-01-31T11:59:59Z"},`+
		`{"participant":"payment","step":"authorize-payment","do":"rejected","undo":"","reference":"","reason":"card_declined",`+
		`"amount":{"currency":"EUR","minor_units":12997},"created_at":null,"updated_at":null}],`+
		`"unreachable":["orders:gone"],"checkout":null}`, json)

	s.history.Checkout = confirmed()
	s.history.Request.ApprovalDeadline = durationpb.New(time.Hour)
	wide := s.types(t, "checkout", "history", "ord-1001", "-o", "wide").out
	require.Contains(t, wide, "CHAIR-OAK   2          49.99 EUR\n")
	require.Contains(t, wide, "ord-1001   CONFIRMED")
	json = s.types(t, "checkout", "history", "ord-1001", "-o", "json").out
	require.Contains(t, json, `"status": "CONFIRMED"`)
	require.Contains(t, json, `"approval_deadline": "1h0m0s"`)
}

func TestHistoryFollowPrintsEachEntryOnceThoughTheServerIsKilled(t *testing.T) {
	s := openShop(t)
	attempt := &checkoutv1.Entry{At: ago(time.Minute), Kind: "attempt", Step: "reserve-stock", Attempt: 1, DurationMs: 12, Outcome: "applied"}
	same := &checkoutv1.Entry{At: ago(time.Second), Kind: "command", Actor: "ann", Reason: "typo", Outcome: "cancel accepted"}
	event := &checkoutv1.Entry{At: ago(2 * time.Minute), Kind: "event", EventId: "e-1", Topic: "checkout.order.created", Outcome: "not published yet"}
	published := &checkoutv1.Entry{At: ago(2 * time.Minute), Kind: "event", EventId: "e-1", Topic: "checkout.order.created", Outcome: "published"}
	send := func(entries ...*checkoutv1.Entry) *checkoutv1.FollowHistoryResponse {
		return &checkoutv1.FollowHistoryResponse{Entries: entries, Unreachable: []string{"orders: gone"}}
	}
	stream := []*checkoutv1.FollowHistoryResponse{send(attempt, event), send(same), nil, send(published, attempt), send(same, same)}
	s.followed = stream
	got := s.types(t, "checkout", "history", "ord-1001", "--follow", "-o", "json")
	require.Zero(t, got.status, got.err)
	require.Equal(t, "events are missing here: orders: gone\n", got.err, "told once")
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 4, "each once, and the two that are alike both")
	require.Contains(t, lines[0], `"kind":"attempt"`)
	require.Contains(t, lines[1], `"event_id":"e-1"`)
	require.Contains(t, lines[2], `"actor":"ann"`)
	require.Contains(t, lines[3], `"actor":"ann"`)

	s.followed = stream[:2]
	require.Equal(t, `1m   attempt   reserve-stock   1   applied   12ms   -   -
2m   event   checkout.order.created   -   not published yet   -   -   -
1s   command   -   -   cancel accepted   -   ann   typo
`, s.types(t, "checkout", "history", "ord-1001", "--follow").out)

	s.refusal = connect.NewError(connect.CodeNotFound, errText("there is no checkout"))
	require.Equal(t, cli.ExitNotFound, s.types(t, "checkout", "history", "ord-1001", "--follow").status)
}

func TestCancelTellsWhatIsAndIsNotUndone(t *testing.T) {
	s := openShop(t)
	s.cancel = &checkoutv1.CancelResponse{Checkout: compensating(), Undone: []string{"authorize-payment"}, ToUndo: []string{"reserve-stock"}}
	got := s.types(t, "checkout", "cancel", "ord-1001", "--reason", "typo", "--dry-run")
	require.Equal(t, `ORDER ID   STATUS         UNDONE              STILL TO UNDO   CANNOT BE UNDONE
ord-1001   COMPENSATING   authorize-payment   reserve-stock   -
`, got.out)
	require.True(t, s.asked.DryRun)
	require.Equal(t, "typo", s.asked.Reason)
	require.NotEmpty(t, s.asked.Actor)
	require.Contains(t, s.types(t, "checkout", "cancel", "ord-1001", "--reason", "typo", "-o", "json").out, `"cannot_undo": []`)
}

func TestAuditTellsViolationsAndEndsWithEight(t *testing.T) {
	s := openShop(t)
	s.audit = []*checkoutv1.AuditResponse{{}, {Checked: 200}, {Checked: 230}}
	got := s.types(t, "audit", "-o", "json")
	require.Equal(t, answer{out: "{\n  \"checked\": 230,\n  \"violations\": [],\n  \"notes\": [],\n  \"accepted\": []\n}\n"}, got)

	s.audit[1].Violations = []*checkoutv1.Violation{{OrderId: "ord-1", Invariant: "I1", What: "CONFIRMED, but <nothing> was captured"}}
	got = s.types(t, "audit")
	require.Equal(t, cli.ExitFindings, got.status)
	require.Equal(t, `CHECKED   VIOLATIONS
230       1

ORDER ID   INVARIANT   WHAT
ord-1      I1          CONFIRMED, but <nothing> was captured
`, got.out)
}

func TestI1WhatAnOperatorAcceptedIsListedByEveryAuditAndIsNoViolation(t *testing.T) {
	s := openShop(t)
	s.audit = []*checkoutv1.AuditResponse{{Accepted: []*checkoutv1.Accepted{{
		OrderId: "ord-1", Step: "release-stock", Actor: "ann", Reason: "counted by hand", At: ago(time.Hour), What: "2 CHAIR-OAK are reserved",
	}}}, {Checked: 7}}
	require.Equal(t, answer{out: `CHECKED   VIOLATIONS
7         0

ORDER ID   ACCEPTED STEP   AGE   BY    REASON            WHAT DIFFERS
ord-1      release-stock   1h    ann   counted by hand   2 CHAIR-OAK are reserved
`}, s.types(t, "audit"))
	require.Equal(t, `{"checked":7,"violations":[],"notes":[],"accepted":[{"order_id":"ord-1","step":"release-stock","actor":"ann",`+
		`"reason":"countedbyhand","at":"2026-01-31T11:00:00Z","what":"2CHAIR-OAKarereserved"}]}`,
		strings.Join(strings.Fields(s.types(t, "audit", "-o", "json").out), ""))
	require.Empty(t, s.types(t, "audit", "-o", "ids").out, "nothing is to be mended")
}

func TestDoctorShowsFindingsAndSettings(t *testing.T) {
	s := openShop(t)
	s.doctor = &sagav1.DoctorResponse{
		Findings: []*sagav1.Finding{{Check: "database", Ok: true, Detail: "answers in 1ms"}, {Check: "clock", Detail: "differs", Mend: "synchronize"}},
		Settings: []*sagav1.Setting{{Name: "ORCHESTRATOR_ENGINE", Value: "embedded"}},
	}
	got := s.types(t, "doctor")
	require.Equal(t, cli.ExitFindings, got.status)
	require.Equal(t, `CHECK      WHAT    DETAIL           HOW TO MEND IT
database   ok      answers in 1ms   -
clock      WRONG   differs          synchronize

SETTING               VALUE
ORCHESTRATOR_SERVER   `+s.url+` (from ORCHESTRATOR_SERVER)
ORCHESTRATOR_ENGINE   embedded
`, got.out)
	s.doctor.Findings[1].Ok = true
	require.Zero(t, s.types(t, "doctor").status)
}

func TestAnUnreachableServerIsToldWithinFiveSecondsWithAHint(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // Takes connections and never answers.
	require.NoError(t, err)
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for name, server := range map[string]string{
		"nobody listens":                gone.Addr().String(),
		"somebody listens and is stuck": silent.Addr().String(),
		"a name that does not exist":    "http://orchestrator.invalid:8080",
	} {
		for _, verb := range []string{"doctor", "checkout wait x", "checkout start --item A=1 --payment-method t", "audit"} {
			t.Run(name+": "+verb, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				got := typed(t, "", map[string]string{cli.ServerVariable: server}, strings.Fields(verb)...)
				require.Equal(t, cli.ExitUnreachable, got.status, got.err)
				require.Less(t, time.Since(began), 5*time.Second)
				require.Contains(t, got.err, "make up")
				require.Contains(t, got.err, "--server")
			})
		}
	}
}

func TestAServersPasswordIsNotShown(t *testing.T) {
	for _, server := range []string{"http://key:secret@127.0.0.1:1", "ftp://key:secret@127.0.0.1"} {
		got := typed(t, "", map[string]string{cli.ServerVariable: server}, "audit")
		require.NotZero(t, got.status)
		require.NotContains(t, got.err, "secret")
		require.Contains(t, got.err, "key:xxxxx@127.0.0.1")
	}
}

func TestCompletionOffersIDsFromTheServerAndFixedWords(t *testing.T) {
	s := openShop(t)
	s.list = &checkoutv1.ListResponse{Checkouts: []*checkoutv1.Checkout{{OrderId: "ord-2"}, {OrderId: "ord-1"}, {OrderId: "x"}}}
	for line, want := range map[string]string{
		"checkout status ord-":     "ord-2\nord-1\n",
		"audit --order-id x":       "x\n",
		"checkout list --status R": "RUNNING\nAWAITING_APPROVAL\n",
		"checkout list --step r":   "reserve-stock\nrelease-stock\n",
		"doctor -o j":              "table\nwide\njson\n",

		"checkout cancel ord-":                "ord-2\nord-1\n",
		"checkout approve ord-":               "ord-2\nord-1\n",
		"checkout reject x":                   "x\n",
		"checkout redrive x":                  "x\n",
		"checkout resolve x":                  "x\n",
		"checkout resolve --as r":             "done\nrefund\nretry\n",
		"checkout resolve --step r":           "reserve-stock\nrelease-stock\n",
		"checkout redrive --engine d":         "dapr\nembedded\n",
		"checkout cancel --reason-code a":     "out_of_stock\nunknown_article\ncard_declined\n",
		"checkout redrive --status CANCELLED": "RUNNING\nAWAITING_APPROVAL\n",
	} {
		got := s.types(t, append([]string{"__complete"}, strings.Fields(line)...)...)
		require.Zero(t, got.status)
		require.True(t, strings.HasPrefix(got.out, want), "%s: %s", line, got.out)
	}
	require.Contains(t, s.types(t, "completion", "bash").out, "bash completion")
}

func TestVersionTellsTheBuild(t *testing.T) {
	require.Contains(t, typed(t, "", nil, "version", "-o", "json").out, `"go": "go1.`)
}
