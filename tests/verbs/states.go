package verbs

import (
	"cmp"
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// state is a state that a checkout can be in, how it gets there, and what makes it go on.
type state struct {
	name string

	order  harness.Order
	breaks []func(*testing.T, *cell) // before it is started
	then   []func(*testing.T, *cell) // until it is in the state
	// heal takes away what keeps it in the state.
	heal func(*testing.T, *cell)
	// do does, at the participant itself, what the checkout is at. Nil where nothing keeps it there but a person.
	do func(context.Context, *cell, *checkoutv1.Checkout) error

	// How it stands: step is empty once it is final, held what is held of stock and money, code that of the attention that it needs.
	status, phase, step, held, reason, code string

	// provenStep and refutedStep are of what the participant's record says that it is done, or not, where that is not step.
	provenStep, refutedStep string
}

// at is the step that is named to the verbs that want one.
func (s state) at() string      { return cmp.Or(s.step, "capture-payment") }
func (s state) proven() string  { return cmp.Or(s.provenStep, s.at()) }
func (s state) refuted() string { return cmp.Or(s.refutedStep, s.at()) }

// states are all of them, those first that take longest to get into.
var states = []state{
	{
		name:  "NEEDS_ATTENTION, undoing: rejected, and the void has failed for long",
		order: harness.Order{Currency: "USD"}, breaks: list(network("works", "works", "fails", "works")),
		then: list(awaitApproval, rejectIt, awaitStatus(harness.NeedsAttention)), heal: networkWorks, do: void,
		status: "NEEDS_ATTENTION", phase: "undoing", step: "void-authorization", held: "stock authorized", reason: "approval_rejected", code: "failing",
	},
	{
		name:   "COMPENSATING, to be refunded: the refund fails",
		breaks: list(network("works", "works", "works", "fails"), conflict("commit-stock")),
		then:   list(awaitStatus(harness.NeedsAttention), refundIt, tried("refund-payment"), noConflict("commit-stock")), heal: networkWorks, do: giveBack,
		status: "COMPENSATING", phase: "undoing", step: "refund-payment", held: "captured", reason: "refunded",
	},
	{
		name:  "COMPENSATING, rejected: the void fails",
		order: harness.Order{Currency: "USD"}, breaks: list(network("works", "works", "fails", "works")),
		then: list(awaitApproval, rejectIt, tried("void-authorization")), heal: networkWorks, do: void,
		status: "COMPENSATING", phase: "undoing", step: "void-authorization", held: "stock authorized", reason: "approval_rejected",
	},
	{
		name:  "NEEDS_ATTENTION, pivoted: approved, and the warehouse knows another commit",
		order: harness.Order{Currency: "USD"}, breaks: list(network("works", "works", "works", "works"), conflict("commit-stock")),
		then: list(awaitApproval, approveIt, tried("commit-stock")), heal: noConflictAndNudge("commit-stock"), do: commit,
		status: "NEEDS_ATTENTION", phase: "pivoted", step: "commit-stock", held: "stock captured", code: "conflict",
	},
	{
		name:  "NEEDS_ATTENTION, forward: to be approved, and the warehouse knows another order",
		order: harness.Order{Currency: "USD"}, breaks: list(network("works", "works", "works", "works"), conflict("reserve-stock")),
		then: list(tried("reserve-stock")), heal: noConflictAndNudge("reserve-stock"), do: reserve,
		status: "NEEDS_ATTENTION", phase: "forward", step: "reserve-stock", code: "conflict",
	},
	{
		name:   "RUNNING, pivoted: the capture fails",
		breaks: list(network("works", "fails", "works", "works")), then: list(tried("capture-payment")), heal: networkWorks, do: capture,
		status: "RUNNING", phase: "pivoted", step: "capture-payment", held: "stock authorized",
	},
	{
		name:   "RUNNING, forward: the authorization fails",
		breaks: list(network("fails", "works", "works", "works")), then: list(tried("authorize-payment")), heal: networkWorks, do: authorize,
		status: "RUNNING", phase: "forward", step: "authorize-payment", held: "stock",
	},
	{
		name:  "RUNNING, forward, choreographed: the authorization fails",
		order: harness.Order{Coordination: "choreographed"}, breaks: list(network("fails", "works", "works", "works")),
		then: list(authorizing), heal: networkWorks,
		status: "RUNNING", phase: "forward", step: "authorize-payment", held: "stock",
		provenStep: "reserve-stock",
	},
	{
		name:  "COMPENSATING, choreographed, cancelled: the authorization that is to be voided fails",
		order: harness.Order{Coordination: "choreographed"}, breaks: list(network("fails", "works", "works", "works")),
		then: list(authorizing, cancelIt, tried("void-authorization")), heal: networkAnswers, do: authorize,
		status: "COMPENSATING", phase: "undoing", step: "void-authorization", held: "stock", reason: "cancelled",
	},
	{
		name:  "AWAITING_APPROVAL",
		order: harness.Order{Currency: "USD", Method: "tok_visa"}, then: list(awaitApproval), heal: nothingToHeal,
		status: "AWAITING_APPROVAL", phase: "forward", step: "approval", held: "stock authorized",
	},
	{
		name: "EXPIRED", order: harness.Order{Currency: "USD", Method: "tok_visa", ApprovalDeadline: time.Second}, then: list(awaitStatus(harness.Expired)),
		heal: nothingToHeal, status: "EXPIRED", phase: "final", reason: "approval_deadline", provenStep: "void-authorization",
	},
	{
		name: "CANCELLED", order: harness.Order{Currency: "USD", Method: "tok_visa"}, then: list(awaitApproval, cancelIt, awaitStatus(harness.Cancelled)),
		heal: nothingToHeal, status: "CANCELLED", phase: "final", reason: "cancelled", provenStep: "void-authorization",
	},
	{
		name: "CANCELLED, refunded", breaks: list(network("works", "works", "works", "works"), conflict("commit-stock")),
		then: list(awaitStatus(harness.NeedsAttention), refundIt, awaitStatus(harness.Cancelled), noConflict("commit-stock")),
		heal: nothingToHeal, status: "CANCELLED", phase: "final", reason: "refunded", provenStep: "refund-payment",
	},
	{
		name: "REJECTED", order: harness.Order{Method: "tok_declined"}, then: list(awaitStatus(harness.Rejected)),
		heal: nothingToHeal, status: "REJECTED", phase: "final", reason: "card_declined", provenStep: "void-authorization",
	},
	{
		name: "CONFIRMED", order: harness.Order{Method: "tok_visa"}, then: list(awaitStatus(harness.Confirmed)),
		heal: nothingToHeal, status: "CONFIRMED", phase: "final", held: "stock captured", refutedStep: "refund-payment",
	},
}

func list(acts ...func(*testing.T, *cell)) []func(*testing.T, *cell) { return acts }

// network makes the card network answer so for the cell's own payment method.
func network(authorize, capture, void, refund string) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) {
		t.Helper()
		const query = `INSERT INTO sandbox.behaviours (payment_method, authorize, capture, void, refund) VALUES ($1, $2, $3, $4, $5)`
		_, err := c.payment.Exec(t.Context(), query, c.method, authorize, capture, void, refund)
		require.NoError(t, err)
	}
}

// networkWorks heals the card network.
func networkWorks(t *testing.T, c *cell) {
	t.Helper()
	c.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: c.method, Authorize: "works", Capture: "works", Void: "works", Refund: "works"})
	c.nudgeUnlessTried(t)
}

// networkAnswers heals the card network, and has payment learn what became of the authorization: it does so by itself too, in time.
func networkAnswers(t *testing.T, c *cell) {
	t.Helper()
	networkWorks(t, c)
	require.NoError(t, authorize(t.Context(), c, c.get(t)))
	c.nudgeUnlessTried(t)
}

// conflict lets the warehouse have another request on record for a step, so that it refuses to hear of this one.
func conflict(step string) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) {
		t.Helper()
		const query = `INSERT INTO operations (definition, key, step, digest, do_state, do_reason) VALUES ('checkout', $1, $2, '1:another', 'rejected', 'another_order')`
		_, err := c.warehouse.Exec(t.Context(), query, c.id, step)
		require.NoError(t, err)
	}
}

// noConflict takes that off the record.
func noConflict(step string) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) {
		t.Helper()
		_, err := c.warehouse.Exec(t.Context(), `DELETE FROM operations WHERE key = $1 AND step = $2 AND digest = '1:another'`, c.id, step)
		require.NoError(t, err)
	}
}

func noConflictAndNudge(step string) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) {
		t.Helper()
		noConflict(step)(t, c)
		c.nudgeUnlessTried(t)
	}
}

// nudgeUnlessTried shortens the wait after healing, except where the cell is to show that the checkout goes on by itself, or by the
// verb.
func (c *cell) nudgeUnlessTried(t *testing.T) {
	t.Helper()
	if c.verb != nothing && !c.healsFirst() {
		c.nudge(t)
	}
}

func nothingToHeal(*testing.T, *cell) {}

func tried(step string) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) { t.Helper(); c.awaitTries(t, step) }
}

func awaitStatus(want harness.Status) func(*testing.T, *cell) {
	return func(t *testing.T, c *cell) {
		t.Helper()
		c.watch(t, status(want), &checkoutv1.WatchRequest{}, func(now *checkoutv1.Checkout) bool { return now.Status == want })
	}
}

func awaitApproval(t *testing.T, c *cell) {
	t.Helper()
	awaitStatus(checkoutv1.Status_STATUS_AWAITING_APPROVAL)(t, c)
}

func approveIt(t *testing.T, c *cell) { t.Helper(); c.approveIt(t) }

func rejectIt(t *testing.T, c *cell) {
	t.Helper()
	_, err := c.Checkouts.Reject(t.Context(), connect.NewRequest(&checkoutv1.RejectRequest{OrderId: c.id, Reason: "too dear", Actor: "another"}))
	require.NoError(t, err)
}

func cancelIt(t *testing.T, c *cell) {
	t.Helper()
	_, err := c.Cancel(t.Context(), c.id)
	require.NoError(t, err)
}

func refundIt(t *testing.T, c *cell) {
	t.Helper()
	_, err := c.Checkouts.Resolve(t.Context(), connect.NewRequest(&checkoutv1.ResolveRequest{
		OrderId: c.id, Step: "commit-stock", As: checkoutv1.Resolution_RESOLUTION_REFUND, Reason: "too late", Actor: "another",
	}))
	require.NoError(t, err)
}

// authorizing waits until payment has been told of a choreographed checkout, and its card network does not answer.
func authorizing(t *testing.T, c *cell) {
	t.Helper()
	c.watch(t, "its reservation", &checkoutv1.WatchRequest{}, func(now *checkoutv1.Checkout) bool { return now.Steps[0].State == "done" })
	until(t, "the authorization to be asked for", func(ctx context.Context) error {
		answer, err := c.Payment.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: c.id, Step: "authorize-payment"}))
		if err == nil && answer.Msg.Operation.Do != operationv1.Outcome_OUTCOME_UNKNOWN {
			err = errNotYet
		}
		return err
	})
}

func authorize(ctx context.Context, c *cell, is *checkoutv1.Checkout) error {
	_, err := c.Payment.Authorize(ctx, connect.NewRequest(&paymentv1.AuthorizeRequest{
		OrderId: c.id, CustomerId: c.customer, Amount: is.Amount, PaymentMethod: c.method,
	}))
	return err
}

func capture(ctx context.Context, c *cell, is *checkoutv1.Checkout) error {
	_, err := c.Payment.Capture(ctx, connect.NewRequest(&paymentv1.CaptureRequest{OrderId: c.id, Amount: is.Amount}))
	return err
}

func void(ctx context.Context, c *cell, _ *checkoutv1.Checkout) error {
	_, err := c.Payment.Void(ctx, connect.NewRequest(&paymentv1.VoidRequest{OrderId: c.id}))
	return err
}

func giveBack(ctx context.Context, c *cell, _ *checkoutv1.Checkout) error {
	_, err := c.Payment.Refund(ctx, connect.NewRequest(&paymentv1.RefundRequest{OrderId: c.id}))
	return err
}

func reserve(ctx context.Context, c *cell, _ *checkoutv1.Checkout) error {
	lines := []*warehousev1.Line{{Sku: "CHAIR-OAK", Quantity: 1}}
	_, err := c.Warehouse.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{OrderId: c.id, Lines: lines}))
	return err
}

func commit(ctx context.Context, c *cell, _ *checkoutv1.Checkout) error {
	_, err := c.Warehouse.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: c.id}))
	return err
}
