package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// query are the flags by which checkouts are chosen, by `list` and by the verbs that change many.
type query struct {
	statuses   []string
	customer   string
	step       string
	reasonCode string
	amountOver int64
	olderThan  time.Duration
	since      string
	attention  bool
}

func (q *query) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&q.statuses, "status", nil, "only with this status; repeatable")
	flags.StringVar(&q.customer, "customer", "", "only of this customer")
	flags.StringVar(&q.step, "step", "", "only those that are at this step or compensation now")
	flags.StringVar(&q.reasonCode, "reason-code", "", "only those that did not succeed for this reason, such as card_declined or deadline")
	flags.Int64Var(&q.amountOver, "amount-over", 0, "only above this many minor units; 0 means all")
	flags.DurationVar(&q.olderThan, "older-than", 0, "only those started longer ago, such as 10m; 0 means all")
	flags.StringVar(&q.since, "since", "", "only those started since: RFC 3339, a date, or a duration such as 1h")
	flags.BoolVar(&q.attention, "attention", false, "only those that need attention")
	complete(cmd, "status", statusWords())
	complete(cmd, "step", stepWords())
	complete(cmd, "reason-code", reasonCodes())
}

// queryFlags are the names of the flags of a query.
func queryFlags() []string {
	return []string{"status", "customer", "step", "reason-code", "amount-over", "older-than", "since", "attention"}
}

func (q query) request(now time.Time) (*checkoutv1.ListRequest, error) {
	req := &checkoutv1.ListRequest{
		CustomerId: q.customer, Step: q.step, ReasonCode: q.reasonCode, AmountOver: q.amountOver, Attention: q.attention,
	}
	if q.amountOver < 0 || q.olderThan < 0 {
		return nil, usage("--amount-over and --older-than must not be negative")
	}
	if q.olderThan != 0 {
		req.OlderThan = durationpb.New(q.olderThan)
	}
	for _, word := range q.statuses {
		number, found := checkoutv1.Status_value["STATUS_"+strings.ToUpper(strings.ReplaceAll(word, "-", "_"))]
		if !found || number == 0 {
			return nil, usage("--status %q is none of %s", word, strings.Join(statusWords(), ", "))
		}
		req.Statuses = append(req.Statuses, checkoutv1.Status(number))
	}
	if q.step != "" && !slices.Contains(stepWords(), q.step) {
		return nil, usage("--step %q is none of %s", q.step, strings.Join(stepWords(), ", "))
	}
	var err error
	req.Since, err = parseSince(q.since, now)
	return req, err
}

func newList(c *client) *cobra.Command {
	var q query
	var limit int32
	var pageToken string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List checkouts, newest first",
		Long: `Lists checkouts, newest first, a page at a time. Each flag narrows it further; of --status there may be several. The same
flags say to cancel, resolve and redrive which checkouts they are about.`,
		Example: `  orchestrator checkout list --attention
  orchestrator checkout list --status AWAITING_APPROVAL
  orchestrator checkout list --status REJECTED --reason-code card_declined --since 1h -o ids`,
		Args: takes(),
	}
	q.addTo(cmd)
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many at most, 1 to 1000")
	cmd.Flags().StringVar(&pageToken, "page-token", "", "go on where the last page ended")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		if limit < 1 {
			return usage("--limit must be 1 to 1000")
		}
		request, err := q.request(c.now())
		if err != nil {
			return err
		}
		request.Limit, request.PageToken = limit, pageToken
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		answer, err := call(cmd.Context(), api.List, request)
		if err != nil {
			return err
		}
		if answer.NextPageToken != "" {
			c.err.say("there are more: --page-token %s", answer.NextPageToken)
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
	definition, err := workflows.Checkout()
	if err != nil {
		return nil // The server says so when it starts.
	}
	return definition.Plan().Names()
}

// reasonCodes are what the shell is offered. Participants may add words of their own, so others are taken, too.
func reasonCodes() []string {
	return []string{
		"out_of_stock", "unknown_article", "card_declined", "insufficient_funds", "unknown_payment_method", "authorization_expired",
		"approval_rejected", "approval_deadline", "deadline", "cancelled", "refunded",
	}
}
