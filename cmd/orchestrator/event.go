package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

type eventView struct {
	EventID       string          `json:"event_id"`
	Topic         string          `json:"topic"`
	Producer      string          `json:"producer"`
	OrderID       string          `json:"order_id"`
	SKU           string          `json:"sku"`
	Seq           int64           `json:"seq"`
	SchemaVersion int32           `json:"schema_version"`
	Coordination  string          `json:"coordination"`
	OccurredAt    *time.Time      `json:"occurred_at"`
	PublishedAt   *time.Time      `json:"published_at"`
	Traceparent   string          `json:"traceparent"`
	Deliveries    []deliveryView  `json:"deliveries"`
	Data          json.RawMessage `json:"data"`
}

type deliveryView struct {
	Consumer   string     `json:"consumer"`
	Outcome    string     `json:"outcome"`
	ReceivedAt *time.Time `json:"received_at"`
}

type republishView struct {
	Events      int64    `json:"events"`
	DryRun      bool     `json:"dry_run"`
	Unreachable []string `json:"unreachable"`
}

// eventSelection are the flags by which events are chosen.
type eventSelection struct {
	orderIDs    []string
	topic       string
	unpublished bool
	since       string
}

func (e *eventSelection) addTo(c *cli.Client, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&e.orderIDs, "order-id", nil, "only those about this order; repeatable")
	flags.StringVar(&e.topic, "topic", "", "only of this topic")
	flags.BoolVar(&e.unpublished, "unpublished", false, "only those that were not published yet")
	flags.StringVar(&e.since, "since", "", "only what occurred since: RFC 3339, a date, or a duration such as 1h")
	cli.CompleteFlag(cmd, "topic", topicNames(event.Topics()))
	cli.CompleteFlagWith(cmd, "order-id", checkouts(c).CompleteIDs())
}

func (e *eventSelection) empty() bool {
	return len(e.orderIDs) == 0 && e.topic == "" && !e.unpublished && e.since == ""
}

func (e *eventSelection) selection(s cli.Surroundings) (*eventv1.Selection, error) {
	since, err := s.ParseSince(e.since)
	if err != nil {
		return nil, err
	}
	if _, exists := event.Find(e.topic); e.topic != "" && !exists {
		return nil, cli.Usage("--topic %q is none of %s", e.topic, strings.Join(topicNames(event.Topics()), ", "))
	}
	return &eventv1.Selection{OrderIds: e.orderIDs, Topic: e.topic, Unpublished: e.unpublished, Since: since}, nil
}

func topicNames(topics []event.Topic) []string {
	var names []string
	for _, t := range topics {
		names = append(names, t.Name)
	}
	return names
}

func newEventList(c *cli.Client) *cobra.Command {
	var selected eventSelection
	var limit int32
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events of all apps, the newest, with who of their consumers received them",
		Long: `Lists the newest events that fit, oldest first, as their producers' outboxes keep them (40 days), and asks every
consumer that must receive them: applied; late (older than what was known, so it changed nothing); failed (and perhaps tried
again); dead-letter; missing; or unknown where the consumer cannot be asked.

The same by plain HTTP, as a GET:
  curl -G "$ORCHESTRATOR_SERVER/checkout.v1.CheckoutService/ListEvents" -d connect=v1 -d encoding=json \
    --data-urlencode 'message={"selection": {"order_ids": ["ord-1001"]}}'`,
		Args: cli.Takes(),
	}
	selected.addTo(c, cmd)
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many at most, 1 to 1000")
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		if limit < 1 {
			return cli.Usage("--limit must be 1 to 1000")
		}
		selection, err := selected.selection(c.Surroundings)
		if err != nil {
			return err
		}
		api, err := checkoutService(cmd.Context(), c)
		if err != nil {
			return err
		}
		answer, err := cli.Call(cmd.Context(), api.ListEvents, &checkoutv1.ListEventsRequest{Selection: selection, Limit: limit})
		if err != nil {
			return err
		}
		tellUnreachable(c, answer.Unreachable)
		if answer.More {
			c.Err.Say("there are older ones: see --limit and --since")
		}
		return out.Print(eventsResult(c.Surroundings, answer.Events))
	}
	return cmd
}

// tellUnreachable says whose part of an answer is missing.
func tellUnreachable(c *cli.Client, apps []string) {
	for _, app := range apps {
		c.Err.Say("cannot be asked: %s", app)
	}
}

func eventsResult(s cli.Surroundings, events []*checkoutv1.TracedEvent) cli.Result {
	views, ids := make([]eventView, len(events)), make([]string, len(events))
	for i, e := range events {
		views[i] = viewEvent(e)
		ids[i] = views[i].EventID
	}
	return cli.Result{Value: views, IDs: ids, Tables: func(wide bool) []cli.Table {
		t := cli.Table{Headings: []string{"AGE", "TOPIC", "ABOUT", "SEQ", "PUBLISHED", "RECEIVED"}}
		if wide {
			t.Headings = append(t.Headings, "EVENT ID", "COORDINATION")
		}
		for _, v := range views {
			var received []string
			for _, d := range v.Deliveries {
				received = append(received, d.Consumer+" "+d.Outcome)
			}
			row := []string{s.Age(v.OccurredAt), v.Topic, v.OrderID + v.SKU, fmt.Sprint(v.Seq), s.Age(v.PublishedAt), cli.OrDash(strings.Join(received, ", "))}
			if wide {
				row = append(row, v.EventID, cli.OrDash(v.Coordination))
			}
			t.Add(row...)
		}
		return []cli.Table{t}
	}}
}

func viewEvent(e *checkoutv1.TracedEvent) eventView {
	h := e.GetEvent().GetHeader()
	view := eventView{
		EventID: h.GetEventId(), Topic: h.GetTopic(), Producer: h.GetProducer(), OrderID: h.GetOrderId(), SKU: h.GetSku(), Seq: h.GetSeq(),
		SchemaVersion: h.GetSchemaVersion(), Coordination: h.GetCoordination(), OccurredAt: cli.ViewTime(h.GetOccurredAt()),
		PublishedAt: cli.ViewTime(e.GetEvent().GetPublishedAt()), Traceparent: h.GetTraceparent(), Deliveries: []deliveryView{},
		Data: json.RawMessage("null"),
	}
	if data := e.GetEvent().GetData(); json.Valid([]byte(data)) {
		view.Data = json.RawMessage(data)
	}
	for _, d := range e.GetDeliveries() {
		view.Deliveries = append(view.Deliveries, deliveryView{Consumer: d.Consumer, Outcome: d.Outcome, ReceivedAt: cli.ViewTime(d.ReceivedAt)})
	}
	return view
}

func newRepublish(c *cli.Client) *cobra.Command {
	var selected eventSelection
	var reason string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "republish [--order-id ID] [--topic T] [--unpublished] [--since T]",
		Short: "Publish events again; who knows them takes no notice",
		Long: `Has the producers publish events again, with the ids that they have: consumers that received them take no notice, the
others catch up. For what a broker lost, and for a consumer that was restored from a backup. Something must be selected.
Exit status 6 if an app could not be told; the others were.`,
		Args: cli.Takes(),
	}
	selected.addTo(c, cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why; the server's log keeps it")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell how many there are")
	out := cli.AddOutput(cmd, c.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		if selected.empty() {
			return cli.Usage("say which events: --order-id, --topic, --unpublished or --since")
		}
		selection, err := selected.selection(c.Surroundings)
		if err != nil {
			return err
		}
		api, err := checkoutService(cmd.Context(), c)
		if err != nil {
			return err
		}
		answer, err := cli.Call(cmd.Context(), api.RepublishEvents, &checkoutv1.RepublishEventsRequest{
			Selection: selection, Reason: reason, Actor: c.Actor(), DryRun: dryRun,
		})
		if err != nil {
			return err
		}
		view := republishView{Events: answer.Events, DryRun: dryRun, Unreachable: append([]string{}, answer.Unreachable...)}
		if err := out.Print(republishResult(view)); err != nil {
			return err
		}
		if len(view.Unreachable) > 0 {
			return cli.ExitWith(cli.ExitUnreachable, "not all apps could be told: %s", strings.Join(view.Unreachable, "; "))
		}
		return nil
	}
	return cmd
}

func republishResult(view republishView) cli.Result {
	return cli.Result{Value: view, Tables: func(bool) []cli.Table {
		t := cli.Table{Headings: []string{"EVENTS", "WHAT"}}
		what := "published again"
		if view.DryRun {
			what = "would be published again"
		}
		t.Add(fmt.Sprint(view.Events), what)
		return []cli.Table{t}
	}}
}
