package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

// resolutions are the words of --as.
var resolutions = map[string]checkoutv1.Resolution{
	"retry":  checkoutv1.Resolution_RESOLUTION_RETRY,
	"done":   checkoutv1.Resolution_RESOLUTION_DONE,
	"refund": checkoutv1.Resolution_RESOLUTION_REFUND,
}

func newResolve(c *client) *cobra.Command {
	var as, step string
	var withoutProof bool
	s := &steering{client: c, verb: "resolve", mayName: []string{"step"}}
	cmd := &cobra.Command{
		Use:   "resolve ID | QUERY --step STEP --as retry|done|refund --reason TEXT",
		Short: "Settle a step that cannot be settled by itself, of a checkout or of all that a query finds",
		Long: `Settles the step or compensation that a checkout waits at; its attention names it. Who did it and why is kept.

  --as retry   tries it at once, as after the cause was mended.
  --as done    takes it as done, where the participant's record says so. With --without-proof also where it does not: that is
               kept for ever, and every audit lists it as accepted.
  --as refund  after the payment was captured and before the stock is shipped: releases the stock, refunds the money, and ends
               CANCELLED.

Exit status 4 if the checkout's state does not allow it; the answer says what is so.
` + helpOnQueries + `
--step says both: which step is settled, and, in a query, that only checkouts that are at it now are meant.`,
		Example: `  orchestrator checkout resolve ord-1001 --step release-stock --as retry --reason "warehouse is back"
  orchestrator checkout resolve --attention --step release-stock --as retry --reason "warehouse is back" --yes --rps 5
  orchestrator checkout resolve ord-1001 --step commit-stock --as refund --reason "the pieces are broken" --dry-run`,
		ValidArgsFunction: c.completeIDs(checkoutv1.Status_STATUS_NEEDS_ATTENTION),
	}
	s.do = func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error) {
		answer, err := call(ctx, api.Resolve, &checkoutv1.ResolveRequest{
			OrderId: orderID, Step: step, As: resolutions[as], Reason: s.reason, Actor: actor(c.getenv), WithoutProof: withoutProof, DryRun: s.dryRun,
		})
		return s.steered(answer.GetCheckout(), answer.GetWhat()), err
	}
	words := slices.Sorted(maps.Keys(resolutions))
	s.validate = func() error {
		step = cmd.Flags().Lookup("step").Value.String()
		switch {
		case step == "":
			return usage("--step is missing: the step or compensation to settle, as the checkout's attention names it")
		case !slices.Contains(stepWords(), step):
			return usage("--step %q is none of %s", step, strings.Join(stepWords(), ", "))
		case as == "":
			return usage("--as is missing: %s", strings.Join(words, ", "))
		case !slices.Contains(words, as):
			return usage("--as %q is none of %s", as, strings.Join(words, ", "))
		case withoutProof && as != "done":
			return usage("--without-proof is for --as done")
		}
		return nil
	}
	s.byIDOrQuery(cmd)
	cmd.Flags().Lookup("step").Usage = "the step or compensation to settle (required); a query finds only checkouts that are at it now"
	cmd.Flags().StringVar(&as, "as", "", "how: retry, done or refund (required)")
	cmd.Flags().BoolVar(&withoutProof, "without-proof", false, "with --as done: although no participant's record says so; every audit tells of it")
	complete(cmd, "as", words)
	return cmd
}
