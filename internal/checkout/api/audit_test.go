package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga"
)

// heard is all that an audit said.
type heard struct {
	checked    int64
	violations []string
	notes      []string
	accepted   []string
}

// auditAll has the checkouts of a request audited.
func (f *fixture) auditAll(t *testing.T, req *checkoutv1.AuditRequest) heard {
	t.Helper()
	stream, err := f.api.Audit(t.Context(), connect.NewRequest(req))
	require.NoError(t, err)
	var h heard
	for stream.Receive() {
		h.checked = stream.Msg().Checked
		h.notes = append(h.notes, stream.Msg().Notes...)
		for _, v := range stream.Msg().Violations {
			h.violations = append(h.violations, strings.TrimSpace(v.OrderId+" "+v.Invariant+": "+v.What))
		}
		for _, acc := range stream.Msg().Accepted {
			h.accepted = append(h.accepted, fmt.Sprintf("%s %s by %s (%s): %s", acc.OrderId, acc.Step, acc.Actor, acc.Reason, acc.What))
		}
	}
	require.NoError(t, stream.Err())
	return h
}

func (f *fixture) audit(t *testing.T, orderID string) (checked int64, violations []string, err error) {
	t.Helper()
	stream, err := f.api.Audit(t.Context(), connect.NewRequest(&checkoutv1.AuditRequest{OrderId: orderID}))
	require.NoError(t, err)
	for stream.Receive() {
		checked = stream.Msg().Checked
		for _, v := range stream.Msg().Violations {
			violations = append(violations, v.OrderId+" "+v.Invariant+": "+v.What)
		}
	}
	return checked, violations, stream.Err()
}

// ended is a world with a confirmed, a declined, a cancelled and an open checkout, all in order.
func ended(t *testing.T) *fixture {
	t.Helper()
	f := setup(t)
	for _, id := range []string{"confirmed", "declined", "cancelled", "open"} {
		f.start(t, order(withID(id)))
	}
	f.confirm(t, "confirmed")
	f.decline(t, "declined")
	_, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "cancelled", Reason: "r"})
	require.NoError(t, err)
	f.do(t, "open", checkout.ReserveStock, false, saga.Applied, "")
	return f
}

func TestI1AuditFindsNothingWhereNothingIsWrong(t *testing.T) {
	f := ended(t)
	checked, violations, err := f.audit(t, "")
	require.NoError(t, err)
	require.EqualValues(t, 4, checked)
	require.Empty(t, violations)
}

const opApplied = operationv1.Outcome_OUTCOME_APPLIED

func opKey(order, step string) [2]string { return [2]string{order, step} }

// waysToDisagree are ways in which a participant's books can differ from ended(). breakIt is given books of its own to spoil.
var waysToDisagree = map[string]struct {
	breakIt func(*fakeWarehouse, *fakePayment)
	want    string
}{
	"a confirmed order whose stock was not shipped": {
		func(w *fakeWarehouse, p *fakePayment) { delete(w.operations, opKey("confirmed", checkout.CommitStock)) },
		"confirmed I1: CONFIRMED, but the warehouse has not committed its stock",
	},
	"a confirmed order with other goods": {
		func(w *fakeWarehouse, p *fakePayment) { w.reservations["confirmed"][0].Quantity = 1 },
		"confirmed I1: CONFIRMED, but the warehouse has committed [CHAIR-OAK×1 LAMP-BRASS×1] and the order is for [CHAIR-OAK×2 LAMP-BRASS×1]",
	},
	"a confirmed order with too little money": {
		func(w *fakeWarehouse, p *fakePayment) {
			p.operations[opKey("confirmed", checkout.CapturePayment)].Amount.MinorUnits--
		},
		"confirmed I1: CONFIRMED, but payment has captured 129.96 EUR of 129.97 EUR",
	},
	"a confirmed order whose money was given back": {
		func(w *fakeWarehouse, p *fakePayment) {
			p.operations[opKey("confirmed", checkout.CapturePayment)].Undo = opApplied
		},
		"confirmed I1: CONFIRMED, but payment has captured nothing of 129.97 EUR (capture-payment applied, undo applied)",
	},
	"a declined order that still holds stock": {
		func(w *fakeWarehouse, p *fakePayment) {
			w.operations[opKey("declined", checkout.ReserveStock)].Undo = 0
		},
		"declined I1: REJECTED, but the warehouse still holds its stock",
	},
	"a declined order with a hold on the card": {
		func(w *fakeWarehouse, p *fakePayment) {
			p.operations[opKey("declined", checkout.AuthorizePayment)].Do = opApplied
		},
		"declined I1: REJECTED, but payment still holds its authorization",
	},
	"a declined order that payment is not sure of": {
		func(w *fakeWarehouse, p *fakePayment) {
			p.operations[opKey("declined", checkout.AuthorizePayment)].Do = operationv1.Outcome_OUTCOME_UNKNOWN
		},
		"declined I1: REJECTED, but payment still holds its authorization (authorize-payment unknown)",
	},
	"a cancelled order that was charged": {
		func(w *fakeWarehouse, p *fakePayment) {
			p.operations[opKey("cancelled", checkout.CapturePayment)] = &operationv1.Operation{
				OrderId: "cancelled", Step: checkout.CapturePayment, Do: opApplied, Amount: &operationv1.Money{Currency: "EUR", MinorUnits: 5},
			}
		},
		"cancelled I1: CANCELLED, but payment has captured 0.05 EUR and not given it back",
	},
}

func TestI1AuditFindsEachWayToDisagree(t *testing.T) {
	t.Parallel()
	for name, c := range waysToDisagree {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ended(t)
			c.breakIt(f.warehouse, f.payment)
			_, violations, err := f.audit(t, "")
			require.NoError(t, err)
			require.Len(t, violations, 1)
			require.Contains(t, violations[0], c.want)
		})
	}
}

// wavering answers its first round of questions about orders from one book, and all later ones from another.
type wavering struct {
	*fakeWarehouse // what is asked of all orders
	first, then    *fakeWarehouse
	// firstOff and thenOff are what is off in the books.
	firstOff, thenOff []*operationv1.Discrepancy

	mu    sync.Mutex
	calls map[string]int
}

func (w *wavering) at(method string) *fakeWarehouse {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls[method]++; w.calls[method] == 1 {
		return w.first
	}
	return w.then
}

func (w *wavering) ListOperations(ctx context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	if len(req.Msg.OrderIds) == 0 {
		return w.fakeWarehouse.ListOperations(ctx, req)
	}
	return w.at("ListOperations").ListOperations(ctx, req)
}

func (w *wavering) ListReservations(ctx context.Context, req *connect.Request[warehousev1.ListReservationsRequest]) (*connect.Response[warehousev1.ListReservationsResponse], error) {
	return w.at("ListReservations").ListReservations(ctx, req)
}

func (w *wavering) CheckBooks(context.Context, *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	if w.at("CheckBooks") == w.first {
		return connect.NewResponse(&operationv1.CheckBooksResponse{Discrepancies: w.firstOff}), nil
	}
	return connect.NewResponse(&operationv1.CheckBooksResponse{Discrepancies: w.thenOff}), nil
}

// waveringPayment does the same.
type waveringPayment struct {
	*fakePayment
	first, then *fakePayment

	mu    sync.Mutex
	calls int
}

func (p *waveringPayment) ListOperations(ctx context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	if len(req.Msg.OrderIds) == 0 {
		return p.fakePayment.ListOperations(ctx, req)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls++; p.calls == 1 {
		return p.first.ListOperations(ctx, req)
	}
	return p.then.ListOperations(ctx, req)
}

func (o operations) clone() operations {
	c := make(operations)
	for key, op := range o {
		c[key] = proto.CloneOf(op)
	}
	return c
}

// books are copies of what the fakes hold.
func (f *fixture) books() (*fakeWarehouse, *fakePayment) {
	w := &fakeWarehouse{operations: f.warehouse.clone(), reservations: make(map[string][]*warehousev1.Line)}
	for orderID, lines := range f.warehouse.reservations {
		for _, line := range lines {
			w.reservations[orderID] = append(w.reservations[orderID], proto.CloneOf(line))
		}
	}
	return w, &fakePayment{operations: f.payment.clone()}
}

func TestI1WhatIsRightAtTheSecondLookIsNoViolation(t *testing.T) {
	t.Parallel()
	for name, c := range waysToDisagree {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ended(t)
			w, p := f.books()
			c.breakIt(w, p)
			goods := &wavering{fakeWarehouse: f.warehouse, first: w, then: f.warehouse, calls: make(map[string]int)}
			money := &waveringPayment{fakePayment: f.payment, first: p, then: f.payment}
			f.serve(t, goods, money, nil)
			h := f.auditAll(t, &checkoutv1.AuditRequest{OrderId: strings.Split(c.want, " ")[0]})
			require.Empty(t, h.violations)
			require.Greater(t, goods.calls["ListOperations"], 1, "it looked twice")
			require.Equal(t, goods.calls["ListOperations"], money.calls)
		})
	}
}

func TestI4WhatTheParticipantsBooksStateOtherwiseTwiceIsAViolation(t *testing.T) {
	t.Parallel()
	f := ended(t)
	off := []*operationv1.Discrepancy{
		{About: "CHAIR-OAK", Figure: "committed", Stated: 4, Counted: 2}, {About: "confirmed", Figure: "captured", Stated: 3, Counted: 1},
	}
	then, _ := f.books()
	goods := &wavering{fakeWarehouse: f.warehouse, first: f.warehouse, then: then, firstOff: off, thenOff: off, calls: make(map[string]int)}
	f.serve(t, goods, f.payment, nil)
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Equal(t, []string{
		"I4: warehouse states 4 as committed of CHAIR-OAK, and its own records come to 2",
		"confirmed I4: warehouse states 3 as captured of confirmed, and its own records come to 1",
	}, h.violations)

	clear(goods.calls)
	goods.thenOff = []*operationv1.Discrepancy{{About: "LAMP-BRASS", Figure: "committed", Stated: 2, Counted: 1}}
	h = f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations, "at the second look something else was off, which is looked at by the next audit")
	require.Equal(t, 2, goods.calls["CheckBooks"])
}

// unversed does not check its books, as a participant of an older version.
type unversed struct{ *fakePayment }

func (unversed) CheckBooks(context.Context, *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("what?"))
}

func TestAParticipantThatCannotCheckItsBooksIsNoted(t *testing.T) {
	t.Parallel()
	f := ended(t)
	f.serve(t, f.warehouse, unversed{f.payment}, nil)
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)
	require.Contains(t, h.notes, "payment is of a version that does not check its own books, so nothing is said of them")
}

func TestI1AnOperationOfAnOrderThatNobodyAcceptedIsFound(t *testing.T) {
	t.Parallel()
	f := ended(t)
	f.warehouse.operations[opKey("stranger", checkout.ReserveStock)] = &operationv1.Operation{OrderId: "stranger", Step: checkout.ReserveStock, Do: opApplied}
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Equal(t, []string{"stranger I1: warehouse has a record of reserve-stock (applied) for an order that was never accepted here"}, h.violations)

	_, err := f.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) VALUES ('checkout', 'stranger', 'stranger', 'CONFIRMED', now())`)
	require.NoError(t, err)
	h = f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations, "its checkout is no longer kept, and this is what is left of it")
}

func TestI1ACheckoutThatIsBeingForgottenIsNotHeldToWhatIsForgotten(t *testing.T) {
	t.Parallel()
	f := ended(t)
	for _, step := range checkouttest.Plan().Steps {
		delete(f.warehouse.operations, opKey("confirmed", step.Name))
		delete(f.payment.operations, opKey("confirmed", step.Name))
	}
	_, err := f.pool.Exec(t.Context(), `INSERT INTO forgotten_sagas (definition, key, idempotency_key, status, ended_at) VALUES ('checkout', 'confirmed', 'confirmed', 'CONFIRMED', '2020-01-02Z')`)
	require.NoError(t, err)
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)
	h = f.auditAll(t, &checkoutv1.AuditRequest{OrderId: "confirmed"})
	require.Equal(t, []string{"confirmed is no longer kept: it ended CONFIRMED at 2020-01-02T00:00:00Z"}, h.notes[:1])
	require.Zero(t, h.checked)
}

// counting counts what the participants are asked.
type counting struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counting) Do(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.calls[path.Base(req.URL.Path)]++
	c.mu.Unlock()
	return http.DefaultClient.Do(req)
}

func TestAnAuditAsksAFewQuestionsForEachPage(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const pages = 3
	asked := &counting{calls: make(map[string]int)}
	s.serve(t, warehousev1connect.NewWarehouseServiceClient(asked, s.urls["warehouse"]), paymentv1connect.NewPaymentServiceClient(asked, s.urls["payment"]), nil)
	_, err := s.pool.Exec(t.Context(), `
		INSERT INTO sagas (definition, key, idempotency_key, digest, request, about, currency, amount, input, engine, phase, status,
		                   verdict, deadline, ended_at, plan, progress)
		SELECT 'checkout', 'ord-' || n, 'ord-' || n, 'v1:x', '{}', 'cus-1', 'EUR', 1, '{}', 'embedded', 'final', 'CANCELLED', 'CANCELLED', now(), now(), '{"definition": "checkout"}', '[]'
		FROM generate_series(1, $1) AS n`, 200*pages-1)
	require.NoError(t, err)
	_, err = s.pool.Exec(t.Context(), `
		INSERT INTO sagas (definition, key, idempotency_key, digest, request, about, currency, amount, input, engine, phase, status,
		                   deadline, check_at, plan, progress)
		SELECT 'checkout', 'open-' || n, 'open-' || n, 'v1:x', '{}', 'cus-1', 'EUR', 1, '{}', 'embedded', 'forward', 'RUNNING', now(), now(), '{"definition": "checkout"}', '[]'
		FROM generate_series(1, $1) AS n`, 200*pages)
	require.NoError(t, err)
	h := s.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)
	require.EqualValues(t, 2*200*pages-1, h.checked)
	require.Equal(t, map[string]int{
		"ListReservations": pages,
		"ListOperations":   2*pages + pages + 2, // of ended ones, of open ones, and those of orders that nobody accepted
		"CheckBooks":       2,
	}, asked.calls)
}

func TestI1AnAuthorizationThatRanOutHoldsNothing(t *testing.T) {
	f := ended(t)
	f.payment.operations[[2]string{"declined", checkout.AuthorizePayment}].Do = operationv1.Outcome_OUTCOME_APPLIED
	capture := &operationv1.Operation{OrderId: "declined", Step: checkout.CapturePayment, Do: operationv1.Outcome_OUTCOME_REJECTED}
	f.payment.operations[[2]string{"declined", checkout.CapturePayment}] = capture
	_, violations, err := f.audit(t, "")
	require.NoError(t, err)
	require.Len(t, violations, 1, "refused for another reason, it stands")
	capture.Reason = "authorization_expired"
	_, violations, err = f.audit(t, "")
	require.NoError(t, err)
	require.Empty(t, violations)
}

func TestI1AuditOfOneOrder(t *testing.T) {
	f := ended(t)
	delete(f.warehouse.operations, [2]string{"confirmed", checkout.CommitStock})
	checked, violations, err := f.audit(t, "declined")
	require.NoError(t, err)
	require.EqualValues(t, 1, checked)
	require.Empty(t, violations, "others are not looked at")

	checked, _, err = f.audit(t, "open")
	require.NoError(t, err)
	require.EqualValues(t, 1, checked, "an open checkout promises little, and that is looked at")

	_, _, err = f.audit(t, "nope")
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
}

func TestAuditCannotJudgeWithoutAParticipant(t *testing.T) {
	f := ended(t)
	f.warehouse.down = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))
	_, violations, err := f.audit(t, "")
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorContains(t, err, "ask warehouse")
	require.Empty(t, violations)
}

func (w *fakeWarehouse) ListReservations(_ context.Context, req *connect.Request[warehousev1.ListReservationsRequest]) (*connect.Response[warehousev1.ListReservationsResponse], error) {
	answer := &warehousev1.ListReservationsResponse{}
	for _, id := range req.Msg.OrderIds {
		reserve, commit := w.operations[[2]string{id, checkout.ReserveStock}], w.operations[[2]string{id, checkout.CommitStock}]
		r := &warehousev1.Reservation{OrderId: id, Lines: w.reservations[id]}
		switch {
		case commit.GetDo() == opApplied:
			r.State = warehousev1.ReservationState_RESERVATION_STATE_COMMITTED
		case reserve.GetUndo() == opApplied:
			r.State = warehousev1.ReservationState_RESERVATION_STATE_RELEASED
		case reserve.GetDo() == opApplied:
			r.State = warehousev1.ReservationState_RESERVATION_STATE_RESERVED
		default:
			continue
		}
		answer.Reservations = append(answer.Reservations, r)
	}
	return connect.NewResponse(answer), nil
}

func (w *fakeWarehouse) CheckBooks(context.Context, *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	return connect.NewResponse(&operationv1.CheckBooksResponse{}), nil
}

func (p *fakePayment) CheckBooks(context.Context, *connect.Request[operationv1.CheckBooksRequest]) (*connect.Response[operationv1.CheckBooksResponse], error) {
	return connect.NewResponse(&operationv1.CheckBooksResponse{}), nil
}
