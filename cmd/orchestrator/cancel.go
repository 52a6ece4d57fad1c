package main

import (
	"fmt"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
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
	var reason string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "cancel ID --reason TEXT",
		Short: "Ask that a checkout be undone",
		Long: `Asks that a checkout be undone, and tells what is undone, what is still to be undone, and what cannot be. Once the
payment is being captured it is too late: exit status 4, and the answer says what is so.`,
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; kept for ever (required)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would be undone")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		if reason == "" {
			return usage("--reason is missing: say why, it is kept")
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := call(cmd.Context(), api.Cancel, &checkoutv1.CancelRequest{
			OrderId: args[0], Reason: reason, Actor: actor(c.getenv), DryRun: dryRun,
		})
		if err != nil {
			return err
		}
		return out.print(cancelResult(answer, dryRun))
	}
	return cmd
}

func cancelResult(answer *checkoutv1.CancelResponse, dryRun bool) result {
	view := cancelView{
		OrderID: answer.Checkout.GetOrderId(), Status: statusWord(answer.Checkout.GetStatus()), DryRun: dryRun,
		Undone: append([]string{}, answer.Undone...), ToUndo: append([]string{}, answer.ToUndo...),
		CannotUndo: append([]string{}, answer.CannotUndo...),
	}
	return result{value: view, ids: []string{view.OrderID}, tables: func(bool) []table {
		t := table{headings: []string{"ORDER ID", "STATUS", "UNDONE", "STILL TO UNDO", "CANNOT BE UNDONE"}}
		t.add(view.OrderID, view.Status, orDash(strings.Join(view.Undone, ", ")), orDash(strings.Join(view.ToUndo, ", ")),
			orDash(strings.Join(view.CannotUndo, ", ")))
		return []table{t}
	}}
}

// actor is who asks: the login name, and the one behind sudo where there is one.
func actor(getenv func(string) string) string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if behind := getenv("SUDO_USER"); behind != "" && behind != name {
		return fmt.Sprintf("%s (as %s)", behind, name)
	}
	return name
}
