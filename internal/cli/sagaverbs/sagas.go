package sagaverbs

import (
	"context"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// Sagas has the verbs about sagas of any definition, for every program of this engine.
func Sagas(c *cli.Client) *cobra.Command {
	k := sagas(c)
	example := func(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }
	saga := c.Program + " saga "
	return cli.Group(&cobra.Command{Use: "saga", Short: "Start, see and steer sagas of any definition"},
		newListDefinitions(k, saga), newShow(k, saga), newStart(k, saga), newHistory(k, saga), newAudit(k, saga),
		k.Status(&cobra.Command{
			Use:   "status NAME KEY",
			Short: "Tell how a saga stands",
			Long: `Tells how a saga stands: its steps, and, where a person must act, what hangs, since when and why, and what to do next. "history"
tells how it came to that; "show" tells what is still to come. With -o json also the input that it was started with.`,
			Example: example(saga+"status travel trip-17", saga+"status travel trip-17 --watch"),
		}),
		k.List(&cobra.Command{
			Use:   "list [NAME]",
			Short: "List sagas of one definition, or of all, newest first",
			Long: `Lists sagas, newest first, a page at a time: those of the definition NAME, or of all. Each flag narrows it further; of --status
there may be several. The same flags say to cancel, resolve and redrive which sagas they are about. With -o ids a line is the
key, or NAME KEY in a list of all.`,
			Example: example(saga+"list --attention", saga+"list travel --status AWAITING_APPROVAL", saga+"list travel --about ann --since 1h -o ids"),
		}),
		k.Wait(&cobra.Command{
			Use:   "wait NAME KEY",
			Short: "Wait until a saga has ended or needs attention",
			Long: `Waits until a saga has ended or needs attention, telling its progress on stderr. The exit status tells the end: 0 confirmed,
10 rejected, 11 cancelled or expired, 12 needs attention, 7 not ended in time. While a saga awaits approval it goes on waiting.`,
			Example: example(saga + "wait travel trip-17 --timeout 5m"),
		}),
		k.Cancel(&cobra.Command{
			Use:   "cancel NAME KEY | [NAME] QUERY --reason TEXT",
			Short: "Ask that a saga, or all that a query finds, be undone",
			Long: `Asks that a saga be undone, and tells what is undone, what is still to be undone, and what cannot be. Once its pivot is under way
it is too late: exit status 4, and the answer says what is so.
` + HelpOnQueries,
			Example: example(saga+`cancel travel trip-17 --reason "the traveller called" --dry-run`,
				saga+`cancel travel --about ann --status RUNNING --reason "the traveller called" --yes`),
		}),
		k.Approve(&cobra.Command{
			Use:   "approve NAME KEY --reason TEXT",
			Short: "Let a saga that awaits approval go on",
			Long: `Lets a saga that awaits approval go on. Who approved it and why is kept. Exit status 4 if it does not await approval; the answer
says what is so. "list --status AWAITING_APPROVAL" finds those that do.`,
			Example: example(saga + `approve travel trip-17 --reason "within the budget"`),
		}, "approved: it goes on", "would be approved: it would go on"),
		k.Reject(&cobra.Command{
			Use:   "reject NAME KEY --reason TEXT",
			Short: "End a saga that awaits approval: what it holds is given back",
			Long: `Ends a saga that awaits approval: what was done is undone, and it ends REJECTED. Who rejected it and why is kept. Exit status 4 if
it does not await approval; the answer says what is so.`,
			Example: example(saga + `reject travel trip-17 --reason "over the budget"`),
		}, "rejected: what it holds is given back", "would be rejected: what it holds would be given back"),
		k.Resolve(&cobra.Command{
			Use:   "resolve NAME KEY | [NAME] QUERY --step STEP --as retry|done|refund --reason TEXT",
			Short: "Settle a step that cannot be settled by itself, of a saga or of all that a query finds",
			Long: `Settles the step or compensation that a saga waits at; its attention names it. Who did it and why is kept.

  --as retry   tries it at once, as after the cause was mended.
  --as done    takes it as done, where the participant's record says so. With --without-proof also where it does not: that is
               kept for ever, and every audit lists it as accepted.
  --as refund  after the pivot: undoes what stands before it, then the pivot itself, and ends CANCELLED.

Exit status 4 if the saga's state does not allow it; the answer says what is so.
` + HelpOnQueries + `
--step says both: which step is settled, and, in a query, that only sagas that are at it now are meant.`,
			Example: example(saga+`resolve travel trip-17 --step cancel-flight --as retry --reason "the airline is back"`,
				saga+`resolve travel --attention --step cancel-flight --as retry --reason "the airline is back" --yes --rps 5`),
		}),
		k.Redrive(&cobra.Command{
			Use:   "redrive NAME KEY | [NAME] QUERY --reason TEXT",
			Short: "Hand a saga, or all that a query finds, to a new run",
			Long: `Hands an open saga to a new run, which goes on in the saga's phase: forward, only forward once its pivot is under way, only back
where it is being undone. What is on record is not done again. For a run that stopped or is lost; and, with --engine, for one that
another engine shall drive from now on. Exit status 4 if the saga's state does not allow it.
` + HelpOnQueries,
			Example: example(saga+`redrive travel trip-17 --reason "its run stopped at a mistake that is mended"`,
				saga+`redrive --status RUNNING --older-than 1h --engine embedded --reason "leaving Dapr" --dry-run`),
		}),
	)
}

// kind are sagas of any definition: they have no other words than those of every saga.
type kind struct {
	*Kind
}

func sagas(c *cli.Client) kind {
	k := kind{&Kind{
		Client: c, Group: "saga", One: "saga", Many: "sagas",
		Args: []string{"NAME", "KEY"}, Headings: []string{"SAGA", "KEY"}, Fields: []string{"saga", "key"},
		About: "about", OnlyAbout: "only those about this, such as a customer", Columns: []string{"VERSION"},
		ReasonCodes: []string{"approval_rejected", "approval_deadline", "deadline", "cancelled", "refunded"}, SuchReasons: "cancelled or deadline",
	}}
	k.Reach = func(ctx context.Context) (API, error) {
		service, err := k.service(ctx)
		return sagaAPI{k.Kind, service}, err
	}
	k.Definitions = func(ctx context.Context) ([]string, error) {
		definitions, err := k.definitions(ctx)
		names := make([]string, len(definitions))
		for i, d := range definitions {
			names[i] = d.Name
		}
		return names, err
	}
	return k
}

// Doctor is the verb that asks what is wrong with a server of sagas.
func Doctor(c *cli.Client) *cobra.Command {
	return sagas(c).Doctor(`Asks the orchestrator to check its database, clock, engine, sidecar and participants, and whether sagas wait for somebody, or
for a process that is not there; and shows the settings it was started with, passwords left out.`)
}

// service is the API of sagas at the server.
func (k kind) service(ctx context.Context) (sagav1connect.SagaServiceClient, error) {
	return cli.Reach(ctx, k.Client, sagav1connect.NewSagaServiceClient)
}

func (k kind) definitions(ctx context.Context) ([]*sagav1.Definition, error) {
	service, err := k.service(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := cli.Call(ctx, service.ListDefinitions, &sagav1.ListDefinitionsRequest{})
	return answer.GetDefinitions(), err
}

// sagaAPI is the service of sagas as the verbs call it.
type sagaAPI struct {
	kind    *Kind
	service sagav1connect.SagaServiceClient
}

func (a sagaAPI) Get(ctx context.Context, id ID) (*Standing, error) {
	answer, err := cli.Call(ctx, a.service.Get, &sagav1.GetRequest{Definition: id.Definition, Key: id.Key})
	if err != nil {
		return nil, err
	}
	return standing(answer.Saga), nil
}

func (a sagaAPI) Watch(ctx context.Context, w Watched, use func(*Standing) error) error {
	return Follow(ctx, a.kind, w, func() (*connect.ServerStreamForClient[sagav1.WatchResponse], error) {
		return a.service.Watch(ctx, connect.NewRequest(&sagav1.WatchRequest{Definition: w.Definition, Key: w.Key, UntilSettled: w.Settled}))
	}, func(m *sagav1.WatchResponse) error { return use(standing(m.Saga)) })
}

func (a sagaAPI) List(ctx context.Context, q Query, page Page) ([]*Standing, string, error) {
	req := &sagav1.ListRequest{
		Definition: q.Definition, About: q.About, Step: q.Step, ReasonCode: q.ReasonCode, AmountOver: q.AmountOver, OlderThan: q.OlderThan,
		Since: q.Since, Attention: q.Attention, Limit: page.Limit, PageToken: page.Token,
	}
	for _, word := range q.Statuses {
		req.Statuses = append(req.Statuses, sagav1.Status(sagav1.Status_value[StatusName(word)]))
	}
	answer, err := cli.Call(ctx, a.service.List, req)
	if err != nil {
		return nil, "", err
	}
	found := make([]*Standing, len(answer.Sagas))
	for i, s := range answer.Sagas {
		found[i] = standing(s)
	}
	return found, answer.NextPageToken, nil
}

func (a sagaAPI) Cancel(ctx context.Context, id ID, by Order) (*Standing, Undoing, error) {
	answer, err := cli.Call(ctx, a.service.Cancel, &sagav1.CancelRequest{
		Definition: id.Definition, Key: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, Undoing{}, err
	}
	return standing(answer.Saga), Undoing{answer.Undone, answer.ToUndo, answer.CannotUndo}, nil
}

func (a sagaAPI) Approve(ctx context.Context, id ID, by Order) (*Standing, error) {
	answer, err := cli.Call(ctx, a.service.Approve, &sagav1.ApproveRequest{
		Definition: id.Definition, Key: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, err
	}
	return standing(answer.Saga), nil
}

func (a sagaAPI) Reject(ctx context.Context, id ID, by Order) (*Standing, error) {
	answer, err := cli.Call(ctx, a.service.Reject, &sagav1.RejectRequest{
		Definition: id.Definition, Key: id.Key, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, err
	}
	return standing(answer.Saga), nil
}

func (a sagaAPI) Resolve(ctx context.Context, id ID, r Resolution, by Order) (*Standing, string, error) {
	answer, err := cli.Call(ctx, a.service.Resolve, &sagav1.ResolveRequest{
		Definition: id.Definition, Key: id.Key, Step: r.Step, As: sagav1.Resolution(sagav1.Resolution_value["RESOLUTION_"+strings.ToUpper(r.As)]),
		WithoutProof: r.WithoutProof, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, "", err
	}
	return standing(answer.Saga), answer.What, nil
}

func (a sagaAPI) Redrive(ctx context.Context, id ID, engine string, by Order) (*Standing, string, error) {
	answer, err := cli.Call(ctx, a.service.Redrive, &sagav1.RedriveRequest{
		Definition: id.Definition, Key: id.Key, Engine: engine, Reason: by.Reason, Actor: by.Actor, DryRun: by.DryRun,
	})
	if err != nil {
		return nil, "", err
	}
	return standing(answer.Saga), answer.What, nil
}
