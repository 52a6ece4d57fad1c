package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/gen/orders/v1/ordersv1connect"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	"github.com/checkoutsaga/orchestrator/gen/pricing/v1/pricingv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// System is the whole system as a test sees it, however it is run.
type System struct {
	Checkouts checkoutv1connect.CheckoutServiceClient
	// Warehouse and Payment are the participants themselves, without their proxies.
	Warehouse warehousev1connect.WarehouseServiceClient
	Payment   paymentv1connect.PaymentServiceClient
	Sandbox   paymentv1connect.SandboxServiceClient
	Orders    ordersv1connect.OrdersServiceClient
	Pricing   pricingv1connect.PricingServiceClient
	// DeadLetters and Events are the orchestrator's.
	DeadLetters deadletterv1connect.DeadLetterServiceClient

	// WarehouseProxy and PaymentProxy stand between the orchestrator and the participants.
	WarehouseProxy, PaymentProxy *Proxy

	// Databases are the addresses of the databases, by process.
	Databases judge.Databases
	Judge     *judge.Judge
}

// Proxy is the one before the participant with that procedure.
func (s *System) Proxy(procedure string) *Proxy {
	if slices.Contains([]string{"Reserve", "Release", "Commit"}, procedure) {
		return s.WarehouseProxy
	}
	return s.PaymentProxy
}

// Arm sets up a fault before the participant with that procedure.
func (s *System) Arm(t testing.TB, f Fault) *Armed {
	t.Helper()
	return s.Proxy(f.Procedure).Arm(t, f)
}

// systems bounds the systems that run at once. Each may take some 100 of PostgreSQL's connections, which all tests share.
var systems = make(chan struct{}, 6)

// databases makes the databases of a test's system, once there is room for it.
func databases(t testing.TB) judge.Databases {
	t.Helper()
	systems <- struct{}{}
	t.Cleanup(func() { <-systems }) // Runs last, when the databases are gone.
	d := judge.Databases{"orchestrator": pgtest.URL(t)}
	for _, participant := range node.Participants() {
		d[participant] = pgtest.URL(t)
	}
	return d
}

// connect fills in the clients. The judge connects when the databases have their tables.
func (s *System) connect(t testing.TB, urls map[string]string) {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	s.Checkouts = checkoutv1connect.NewCheckoutServiceClient(client, urls["orchestrator"])
	s.DeadLetters = deadletterv1connect.NewDeadLetterServiceClient(client, urls["orchestrator"])
	s.Warehouse = warehousev1connect.NewWarehouseServiceClient(client, urls["warehouse"])
	s.Payment = paymentv1connect.NewPaymentServiceClient(client, urls["payment"])
	s.Sandbox = paymentv1connect.NewSandboxServiceClient(client, urls["payment"])
	s.Orders = ordersv1connect.NewOrdersServiceClient(client, urls["orders"])
	s.Pricing = pricingv1connect.NewPricingServiceClient(client, urls["pricing"])
	s.Judge = judge.New(t, s.Databases)
}

// Order is what a test orders. Fields that are zero take their defaults in Start.
type Order struct {
	ID       string
	Items    []*checkoutv1.Item
	Method   string
	Deadline time.Duration
	// ApprovalDeadline is how long it may await approval, if it needs one.
	ApprovalDeadline time.Duration
	// Coordination is orchestrated by default.
	Coordination string
	Customer     string
	Currency     string
}

// Request is the order as the API takes it: by default one CHAIR-OAK in EUR for cus-1, paid with tok_visa.
func (o Order) Request() *checkoutv1.StartRequest {
	request := &checkoutv1.StartRequest{
		OrderId: o.ID, CustomerId: cmp.Or(o.Customer, "cus-1"), Currency: cmp.Or(o.Currency, "EUR"), Items: o.Items,
		PaymentMethod: cmp.Or(o.Method, "tok_visa"), Coordination: o.Coordination,
	}
	if len(o.Items) == 0 {
		request.Items = []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 1}}
	}
	if o.Deadline != 0 {
		request.Deadline = durationpb.New(o.Deadline)
	}
	if o.ApprovalDeadline != 0 {
		request.ApprovalDeadline = durationpb.New(o.ApprovalDeadline)
	}
	return request
}

// Start orders and returns the accepted checkout.
func (s *System) Start(t testing.TB, o Order) *checkoutv1.Checkout {
	t.Helper()
	answer, err := s.TryStart(t.Context(), o)
	if err != nil {
		t.Fatalf("start %s: %v", o.ID, err)
	}
	return answer.Checkout
}

// callBudget bounds one call of a test.
const callBudget = 10 * time.Second

// TryStart orders.
func (s *System) TryStart(ctx context.Context, o Order) (*checkoutv1.StartResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	answer, err := s.Checkouts.Start(ctx, connect.NewRequest(o.Request()))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// Get returns a checkout.
func (s *System) Get(ctx context.Context, orderID string) (*checkoutv1.Checkout, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	answer, err := s.Checkouts.Get(ctx, connect.NewRequest(&checkoutv1.GetRequest{OrderId: orderID}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.Checkout, nil
}

// Cancel asks for a checkout to be undone.
func (s *System) Cancel(ctx context.Context, orderID string) (*checkoutv1.CancelResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callBudget)
	defer cancel()
	answer, err := s.Checkouts.Cancel(ctx, connect.NewRequest(&checkoutv1.CancelRequest{
		OrderId: orderID, Reason: "the test wants it gone", Actor: "test",
	}))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// Status is a status in the words of docs/design.md.
type Status = checkoutv1.Status

// The statuses that tests wait for.
const (
	Confirmed      = checkoutv1.Status_STATUS_CONFIRMED
	Rejected       = checkoutv1.Status_STATUS_REJECTED
	Cancelled      = checkoutv1.Status_STATUS_CANCELLED
	Expired        = checkoutv1.Status_STATUS_EXPIRED
	NeedsAttention = checkoutv1.Status_STATUS_NEEDS_ATTENTION
)

// AwaitEnd waits until a checkout is final and demands one of these ends.
func (s *System) AwaitEnd(t testing.TB, orderID string, want ...Status) *checkoutv1.Checkout {
	t.Helper()
	var c *checkoutv1.Checkout
	Eventually(t, orderID+" to end", func(ctx context.Context) (err error) {
		if c, err = s.Get(ctx, orderID); err != nil {
			return err
		}
		if c.EndedAt == nil {
			return fmt.Errorf("it is %s: %v", c.Status, c)
		}
		return nil
	})
	if !slices.Contains(want, c.Status) {
		t.Fatalf("%s ended %s (%s), not %s", orderID, c.Status, c.Reason, want)
	}
	return c
}

// EndOf waits until a checkout is final. It is an error if it needs attention. Unlike AwaitEnd it may be called from any goroutine.
func (s *System) EndOf(ctx context.Context, orderID string) (*checkoutv1.Checkout, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := s.Get(ctx, orderID)
		switch {
		case err != nil:
			return nil, err
		case c.EndedAt != nil:
			return c, nil
		case c.Status == NeedsAttention:
			return nil, fmt.Errorf("%s needs attention: %s", orderID, c.Attention.GetCause())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has not ended within %s: it stands at %s", orderID, patience, Steps(c))
		}
	}
}

// AwaitStatus waits until a checkout has a status.
func (s *System) AwaitStatus(t testing.TB, orderID string, want Status) *checkoutv1.Checkout {
	t.Helper()
	var c *checkoutv1.Checkout
	Eventually(t, fmt.Sprintf("%s to be %s", orderID, want), func(ctx context.Context) (err error) {
		if c, err = s.Get(ctx, orderID); err != nil {
			return err
		}
		if c.Status != want {
			return fmt.Errorf("it is %s: %v", c.Status, c)
		}
		return nil
	})
	return c
}

// SetBehaviour changes what the card network does with a payment method.
func (s *System) SetBehaviour(t testing.TB, to *paymentv1.SetBehaviourRequest) {
	t.Helper()
	if _, err := s.Sandbox.SetBehaviour(t.Context(), connect.NewRequest(to)); err != nil {
		t.Fatalf("set behaviour of %s: %v", to.PaymentMethod, err)
	}
}

// SetStock sets an article's stock on hand.
func (s *System) SetStock(t testing.TB, sku string, onHand int32) {
	t.Helper()
	request := &warehousev1.SetStockRequest{Sku: sku, OnHand: onHand}
	answer, err := s.Warehouse.SetStock(t.Context(), connect.NewRequest(request))
	if err != nil {
		t.Fatalf("set stock of %s: %v", sku, err)
	}
	s.Judge.Pieces(sku, int64(answer.Msg.OnHand+answer.Msg.Committed))
}

// Steps are a checkout's step states as one readable line, such as "reserve-stock done/done, authorize-payment rejected".
// The second word is the compensation's state; "not-needed" is left out.
func Steps(c *checkoutv1.Checkout) string {
	line := ""
	for i, step := range c.Steps {
		if i > 0 {
			line += ", "
		}
		line += step.Name + " " + step.State
		if step.Compensation != "not-needed" {
			line += "/" + step.Compensation
		}
	}
	return line
}

// AwaitAllEnded waits until no checkout is open, at most for limit.
func (s *System) AwaitAllEnded(t testing.TB, limit time.Duration) time.Duration {
	t.Helper()
	return Within(t, limit, "all checkouts to end", func(ctx context.Context) error {
		open, err := s.Judge.Open(ctx)
		if err != nil || open == 0 {
			return err
		}
		some, err := s.Judge.StillOpen(ctx)
		if err != nil {
			return err
		}
		return fmt.Errorf("%d are open: %s", open, strings.Join(some, "; "))
	})
}

// eventPatience is how long events may be under way after all checkouts have ended: longer than the minute for which a killed
// notification holds a message.
const eventPatience = 90 * time.Second

// Audit waits until no event is under way, asks the judge about everything and fails the test if something is wrong.
func (s *System) Audit(t testing.TB) {
	t.Helper()
	s.AwaitEvents(t, eventPatience)
	violations, err := s.Judge.Judge(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range violations {
		if i == 20 {
			t.Errorf("... and %d more", len(violations)-i)
			break
		}
		t.Error(v)
	}
}

// AwaitEvents waits until every event that was written has been received, at most for limit. The judge will name those still under
// way.
func (s *System) AwaitEvents(t testing.TB, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		underWay, err := s.Judge.EventsUnderWay(ctx)
		if err == nil && underWay == 0 || ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// IsCode tells whether err carries a Connect code.
func IsCode(err error, code connect.Code) bool {
	var wire *connect.Error
	return errors.As(err, &wire) && wire.Code() == code
}
