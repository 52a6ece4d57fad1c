package main

import (
	"context"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
	"github.com/checkoutsaga/orchestrator/workflows"
)

// newCheckout has the verbs about checkouts: those of every saga, in a shop's words, and a start and a history of its own.
func newCheckout(c *cli.Client) *cobra.Command {
	k := checkouts(c)
	return cli.Group(&cobra.Command{Use: "checkout", Short: "Start, see and steer checkouts"},
		newStart(k), newHistory(k),
		k.Status(&cobra.Command{
			Use:   "status ID",
			Short: "Tell how a checkout stands",
			Long: `Tells how a checkout stands: its steps, and, where a person must act, what hangs, since when and why, what is held, and what
to do next. "history" tells how it came to that.`,
			Example: `  orchestrator checkout status ord-1001
  orchestrator checkout status ord-1001 --watch`,
		}),
		k.List(&cobra.Command{
			Use:   "list",
			Short: "List checkouts, newest first",
			Long: `Lists checkouts, newest first, a page at a time. Each flag narrows it further; of --status there may be several. The same
flags say to cancel, resolve and redrive which checkouts they are about.`,
			Example: `  orchestrator checkout list --attention
  orchestrator checkout list --status AWAITING_APPROVAL
  orchestrator checkout list --status REJECTED --reason-code card_declined --since 1h -o ids`,
		}),
		k.Wait(&cobra.Command{
			Use:   "wait ID",
			Short: "Wait until a checkout has ended or needs attention",
			Long: `Waits until a checkout has ended or needs attention, telling its progress on stderr. The exit status tells the
end: 0 confirmed, 10 rejected, 11 cancelled or expired, 12 needs attention, 7 not ended in time. While a checkout awaits
approval it goes on waiting.`,
			Example: "  orchestrator checkout wait ord-1001 --timeout 5m",
		}),
		k.Cancel(&cobra.Command{
			Use:   "cancel ID | QUERY --reason TEXT",
			Short: "Ask that a checkout, or all that a query finds, be undone",
			Long: `Asks that a checkout be undone, and tells what is undone, what is still to be undone, and what cannot be. Once the
payment is being captured it is too late: exit status 4, and the answer says what is so.
` + sagaverbs.HelpOnQueries,
			Example: `  orchestrator checkout cancel ord-1001 --reason "customer called" --dry-run
  orchestrator checkout cancel --customer cus-17 --status RUNNING --reason "stolen card" --yes`,
		}),
		k.Approve(&cobra.Command{
			Use:   "approve ID --reason TEXT",
			Short: "Let a checkout that awaits approval go on",
			Long: `Lets a checkout that awaits approval go on: its payment is captured and its stock shipped. Who approved it and why is kept.
Exit status 4 if it does not await approval; the answer says what is so. "list --status AWAITING_APPROVAL" finds those that do.`,
			Example: `  orchestrator checkout approve ord-1001 --reason "known customer"`,
		}, "approved: the payment is captured next", "would be approved: the payment would be captured next"),
		k.Reject(&cobra.Command{
			Use:   "reject ID --reason TEXT",
			Short: "End a checkout that awaits approval: what it holds is given back",
			Long: `Ends a checkout that awaits approval: the authorization is voided, the stock released, and it ends REJECTED. Who rejected it
and why is kept. Exit status 4 if it does not await approval; the answer says what is so.`,
			Example: `  orchestrator checkout reject ord-1001 --reason "the address does not exist"`,
		}, "rejected: what it holds is given back", "would be rejected: what it holds would be given back"),
		k.Resolve(&cobra.Command{
			Use:   "resolve ID | QUERY --step STEP --as retry|done|refund --reason TEXT",
			Short: "Settle a step that cannot be settled by itself, of a checkout or of all that a query finds",
			Long: `Settles the step or compensation that a checkout waits at; its attention names it. Who did it and why is kept.

  --as retry   tries it at once, as after the cause was mended.
  --as done    takes it as done, where the participant's record says so. With --without-proof also where it does not: that is
               kept for ever, and every audit lists it as accepted.
  --as refund  after the payment was captured and before the stock is shipped: releases the stock, refunds the money, and ends
               CANCELLED.

Exit status 4 if the checkout's state does not allow it; the answer says what is so.
` + sagaverbs.HelpOnQueries + `
--step says both: which step is settled, and, in a query, that only checkouts that are at it now are meant.`,
			Example: `  orchestrator checkout resolve ord-1001 --step release-stock --as retry --reason "warehouse is back"
  orchestrator checkout resolve --attention --step release-stock --as retry --reason "warehouse is back" --yes --rps 5
  orchestrator checkout resolve ord-1001 --step commit-stock --as refund --reason "the pieces are broken" --dry-run`,
		}),
		k.Redrive(&cobra.Command{
			Use:   "redrive ID | QUERY --reason TEXT",
			Short: "Hand a checkout, or all that a query finds, to a new run",
			Long: `Hands an open checkout to a new run, which goes on in the checkout's phase: forward, only forward once the payment is being
captured, only back where it is being undone. What is on record is not done again. For a run that stopped or is lost; and, with
--engine, for one that another engine shall drive from now on. Exit status 4 if the checkout's state does not allow it.
` + sagaverbs.HelpOnQueries,
			Example: `  orchestrator checkout redrive ord-1001 --reason "its run stopped at a mistake that is mended"
  orchestrator checkout redrive --status RUNNING --older-than 1h --engine embedded --reason "leaving Dapr" --dry-run`,
		}),
	)
}

// checkouts are the kind of saga that has orders, and so customers, prices and stock.
func checkouts(c *cli.Client) *sagaverbs.Kind {
	k := &sagaverbs.Kind{
		Client: c, Group: "checkout", One: "checkout", Many: "checkouts",
		Args: []string{"ID"}, Headings: []string{"ORDER ID"}, Fields: []string{"order_id"},
		About: "customer", OnlyAbout: "only of this customer", Columns: []string{"HELD"}, Steps: stepWords(),
		// Participants may add words of their own.
		ReasonCodes: []string{
			"out_of_stock", "unknown_article", "card_declined", "insufficient_funds", "unknown_payment_method", "authorization_expired",
			"approval_rejected", "approval_deadline", "deadline", "cancelled", "refunded",
		},
		SuchReasons: "card_declined or deadline",
	}
	k.Reach = func(ctx context.Context) (sagaverbs.API, error) {
		service, err := checkoutService(ctx, c)
		return checkoutAPI{k, service}, err
	}
	return k
}

func stepWords() []string {
	definition, err := workflows.Checkout()
	if err != nil {
		return nil // The server says so when it starts.
	}
	return definition.Plan().Names()
}

// checkoutService is the API of checkouts at the server.
func checkoutService(ctx context.Context, c *cli.Client) (checkoutv1connect.CheckoutServiceClient, error) {
	return cli.Reach(ctx, c, checkoutv1connect.NewCheckoutServiceClient)
}

// checkoutAPI is that service as the verbs of every saga call it.
type checkoutAPI struct {
	kind    *sagaverbs.Kind
	service checkoutv1connect.CheckoutServiceClient
}

func (a checkoutAPI) Get(ctx context.Context, id sagaverbs.ID) (*sagaverbs.Standing, error) {
	answer, err := cli.Call(ctx, a.service.Get, &checkoutv1.GetRequest{OrderId: id.Key})
	if err != nil {
		return nil, err
	}
	return a.standing(answer.Checkout), nil
}

func (a checkoutAPI) Watch(ctx context.Context, w sagaverbs.Watched, use func(*sagaverbs.Standing) error) error {
	return sagaverbs.Follow(ctx, a.kind, w, func() (*connect.ServerStreamForClient[checkoutv1.WatchResponse], error) {
		return a.service.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: w.Key, UntilSettled: w.Settled}))
	}, func(m *checkoutv1.WatchResponse) error { return use(a.standing(m.Checkout)) })
}

func (a checkoutAPI) List(ctx context.Context, q sagaverbs.Query, page sagaverbs.Page) ([]*sagaverbs.Standing, string, error) {
	req := &checkoutv1.ListRequest{
		CustomerId: q.About, Step: q.Step, ReasonCode: q.ReasonCode, AmountOver: q.AmountOver, OlderThan: q.OlderThan, Since: q.Since,
		Attention: q.Attention, Limit: page.Limit, PageToken: page.Token,
	}
	for _, word := range q.Statuses {
		req.Statuses = append(req.Statuses, checkoutv1.Status(checkoutv1.Status_value[sagaverbs.StatusName(word)]))
	}
	answer, err := cli.Call(ctx, a.service.List, req)
	if err != nil {
		return nil, "", err
	}
	found := make([]*sagaverbs.Standing, len(answer.Checkouts))
	for i, c := range answer.Checkouts {
		found[i] = a.standing(c)
	}
	return found, answer.NextPageToken, nil
}

func (a checkoutAPI) Cancel(ctx context.Context, id sagaverbs.ID, by sagaverbs.Order) (*sagaverbs.Standing, sagaverbs.Undoing, error) {
	answer, err := cli.Call(ctx, a.service.Cancel, &checkoutv1.CancelRequest{OrderId: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun})
	if err != nil {
		return nil, sagaverbs.Undoing{}, err
	}
	return a.standing(answer.Checkout), sagaverbs.Undoing{Undone: answer.Undone, ToUndo: answer.ToUndo, CannotUndo: answer.CannotUndo}, nil
}

func (a checkoutAPI) Approve(ctx context.Context, id sagaverbs.ID, by sagaverbs.Order) (*sagaverbs.Standing, error) {
	answer, err := cli.Call(ctx, a.service.Approve, &checkoutv1.ApproveRequest{OrderId: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun})
	if err != nil {
		return nil, err
	}
	return a.standing(answer.Checkout), nil
}

func (a checkoutAPI) Reject(ctx context.Context, id sagaverbs.ID, by sagaverbs.Order) (*sagaverbs.Standing, error) {
	answer, err := cli.Call(ctx, a.service.Reject, &checkoutv1.RejectRequest{OrderId: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun})
	if err != nil {
		return nil, err
	}
	return a.standing(answer.Checkout), nil
}

func (a checkoutAPI) Resolve(ctx context.Context, id sagaverbs.ID, r sagaverbs.Resolution, by sagaverbs.Order) (*sagaverbs.Standing, string, error) {
	answer, err := cli.Call(ctx, a.service.Resolve, &checkoutv1.ResolveRequest{
		OrderId: id.Key, Step: r.Step, As: checkoutv1.Resolution(checkoutv1.Resolution_value["RESOLUTION_"+strings.ToUpper(r.As)]),
		WithoutProof: r.WithoutProof, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, "", err
	}
	return a.standing(answer.Checkout), answer.What, nil
}

func (a checkoutAPI) Redrive(ctx context.Context, id sagaverbs.ID, engine string, by sagaverbs.Order) (*sagaverbs.Standing, string, error) {
	answer, err := cli.Call(ctx, a.service.Redrive, &checkoutv1.RedriveRequest{
		OrderId: id.Key, Engine: engine, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, "", err
	}
	return a.standing(answer.Checkout), answer.What, nil
}

// standing is a checkout as the verbs of every saga look at it.
func (a checkoutAPI) standing(c *checkoutv1.Checkout) *sagaverbs.Standing {
	view := viewCheckout(c)
	held := heldWords(a.kind.Surroundings, view.Held)
	s := sagaverbs.StandingOf(c, c.GetStatus())
	s.ID, s.About, s.Amount = sagaverbs.ID{Key: view.OrderID}, view.CustomerID, view.Amount
	s.Attention, s.Steps = view.Attention, view.Steps
	s.Held, s.Columns = held, []string{held}
	s.View = func(done *sagaverbs.Done) any {
		view.Done = done
		return view
	}
	return s
}
