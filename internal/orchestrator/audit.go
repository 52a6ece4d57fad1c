package orchestrator

import (
	"context"
	"fmt"
	"maps"
	"math"
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
	"github.com/checkoutsaga/orchestrator/internal/orchestrator/store"
	"github.com/checkoutsaga/orchestrator/internal/outbox"
)

const (
	// auditPage is how many checkouts are compared by one pair of questions to the participants.
	auditPage = 200
	// auditAtOnce bounds the questions about single reservations that are out at a time.
	auditAtOnce = 8
	// auditTimeout bounds one question to a participant.
	auditTimeout = 10 * time.Second
	// hangsAfter is when an open checkout in which nothing is written, and which calls for nobody, counts as lost: far
	// longer than the sweeper waits, far longer than a run backs off before it calls for a person.
	hangsAfter = 10 * time.Minute
	// auditPatience is how long one audit waits, in all, for events that are on their way, looking every eventsAgain. After
	// stalledLooks that found no fewer of them it goes on.
	auditPatience, eventsAgain, stalledLooks = 15 * time.Second, 500 * time.Millisecond, 2
	// mentioned is how many order ids a note names.
	mentioned = 10
)

// Names of the invariants that are looked at.
const (
	invariantAgrees   = "I1"
	invariantEndsSeen = "I3"
	invariantTold     = "I5"
	invariantOrdered  = "I6"
)

// Audit compares every final checkout with what warehouse and payment recorded of it and with the events that tell of it, looks
// for operations of orders that nobody accepted, and for open checkouts that hang unseen. What it finds wrong it looks at twice,
// and for events that are on their way it waits a little.
func (s *Service) Audit(ctx context.Context, req *connect.Request[checkoutv1.AuditRequest], stream *connect.ServerStream[checkoutv1.AuditResponse]) error {
	a := &audit{
		Service: s, send: stream.Send, known: make(map[string]bool), patience: auditPatience,
		notes: make(map[string]string), mentions: make(map[string][]string),
	}
	if req.Msg.Since != nil {
		a.since = req.Msg.Since.AsTime()
	}
	// The first message goes out at once, so that the caller knows that somebody is at work.
	if err := a.report(nil); err != nil {
		return err
	}
	return failureOrNil(a.run(ctx, req.Msg.OrderId))
}

func failureOrNil(err error) error {
	if err == nil {
		return nil
	}
	return failure(err)
}

// audit is one run of Audit.
type audit struct {
	*Service
	send    func(*checkoutv1.AuditResponse) error
	since   time.Time
	checked int64
	// known holds the orders that were met as final checkouts.
	known map[string]bool
	// eventsBegan is since when events are written.
	eventsBegan time.Time
	// patience is how long it may still wait for events.
	patience time.Duration
	// notes are what is no violation and worth knowing, each once; mentions are the orders of which there is such a thing.
	notes    map[string]string
	mentions map[string][]string
}

func (a *audit) report(violations []*checkoutv1.Violation) error {
	return a.send(&checkoutv1.AuditResponse{Checked: a.checked, Violations: violations})
}

// note says something once, whatever it is called for.
func (a *audit) note(about, format string, args ...any) {
	a.notes[about] = fmt.Sprintf(format, args...)
}

// mention remembers that a note is to name an order.
func (a *audit) mention(about, orderID string) {
	if !slices.Contains(a.mentions[about], orderID) {
		a.mentions[about] = append(a.mentions[about], orderID)
	}
}

func (a *audit) run(ctx context.Context, orderID string) (err error) {
	if len(a.events) > 0 {
		if a.eventsBegan, err = outbox.Began(ctx, a.pool); err != nil {
			return err
		}
	}
	if orderID != "" {
		err = a.one(ctx, orderID)
	} else {
		err = a.all(ctx)
	}
	if err != nil {
		return err
	}
	return a.send(&checkoutv1.AuditResponse{Checked: a.checked, Notes: a.allNotes()})
}

func (a *audit) allNotes() []string {
	for about, format := range map[string]string{
		"open":     "%d orders have events among the open dead letters, which is how they are known not to be received (%s): `orchestrator dead-letter list`",
		"archived": "%d orders have events among the archived dead letters, which nobody will receive (%s): `orchestrator dead-letter list --state archived`",
		"retried":  "%d orders have events that a consumer failed at a moment ago and that are tried again (%s)",
	} {
		orders := a.mentions[about]
		if len(orders) == 0 {
			continue
		}
		names := strings.Join(orders[:min(len(orders), mentioned)], ", ")
		if len(orders) > mentioned {
			names += ", …"
		}
		a.note(about, format, len(orders), names)
	}
	var notes []string
	for _, about := range slices.Sorted(maps.Keys(a.notes)) {
		notes = append(notes, a.notes[about])
	}
	return notes
}

func (a *audit) one(ctx context.Context, orderID string) error {
	c, err := a.find(ctx, orderID)
	if err != nil {
		return err
	}
	if !c.Status.IsFinal() {
		return nil // It promises nothing yet.
	}
	return a.comparePage(ctx, []store.Checkout{c})
}

func (a *audit) all(ctx context.Context) error {
	after := "" // Before every order id.
	for {
		page, err := a.store.Finals(ctx, a.since, after, auditPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		if err := a.comparePage(ctx, page); err != nil {
			return err
		}
		after = page[len(page)-1].OrderID
	}
	if err := a.lookForHanging(ctx); err != nil {
		return err
	}
	for _, p := range []string{checkout.Warehouse, checkout.Payment} {
		if err := a.lookForStrangers(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// finding is something that is wrong with a checkout, as one look shows it.
type finding struct {
	invariant, what string
	// settling says that it may be right a moment later; young that it most likely will.
	settling, young bool
}

// comparePage compares final checkouts. What differs is looked at again on fresh rows and fresh records before it is called a
// violation: the first reading of several databases is no snapshot. While events are on their way it waits for them.
func (a *audit) comparePage(ctx context.Context, page []store.Checkout) error {
	found, err := a.look(ctx, page)
	if err != nil {
		return err
	}
	for looks, stalled, fewest := 1, 0, math.MaxInt; len(found) > 0; looks++ {
		settling, young := onTheirWay(found)
		if stalled++; settling < fewest {
			fewest, stalled = settling, 0
		}
		waits := settling > 0 && a.patience > 0 && (young || stalled < stalledLooks)
		if looks > 1 && !waits {
			break
		}
		if waits {
			if err := a.wait(ctx); err != nil {
				return err
			}
		}
		var again []store.Checkout
		for orderID := range found {
			c, err := a.find(ctx, orderID)
			if err != nil {
				return err
			}
			again = append(again, c)
		}
		if found, err = a.look(ctx, again); err != nil {
			return err
		}
	}
	var violations []*checkoutv1.Violation
	for _, c := range page {
		a.known[c.OrderID] = true
		for _, f := range found[c.OrderID] {
			violations = append(violations, &checkoutv1.Violation{OrderId: c.OrderID, Invariant: f.invariant, What: f.what})
		}
	}
	a.checked += int64(len(page))
	return a.report(violations)
}

// onTheirWay counts the findings that may settle by themselves.
func onTheirWay(found map[string][]finding) (settling int, young bool) {
	for _, findings := range found {
		for _, f := range findings {
			if f.settling {
				settling++
				young = young || f.young
			}
		}
	}
	return settling, young
}

// wait spends some of the audit's patience.
func (a *audit) wait(ctx context.Context) error {
	a.patience -= eventsAgain
	timer := time.NewTimer(eventsAgain)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// books are what the participants recorded, by order.
type books struct{ warehouse, payment map[string]record }

// look tells, by order id, what is wrong with checkouts at this moment.
func (a *audit) look(ctx context.Context, page []store.Checkout) (map[string][]finding, error) {
	b, err := a.books(ctx, page)
	if err != nil {
		return nil, err
	}
	found := make(map[string][]finding)
	differ, err := a.differences(ctx, page, b)
	if err != nil {
		return nil, err
	}
	for i, c := range page {
		if len(differ[i]) > 0 {
			found[c.OrderID] = []finding{{invariant: invariantAgrees, what: string(c.Status) + ", but " + strings.Join(differ[i], "; ")}}
		}
	}
	return found, a.compareEvents(ctx, page, b, found)
}

func (a *audit) books(ctx context.Context, page []store.Checkout) (b books, err error) {
	ids := make([]string, len(page))
	for i, c := range page {
		ids[i] = c.OrderID
	}
	asking, askCtx := errgroup.WithContext(ctx)
	asking.Go(func() (err error) {
		b.warehouse, err = a.records(askCtx, checkout.Warehouse, ids)
		return err
	})
	asking.Go(func() (err error) {
		b.payment, err = a.records(askCtx, checkout.Payment, ids)
		return err
	})
	return b, asking.Wait()
}

// differences tells, for each checkout of a page, in what the participants' records differ from what its end promises.
func (a *audit) differences(ctx context.Context, page []store.Checkout, b books) ([][]string, error) {
	found := make([][]string, len(page))
	looking, lookCtx := errgroup.WithContext(ctx)
	looking.SetLimit(auditAtOnce)
	for i, c := range page {
		found[i] = disagreements(c, b.warehouse[c.OrderID], b.payment[c.OrderID])
		if c.Status != checkout.Confirmed || len(found[i]) > 0 {
			continue
		}
		// The operations say that something was committed; only the reservation says what.
		looking.Go(func() (err error) {
			found[i], err = a.linesDiffer(lookCtx, c)
			return err
		})
	}
	return found, looking.Wait()
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
	list := a.warehouse.ListOperations
	if participant == checkout.Payment {
		list = a.payment.ListOperations
	}
	for {
		answer, err := within(ctx, func(ctx context.Context) (*connect.Response[operationv1.ListOperationsResponse], error) {
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

// disagreements compares the end of a checkout with both participants' operations. Rules, not requests: see I1.
func disagreements(c store.Checkout, warehouse, payment record) []string {
	var wrong []string
	differs := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	reserve, commit := warehouse[checkout.ReserveStock], warehouse[checkout.CommitStock]
	authorize, capture := payment[checkout.AuthorizePayment], payment[checkout.CapturePayment]
	confirmed := c.Status == checkout.Confirmed

	switch {
	case confirmed && !stands(commit):
		differs("the warehouse has not committed its stock (reserve-stock %s, commit-stock %s)", describe(reserve), describe(commit))
	case !confirmed && stands(commit):
		differs("the warehouse has committed its stock")
	case !confirmed && (stands(reserve) || unsettled(reserve)):
		differs("the warehouse still holds its stock (reserve-stock %s)", describe(reserve))
	}
	var captured int64
	if stands(capture) {
		captured = capture.GetAmount().GetMinorUnits()
	}
	switch {
	case confirmed && (captured != c.Amount.MinorUnits || capture.GetAmount().GetCurrency() != c.Amount.Currency):
		differs("payment has captured %d %s of %d %s (capture-payment %s)", captured, capture.GetAmount().GetCurrency(),
			c.Amount.MinorUnits, c.Amount.Currency, describe(capture))
	case !confirmed && captured != 0:
		differs("payment has captured %d %s and not given it back", captured, capture.GetAmount().GetCurrency())
	case !confirmed && unsettled(capture):
		differs("payment does not know yet whether it captured")
	case !confirmed && (stands(authorize) || unsettled(authorize)) && !lapsed(capture):
		differs("payment still holds its authorization (authorize-payment %s)", describe(authorize))
	}
	return wrong
}

// stands tells whether an operation's effect is in place.
func stands(op *operationv1.Operation) bool {
	return op.GetDo() == operationv1.Outcome_OUTCOME_APPLIED && op.GetUndo() != operationv1.Outcome_OUTCOME_APPLIED
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

// linesDiffer compares what the warehouse shipped for a confirmed checkout with what was ordered.
func (a *audit) linesDiffer(ctx context.Context, c store.Checkout) ([]string, error) {
	answer, err := within(ctx, func(ctx context.Context) (*connect.Response[warehousev1.GetReservationResponse], error) {
		return a.warehouse.GetReservation(ctx, connect.NewRequest(&warehousev1.GetReservationRequest{OrderId: c.OrderID}))
	})
	if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
		return nil, cannotAsk(checkout.Warehouse, err)
	}
	var reservation warehousev1.GetReservationResponse
	if err == nil {
		reservation.State, reservation.Lines = answer.Msg.State, answer.Msg.Lines
	}
	if reservation.State != warehousev1.ReservationState_RESERVATION_STATE_COMMITTED {
		return []string{"its reservation is not committed"}, nil
	}
	ordered, shipped := make([]string, 0, len(c.Items)), make([]string, 0, len(reservation.Lines))
	for _, item := range c.Items {
		ordered = append(ordered, fmt.Sprintf("%s×%d", item.SKU, item.Quantity))
	}
	for _, line := range reservation.Lines {
		shipped = append(shipped, fmt.Sprintf("%s×%d", line.Sku, line.Quantity))
	}
	slices.Sort(ordered)
	slices.Sort(shipped)
	if !slices.Equal(ordered, shipped) {
		return []string{fmt.Sprintf("the warehouse has committed %v and the order is for %v", shipped, ordered)}, nil
	}
	return nil, nil
}

// lookForHanging reports open checkouts in which nothing happens and which call for nobody.
func (a *audit) lookForHanging(ctx context.Context) error {
	stale, err := a.store.Stale(ctx, hangsAfter, maxPage)
	if err != nil {
		return err
	}
	var violations []*checkoutv1.Violation
	for _, c := range stale {
		violations = append(violations, hanging(c))
	}
	return a.report(violations)
}

func hanging(c store.Checkout) *checkoutv1.Violation {
	return &checkoutv1.Violation{
		OrderId: c.OrderID, Invariant: invariantEndsSeen,
		What: fmt.Sprintf("%s in phase %s, and nothing has been written since %s", c.Status, c.Phase, c.UpdatedAt.UTC().Format(time.RFC3339)),
	}
}

// lookForStrangers reports operations of orders that were never accepted here.
func (a *audit) lookForStrangers(ctx context.Context, participant string) error {
	req := &operationv1.ListOperationsRequest{}
	if !a.since.IsZero() {
		req.Since = timestamppb.New(a.since)
	}
	return a.eachPage(ctx, participant, req, func(ops []*operationv1.Operation) error {
		var unseen []string
		for _, op := range ops {
			if !a.known[op.OrderId] {
				unseen = append(unseen, op.OrderId)
			}
		}
		known, err := a.store.Known(ctx, unseen)
		if err != nil {
			return err
		}
		var violations []*checkoutv1.Violation
		for _, op := range ops {
			if a.known[op.OrderId] || known[op.OrderId] {
				continue
			}
			violations = append(violations, &checkoutv1.Violation{
				OrderId: op.OrderId, Invariant: invariantAgrees,
				What: fmt.Sprintf("%s has a record of %s for an order that was never accepted here", participant, op.Step),
			})
		}
		if len(violations) == 0 {
			return nil
		}
		return a.report(violations)
	})
}

// within bounds one question.
func within[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
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
