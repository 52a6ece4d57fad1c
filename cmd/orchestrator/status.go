package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
)

func newStatus(c *client) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "status ID",
		Short:             "Tell how a checkout stands",
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs,
	}
	cmd.Flags().BoolVar(&follow, "watch", false, "print it again after each change, until it is final; with -o json one object a line")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		if !follow {
			answer, err := call(cmd.Context(), api.Get, &checkoutv1.GetRequest{OrderId: args[0]})
			if err != nil {
				return err
			}
			return out.print(checkoutResult(c.surroundings, answer.Checkout))
		}
		first := true
		return watch(cmd.Context(), api, args[0], untilFinal, mayNotExist, func(now *checkoutv1.Checkout) error {
			if !first && (out.form == asTable || out.form == asWide) {
				fmt.Fprintln(c.out)
			}
			first = false
			return out.printOne(checkoutResult(c.surroundings, now))
		})
	}
	return cmd
}

func checkoutResult(s surroundings, wire *checkoutv1.Checkout) result {
	view := viewCheckout(wire)
	return result{
		value: view,
		ids:   []string{view.OrderID},
		tables: func(wide bool) []table {
			return []table{s.checkoutTable([]checkoutView{view}, wide), s.attentionTable(view), s.stepTable(view, wide)}
		},
	}
}

func (s surroundings) checkoutTable(checkouts []checkoutView, wide bool) table {
	t := table{headings: []string{"ORDER ID", "STATUS", "AMOUNT", "CUSTOMER", "AGE", "AT"}}
	if wide {
		t.headings = append(t.headings, "PHASE", "ENGINE", "RUN", "UPDATED", "ENDED", "DEADLINE", "REASON")
	}
	for _, c := range checkouts {
		row := []string{c.OrderID, c.Status, amount(c.Amount), c.CustomerID, s.age(c.StartedAt), where(c)}
		if wide {
			deadline := "-"
			if c.EndedAt == nil && c.Deadline != nil {
				deadline = "in " + span(c.Deadline.Sub(s.now()))
			}
			row = append(row, c.Phase, c.Engine, fmt.Sprint(c.Run), s.age(c.UpdatedAt), s.age(c.EndedAt), deadline, orDash(c.Reason))
		}
		t.add(row...)
	}
	return t
}

// where says in few words what a checkout does, waits for, or ended by.
func where(c checkoutView) string {
	if c.Attention != nil {
		return orDash(strings.TrimPrefix(c.Attention.Step+": "+c.Attention.Cause, ": "))
	}
	if c.EndedAt != nil {
		return orDash(c.Reason)
	}
	for _, s := range c.Steps {
		switch s.Compensation {
		case "running", "failing":
			return "undoing " + s.Name
		}
	}
	for _, s := range c.Steps {
		switch s.State {
		case "running", "failing", "unknown":
			return s.Name
		}
	}
	return orDash(c.Reason)
}

func (s surroundings) attentionTable(c checkoutView) table {
	t := table{headings: []string{"NEEDS ATTENTION", "CAUSE", "SINCE", "ATTEMPTS", "NEXT", "LAST ERROR"}}
	if a := c.Attention; a != nil {
		next := "-"
		if a.Next != nil {
			next = "in " + span(a.Next.Sub(s.now()))
		}
		t.add(orDash(a.Step), a.Cause, s.age(a.Since), fmt.Sprint(a.Attempts), next, orDash(a.LastError))
	}
	return t
}

func (s surroundings) stepTable(c checkoutView, wide bool) table {
	t := table{headings: []string{"STEP", "PARTICIPANT", "STATE", "ATTEMPTS", "TOOK", "UNDOING", "ERROR"}}
	if wide {
		t.headings = append(t.headings, "STARTED", "ENDED")
	}
	for _, step := range c.Steps {
		took := "-"
		if step.StartedAt != nil && step.EndedAt != nil {
			took = span(step.EndedAt.Sub(*step.StartedAt))
		}
		row := []string{step.Name, step.Participant, step.State, fmt.Sprint(step.Attempts), took, step.Compensation, orDash(step.Error)}
		if wide {
			row = append(row, s.age(step.StartedAt), s.age(step.EndedAt))
		}
		t.add(row...)
	}
	return t
}
