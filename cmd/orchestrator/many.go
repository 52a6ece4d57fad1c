package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

// many are the flags by which a verb goes through all checkouts that a query finds.
type many struct {
	query query
	limit int
	pace
}

// pace are the flags of every verb that does something to many.
type pace struct {
	yes bool
	rps int
}

const (
	defaultRPS = 20
	maxRPS     = 1000
	// listPage is how many checkouts one call finds, and foundProgress after how many there is a sign of life.
	listPage      = 1000
	foundProgress = 10 * listPage
	// doneProgress is after how many that were tried there is a sign of life.
	doneProgress = 100
)

func (m *many) addTo(cmd *cobra.Command) {
	m.query.addTo(cmd)
	cmd.Flags().IntVar(&m.limit, "limit", 0, "of a query, the newest N only; 0 means all")
	m.pace.addTo(cmd, defaultRPS)
}

func (p *pace) addTo(cmd *cobra.Command, rps int) {
	cmd.Flags().BoolVar(&p.yes, "yes", false, "do not ask whether to go on")
	cmd.Flags().IntVar(&p.rps, "rps", rps, fmt.Sprintf("how many a second at most, 1 to %d", maxRPS))
}

func (p *pace) validate() error {
	if p.rps < 1 || p.rps > maxRPS {
		return usage("--rps must be 1 to %d", maxRPS)
	}
	return nil
}

// choice tells whether a checkout is named, or chosen by a query. A verb that was told neither, or both, changes nothing: one
// that an unset variable left without its id must not be about all.
func (m *many) choice(cmd *cobra.Command, args, mayName []string) (named bool, err error) {
	var given []string
	for _, name := range queryFlags() {
		if f := cmd.Flags().Lookup(name); f.Changed {
			if f.Value.String() == f.DefValue || f.Value.String() == "[]" {
				return false, usage("--%s %s chooses nothing; leave it out", name, f.Value)
			}
			if len(args) == 0 || !slices.Contains(mayName, name) {
				given = append(given, name)
			}
		}
	}
	switch {
	case len(args) > 1:
		return false, usage("%s: %q is one argument too many; one id, or a query", cmd.CommandPath(), args[1])
	case len(args) == 1 && len(given) > 0:
		return false, usage("%q and --%s: an id and a query are two ways to say which; take one", args[0], given[0])
	case len(args) == 1 && (m.limit != 0 || cmd.Flags().Changed("rps")):
		return false, usage("--limit and --rps are for a query")
	case len(args) == 0 && len(given) == 0:
		return false, usage("say which: an id, or --%s", strings.Join(queryFlags(), ", --"))
	case m.limit < 0:
		return false, usage("--limit must not be negative")
	}
	return len(args) == 1, m.validate()
}

// each finds all that fit, tells what they are, asks, and does it to one after the other.
func (s *steering) each(ctx context.Context, out *output, m many) error {
	request, err := m.query.request(s.now())
	if err != nil {
		return err
	}
	api, err := s.api(ctx)
	if err != nil {
		return err
	}
	// All are found before the first is changed: a change would move the pages.
	all, err := s.find(ctx, api, request, m.limit)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		s.err.say("no checkout fits")
		return out.print(deedsResult(nil))
	}
	s.err.say("%s %s, because: %s", s.verb, summary(all), s.reason)
	if !s.dryRun && !m.yes {
		if !s.terminal {
			return usage("nobody can be asked here, so nothing was changed; --yes goes on without asking, --dry-run shows what it would do")
		}
		if err := s.confirm(ctx); err != nil {
			return err
		}
	}
	deeds, err := s.goThrough(ctx, api, all, m.rps)
	return errors.Join(out.print(deedsResult(deeds)), err)
}

// found is what is kept of a checkout that a query found.
type found struct {
	orderID, status string
	amount          moneyView
}

func (s *steering) find(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, request *checkoutv1.ListRequest, limit int) ([]found, error) {
	var all []found
	for {
		request.Limit = listPage
		if limit > 0 {
			request.Limit = int32(min(listPage, limit-len(all)))
		}
		answer, err := call(ctx, api.List, request)
		if err != nil {
			return nil, err
		}
		for _, c := range answer.Checkouts {
			all = append(all, found{orderID: c.OrderId, status: statusWord(c.Status),
				amount: moneyView{Currency: c.Amount.GetCurrency(), MinorUnits: c.Amount.GetMinorUnits()}})
		}
		request.PageToken = answer.NextPageToken
		if request.PageToken == "" || limit > 0 && len(all) >= limit {
			return all, nil
		}
		if len(all)%foundProgress == 0 {
			s.err.say("%d found so far", len(all))
		}
	}
}

// summary is what people must know before they say yes: how many, in which statuses, and how much money.
func summary(all []found) string {
	statuses, money := make(map[string]int), make(map[string]int64)
	for _, f := range all {
		statuses[f.status]++
		money[f.amount.Currency] += f.amount.MinorUnits
	}
	var counts, sums []string
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		counts = append(counts, fmt.Sprintf("%d %s", statuses[status], status))
	}
	for _, currency := range slices.Sorted(maps.Keys(money)) {
		sums = append(sums, amount(&moneyView{Currency: currency, MinorUnits: money[currency]}))
	}
	noun := "checkouts"
	if len(all) == 1 {
		noun = "checkout"
	}
	return fmt.Sprintf("%d %s (%s), %s in all", len(all), noun, strings.Join(counts, ", "), strings.Join(sums, " and "))
}

// deedView is what became of one of many.
type deedView struct {
	OrderID string `json:"order_id"`
	// Done is false also where nothing was to be changed (dry_run); then an empty error says that it would be done.
	Done   bool   `json:"done"`
	DryRun bool   `json:"dry_run"`
	Status string `json:"status"`
	What   string `json:"what"`
	Error  string `json:"error"`

	// word says it in the table.
	word string
}

// goThrough does it to one after the other, at most rps a second. What one checkout's state does not allow is told and passed over;
// anything else would meet the rest as well, so it ends there. What was done is returned also beside an error.
func (s *steering) goThrough(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, all []found, rps int) ([]deedView, error) {
	var deeds []deedView
	refused := 0
	next := time.NewTicker(time.Second / time.Duration(rps))
	defer next.Stop()
	for i, f := range all {
		if i > 0 {
			select {
			case <-next.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return deeds, cutShort(ctx, "interrupted after %s", progress(i, refused, len(all)))
		}
		view := deedView{OrderID: f.orderID, Status: f.status, DryRun: s.dryRun}
		// An interrupt waits for this one: one that is broken off may have been done or not.
		d, err := s.do(context.WithoutCancel(ctx), api, f.orderID)
		switch status := exitStatus(err); status {
		case exitDone:
			view.Done, view.Status, view.What, view.word = !s.dryRun, statusWord(d.checkout.GetStatus()), d.what, "done"
			if s.dryRun {
				view.word = "would be done"
			}
		case exitConflict, exitNotFound:
			view.Error, view.word = explain(err), "refused"
			refused++
		default:
			view.Error, view.word = explain(err), "failed"
			if status == exitUnreachable {
				view.word = "not known"
			}
			return append(deeds, view), exitWith(status, "stopped at %s, after %s: %w", f.orderID, progress(i, refused, len(all)), err)
		}
		deeds = append(deeds, view)
		if len(deeds)%doneProgress == 0 {
			s.err.say("%d of %d", len(deeds), len(all))
		}
	}
	if refused > 0 {
		return deeds, exitWith(exitConflict, "%d of %d were refused", refused, len(all))
	}
	return deeds, nil
}

// progress says how far it came.
func progress(tried, refused, all int) string {
	text := fmt.Sprintf("%d of %d", tried, all)
	if refused > 0 {
		text += fmt.Sprintf(", of which %d were refused", refused)
	}
	return text
}

func deedsResult(deeds []deedView) result {
	var ids []string
	for _, d := range deeds {
		if d.Error == "" {
			ids = append(ids, d.OrderID)
		}
	}
	return result{value: append([]deedView{}, deeds...), ids: ids, tables: func(bool) []table {
		t := table{headings: []string{"ORDER ID", "RESULT", "WHY"}}
		for _, d := range deeds {
			// An error may have a line for each field that is wrong.
			t.add(d.OrderID, d.word, orDash(d.What+strings.Join(strings.Fields(d.Error), " ")))
		}
		return []table{t}
	}}
}
