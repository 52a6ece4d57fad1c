package main

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

type auditView struct {
	Checked    int64           `json:"checked"`
	Violations []violationView `json:"violations"`
	Notes      []string        `json:"notes"`
	// Accepted are steps that operators took as done without a participant's record.
	Accepted []acceptedView `json:"accepted"`
}

type acceptedView struct {
	OrderID string     `json:"order_id"`
	Step    string     `json:"step"`
	Actor   string     `json:"actor"`
	Reason  string     `json:"reason"`
	At      *time.Time `json:"at"`
	What    string     `json:"what"`
}

type violationView struct {
	OrderID   string `json:"order_id"`
	Invariant string `json:"invariant"`
	What      string `json:"what"`
}

func newAudit(c *cli.Client) *cobra.Command {
	var orderID, since string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Compare ended checkouts with what the participants recorded and with the events that tell of them",
		Long: `Compares every ended checkout with the operations that warehouse and payment recorded, and with the events that were
written, published and received; looks at open ones for what hangs unseen or is driven by no workflow, for orders that only a
participant knows, and has warehouse and payment compare their own books. What is in flight is looked at again first. For
events that are on their way it waits up to 15 s. What is no violation and worth knowing, such as events among the dead
letters or a consumer that cannot be asked, is noted. Exit status 8 if something is wrong; each violation says how to mend it.
What operators accepted without proof is listed each time, with who did and why, and is no violation.`,
		Example: `  orchestrator audit --since 1h
  orchestrator audit --order-id ord-1001 -o json`,
		Args: cli.Takes(),
	}
	cmd.Flags().StringVar(&orderID, "order-id", "", "only this order")
	cmd.Flags().StringVar(&since, "since", "", "only what ended since: RFC 3339, a date, or a duration such as 1h")
	cli.CompleteFlagWith(cmd, "order-id", checkouts(c).CompleteIDs())
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := &checkoutv1.AuditRequest{OrderId: orderID}
		var err error
		if request.Since, err = c.ParseSince(since); err != nil {
			return err
		}
		if err := out.Validate(); err != nil {
			return err
		}
		view, err := audit(cmd, c, request)
		if err != nil {
			return err
		}
		if err := out.Print(auditResult(c.Surroundings, view)); err != nil {
			return err
		}
		if !out.Structured() {
			for _, note := range view.Notes {
				c.Err.Say("note: %s", note)
			}
		}
		if len(view.Violations) > 0 {
			return cli.ExitWith(cli.ExitFindings, "the audit found %d violations in %d checkouts", len(view.Violations), view.Checked)
		}
		return nil
	}
	return cmd
}

// auditProgress is after how many checkouts a sign of life is given.
const auditProgress = 5000

func audit(cmd *cobra.Command, c *cli.Client, request *checkoutv1.AuditRequest) (auditView, error) {
	view := auditView{Violations: []violationView{}, Notes: []string{}, Accepted: []acceptedView{}}
	api, err := checkoutService(cmd.Context(), c)
	if err != nil {
		return view, err
	}
	stream, err := api.Audit(cmd.Context(), connect.NewRequest(request))
	if err != nil {
		return view, err
	}
	told := int64(0)
	for stream.Receive() {
		view.Checked = stream.Msg().Checked
		view.Notes = append(view.Notes, stream.Msg().Notes...)
		for _, v := range stream.Msg().Violations {
			view.Violations = append(view.Violations, violationView{OrderID: v.OrderId, Invariant: v.Invariant, What: v.What})
		}
		for _, a := range stream.Msg().Accepted {
			view.Accepted = append(view.Accepted, acceptedView{
				OrderID: a.OrderId, Step: a.Step, Actor: a.Actor, Reason: a.Reason, At: cli.ViewTime(a.At), What: a.What,
			})
		}
		if view.Checked >= told+auditProgress {
			told = view.Checked
			c.Err.Say("%d checkouts compared", told)
		}
	}
	return view, errors.Join(stream.Err(), stream.Close())
}

func auditResult(s cli.Surroundings, view auditView) cli.Result {
	var ids []string
	for _, v := range view.Violations {
		ids = append(ids, v.OrderID)
	}
	return cli.Result{Value: view, IDs: ids, Tables: func(bool) []cli.Table {
		summary := cli.Table{Headings: []string{"CHECKED", "VIOLATIONS"}}
		summary.Add(fmt.Sprint(view.Checked), fmt.Sprint(len(view.Violations)))
		violations := cli.Table{Headings: []string{"ORDER ID", "INVARIANT", "WHAT"}}
		for _, v := range view.Violations {
			violations.Add(v.OrderID, v.Invariant, v.What)
		}
		accepted := cli.Table{Headings: []string{"ORDER ID", "ACCEPTED STEP", "AGE", "BY", "REASON", "WHAT DIFFERS"}}
		for _, a := range view.Accepted {
			accepted.Add(a.OrderID, a.Step, s.Age(a.At), cli.OrDash(a.Actor), cli.OrDash(a.Reason), cli.OrDash(a.What))
		}
		return []cli.Table{summary, violations, accepted}
	}}
}
