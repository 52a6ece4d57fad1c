package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

func newHistory(c *client) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "history ID",
		Short:             "Tell all that happened to a checkout, and what each participant recorded of it",
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs,
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "print entries as they come, until the checkout is final; with -o json one entry a line")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		if follow {
			return followHistory(cmd.Context(), c, api, out, args[0])
		}
		answer, err := call(cmd.Context(), api.History, &checkoutv1.HistoryRequest{OrderId: args[0]})
		if err != nil {
			return err
		}
		for _, away := range answer.Unreachable {
			fmt.Fprintln(c.err, "events are missing here: "+away)
		}
		return out.print(historyResult(c.surroundings, viewHistory(answer)))
	}
	return cmd
}

// followHistory prints each entry once. What is new is read anew after each change: entries are only ever added, but events of
// other apps may turn up between those that were there.
func followHistory(ctx context.Context, c *client, api checkoutv1connect.CheckoutServiceClient, out *output, orderID string) error {
	printed := make(map[entryKey]bool)
	return watch(ctx, api, orderID, untilFinal, mayNotExist, func(*checkoutv1.Checkout) error {
		answer, err := call(ctx, api.History, &checkoutv1.HistoryRequest{OrderId: orderID})
		if err != nil {
			return err
		}
		count := make(map[entryKey]int)
		for _, e := range viewHistory(answer).Entries {
			key := entryKey{at: *e.At, kind: e.Kind, eventID: e.EventID}
			count[key]++
			key.ordinal = count[key]
			if printed[key] {
				continue
			}
			printed[key] = true
			if err := out.printOne(entryResult(c.surroundings, orderID, e)); err != nil {
				return err
			}
		}
		return nil
	})
}

// entryKey tells an entry from all others of a checkout.
type entryKey struct {
	at            time.Time
	kind, eventID string
	// ordinal counts those with the same time, as entries of one transaction may have.
	ordinal int
}

func historyResult(s surroundings, h historyView) result {
	return result{value: h, ids: []string{h.OrderID}, tables: func(wide bool) []table {
		entries := table{headings: entryHeadings}
		for _, e := range h.Entries {
			entries.add(s.entryRow(e)...)
		}
		operations := table{headings: []string{"PARTICIPANT", "STEP", "DO", "UNDO", "REFERENCE"}}
		for _, o := range h.Operations {
			operations.add(o.Participant, o.Step, orDash(o.Do), orDash(o.Undo), orDash(o.Reference))
		}
		if !wide {
			return []table{entries, operations}
		}
		ordered := table{headings: []string{"ARTICLE", "QUANTITY", "UNIT PRICE"}}
		for i, item := range h.Request.Items {
			price := "-"
			if i < len(h.Prices) {
				price = amount(h.Prices[i].UnitPrice)
			}
			ordered.add(item.SKU, fmt.Sprint(item.Quantity), price)
		}
		return []table{entries, operations, ordered}
	}}
}

// entryResult is one entry of a stream, whose table is a line without headings.
func entryResult(s surroundings, orderID string, e entryView) result {
	return result{value: e, ids: []string{orderID}, tables: func(bool) []table {
		return []table{{headings: []string{strings.Join(s.entryRow(e), "   ")}}}
	}}
}

var entryHeadings = []string{"AGE", "WHAT", "STEP", "ATTEMPT", "OUTCOME", "TOOK", "BY", "WHY"}

func (s surroundings) entryRow(e entryView) []string {
	attempt, took := "-", "-"
	if e.Attempt > 0 {
		attempt = fmt.Sprint(e.Attempt)
	}
	if e.Kind == "attempt" {
		took = fmt.Sprintf("%dms", e.DurationMS)
	}
	why := e.Reason
	if e.Error != "" {
		why = e.Error
	}
	step := e.Step
	if e.Kind == "event" {
		step = e.Topic
	}
	return []string{s.age(e.At), e.Kind, orDash(step), attempt, orDash(e.Outcome), took, orDash(e.Actor), orDash(why)}
}
