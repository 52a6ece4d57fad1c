package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func newHistory(c *client) *cobra.Command {
	var following bool
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "Tell all that happened to a checkout, and what each participant recorded of it",
		Long: `Tells all that happened to a checkout, oldest first: each attempt with its duration, outcome and error, what operators did and
why, each status and event; and what each participant recorded of it. With -o json it is all that is known: the order as it was
sent, prices, what the events say, and how the checkout stands.`,
		Example: `  orchestrator checkout history ord-1001 -o wide
  orchestrator checkout history ord-1001 --follow -o json`,
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs(),
	}
	cmd.Flags().BoolVar(&following, "follow", false, "print entries as they come, until the checkout is final and its events are told; with -o json one entry a line")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		if following {
			return followHistory(cmd.Context(), c, api, out, args[0])
		}
		answer, err := call(cmd.Context(), api.History, &checkoutv1.HistoryRequest{OrderId: args[0]})
		if err != nil {
			return err
		}
		for _, app := range answer.Unreachable {
			c.tellMissing(app)
		}
		return out.print(historyResult(c.surroundings, viewHistory(answer)))
	}
	return cmd
}

// followHistory prints each entry once, as it comes. A server that comes back tells all from the first.
func followHistory(ctx context.Context, c *client, api checkoutv1connect.CheckoutServiceClient, out *output, orderID string) error {
	printed := make(map[entryKey]bool)
	var count map[entryKey]int
	away := make(map[string]bool)
	final := false
	err := follow(ctx, orderID, mayNotExist, func() (*connect.ServerStreamForClient[checkoutv1.FollowHistoryResponse], error) {
		count = make(map[entryKey]int)
		return api.FollowHistory(ctx, connect.NewRequest(&checkoutv1.FollowHistoryRequest{OrderId: orderID}))
	}, func(m *checkoutv1.FollowHistoryResponse) error {
		for _, app := range m.Unreachable {
			if !away[app] {
				away[app] = true
				c.tellMissing(app)
			}
		}
		for _, e := range m.Entries {
			view := viewEntry(e)
			key := keyOf(view)
			if key.eventID == "" {
				count[key]++
				key.ordinal = count[key]
			}
			if printed[key] {
				continue
			}
			printed[key] = true
			final = final || view.Kind == "status" && journal.Status(view.Outcome).IsFinal()
			if err := out.printOne(entryResult(c.surroundings, orderID, view)); err != nil {
				return err
			}
		}
		return nil
	})
	if _, stopped := stoppedBy(ctx); stopped && err != nil && final {
		return cutShort(ctx, "%s has ended; its last events were not waited for", orderID)
	}
	return err
}

// tellMissing says whose events are not among the entries.
func (c *client) tellMissing(app string) {
	c.err.say("events are missing here: %s", app)
}

// entryKey tells an entry from all others of a checkout.
type entryKey struct {
	eventID string
	// The others are for what has no such id.
	at                  time.Time
	kind, step, outcome string
	attempt             int32
	// ordinal counts those that are alike in all that.
	ordinal int
}

func keyOf(e entryView) entryKey {
	if e.EventID != "" {
		return entryKey{eventID: e.EventID} // Its outcome may change.
	}
	key := entryKey{kind: e.Kind, step: e.Step, outcome: e.Outcome, attempt: e.Attempt}
	if e.At != nil {
		key.at = *e.At
	}
	return key
}

func historyResult(s surroundings, h historyView) result {
	return result{value: h, ids: []string{h.OrderID}, tables: func(wide bool) []table {
		entries := table{headings: entryHeadings}
		for _, e := range h.Entries {
			entries.add(s.entryRow(e)...)
		}
		operations := table{headings: []string{"PARTICIPANT", "STEP", "DO", "UNDO", "REFERENCE", "AMOUNT", "WHY"}}
		if wide {
			operations.headings = append(operations.headings, "CREATED", "UPDATED")
		}
		for _, o := range h.Operations {
			row := []string{o.Participant, o.Step, orDash(o.Do), orDash(o.Undo), orDash(o.Reference), amount(o.Amount), orDash(o.Reason)}
			if wide {
				row = append(row, s.age(o.CreatedAt), s.age(o.UpdatedAt))
			}
			operations.add(row...)
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
		tables := []table{entries, operations, ordered}
		if h.Checkout != nil {
			tables = append(tables, s.checkoutTable([]checkoutView{*h.Checkout}, wide))
		}
		return tables
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
