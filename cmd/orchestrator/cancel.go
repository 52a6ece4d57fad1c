package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

type cancelView struct {
	OrderID    string   `json:"order_id"`
	Status     string   `json:"status"`
	DryRun     bool     `json:"dry_run"`
	Undone     []string `json:"undone"`
	ToUndo     []string `json:"to_undo"`
	CannotUndo []string `json:"cannot_undo"`
}

func newCancel(c *client) *cobra.Command {
	s := &steering{client: c, verb: "cancel"}
	s.do = func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error) {
		answer, err := call(ctx, api.Cancel, &checkoutv1.CancelRequest{
			OrderId: orderID, Reason: s.reason, Actor: actor(c.getenv), DryRun: s.dryRun,
		})
		if err != nil {
			return deed{}, err
		}
		view := viewCancel(answer, s.dryRun)
		return deed{checkout: answer.Checkout, what: view.what(), alone: cancelResult(view)}, nil
	}
	return s.byIDOrQuery(&cobra.Command{
		Use:   "cancel ID | QUERY --reason TEXT",
		Short: "Ask that a checkout, or all that a query finds, be undone",
		Long: `Asks that a checkout be undone, and tells what is undone, what is still to be undone, and what cannot be. Once the
payment is being captured it is too late: exit status 4, and the answer says what is so.
` + helpOnQueries,
		Example: `  orchestrator checkout cancel ord-1001 --reason "customer called" --dry-run
  orchestrator checkout cancel --customer cus-17 --status RUNNING --reason "stolen card" --yes`,
		ValidArgsFunction: c.completeIDs(openStatuses()...),
	})
}

// helpOnQueries is told by every verb that takes one.
const helpOnQueries = `
Instead of an id a query says which: the flags of ` + "`list`" + `, through all pages. It is told how many there are and how much money,
and asked whether to go on; where nobody can be asked, --yes is needed. One that its state does not allow is passed over: exit
status 4, and the others are done. An interrupt ends it between two checkouts, and the same command goes on.`

func viewCancel(answer *checkoutv1.CancelResponse, dryRun bool) cancelView {
	return cancelView{
		OrderID: answer.Checkout.GetOrderId(), Status: statusWord(answer.Checkout.GetStatus()), DryRun: dryRun,
		Undone: append([]string{}, answer.Undone...), ToUndo: append([]string{}, answer.ToUndo...),
		CannotUndo: append([]string{}, answer.CannotUndo...),
	}
}

func (v cancelView) what() string {
	var parts []string
	for _, part := range []struct {
		said  string
		steps []string
	}{{"undone: ", v.Undone}, {"still to undo: ", v.ToUndo}, {"cannot be undone: ", v.CannotUndo}} {
		if len(part.steps) > 0 {
			parts = append(parts, part.said+strings.Join(part.steps, ", "))
		}
	}
	if len(parts) == 0 {
		return "nothing is to be undone"
	}
	return strings.Join(parts, "; ")
}

func cancelResult(view cancelView) result {
	return result{value: view, ids: []string{view.OrderID}, tables: func(bool) []table {
		t := table{headings: []string{"ORDER ID", "STATUS", "UNDONE", "STILL TO UNDO", "CANNOT BE UNDONE"}}
		t.add(view.OrderID, view.Status, orDash(strings.Join(view.Undone, ", ")), orDash(strings.Join(view.ToUndo, ", ")),
			orDash(strings.Join(view.CannotUndo, ", ")))
		return []table{t}
	}}
}
