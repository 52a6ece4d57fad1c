package main

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
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

func newAudit(c *client) *cobra.Command {
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
		Args: takes(),
	}
	cmd.Flags().StringVar(&orderID, "order-id", "", "only this order")
	cmd.Flags().StringVar(&since, "since", "", "only what ended since: RFC 3339, a date, or a duration such as 1h")
	if err := cmd.RegisterFlagCompletionFunc("order-id", c.completeIDs()); err != nil {
		panic(err) // The flag stands above.
	}
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := &checkoutv1.AuditRequest{OrderId: orderID}
		var err error
		if request.Since, err = parseSince(since, c.now()); err != nil {
			return err
		}
		if err := out.validate(); err != nil {
			return err
		}
		view, err := audit(cmd, c, request)
		if err != nil {
			return err
		}
		if err := out.print(auditResult(c.surroundings, view)); err != nil {
			return err
		}
		if !out.structured() {
			for _, note := range view.Notes {
				c.err.say("note: %s", note)
			}
		}
		if len(view.Violations) > 0 {
			return exitWith(exitFindings, "the audit found %d violations in %d checkouts", len(view.Violations), view.Checked)
		}
		return nil
	}
	return cmd
}

// auditProgress is after how many checkouts a sign of life is given.
const auditProgress = 5000

func audit(cmd *cobra.Command, c *client, request *checkoutv1.AuditRequest) (auditView, error) {
	view := auditView{Violations: []violationView{}, Notes: []string{}, Accepted: []acceptedView{}}
	api, err := c.api(cmd.Context())
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
				OrderID: a.OrderId, Step: a.Step, Actor: a.Actor, Reason: a.Reason, At: viewTime(a.At), What: a.What,
			})
		}
		if view.Checked >= told+auditProgress {
			told = view.Checked
			c.err.say("%d checkouts compared", told)
		}
	}
	return view, errors.Join(stream.Err(), stream.Close())
}

func auditResult(s surroundings, view auditView) result {
	var ids []string
	for _, v := range view.Violations {
		ids = append(ids, v.OrderID)
	}
	return result{value: view, ids: ids, tables: func(bool) []table {
		summary := table{headings: []string{"CHECKED", "VIOLATIONS"}}
		summary.add(fmt.Sprint(view.Checked), fmt.Sprint(len(view.Violations)))
		violations := table{headings: []string{"ORDER ID", "INVARIANT", "WHAT"}}
		for _, v := range view.Violations {
			violations.add(v.OrderID, v.Invariant, v.What)
		}
		accepted := table{headings: []string{"ORDER ID", "ACCEPTED STEP", "AGE", "BY", "REASON", "WHAT DIFFERS"}}
		for _, a := range view.Accepted {
			accepted.add(a.OrderID, a.Step, s.age(a.At), orDash(a.Actor), orDash(a.Reason), orDash(a.What))
		}
		return []table{summary, violations, accepted}
	}}
}
