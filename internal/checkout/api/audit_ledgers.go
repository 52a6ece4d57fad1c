package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/money"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// books are what the participants have of orders: their records, and what the warehouse holds.
type books struct {
	warehouse, payment map[string]record
	reservations       map[string]*warehousev1.Reservation
}

func (a *audit) books(ctx context.Context, page []orders.Checkout) (b books, err error) {
	ids := make([]string, len(page))
	for i, c := range page {
		ids[i] = c.Key
	}
	asking, askCtx := errgroup.WithContext(ctx)
	asking.Go(func() (err error) {
		// The reservations after the operations: an operation that is on record has moved its reservation.
		if b.warehouse, err = a.records(askCtx, checkout.Warehouse, ids); err == nil {
			b.reservations, err = a.reservations(askCtx, ids)
		}
		return err
	})
	asking.Go(func() (err error) {
		b.payment, err = a.records(askCtx, checkout.Payment, ids)
		return err
	})
	return b, asking.Wait()
}

// reservations are what the warehouse holds, or has shipped, by order.
func (a *audit) reservations(ctx context.Context, ids []string) (map[string]*warehousev1.Reservation, error) {
	answer, err := within(ctx, auditTimeout, func(ctx context.Context) (*connect.Response[warehousev1.ListReservationsResponse], error) {
		return a.warehouse.ListReservations(ctx, connect.NewRequest(&warehousev1.ListReservationsRequest{OrderIds: ids}))
	})
	if err != nil {
		return nil, cannotAsk(checkout.Warehouse, err)
	}
	byOrder := make(map[string]*warehousev1.Reservation)
	for _, r := range answer.Msg.Reservations {
		byOrder[r.OrderId] = r
	}
	return byOrder, nil
}

// record is what a participant holds on record of one order, by step.
type record map[string]*operationv1.Operation

func (a *audit) records(ctx context.Context, participant string, ids []string) (map[string]record, error) {
	byOrder := make(map[string]record)
	err := a.eachPage(ctx, participant, &operationv1.ListOperationsRequest{OrderIds: ids}, func(ops []*operationv1.Operation) error {
		for _, op := range ops {
			if byOrder[op.OrderId] == nil {
				byOrder[op.OrderId] = make(record)
			}
			byOrder[op.OrderId][op.Step] = op
		}
		return nil
	})
	return byOrder, err
}

// eachPage hands the operations that a participant lists to use, page by page.
func (a *audit) eachPage(ctx context.Context, participant string, req *operationv1.ListOperationsRequest, use func([]*operationv1.Operation) error) error {
	list := a.ledgers[participant].ListOperations
	for {
		answer, err := within(ctx, auditTimeout, func(ctx context.Context) (*connect.Response[operationv1.ListOperationsResponse], error) {
			return list(ctx, connect.NewRequest(req))
		})
		if err != nil {
			return cannotAsk(participant, err)
		}
		if err := use(answer.Msg.Operations); err != nil {
			return err
		}
		if req.PageToken = answer.Msg.NextPageToken; req.PageToken == "" {
			return nil
		}
	}
}

// disagreements compares the end of a checkout with both participants' books. Rules, not requests: see I1.
func disagreements(c orders.Checkout, b books) []finding {
	var wrong []finding
	differs := func(step, format string, args ...any) {
		wrong = append(wrong, finding{invariant: invariantAgrees, steps: []string{step}, what: fmt.Sprintf(format, args...)})
	}
	warehouse, payment, reservation := b.warehouse[c.Key], b.payment[c.Key], b.reservations[c.Key]
	reserve, commit := warehouse[checkout.ReserveStock], warehouse[checkout.CommitStock]
	authorize, capture := payment[checkout.AuthorizePayment], payment[checkout.CapturePayment]
	confirmed := c.Status == journal.Confirmed

	switch {
	case confirmed && !stands(commit):
		differs(checkout.CommitStock, "the warehouse has not committed its stock (reserve-stock %s, commit-stock %s)", describe(reserve), describe(commit))
	case !confirmed && stands(commit):
		differs(checkout.CommitStock, "the warehouse has committed its stock (reserve-stock %s, commit-stock %s)", describe(reserve), describe(commit))
	case !confirmed && (stands(reserve) || unsettled(reserve)):
		differs(checkout.ReserveStock, "the warehouse still holds its stock (reserve-stock %s)", describe(reserve))
	// The operations say that something was done; only the reservation says to what.
	case confirmed && reservation.GetState() != warehousev1.ReservationState_RESERVATION_STATE_COMMITTED:
		differs(checkout.CommitStock, "its reservation is %s and not committed (commit-stock %s)", stateWord(reservation), describe(commit))
	case confirmed && shipped(reservation) != ordered(c):
		differs(checkout.CommitStock, "the warehouse has committed [%s] and the order is for [%s]", shipped(reservation), ordered(c))
	case !confirmed && holds(reservation):
		differs(checkout.ReserveStock, "its reservation of [%s] is %s (reserve-stock %s)", shipped(reservation), stateWord(reservation), describe(reserve))
	}
	switch {
	case confirmed && !stands(capture):
		differs(checkout.CapturePayment, "payment has captured nothing of %s (capture-payment %s)", inWords(c.Amount), describe(capture))
	case confirmed && moneyOf(capture) != c.Amount:
		differs(checkout.CapturePayment, "payment has captured %s of %s", inWords(moneyOf(capture)), inWords(c.Amount))
	case !confirmed && stands(capture):
		differs(checkout.CapturePayment, "payment has captured %s and not given it back (capture-payment %s)", inWords(moneyOf(capture)), describe(capture))
	case !confirmed && unsettled(capture):
		differs(checkout.CapturePayment, "payment does not know yet whether it captured")
	case !confirmed && (stands(authorize) || unsettled(authorize)) && !consumed(capture) && !lapsed(capture):
		differs(checkout.AuthorizePayment, "payment still holds its authorization (authorize-payment %s)", describe(authorize))
	}
	return wrong
}

// stands tells whether an operation's effect is in place.
func stands(op *operationv1.Operation) bool {
	return op.GetDo() == operationv1.Outcome_OUTCOME_APPLIED && op.GetUndo() != operationv1.Outcome_OUTCOME_APPLIED
}

// consumed tells whether a capture has used up the authorization, so that nothing is left to void, also if the money was given back.
func consumed(capture *operationv1.Operation) bool {
	return capture.GetDo() == operationv1.Outcome_OUTCOME_APPLIED
}

// lapsed tells whether a capture was refused because the authorization had run out: that holds nothing, also if nobody gave it up.
func lapsed(capture *operationv1.Operation) bool {
	return capture.GetDo() == operationv1.Outcome_OUTCOME_REJECTED && capture.GetReason() == "authorization_expired"
}

// unsettled tells whether an operation may yet turn out to have an effect.
func unsettled(op *operationv1.Operation) bool {
	return op.GetDo() == operationv1.Outcome_OUTCOME_UNKNOWN && op.GetUndo() != operationv1.Outcome_OUTCOME_APPLIED
}

// describe is an operation in words.
func describe(op *operationv1.Operation) string {
	switch {
	case op == nil:
		return "not on record"
	case op.Undo == operationv1.Outcome_OUTCOME_UNSPECIFIED:
		return outcomeWord(op.Do)
	}
	return outcomeWord(op.Do) + ", undo " + outcomeWord(op.Undo)
}

// beingForgotten tells whether a participant has forgotten a checkout's operations because it was told to. One participant does so
// before the other, and a checkout is there until both have.
func (a *audit) beingForgotten(ctx context.Context, c orders.Checkout) (bool, error) {
	if time.Since(*c.EndedAt) < outbox.Keep {
		return false, nil // Checkouts are kept longer than their events.
	}
	for _, of := range []struct {
		participant, step string
		get               func(context.Context, *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error)
	}{
		{checkout.Warehouse, checkout.ReserveStock, a.warehouse.GetOperation},
		{checkout.Payment, checkout.AuthorizePayment, a.payment.GetOperation},
	} {
		_, err := within(ctx, auditTimeout, func(ctx context.Context) (*connect.Response[operationv1.GetOperationResponse], error) {
			return of.get(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: c.Key, Step: of.step}))
		})
		switch code := connect.CodeOf(err); {
		case err == nil || code == connect.CodeNotFound:
		case code == connect.CodeFailedPrecondition:
			return true, nil
		default:
			return false, cannotAsk(of.participant, err)
		}
	}
	return false, nil
}

// holds tells whether a reservation keeps goods from others.
func holds(r *warehousev1.Reservation) bool {
	return r.GetState() == warehousev1.ReservationState_RESERVATION_STATE_RESERVED ||
		r.GetState() == warehousev1.ReservationState_RESERVATION_STATE_COMMITTED
}

func stateWord(r *warehousev1.Reservation) string {
	if r == nil {
		return "not there"
	}
	return strings.ToLower(strings.TrimPrefix(r.State.String(), "RESERVATION_STATE_"))
}

// shipped and ordered are goods in words that can be compared.
func shipped(r *warehousev1.Reservation) string {
	return goods(r.GetLines(), func(l *warehousev1.Line) (string, int32) { return l.Sku, l.Quantity })
}

func ordered(c orders.Checkout) string {
	return goods(c.Items, func(i checkout.Item) (string, int32) { return i.SKU, i.Quantity })
}

func goods[T any](lines []T, of func(T) (sku string, quantity int32)) string {
	words := make([]string, len(lines))
	for i, line := range lines {
		sku, quantity := of(line)
		words[i] = fmt.Sprintf("%s×%d", sku, quantity)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// inWords is an amount as people read it.
func inWords(m checkout.Money) string { return money.Format(m.MinorUnits, m.Currency) }

func moneyOf(op *operationv1.Operation) checkout.Money {
	return checkout.Money{Currency: op.GetAmount().GetCurrency(), MinorUnits: op.GetAmount().GetMinorUnits()}
}

// lookForStrangers reports operations of orders that were never accepted here. Those of a checkout that is no longer kept are known.
func (a *audit) lookForStrangers(ctx context.Context, participant string) error {
	req := &operationv1.ListOperationsRequest{}
	if !a.since.IsZero() {
		req.Since = timestamppb.New(a.since)
	}
	return a.eachPage(ctx, participant, req, func(ops []*operationv1.Operation) error {
		ids := make([]string, len(ops))
		for i, op := range ops {
			ids[i] = op.OrderId
		}
		slices.Sort(ids)
		accepted, err := a.store.EverAccepted(ctx, checkout.Definition, slices.Compact(ids))
		if err != nil {
			return err
		}
		var violations []*checkoutv1.Violation
		for _, op := range ops {
			if accepted[op.OrderId] {
				continue
			}
			violations = append(violations, &checkoutv1.Violation{
				OrderId: op.OrderId, Invariant: invariantAgrees,
				What: fmt.Sprintf("%s has a record of %s (%s) for an order that was never accepted here", participant, op.Step, describe(op)),
			})
		}
		if len(violations) == 0 {
			return nil
		}
		return a.report(violations)
	})
}

// booksTimeout bounds a participant's look at its own books, which reads all of them.
const booksTimeout = time.Minute

// checkBooks has a participant compare what its books state with the records that they sum up: I4. Each answer is of one moment; it
// is asked for twice all the same, so that what was being repaired is not reported. With an order id, only what is about that order.
func (a *audit) checkBooks(ctx context.Context, participant, orderID string) error {
	first, err := a.discrepancies(ctx, participant)
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		a.note("books of "+participant, "%s is of a version that does not check its own books, so nothing is said of them", participant)
		return nil
	}
	if err != nil || len(first) == 0 {
		return err
	}
	if err := rest(ctx, eventsAgain); err != nil {
		return err
	}
	again, err := a.discrepancies(ctx, participant)
	if err != nil {
		return err
	}
	before := make(map[[2]string]bool)
	abouts := make([]string, len(first))
	for i, d := range first {
		before[[2]string{d.About, d.Figure}], abouts[i] = true, d.About
	}
	isOrder, err := a.store.EverAccepted(ctx, checkout.Definition, abouts)
	if err != nil {
		return err
	}
	unit := ""
	if participant == checkout.Payment {
		unit = " minor units"
	}
	var violations []*checkoutv1.Violation
	for _, d := range again {
		if !before[[2]string{d.About, d.Figure}] || orderID != "" && d.About != orderID {
			continue
		}
		v := &checkoutv1.Violation{Invariant: invariantSums, What: fmt.Sprintf("%s states %d%s as %s of %s, and its own records come to %d",
			participant, d.Stated, unit, d.Figure, d.About, d.Counted)}
		if isOrder[d.About] {
			v.OrderId = d.About
		}
		violations = append(violations, v)
	}
	return a.report(violations)
}

func (a *audit) discrepancies(ctx context.Context, participant string) ([]*operationv1.Discrepancy, error) {
	check := a.warehouse.CheckBooks
	if participant == checkout.Payment {
		check = a.payment.CheckBooks
	}
	answer, err := within(ctx, booksTimeout, func(ctx context.Context) (*connect.Response[operationv1.CheckBooksResponse], error) {
		return check(ctx, connect.NewRequest(&operationv1.CheckBooksRequest{}))
	})
	switch {
	case connect.CodeOf(err) == connect.CodeUnimplemented:
		return nil, err
	case err != nil:
		return nil, cannotAsk(participant, err)
	}
	return answer.Msg.Discrepancies, nil
}

// within bounds one question.
func within[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx)
}

// cannotAsk says which participant failed us; without its answer nothing can be said of any checkout.
func cannotAsk(participant string, err error) error {
	code := connect.CodeOf(err)
	if code != connect.CodeCanceled {
		code = connect.CodeUnavailable
	}
	return connect.NewError(code, fmt.Errorf("ask %s: %w", participant, err))
}
