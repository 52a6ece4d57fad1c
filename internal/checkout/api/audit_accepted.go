package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkout/orders"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
)

// An operator may take a step as done although no participant's record says so, and then the books differ for ever. Every audit
// tells each such act with what differs because of it, and calls nothing of that a violation; what else is wrong with the order is one.

// actsOn are the acts without proof on the checkouts of a page, by order id.
func (a *audit) actsOn(ctx context.Context, page []orders.Checkout) (map[string][]store.Act, error) {
	ids := make([]string, len(page))
	for i, c := range page {
		ids[i] = c.Key
	}
	acts, err := a.store.ActsOn(ctx, checkout.Definition, ids)
	if err != nil {
		return nil, err
	}
	byOrder := make(map[string][]store.Act)
	for _, act := range acts {
		byOrder[act.Saga.Key] = append(byOrder[act.Saga.Key], act)
	}
	return byOrder, nil
}

// isAccepted tells whether an operator's act answers for what was found.
func (a *audit) isAccepted(f finding, acts []store.Act) bool {
	return slices.ContainsFunc(acts, func(act store.Act) bool { return a.concerns(f, act) })
}

func (a *audit) concerns(f finding, act store.Act) bool {
	if slices.Contains(f.steps, act.Step) {
		return true
	}
	step, _, known := a.definition.Plan().Named(act.Step)
	return known && slices.Contains(f.steps, step.Name)
}

// tellAccepted tells the acts on a final checkout, given what was found that they answer for.
func (a *audit) tellAccepted(acts []store.Act, found []finding) error {
	for _, act := range acts {
		var differs []string
		for _, f := range found {
			if a.concerns(f, act) {
				differs = append(differs, f.what)
			}
		}
		if err := a.tellAct(act, strings.Join(differs, "; ")); err != nil {
			return err
		}
	}
	return nil
}

// tellAct tells an act once.
func (a *audit) tellAct(act store.Act, what string) error {
	if a.told[act.ID] {
		return nil
	}
	a.told[act.ID] = true
	return a.send(&checkoutv1.AuditResponse{Checked: a.checked, Accepted: []*checkoutv1.Accepted{{
		OrderId: act.Saga.Key, Step: act.Step, Actor: act.Actor, Reason: act.Reason, At: timestamppb.New(act.At), What: what,
	}}})
}

// tellOtherActs tells the acts within the audit's time that no compared page has shown.
func (a *audit) tellOtherActs(ctx context.Context) error {
	for after := (store.Act{}); ; {
		acts, err := a.store.ActsSince(ctx, checkout.Definition, a.since, after, auditPage)
		if err != nil || len(acts) == 0 {
			return err
		}
		after = acts[len(acts)-1]
		if err := a.tellActs(ctx, acts); err != nil {
			return err
		}
	}
}

// tellActs tells those of the acts that were not told: on open checkouts, on such as are no longer kept, and on those that have
// ended since they would have been compared.
func (a *audit) tellActs(ctx context.Context, acts []store.Act) error {
	acts = slices.DeleteFunc(acts, func(act store.Act) bool { return a.told[act.ID] })
	var ids []string
	for _, act := range acts {
		ids = append(ids, act.Saga.Key)
	}
	kept, err := a.kept(ctx, ids)
	if err != nil {
		return err
	}
	var ended []orders.Checkout
	for _, c := range kept {
		if c.Status.IsFinal() {
			ended = append(ended, c)
		}
	}
	if err := a.comparePage(ctx, ended); err != nil {
		return err
	}
	for _, act := range acts {
		what := ""
		if c, isKept := kept[act.Saga.Key]; isKept {
			what = fmt.Sprintf("its checkout is %s in phase %s: it is compared once it has ended", c.Status, c.Phase)
		} else if what, err = a.whatIsLeft(ctx, act.Saga.Key); err != nil {
			return err
		}
		if err := a.tellAct(act, what); err != nil {
			return err
		}
	}
	return nil
}

// whatIsLeft tells what is known of a checkout that is no longer kept.
func (a *audit) whatIsLeft(ctx context.Context, orderID string) (string, error) {
	f, err := a.store.Forgotten(ctx, checkout.Saga(orderID))
	if errors.Is(err, store.ErrNotFound) {
		return "there is no such checkout any more", nil
	}
	return fmt.Sprintf("its checkout is no longer kept: it ended %s at %s", f.Status, f.EndedAt.UTC().Format(time.RFC3339)), err
}

// noLongerKept is the audit of one order of which there is no checkout.
func (a *audit) noLongerKept(ctx context.Context, orderID string) error {
	f, err := a.store.Forgotten(ctx, checkout.Saga(orderID))
	if errors.Is(err, store.ErrNotFound) {
		return noSuchCheckout(orderID)
	}
	if err != nil {
		return err
	}
	a.note("forgotten", "%s is no longer kept: it ended %s at %s", orderID, f.Status, f.EndedAt.UTC().Format(time.RFC3339))
	acts, err := a.store.ActsOn(ctx, checkout.Definition, []string{orderID})
	if err != nil {
		return err
	}
	return a.tellActs(ctx, acts)
}
