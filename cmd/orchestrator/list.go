package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
)

// listOptions are the flags by which checkouts are chosen.
type listOptions struct {
	statuses   []string
	customer   string
	step       string
	amountOver int64
	olderThan  time.Duration
	since      string
	attention  bool
	limit      int32
	pageToken  string
}

func newList(c *client) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List checkouts, newest first",
		Args:  takes(),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.statuses, "status", nil, "only with this status; repeatable")
	flags.StringVar(&o.customer, "customer", "", "only of this customer")
	flags.StringVar(&o.step, "step", "", "only those that are at this step or compensation now")
	flags.Int64Var(&o.amountOver, "amount-over", 0, "only above this many minor units; 0 means all")
	flags.DurationVar(&o.olderThan, "older-than", 0, "only those started longer ago, such as 10m; 0 means all")
	flags.StringVar(&o.since, "since", "", "only those started since: RFC 3339, a date, or a duration such as 1h")
	flags.BoolVar(&o.attention, "attention", false, "only those that need attention")
	flags.Int32Var(&o.limit, "limit", 100, "how many at most, 1 to 1000")
	flags.StringVar(&o.pageToken, "page-token", "", "go on where the last page ended")
	complete(cmd, "status", statusWords())
	complete(cmd, "step", stepWords())
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		request, err := o.request(c.now())
		if err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := call(cmd.Context(), api.List, request)
		if err != nil {
			return err
		}
		if answer.NextPageToken != "" {
			fmt.Fprintf(c.err, "there are more: --page-token %s\n", answer.NextPageToken)
		}
		return out.print(listResult(c.surroundings, answer.Checkouts))
	}
	return cmd
}

func listResult(s surroundings, checkouts []*checkoutv1.Checkout) result {
	views, ids := make([]checkoutView, len(checkouts)), make([]string, len(checkouts))
	for i, wire := range checkouts {
		views[i], ids[i] = viewCheckout(wire), wire.OrderId
	}
	return result{value: views, ids: ids, tables: func(wide bool) []table { return []table{s.checkoutTable(views, wide)} }}
}

func (o listOptions) request(now time.Time) (*checkoutv1.ListRequest, error) {
	req := &checkoutv1.ListRequest{
		CustomerId: o.customer, Step: o.step, AmountOver: o.amountOver, Attention: o.attention, Limit: o.limit, PageToken: o.pageToken,
	}
	if o.limit < 1 {
		return nil, usage("--limit must be 1 to 1000")
	}
	if o.olderThan != 0 {
		req.OlderThan = durationpb.New(o.olderThan)
	}
	for _, word := range o.statuses {
		number, found := checkoutv1.Status_value["STATUS_"+strings.ToUpper(strings.ReplaceAll(word, "-", "_"))]
		if !found || number == 0 {
			return nil, usage("--status %q is none of %s", word, strings.Join(statusWords(), ", "))
		}
		req.Statuses = append(req.Statuses, checkoutv1.Status(number))
	}
	if o.step != "" && !slices.Contains(stepWords(), o.step) {
		return nil, usage("--step %q is none of %s", o.step, strings.Join(stepWords(), ", "))
	}
	var err error
	req.Since, err = parseSince(o.since, now)
	return req, err
}

// parseSince reads a time, or how long ago it was; empty means none.
func parseSince(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(now.Add(-ago.Abs())), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, usage("--since %q is no time such as 2026-01-31T15:04:05Z, no date, and no duration such as 1h", text)
}

func statusWords() []string {
	var words []string
	for number := 1; number < len(checkoutv1.Status_name); number++ {
		words = append(words, statusWord(checkoutv1.Status(number)))
	}
	return words
}

func stepWords() []string {
	var words []string
	for _, s := range checkout.Steps() {
		words = append(words, s.Name)
		if s.Compensation != "" {
			words = append(words, s.Compensation)
		}
	}
	return words
}
