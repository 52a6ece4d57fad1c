package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

func newRedrive(c *client) *cobra.Command {
	var engine string
	engines := []string{"dapr", "embedded"}
	s := &steering{client: c, verb: "redrive"}
	s.do = func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error) {
		answer, err := call(ctx, api.Redrive, &checkoutv1.RedriveRequest{
			OrderId: orderID, Reason: s.reason, Actor: actor(c.getenv), Engine: engine, DryRun: s.dryRun,
		})
		return s.steered(answer.GetCheckout(), answer.GetWhat()), err
	}
	s.validate = func() error {
		if engine != "" && !slices.Contains(engines, engine) {
			return usage("--engine %q is none of %s", engine, strings.Join(engines, ", "))
		}
		return nil
	}
	cmd := s.byIDOrQuery(&cobra.Command{
		Use:   "redrive ID | QUERY --reason TEXT",
		Short: "Hand a checkout, or all that a query finds, to a new run",
		Long: `Hands an open checkout to a new run, which goes on in the checkout's phase: forward, only forward once the payment is being
captured, only back where it is being undone. What is on record is not done again. For a run that stopped or is lost; and, with
--engine, for one that another engine shall drive from now on. Exit status 4 if the checkout's state does not allow it.
` + helpOnQueries,
		Example: `  orchestrator checkout redrive ord-1001 --reason "its run stopped at a mistake that is mended"
  orchestrator checkout redrive --status RUNNING --older-than 1h --engine embedded --reason "leaving Dapr" --dry-run`,
		ValidArgsFunction: c.completeIDs(openStatuses()...),
	})
	cmd.Flags().StringVar(&engine, "engine", "", "dapr or embedded: what drives it from now on; empty leaves it where it is")
	complete(cmd, "engine", engines)
	return cmd
}
