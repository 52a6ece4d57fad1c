package sagaverbs

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// Query says which sagas are meant. Its zero value means all.
type Query struct {
	// Definition is of kinds with many only.
	Definition string
	// Statuses are words of StatusWords.
	Statuses   []string
	About      string
	Step       string
	ReasonCode string
	AmountOver int64
	OlderThan  *durationpb.Duration
	Since      *timestamppb.Timestamp
	Attention  bool
}

// Page is how much of a list one call brings.
type Page struct {
	Limit int32
	// Token is where the last page ended; empty for the first.
	Token string
}

// listPage is how many one call brings at most.
const listPage = 1000

// queryFlags are the flags by which sagas are chosen, by `list` and by the verbs that change many.
type queryFlags struct {
	statuses   []string
	about      string
	step       string
	reasonCode string
	amountOver int64
	olderThan  time.Duration
	since      string
	attention  bool
}

func (k *Kind) addQuery(cmd *cobra.Command, q *queryFlags) {
	flags := cmd.Flags()
	flags.StringArrayVar(&q.statuses, "status", nil, "only with this status; repeatable")
	flags.StringVar(&q.about, k.About, "", k.OnlyAbout)
	flags.StringVar(&q.step, "step", "", "only those that are at this step or compensation now")
	flags.StringVar(&q.reasonCode, "reason-code", "", "only those that did not succeed for this reason, such as "+k.SuchReasons)
	flags.Int64Var(&q.amountOver, "amount-over", 0, "only above this many minor units; 0 means all")
	flags.DurationVar(&q.olderThan, "older-than", 0, "only those started longer ago, such as 10m; 0 means all")
	flags.StringVar(&q.since, "since", "", "only those started since: RFC 3339, a date, or a duration such as 1h")
	flags.BoolVar(&q.attention, "attention", false, "only those that need attention")
	cli.CompleteFlag(cmd, "status", StatusWords())
	cli.CompleteFlag(cmd, "step", k.Steps)
	cli.CompleteFlag(cmd, "reason-code", k.ReasonCodes)
}

// queryNames are the names of the flags of a query.
func (k *Kind) queryNames() []string {
	return []string{"status", k.About, "step", "reason-code", "amount-over", "older-than", "since", "attention"}
}

// query is what the flags say, of the definition that is named, if one is.
func (k *Kind) query(q queryFlags, definition []string) (Query, error) {
	said := Query{
		About: q.about, Step: q.step, ReasonCode: q.reasonCode, AmountOver: q.amountOver, Attention: q.attention, Definition: strings.Join(definition, ""),
	}
	if q.amountOver < 0 || q.olderThan < 0 {
		return said, cli.Usage("--amount-over and --older-than must not be negative")
	}
	if q.olderThan != 0 {
		said.OlderThan = durationpb.New(q.olderThan)
	}
	for _, typed := range q.statuses {
		word := strings.ToUpper(strings.ReplaceAll(typed, "-", "_"))
		if !slices.Contains(StatusWords(), word) {
			return said, cli.Usage("--status %q is none of %s", typed, strings.Join(StatusWords(), ", "))
		}
		said.Statuses = append(said.Statuses, word)
	}
	if k.Steps != nil {
		if err := oneOf("step", q.step, k.Steps); err != nil {
			return said, err
		}
	}
	var err error
	said.Since, err = k.ParseSince(q.since)
	return said, err
}

// List completes cmd as the verb that lists sagas. A kind with many definitions lists those of one, or of all.
func (k *Kind) List(cmd *cobra.Command) *cobra.Command {
	var q queryFlags
	var limit int32
	var pageToken string
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if k.many() && len(args) == 1 {
			if args[0] == "" {
				return cli.Usage("%s is empty; leave it out to list all", k.Args[0])
			}
			return nil
		}
		return cli.Takes()(cmd, args[min(len(args), len(k.Args)-1):])
	}
	if k.many() {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return cli.Complete(cmd.Context(), begun, k.Definitions)
		}
	}
	k.addQuery(cmd, &q)
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many at most, 1 to 1000")
	cmd.Flags().StringVar(&pageToken, "page-token", "", "go on where the last page ended")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := out.Validate(); err != nil {
			return err
		}
		if limit < 1 {
			return cli.Usage("--limit must be 1 to 1000")
		}
		query, err := k.query(q, args)
		if err != nil {
			return err
		}
		api, err := k.Reach(cmd.Context())
		if err != nil {
			return err
		}
		found, next, err := api.List(cmd.Context(), query, Page{Limit: limit, Token: pageToken})
		if err != nil {
			return err
		}
		if next != "" {
			k.Err.Say("there are more: --page-token %s", next)
		}
		return out.Print(k.listResult(found, query))
	}
	return cmd
}

func (k *Kind) listResult(found []*Standing, in Query) cli.Result {
	views, ids := make([]any, len(found)), make([]string, len(found))
	for i, s := range found {
		views[i], ids[i] = s.View(nil), k.listed(s.ID, in)
	}
	return cli.Result{Value: views, IDs: ids, Tables: func(wide bool) []cli.Table { return []cli.Table{k.Table(found, wide)} }}
}
