package main

import (
	"context"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

func newApprove(c *client) *cobra.Command {
	s := &steering{client: c, verb: "approve"}
	s.do = func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error) {
		answer, err := call(ctx, api.Approve, &checkoutv1.ApproveRequest{
			OrderId: orderID, Reason: s.reason, Actor: actor(c.getenv), DryRun: s.dryRun,
		})
		what := "approved: the payment is captured next"
		if s.dryRun {
			what = "would be approved: the payment would be captured next"
		}
		return s.steered(answer.GetCheckout(), what), err
	}
	return s.byID(&cobra.Command{
		Use:   "approve ID --reason TEXT",
		Short: "Let a checkout that awaits approval go on",
		Long: `Lets a checkout that awaits approval go on: its payment is captured and its stock shipped. Who approved it and why is kept.
Exit status 4 if it does not await approval; the answer says what is so. "list --status AWAITING_APPROVAL" finds those that do.`,
		Example:           `  orchestrator checkout approve ord-1001 --reason "known customer"`,
		ValidArgsFunction: c.completeIDs(checkoutv1.Status_STATUS_AWAITING_APPROVAL),
	})
}

func newReject(c *client) *cobra.Command {
	s := &steering{client: c, verb: "reject"}
	s.do = func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error) {
		answer, err := call(ctx, api.Reject, &checkoutv1.RejectRequest{
			OrderId: orderID, Reason: s.reason, Actor: actor(c.getenv), DryRun: s.dryRun,
		})
		what := "rejected: what it holds is given back"
		if s.dryRun {
			what = "would be rejected: what it holds would be given back"
		}
		return s.steered(answer.GetCheckout(), what), err
	}
	return s.byID(&cobra.Command{
		Use:   "reject ID --reason TEXT",
		Short: "End a checkout that awaits approval: what it holds is given back",
		Long: `Ends a checkout that awaits approval: the authorization is voided, the stock released, and it ends REJECTED. Who rejected it
and why is kept. Exit status 4 if it does not await approval; the answer says what is so.`,
		Example:           `  orchestrator checkout reject ord-1001 --reason "the address does not exist"`,
		ValidArgsFunction: c.completeIDs(checkoutv1.Status_STATUS_AWAITING_APPROVAL),
	})
}
