package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
)

// What an order given by flags alone takes where nothing is said.
const (
	defaultCustomer = "cus-cli"
	defaultCurrency = "EUR"
)

type startOptions struct {
	file          string
	orderID       string
	customer      string
	items         []string
	currency      string
	paymentMethod string
	deadline      time.Duration
	approval      time.Duration
	coordination  string
	wait          sagaverbs.WaitFlags
}

func newStart(k *sagaverbs.Kind) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start [-f order.json | -]",
		Short: "Start a checkout",
		Long: `Starts a checkout from a file (-f order.json, or -f - for stdin) or from flags; a flag that is given with a
file replaces the file's field. The same start again is the same checkout; the same order id with another
order is refused with exit status 4. Without an order id one is made and told on stderr, so that the start can
be repeated with it.

order.json: {"order_id": "ord-1001", "customer_id": "cus-17", "currency": "EUR",
             "items": [{"sku": "CHAIR-OAK", "quantity": 2}], "payment_method": "tok_visa"}
"order_id" may be left out; "deadline": "15m", "approval_deadline": "24h" and "coordination" may be added.`,
		Example: "  orchestrator checkout start --item CHAIR-OAK=2 --item LAMP-BRASS=1 --payment-method tok_visa --wait",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		// `start -` reads stdin, as `start -f -` does.
		if len(args) == 1 && args[0] == "-" && o.file == "" {
			o.file = "-"
			return nil
		}
		return cli.Takes()(cmd, args)
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.file, "file", "f", "", "order.json, or - for stdin; at most 1 MiB")
	flags.StringVar(&o.orderID, "order-id", "", "unique for ever; made if left out")
	flags.StringVar(&o.customer, "customer", defaultCustomer, "who orders; without a file")
	flags.StringArrayVar(&o.items, "item", nil, "SKU=QTY; repeatable")
	flags.StringVar(&o.currency, "currency", defaultCurrency, "ISO 4217; without a file")
	flags.StringVar(&o.paymentMethod, "payment-method", "", "the gateway's token, such as tok_visa")
	flags.DurationVar(&o.deadline, "deadline", 0, "how long it may take before it is undone, 1s to 720h; 0 means 15m")
	flags.DurationVar(&o.approval, "approval-deadline", 0, "how long it may await approval, where it needs one, 1s to 720h; 0 means 24h")
	flags.StringVar(&o.coordination, "coordination", "", "orchestrated (the default): a workflow calls the participants; choreographed: they react to events")
	o.wait.AddTo(cmd)
	cli.CompleteFlag(cmd, "coordination", []string{event.Orchestrated, event.Choreographed})
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.wait.Validate(cmd, out); err != nil {
			return err
		}
		order, err := o.order(k.In, flags.Changed)
		if err != nil {
			return err
		}
		return start(cmd.Context(), k, out, order, o.wait)
	}
	return cmd
}

func start(ctx context.Context, k *sagaverbs.Kind, out *cli.Output, order *checkoutv1.StartRequest, wait sagaverbs.WaitFlags) error {
	service, err := checkoutService(ctx, k.Client)
	if err != nil {
		return err
	}
	if order.OrderId == "" {
		order.OrderId = "ord-" + strings.ToLower(rand.Text()[:16])
		k.Err.Say("order id %s", order.OrderId)
	}
	api := checkoutAPI{k, service}
	return k.Begin(ctx, api, out, sagaverbs.Beginning{
		ID: sagaverbs.ID{Key: order.OrderId}, Again: "--order-id " + order.OrderId,
		Start: func(ctx context.Context) (*sagaverbs.Standing, bool, error) {
			answer, err := cli.Call(ctx, service.Start, order)
			if err != nil {
				return nil, false, err
			}
			return api.standing(answer.Checkout), answer.Created, nil
		},
	}, wait)
}

// order is the request that file and flags make together.
func (o startOptions) order(in io.Reader, given func(flag string) bool) (*checkoutv1.StartRequest, error) {
	view := orderView{CustomerID: o.customer, Currency: o.currency}
	if o.file != "" {
		var err error
		if view, err = readOrder(o.file, in); err != nil {
			return nil, err
		}
		if len(o.items) > 0 && len(view.Items) > 0 {
			return nil, cli.Usage("items: given in %s and by --item; give them once", sagaverbs.DocumentName(o.file, "an order"))
		}
		if given("customer") {
			view.CustomerID = o.customer
		}
		if given("currency") {
			view.Currency = o.currency
		}
	}
	if given("order-id") {
		if o.orderID == "" {
			return nil, cli.Usage("order_id: --order-id is empty; leave it out to have one made")
		}
		view.OrderID = o.orderID
	}
	if given("payment-method") {
		view.PaymentMethod = o.paymentMethod
	}
	if given("deadline") {
		view.Deadline = o.deadline.String()
	}
	if given("approval-deadline") {
		view.ApprovalDeadline = o.approval.String()
	}
	if given("coordination") {
		view.Coordination = o.coordination
	}
	for i, text := range o.items {
		item, err := parseItem(text)
		if err != nil {
			return nil, cli.Usage("items[%d]: --item %q %w", i, text, err)
		}
		view.Items = append(view.Items, item)
	}
	return view.request()
}

func parseItem(text string) (itemView, error) {
	sku, number, found := strings.Cut(text, "=")
	if !found || sku == "" {
		return itemView{}, errors.New("is not SKU=QTY")
	}
	quantity, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return itemView{}, errors.New("has no whole number as its quantity, or one that is far too large")
	}
	return itemView{SKU: sku, Quantity: int32(quantity)}, nil
}

// readOrder reads order.json strictly: what it does not understand it refuses.
func readOrder(path string, in io.Reader) (orderView, error) {
	text, name, err := sagaverbs.ReadDocument(path, in, "an order")
	if err != nil {
		return orderView{}, err
	}
	text = bytes.TrimSpace(text)
	if text[0] != '{' {
		return orderView{}, cli.Usage("%s is not a JSON object", name)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var view orderView
	if err := decoder.Decode(&view); err != nil {
		return orderView{}, cli.Usage("%s: %w", name, plainJSONError(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return orderView{}, cli.Usage("%s holds more than one JSON object", name)
	}
	return view, nil
}

// plainJSONError says in our words what the decoder says in Go's. The text of an unknown field is all there is of it.
func plainJSONError(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		return fmt.Errorf("%s: %s is not what belongs there", kind.Field, kind.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("is not JSON: %w (at byte %d)", err, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("is not JSON: it ends too early")
	}
	if field, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return fmt.Errorf("%s is no field of an order", strings.Trim(field, `"`))
	}
	return err
}

// request is the order as the API takes it. What is wrong with its values is for the API to say, all at once.
func (v orderView) request() (*checkoutv1.StartRequest, error) {
	req := &checkoutv1.StartRequest{
		OrderId: v.OrderID, CustomerId: v.CustomerID, Currency: v.Currency, PaymentMethod: v.PaymentMethod,
		Coordination: v.Coordination,
	}
	for _, item := range v.Items {
		req.Items = append(req.Items, &checkoutv1.Item{Sku: item.SKU, Quantity: item.Quantity})
	}
	var err error
	if req.Deadline, err = sagaverbs.ParseDeadline("deadline", v.Deadline); err != nil {
		return nil, err
	}
	req.ApprovalDeadline, err = sagaverbs.ParseDeadline("approval_deadline", v.ApprovalDeadline)
	return req, err
}
