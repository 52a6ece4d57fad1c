package api

import (
	"context"
	"fmt"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

const (
	// auditPage is how many checkouts are compared by one round of questions to the participants.
	auditPage = 200
	// auditTimeout bounds one question to a participant.
	auditTimeout = 10 * time.Second
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
	invariantSums     = "I4"
	invariantTold     = "I5"
	invariantOrdered  = "I6"
)

// Audit compares every final checkout with what warehouse and payment recorded of it and with the events that tell of it; looks
// for open checkouts that nobody is at work on, or of which more or other money was taken than they know of; for operations of
// orders that nobody accepted; and has both participants check their own books. Traffic may run on: what it finds wrong it looks at
// twice, and for events that are on their way it waits a little. What an operator took as done without proof is told apart.
func (s *Service) Audit(ctx context.Context, req *connect.Request[checkoutv1.AuditRequest], stream *connect.ServerStream[checkoutv1.AuditResponse]) error {
	a := &audit{
		Service: s, send: stream.Send, patience: auditPatience, told: make(map[string]bool), elsewhere: make(map[string]int),
		notes: make(map[string]string), mentions: make(map[string][]string),
	}
	if req.Msg.Since != nil {
		a.since = req.Msg.Since.AsTime()
	}
	// The first message goes out at once, so that the caller knows that somebody is at work.
	if err := a.report(nil); err != nil {
		return err
	}
	return a.run(ctx, req.Msg.OrderId)
}

// audit is one run of Audit.
type audit struct {
	*Service
	send    func(*checkoutv1.AuditResponse) error
	since   time.Time
	checked int64
	// told are the acts without proof that were listed.
	told map[string]bool
	// eventsBegan is since when events are written.
	eventsBegan time.Time
	// patience is how long it may still wait for events.
	patience time.Duration
	// notes are what is no violation and worth knowing, each once; mentions are the orders of which there is such a thing.
	notes    map[string]string
	mentions map[string][]string
	// elsewhere are the open checkouts that other engines drive; deaf are the questions that this process's engine did not answer.
	elsewhere map[string]int
	deaf      deaf
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
		"open":       "%d orders have events among the open dead letters, which is how they are known not to be received (%s): `orchestrator dead-letter list`",
		"archived":   "%d orders have events among the archived dead letters, which nobody will receive (%s): `orchestrator dead-letter list --state archived`",
		"forgetting": "%d checkouts are kept although a participant has forgotten their operations, because the other one keeps them (%s): they were not compared",
		"retried":    "%d orders have events that a consumer failed at a moment ago and that are tried again (%s)",
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
	a.noteEngines()
	var notes []string
	for _, about := range slices.Sorted(maps.Keys(a.notes)) {
		notes = append(notes, a.notes[about])
	}
	return notes
}

func (a *audit) one(ctx context.Context, orderID string) error {
	kept, err := a.kept(ctx, []string{orderID})
	if err != nil {
		return err
	}
	c, isKept := kept[orderID]
	if !isKept {
		return a.noLongerKept(ctx, orderID)
	}
	if !c.Status.IsFinal() {
		open, err := a.store.OpenOf(ctx, checkout.Definition, []string{orderID})
		if err != nil {
			return err
		}
		if err := a.compareOpen(ctx, open); err != nil {
			return err
		}
	} else if err := a.comparePage(ctx, []orders.Checkout{c}); err != nil {
		return err
	}
	acts, err := a.store.ActsOn(ctx, checkout.Definition, []string{orderID})
	if err != nil {
		return err
	}
	if err := a.tellActs(ctx, acts); err != nil {
		return err
	}
	return a.checkBooks(ctx, checkout.Payment, orderID) // The warehouse's are about articles.
}

func (a *audit) all(ctx context.Context) error {
	for place := (store.Ended{At: a.since}); ; {
		ended, err := a.store.Finals(ctx, checkout.Definition, place, auditPage)
		if err != nil {
			return err
		}
		page, err := orders.OfAll(ended)
		if err != nil {
			return err
		}
		if err := a.comparePage(ctx, page); err != nil {
			return err
		}
		// What ends from now on is left to the next audit: this one must come to an end while traffic runs on.
		if len(page) < auditPage {
			break
		}
		last := page[len(page)-1]
		place = store.Ended{At: *last.EndedAt, Key: last.Key}
	}
	if err := a.lookAtOpen(ctx); err != nil {
		return err
	}
	for _, p := range []string{checkout.Warehouse, checkout.Payment} {
		if err := a.lookForStrangers(ctx, p); err != nil {
			return err
		}
		if err := a.checkBooks(ctx, p, ""); err != nil {
			return err
		}
	}
	return a.tellOtherActs(ctx)
}

// kept reads those of some checkouts that are there, by order id.
func (a *audit) kept(ctx context.Context, orderIDs []string) (map[string]orders.Checkout, error) {
	sagas, err := a.store.Kept(ctx, checkout.Definition, orderIDs)
	if err != nil {
		return nil, err
	}
	kept := make(map[string]orders.Checkout, len(sagas))
	for id, s := range sagas {
		if kept[id], err = orders.Of(s); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// finding is something that is wrong with a checkout, as one look shows it.
type finding struct {
	invariant, what string
	// steps are those that it concerns, if it concerns some more than others.
	steps []string
	// settling says that it may be right a moment later; young that it most likely will.
	settling, young bool
}

// findings are those of some checkouts, by order id.
type findings map[string][]finding

func (f findings) add(orderID string, found ...finding) {
	if len(found) > 0 {
		f[orderID] = append(f[orderID], found...)
	}
}

// comparePage compares final checkouts. What differs is looked at again on fresh rows and fresh records before it is called a
// violation: the first reading of several databases is no snapshot. While events are on their way it waits for them.
func (a *audit) comparePage(ctx context.Context, page []orders.Checkout) error {
	if len(page) == 0 {
		return nil
	}
	acts, err := a.actsOn(ctx, page)
	if err != nil {
		return err
	}
	found, accepted, err := a.look(ctx, page, acts)
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
			a.patience -= eventsAgain
		}
		if err := rest(ctx, eventsAgain); err != nil {
			return err
		}
		kept, err := a.kept(ctx, slices.Collect(maps.Keys(found)))
		if err != nil {
			return err
		}
		var acceptedNow findings
		if found, acceptedNow, err = a.look(ctx, slices.Collect(maps.Values(kept)), acts); err != nil {
			return err
		}
		for orderID := range kept {
			accepted[orderID] = acceptedNow[orderID]
		}
	}
	var violations []*checkoutv1.Violation
	for _, c := range page {
		if len(found[c.Key]) == 0 {
			continue
		}
		forgetting, err := a.beingForgotten(ctx, c)
		if err != nil {
			return err
		}
		if forgetting {
			a.mention("forgetting", c.Key)
			continue
		}
		violations = append(violations, violationsOf(c.Key, string(c.Status), found[c.Key])...)
	}
	a.checked += int64(len(page))
	if err := a.report(violations); err != nil {
		return err
	}
	for _, c := range page {
		if err := a.tellAccepted(acts[c.Key], accepted[c.Key]); err != nil {
			return err
		}
	}
	return nil
}

// violationsOf makes violations of what was found of a checkout. All in which it differs from the ledgers is one sentence.
func violationsOf(orderID, stands string, found []finding) []*checkoutv1.Violation {
	var violations []*checkoutv1.Violation
	var differs []string
	for _, f := range found {
		if f.invariant == invariantAgrees {
			differs = append(differs, f.what)
			continue
		}
		violations = append(violations, &checkoutv1.Violation{OrderId: orderID, Invariant: f.invariant, What: f.what})
	}
	if len(differs) == 0 {
		return violations
	}
	disagrees := &checkoutv1.Violation{
		OrderId: orderID, Invariant: invariantAgrees, What: stands + ", but " + strings.Join(differs, "; "),
	}
	return append([]*checkoutv1.Violation{disagrees}, violations...)
}

// onTheirWay counts the findings that may settle by themselves.
func onTheirWay(found findings) (settling int, young bool) {
	for _, of := range found {
		for _, f := range of {
			if f.settling {
				settling++
				young = young || f.young
			}
		}
	}
	return settling, young
}

// rest waits for a while.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// look tells, by order id, what is wrong with checkouts at this moment, and apart from that what is wrong where an operator said
// that it is right.
func (a *audit) look(ctx context.Context, page []orders.Checkout, acts map[string][]store.Act) (found, accepted findings, err error) {
	found, accepted = make(findings), make(findings)
	if len(page) == 0 {
		return found, accepted, nil
	}
	b, err := a.books(ctx, page)
	if err != nil {
		return nil, nil, err
	}
	all := make(findings)
	for _, c := range page {
		all.add(c.Key, disagreements(c, b)...)
	}
	if err := a.compareEvents(ctx, page, b, all); err != nil {
		return nil, nil, err
	}
	for orderID, of := range all {
		for _, f := range of {
			if a.isAccepted(f, acts[orderID]) {
				accepted.add(orderID, f)
			} else {
				found.add(orderID, f)
			}
		}
	}
	return found, accepted, nil
}
