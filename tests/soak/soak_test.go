// Package soak_test runs the whole system under steady mixed traffic, with audits all the time. Nothing is broken in it, so whatever
// an audit calls a violation is the audit's own mistake, or ours. SOAK says for how long; ten minutes are the proof:
//
//	SOAK=10m go test -timeout 20m -v ./tests/soak
package soak_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	pricingv1 "github.com/checkoutsaga/orchestrator/gen/pricing/v1"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// rate is how many orders are started in a second.
const rate = 10

func TestI1ToI6NoAuditFindsAnythingInCleanTraffic(t *testing.T) {
	lasts := time.Minute
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(t, err, "SOAK")
	}
	s := &soak{System: harness.StartInProcess(t, harness.InProcess{ApprovalAbove: node.Amounts{"USD": 0}})}
	for _, sku := range articles {
		s.SetStock(t, sku, 1_000_000)
	}
	s.WatchSums(t)

	auditing, stopAudits := context.WithCancel(t.Context())
	defer stopAudits()
	audits := []*audits{
		{name: "of all", request: func() *checkoutv1.AuditRequest { return &checkoutv1.AuditRequest{} }},
		{name: "of the last 30 s", request: func() *checkoutv1.AuditRequest {
			return &checkoutv1.AuditRequest{Since: timestamppb.New(time.Now().Add(-30 * time.Second))}
		}},
		{name: "of one order", request: func() *checkoutv1.AuditRequest {
			return &checkoutv1.AuditRequest{OrderId: s.recent()}
		}},
	}
	var running sync.WaitGroup
	for _, a := range audits {
		running.Go(func() { a.run(auditing, s) })
	}

	s.traffic(t, lasts)
	s.settle(t)
	s.AwaitEvents(t, time.Minute)
	stopAudits()
	running.Wait()

	final, err := s.Judge.Final(t.Context())
	require.NoError(t, err)
	t.Logf("%d orders in %s ended so: %v; what was asked of them: %v", s.orders.Load(), lasts, final, s.acts.String())
	for _, a := range audits {
		t.Logf("%d audits %s compared %d checkouts and found %d violations", a.done, a.name, a.checked, len(a.found))
		require.Positive(t, a.done, "no audit %s came to its end", a.name)
		for i, v := range a.found {
			if i == 10 {
				break
			}
			t.Errorf("the audit %s says of clean traffic: %s", a.name, v)
		}
		for i, err := range a.failed {
			if i == 3 {
				break
			}
			t.Errorf("the audit %s failed: %v", a.name, err)
		}
	}
	last := audit(t.Context(), s, &checkoutv1.AuditRequest{})
	require.NoError(t, last.err)
	require.Empty(t, last.found)
	require.EqualValues(t, s.orders.Load(), last.checked, "the last audit looks at every checkout")
	require.Empty(t, last.accepted)
	s.Audit(t)
}

// articles are what is ordered; outOfStock is an article of which there is too little for some orders.
var articles = []string{"CHAIR-OAK", "TABLE-OAK", "LAMP-BRASS", "BENCH-PINE", "STOOL-BIRCH", "DESK-OAK"}

const outOfStock = "COAT-RACK"

// methods are the payment methods, the good one more often than the others.
var methods = []string{
	"tok_visa", "tok_declined", "tok_visa", "tok_flaky", "tok_visa", "tok_insufficient_funds", "tok_visa", "tok_timeout", "tok_visa",
	"tok_expires", "tok_visa", "tok_void_fails",
}

type soak struct {
	*harness.System
	orders atomic.Int64
	acts   acts
}

// acts counts what was asked of checkouts, by verb and answer.
type acts struct {
	mu     sync.Mutex
	counts map[string]int
}

func (a *acts) count(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counts == nil {
		a.counts = make(map[string]int)
	}
	a.counts[what]++
}

func (a *acts) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var parts []string
	for what, n := range a.counts {
		parts = append(parts, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func orderID(i int64) string { return fmt.Sprintf("soak-%06d", i) }

// recent is one of the orders that were started last, or any other.
func (s *soak) recent() string {
	n := s.orders.Load()
	if n == 0 {
		return "none-yet"
	}
	if rand.N(2) == 0 {
		return orderID(rand.N(n))
	}
	return orderID(n - 1 - rand.N(min(n, 50)))
}

// traffic starts orders at the rate until the time is up, and returns when all that was to be asked of them was.
func (s *soak) traffic(t *testing.T, lasts time.Duration) {
	t.Helper()
	end := time.After(lasts)
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	for i := int64(0); ; i++ {
		select {
		case <-end:
			return
		case <-tick.C:
		}
		if i%(2*rate) == 0 {
			clients.Go(func() { s.changePrice(t) })
		}
		clients.Go(func() { s.one(t, i) })
	}
}

// one is one customer's order, and what is asked of it.
func (s *soak) one(t *testing.T, i int64) {
	order := harness.Order{ID: orderID(i), Method: methods[rand.N(len(methods))], Items: []*checkoutv1.Item{
		{Sku: articles[rand.N(len(articles))], Quantity: 1 + rand.N[int32](3)},
	}}
	approval := ""
	switch {
	case i%17 == 3:
		order.Items = append(order.Items, &checkoutv1.Item{Sku: outOfStock, Quantity: 5_000})
	case i%4 == 1:
		order.Coordination = "choreographed"
	case i%5 == 2:
		order.Currency = "USD"
		approval = []string{"approve", "reject", "leave", "cancel"}[rand.N(4)]
		if approval == "leave" {
			order.ApprovalDeadline = time.Second
		}
	}
	if i%13 == 5 {
		order.Deadline = time.Second
	}
	if _, err := s.TryStart(t.Context(), order); err != nil {
		t.Errorf("start %s: %v", order.ID, err)
		return
	}
	// The next number may be there before this one: what counts them must not be ahead of what was accepted.
	s.orders.Add(1)
	switch {
	case approval != "":
		s.decide(t, order.ID, approval)
	case i%7 == 0:
		pause(t.Context(), rand.N(300*time.Millisecond))
		s.cancel(t, order.ID)
	}
}

// decide waits until an order awaits approval, and decides; one that is refused before that is left alone. Whom it gave up would
// await approval for a day, so it is patient.
func (s *soak) decide(t *testing.T, id, what string) {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); pause(t.Context(), 100*time.Millisecond) {
		c, err := s.Get(t.Context(), id)
		if err != nil {
			t.Errorf("get %s: %v", id, err)
			return
		}
		if c.Phase != "forward" {
			s.acts.count(what + ": came too late")
			return
		}
		if c.Status != checkoutv1.Status_STATUS_AWAITING_APPROVAL {
			continue
		}
		switch what {
		case "approve":
			_, err = s.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: id, Reason: "soak", Actor: "soak"}))
		case "reject":
			_, err = s.Checkouts.Reject(t.Context(), connect.NewRequest(&checkoutv1.RejectRequest{OrderId: id, Reason: "soak", Actor: "soak"}))
		case "cancel":
			s.cancel(t, id)
			return
		}
		if err != nil {
			t.Errorf("%s %s: %v", what, id, err)
		}
		s.acts.count(what)
		return
	}
	s.acts.count(what + ": never asked for")
}

func (s *soak) cancel(t *testing.T, id string) {
	switch _, err := s.Cancel(t.Context(), id); {
	case err == nil:
		s.acts.count("cancel")
	case harness.IsCode(err, connect.CodeFailedPrecondition):
		s.acts.count("cancel: too late")
	default:
		t.Errorf("cancel %s: %v", id, err)
	}
}

// changePrice gives an article another price, about as high as before.
func (s *soak) changePrice(t *testing.T) {
	_, err := s.Pricing.SetPrice(t.Context(), connect.NewRequest(&pricingv1.SetPriceRequest{
		Sku: articles[rand.N(len(articles))], UnitPrice: &operationv1.Money{Currency: "EUR", MinorUnits: 4_000 + rand.N[int64](2_000)},
	}))
	if err != nil {
		t.Errorf("set price: %v", err)
		return
	}
	s.acts.count("set price")
}

// settle lets everything end: what could not be voided can be now, and what waits long for its next try is tried at once.
func (s *soak) settle(t *testing.T) {
	t.Helper()
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: "tok_void_fails", Void: "works"})
	for token := ""; ; {
		page, err := s.Checkouts.List(t.Context(), connect.NewRequest(&checkoutv1.ListRequest{Attention: true, PageToken: token}))
		require.NoError(t, err)
		for _, c := range page.Msg.Checkouts {
			_, err := s.Checkouts.Resolve(t.Context(), connect.NewRequest(&checkoutv1.ResolveRequest{
				OrderId: c.OrderId, Step: c.Attention.Step, As: checkoutv1.Resolution_RESOLUTION_RETRY, Reason: "it works again", Actor: "soak",
			}))
			if err != nil && !harness.IsCode(err, connect.CodeFailedPrecondition) { // It has gone on by itself.
				t.Errorf("retry %s: %v", c.OrderId, err)
			}
			s.acts.count("retry")
		}
		if token = page.Msg.NextPageToken; token == "" {
			break
		}
	}
	took := s.AwaitAllEnded(t, 2*time.Minute)
	t.Logf("all had ended %s after the last order", took.Round(time.Millisecond))
}

// audits are audits of one kind, one after another.
type audits struct {
	name    string
	request func() *checkoutv1.AuditRequest
	done    int
	checked int64
	found   []string
	failed  []error
}

func (a *audits) run(ctx context.Context, s *soak) {
	for {
		one := audit(ctx, s, a.request())
		switch {
		case ctx.Err() != nil:
			return
		case one.err != nil && !harness.IsCode(one.err, connect.CodeNotFound): // An order whose start is not answered yet.
			a.failed = append(a.failed, one.err)
		case one.err == nil:
			a.done++
		}
		a.checked += one.checked
		a.found = append(a.found, one.found...)
		pause(ctx, 200*time.Millisecond)
	}
}

// audited is what one audit said.
type audited struct {
	checked  int64
	found    []string
	accepted []*checkoutv1.Accepted
	err      error
}

func audit(ctx context.Context, s *soak, request *checkoutv1.AuditRequest) (a audited) {
	stream, err := s.Checkouts.Audit(ctx, connect.NewRequest(request))
	if err != nil {
		return audited{err: err}
	}
	defer stream.Close()
	for stream.Receive() {
		a.checked = stream.Msg().Checked
		a.accepted = append(a.accepted, stream.Msg().Accepted...)
		for _, v := range stream.Msg().Violations {
			a.found = append(a.found, fmt.Sprintf("%s %s: %s", v.Invariant, v.OrderId, v.What))
		}
	}
	a.err = stream.Err()
	return a
}

// pause spreads what customers and auditors do over time; nothing waits for its end.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
