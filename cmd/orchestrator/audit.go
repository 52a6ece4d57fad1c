package main

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
)

type auditView struct {
	Checked    int64           `json:"checked"`
	Violations []violationView `json:"violations"`
	Notes      []string        `json:"notes"`
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
written, published and received; looks for orders that only a participant knows and for checkouts that hang unseen. For
events that are on their way it waits up to 15 s. What is no violation and worth knowing, such as events among the dead
letters or a consumer that cannot be asked, is noted. Exit status 8 if something is wrong; each violation says how to mend it.`,
		Args: takes(),
	}
	cmd.Flags().StringVar(&orderID, "order-id", "", "only this order")
	cmd.Flags().StringVar(&since, "since", "", "only what ended since: RFC 3339, a date, or a duration such as 1h")
	if err := cmd.RegisterFlagCompletionFunc("order-id", c.completeIDs); err != nil {
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
		if orderID != "" && view.Checked == 0 {
			fmt.Fprintf(c.err, "%s has not ended, so there is nothing to compare yet\n", orderID)
		}
		if err := out.print(auditResult(view)); err != nil {
			return err
		}
		if !out.structured() {
			for _, note := range view.Notes {
				fmt.Fprintln(c.err, "note: "+note)
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
	view := auditView{Violations: []violationView{}, Notes: []string{}}
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
		if view.Checked >= told+auditProgress {
			told = view.Checked
			fmt.Fprintf(c.err, "%d checkouts compared\n", told)
		}
	}
	return view, errors.Join(stream.Err(), stream.Close())
}

func auditResult(view auditView) result {
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
		return []table{summary, violations}
	}}
}
