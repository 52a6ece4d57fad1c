package sagaverbs

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// steering is a verb by which an operator changes a saga that is named, or each that a query finds.
type steering struct {
	*Kind
	verb   string
	reason string
	dryRun bool
	// mayName lists the flags of a query that mean something beside an id, too.
	mayName []string
	// validate looks at the verb's own flags; nil where there is nothing to look at.
	validate func() error
	// do does it to one saga, or with dryRun only asks what it would do.
	do func(context.Context, API, ID, Order) (deed, error)
}

// deed is what was done to one saga.
type deed struct {
	saga *Standing
	// what says it in a sentence.
	what string
	// alone is the result where the saga was named.
	alone cli.Result
}

// HelpOnQueries is told by every verb that takes a query.
const HelpOnQueries = `
Instead of an id a query says which: the flags of ` + "`list`" + `, through all pages. It is told how many there are and how much money,
and asked whether to go on; where nobody can be asked, --yes is needed. One that its state does not allow is passed over: exit
status 4, and the others are done. An interrupt ends it between two of them, and the same command goes on.`

// Approve completes cmd as the verb that lets a saga go on which awaits approval. It says done, or with --dry-run would.
func (k *Kind) Approve(cmd *cobra.Command, done, would string) *cobra.Command {
	return k.decide("approve", cmd, done, would, API.Approve)
}

// Reject completes cmd as the verb that ends a saga which awaits approval.
func (k *Kind) Reject(cmd *cobra.Command, done, would string) *cobra.Command {
	return k.decide("reject", cmd, done, would, API.Reject)
}

func (k *Kind) decide(verb string, cmd *cobra.Command, done, would string, call func(API, context.Context, ID, Order) (*Standing, error)) *cobra.Command {
	s := &steering{Kind: k, verb: verb}
	s.do = func(ctx context.Context, api API, id ID, by Order) (deed, error) {
		now, err := call(api, ctx, id, by)
		if err != nil {
			return deed{}, err
		}
		if by.DryRun {
			return s.steered(now, would), nil
		}
		return s.steered(now, done), nil
	}
	cmd.ValidArgsFunction = k.CompleteIDs(awaitingApproval)
	return s.byID(cmd)
}

// Cancel completes cmd as the verb that asks that sagas be undone.
func (k *Kind) Cancel(cmd *cobra.Command) *cobra.Command {
	s := &steering{Kind: k, verb: "cancel"}
	s.do = func(ctx context.Context, api API, id ID, by Order) (deed, error) {
		now, undoing, err := api.Cancel(ctx, id, by)
		if err != nil {
			return deed{}, err
		}
		return deed{saga: now, what: undoing.what(), alone: k.cancelResult(now, undoing, by.DryRun)}, nil
	}
	cmd.ValidArgsFunction = k.CompleteIDs(openStatuses()...)
	return s.byIDOrQuery(cmd)
}

func (u Undoing) what() string {
	var parts []string
	for _, part := range []struct {
		said  string
		steps []string
	}{{"undone: ", u.Undone}, {"still to undo: ", u.ToUndo}, {"cannot be undone: ", u.CannotUndo}} {
		if len(part.steps) > 0 {
			parts = append(parts, part.said+strings.Join(part.steps, ", "))
		}
	}
	if len(parts) == 0 {
		return "nothing is to be undone"
	}
	return strings.Join(parts, "; ")
}

func (k *Kind) cancelResult(s *Standing, u Undoing, dryRun bool) cli.Result {
	view := k.fields(s.ID).With("status", s.Status).With("dry_run", dryRun).
		With("undone", append([]string{}, u.Undone...)).With("to_undo", append([]string{}, u.ToUndo...)).With("cannot_undo", append([]string{}, u.CannotUndo...))
	return cli.Result{Value: view, IDs: []string{s.ID.Key}, Tables: func(bool) []cli.Table {
		t := cli.Table{Headings: append(append([]string{}, k.Headings...), "STATUS", "UNDONE", "STILL TO UNDO", "CANNOT BE UNDONE")}
		t.Add(append(k.names(s.ID), s.Status, cli.OrDash(strings.Join(u.Undone, ", ")), cli.OrDash(strings.Join(u.ToUndo, ", ")),
			cli.OrDash(strings.Join(u.CannotUndo, ", ")))...)
		return []cli.Table{t}
	}}
}

// Resolve completes cmd as the verb that settles a step which cannot be settled by itself.
func (k *Kind) Resolve(cmd *cobra.Command) *cobra.Command {
	var r Resolution
	words := []string{"done", "refund", "retry"}
	s := &steering{Kind: k, verb: "resolve", mayName: []string{"step"}}
	s.do = func(ctx context.Context, api API, id ID, by Order) (deed, error) {
		now, what, err := api.Resolve(ctx, id, r, by)
		if err != nil {
			return deed{}, err
		}
		return s.steered(now, what), nil
	}
	s.validate = func() error {
		r.Step = cmd.Flags().Lookup("step").Value.String()
		switch {
		case r.Step == "":
			return cli.Usage("--step is missing: the step or compensation to settle, as the %s's attention names it", k.One)
		case r.As == "":
			return cli.Usage("--as is missing: %s", strings.Join(words, ", "))
		case r.WithoutProof && r.As != "done":
			return cli.Usage("--without-proof is for --as done")
		}
		if k.Steps != nil {
			if err := oneOf("step", r.Step, k.Steps); err != nil {
				return err
			}
		}
		return oneOf("as", r.As, words)
	}
	cmd.ValidArgsFunction = k.CompleteIDs(needsAttention)
	s.byIDOrQuery(cmd)
	cmd.Flags().Lookup("step").Usage = "the step or compensation to settle (required); a query finds only " + k.Many + " that are at it now"
	cmd.Flags().StringVar(&r.As, "as", "", "how: retry, done or refund (required)")
	cmd.Flags().BoolVar(&r.WithoutProof, "without-proof", false, "with --as done: although no participant's record says so; every audit tells of it")
	cli.CompleteFlag(cmd, "as", words)
	return cmd
}

// Redrive completes cmd as the verb that hands sagas to a new run.
func (k *Kind) Redrive(cmd *cobra.Command) *cobra.Command {
	var engine string
	engines := []string{"dapr", "embedded"}
	s := &steering{Kind: k, verb: "redrive", validate: func() error { return oneOf("engine", engine, engines) }}
	s.do = func(ctx context.Context, api API, id ID, by Order) (deed, error) {
		now, what, err := api.Redrive(ctx, id, engine, by)
		if err != nil {
			return deed{}, err
		}
		return s.steered(now, what), nil
	}
	cmd.ValidArgsFunction = k.CompleteIDs(openStatuses()...)
	s.byIDOrQuery(cmd)
	cmd.Flags().StringVar(&engine, "engine", "", "dapr or embedded: what drives it from now on; empty leaves it where it is")
	cli.CompleteFlag(cmd, "engine", engines)
	return cmd
}

func (s *steering) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.reason, "reason", "", "why; kept for ever (required)")
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "change nothing, only tell what would be done")
}

func (s *steering) order() Order {
	return Order{Reason: s.reason, Actor: s.Actor(), DryRun: s.dryRun}
}

// check looks at what every verb has.
func (s *steering) check(out *cli.Output) error {
	if err := out.Validate(); err != nil {
		return err
	}
	if strings.TrimSpace(s.reason) == "" {
		return cli.Usage("--reason is missing: say why, it is kept")
	}
	if s.validate != nil {
		return s.validate()
	}
	return nil
}

// byID completes cmd as a verb that takes one id and no query.
func (s *steering) byID(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cli.Takes(s.Args...)
	s.addTo(cmd)
	out := cli.AddOutput(cmd, s.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.check(out); err != nil {
			return err
		}
		return s.one(cmd.Context(), out, args)
	}
	return cmd
}

// byIDOrQuery completes cmd as a verb that takes one id, or a query.
func (s *steering) byIDOrQuery(cmd *cobra.Command) *cobra.Command {
	var m many
	cmd.Args = cobra.ArbitraryArgs
	s.addTo(cmd)
	s.addMany(cmd, &m)
	out := cli.AddOutput(cmd, s.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.check(out); err != nil {
			return err
		}
		named, err := s.choice(cmd, m, args)
		if err != nil {
			return err
		}
		if named {
			return s.one(cmd.Context(), out, args)
		}
		return s.each(cmd.Context(), out, m, args)
	}
	return cmd
}

func (s *steering) one(ctx context.Context, out *cli.Output, args []string) error {
	id, err := s.id(args)
	if err != nil {
		return err
	}
	api, err := s.Reach(ctx)
	if err != nil {
		return err
	}
	d, err := s.do(ctx, api, id, s.order())
	if cli.BrokenOff(ctx, err) && !s.dryRun {
		return cli.CutShort(ctx, "it is not known whether the word to %s %s arrived; see: %s", s.verb, id.String(), s.hint("status", id))
	}
	if err != nil {
		return err
	}
	return out.Print(d.alone)
}

// steered is the deed of a verb that answers with the saga and a sentence.
func (s *steering) steered(now *Standing, what string) deed {
	return deed{saga: now, what: what, alone: cli.Result{
		Value: now.View(&Done{DryRun: s.dryRun, What: what}), IDs: []string{now.ID.Key}, Tables: func(wide bool) []cli.Table {
			t := cli.Table{Headings: append(slices.Clone(s.Headings), "STATUS", "WHAT")}
			t.Add(append(s.names(now.ID), now.Status, what)...)
			if !wide {
				return []cli.Table{t}
			}
			return append([]cli.Table{t}, s.Tables(now, wide)...)
		},
	}}
}
