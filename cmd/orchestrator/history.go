package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
)

func newHistory(k *sagaverbs.Kind) *cobra.Command {
	var following bool
	cmd := &cobra.Command{
		Use:   "history ID",
		Short: "Tell all that happened to a checkout, and what each participant recorded of it",
		Long: `Tells all that happened to a checkout, oldest first: each attempt with its duration, outcome and error, what operators did and
why, each status and event; and what each participant recorded of it. With -o json it is all that is known: the order as it was
sent, prices, what the events say, and how the checkout stands.`,
		Example: `  orchestrator checkout history ord-1001 -o wide
  orchestrator checkout history ord-1001 --follow -o json`,
		Args:              cli.Takes("ID"),
		ValidArgsFunction: k.CompleteIDs(),
	}
	cmd.Flags().BoolVar(&following, "follow", false, "print entries as they come, until the checkout is final and its events are told; with -o json one entry a line")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		api, err := checkoutService(cmd.Context(), k.Client)
		if err != nil {
			return err
		}
		if following {
			return followHistory(cmd.Context(), k, api, out, args[0])
		}
		answer, err := cli.Call(cmd.Context(), api.History, &checkoutv1.HistoryRequest{OrderId: args[0]})
		if err != nil {
			return err
		}
		for _, app := range answer.Unreachable {
			tellMissing(k.Err, app)
		}
		return out.Print(historyResult(k, answer))
	}
	return cmd
}

// followHistory prints each entry once, as it comes, and whose events are missing.
func followHistory(ctx context.Context, k *sagaverbs.Kind, api checkoutv1connect.CheckoutServiceClient, out *cli.Output, orderID string) error {
	away := make(map[string]bool)
	return sagaverbs.FollowHistory(ctx, k, out, sagaverbs.ID{Key: orderID}, func() (*connect.ServerStreamForClient[checkoutv1.FollowHistoryResponse], error) {
		return api.FollowHistory(ctx, connect.NewRequest(&checkoutv1.FollowHistoryRequest{OrderId: orderID}))
	}, func(m *checkoutv1.FollowHistoryResponse) (lines []sagaverbs.Line) {
		for _, app := range m.Unreachable {
			if !away[app] {
				away[app] = true
				tellMissing(k.Err, app)
			}
		}
		for _, e := range m.Entries {
			view := viewEntry(e)
			lines = append(lines, sagaverbs.Line{EntryView: view.common(), EventID: view.EventID, Value: view})
		}
		return lines
	})
}

// tellMissing says whose events are not among the entries.
func tellMissing(prose cli.Printer, app string) {
	prose.Say("events are missing here: %s", app)
}

func historyResult(k *sagaverbs.Kind, answer *checkoutv1.HistoryResponse) cli.Result {
	h := viewHistory(answer)
	return cli.Result{Value: h, IDs: []string{h.OrderID}, Tables: func(wide bool) []cli.Table {
		entries := cli.Table{Headings: sagaverbs.EntryHeadings()}
		for _, e := range h.Entries {
			entries.Add(e.common().Row(k.Surroundings)...)
		}
		operations := cli.Table{Headings: []string{"PARTICIPANT", "STEP", "DO", "UNDO", "REFERENCE", "AMOUNT", "WHY"}}
		if wide {
			operations.Headings = append(operations.Headings, "CREATED", "UPDATED")
		}
		for _, o := range h.Operations {
			row := []string{o.Participant, o.Step, cli.OrDash(o.Do), cli.OrDash(o.Undo), cli.OrDash(o.Reference), cli.Amount(o.Amount), cli.OrDash(o.Reason)}
			if wide {
				row = append(row, k.Age(o.CreatedAt), k.Age(o.UpdatedAt))
			}
			operations.Add(row...)
		}
		if !wide {
			return []cli.Table{entries, operations}
		}
		ordered := cli.Table{Headings: []string{"ARTICLE", "QUANTITY", "UNIT PRICE"}}
		for i, item := range h.Request.Items {
			price := "-"
			if i < len(h.Prices) {
				price = cli.Amount(h.Prices[i].UnitPrice)
			}
			ordered.Add(item.SKU, fmt.Sprint(item.Quantity), price)
		}
		tables := []cli.Table{entries, operations, ordered}
		if answer.Checkout != nil {
			tables = append(tables, k.Table([]*sagaverbs.Standing{checkoutAPI{kind: k}.standing(answer.Checkout)}, wide))
		}
		return tables
	}}
}

// common is what entries of every kind of saga have. What an event is about is its topic.
func (e entryView) common() sagaverbs.EntryView {
	c := sagaverbs.EntryView{
		At: e.At, Kind: e.Kind, Step: e.Step, Attempt: e.Attempt, Actor: e.Actor, Reason: e.Reason, DurationMS: e.DurationMS,
		Outcome: e.Outcome, Error: e.Error,
	}
	if e.Kind == "event" {
		c.Step = e.Topic
	}
	return c
}
