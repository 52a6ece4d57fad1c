package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

func newStatus(c *client) *cobra.Command {
	var watching bool
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Tell how a checkout stands",
		Long: `Tells how a checkout stands: its steps, and, where a person must act, what hangs, since when and why, what is held, and what
to do next. "history" tells how it came to that.`,
		Example: `  orchestrator checkout status ord-1001
  orchestrator checkout status ord-1001 --watch`,
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs(),
	}
	cmd.Flags().BoolVar(&watching, "watch", false, "print it again after each change, until it is final; with -o json one object a line")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		if !watching {
			answer, err := call(cmd.Context(), api.Get, &checkoutv1.GetRequest{OrderId: args[0]})
			if err != nil {
				return err
			}
			return out.print(checkoutResult(c.surroundings, answer.Checkout))
		}
		first := true
		return watch(cmd.Context(), api, args[0], untilFinal, mayNotExist, func(now *checkoutv1.Checkout) error {
			if !first && (out.form == asTable || out.form == asWide) {
				c.out.say("")
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
			return s.standingTables(view, wide)
		},
	}
}

// standingTables are all that people are told of how a checkout stands.
func (s surroundings) standingTables(c checkoutView, wide bool) []table {
	return []table{s.checkoutTable([]checkoutView{c}, wide), s.attentionTable(c, wide), s.approvalTable(c), s.stepTable(c, wide)}
}

func (s surroundings) checkoutTable(checkouts []checkoutView, wide bool) table {
	t := table{headings: []string{"ORDER ID", "STATUS", "AMOUNT", "CUSTOMER", "AGE", "AT"}}
	if wide {
		t.headings = append(t.headings, "PHASE", "ENGINE", "RUN", "UPDATED", "ENDED", "DEADLINE", "REASON", "REASON CODE", "HELD")
	}
	for _, c := range checkouts {
		row := []string{c.OrderID, c.Status, amount(c.Amount), c.CustomerID, s.age(c.StartedAt), where(c)}
		if wide {
			deadline := "-"
			switch {
			case c.EndedAt != nil:
			case awaitsApproval(c):
				deadline = s.until(c.ApprovalDeadline) // The other one rests meanwhile.
			default:
				deadline = s.until(c.Deadline)
			}
			row = append(row, c.Phase, c.Engine, fmt.Sprint(c.Run), s.age(c.UpdatedAt), s.age(c.EndedAt), deadline, orDash(c.Reason),
				orDash(c.ReasonCode), s.held(c.Held))
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
	if awaitsApproval(c) {
		return checkout.Approval
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

// attentionTable is what who is called at night must know, and what can be done, with the commands to type.
func (s surroundings) attentionTable(c checkoutView, wide bool) table {
	a := c.Attention
	if a == nil {
		return table{}
	}
	t := table{headings: []string{"NEEDS ATTENTION", orDash(a.Step)}}
	t.add("cause", orDash(a.Cause))
	if wide {
		t.add("code", orDash(a.Code))
	}
	t.add("since", s.age(a.Since))
	t.add("attempts", fmt.Sprint(a.Attempts))
	t.add("next attempt", s.until(a.NextAttempt))
	t.add("last error", orDash(a.LastError))
	t.add("held", s.held(c.Held))
	// A line for each of the ways on, so that a command can be copied.
	for i, way := range strings.Split(a.Next, "; ") {
		label := "what to do"
		if i > 0 {
			label = ""
		}
		t.add(label, orDash(way))
	}
	return t
}

// approvalTable is what who is to approve must know.
func (s surroundings) approvalTable(c checkoutView) table {
	if !awaitsApproval(c) {
		return table{}
	}
	t := table{headings: []string{"AWAITS APPROVAL", "of " + amount(c.Amount)}}
	t.add("is undone", s.until(c.ApprovalDeadline))
	t.add("held", s.held(c.Held))
	t.add("approve", fmt.Sprintf(`orchestrator checkout approve %s --reason "..."`, c.OrderID))
	t.add("reject", fmt.Sprintf(`orchestrator checkout reject %s --reason "..."`, c.OrderID))
	return t
}

func awaitsApproval(c checkoutView) bool {
	return c.Status == statusWord(checkoutv1.Status_STATUS_AWAITING_APPROVAL)
}

// maxHeldItems is how many articles are told in a table.
const maxHeldItems = 5

// held says what the participants hold for an order.
func (s surroundings) held(h heldView) string {
	var items, parts []string
	for _, item := range h.Stock[:min(len(h.Stock), maxHeldItems)] {
		items = append(items, fmt.Sprintf("%d %s", item.Quantity, item.SKU))
	}
	if more := len(h.Stock) - len(items); more > 0 {
		items = append(items, fmt.Sprintf("%d more articles", more))
	}
	if len(items) > 0 {
		parts = append(parts, strings.Join(items, ", "))
	}
	if h.Authorized != nil {
		text := amount(h.Authorized) + " authorized"
		if h.AuthorizedUntil != nil {
			if left := h.AuthorizedUntil.Sub(s.now()); left > 0 {
				text += " for another " + span(left)
			} else {
				text += ", which expired " + span(-left) + " ago"
			}
		}
		parts = append(parts, text)
	}
	if h.Captured != nil {
		parts = append(parts, amount(h.Captured)+" captured")
	}
	return orDash(strings.Join(parts, "; "))
}

// until is how long it is until t.
func (s surroundings) until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return "in " + span(t.Sub(s.now()))
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
