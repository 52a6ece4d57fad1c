// Package sagaverbs has the verbs that start, show and steer sagas, once for every kind of saga: what is called a kind here is sagas
// that have an API of their own, or words of their own, at the command line. Sagas makes the verbs for sagas of any definition; a saga
// that has more to tell than every saga has makes its own from a Kind: its words, its API, and what its tables have beside.
//
// It knows no trade: what is particular to one kind comes in by its Kind, API and Standing.
package sagaverbs

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// Kind is one kind of saga as the command line speaks of it.
type Kind struct {
	*cli.Client
	// Group is the command that its verbs stand under.
	Group string
	// One and Many are what its sagas are called in a sentence.
	One, Many string
	// Args are what a verb about one saga takes: its key, or NAME KEY where there are many definitions. Headings stand above them in a
	// table, and Fields name them in json.
	Args, Headings, Fields []string
	// About is the word for whom or what a saga is about. It is the flag of a query and, in capitals, the heading of a column. OnlyAbout
	// is the flag's help.
	About, OnlyAbout string
	// Columns are the headings of what only this kind has at the end of a wide table: see Standing.Columns.
	Columns []string
	// Steps are the steps and compensations that there are; nil where only the server knows.
	Steps []string
	// ReasonCodes are the words that the shell is offered; others are taken, too. SuchReasons are the ones that help names.
	ReasonCodes []string
	SuchReasons string
	// Reach returns the API, after making sure that somebody answers there.
	Reach func(context.Context) (API, error)
	// Definitions are the names that the shell is offered; nil for a kind with one definition.
	Definitions func(context.Context) ([]string, error)
}

// API is what the verbs ask of a server about one kind of saga. Each method but Watch is one call, and an error is the call's.
type API interface {
	Get(context.Context, ID) (*Standing, error)
	// Watch calls use with the saga now and after each change, as Follow does.
	Watch(ctx context.Context, w Watched, use func(*Standing) error) error
	// List is one page, newest first, and the token of the next one.
	List(context.Context, Query, Page) ([]*Standing, string, error)
	Cancel(context.Context, ID, Order) (*Standing, Undoing, error)
	Approve(context.Context, ID, Order) (*Standing, error)
	Reject(context.Context, ID, Order) (*Standing, error)
	// Resolve and Redrive also say in a sentence what was done.
	Resolve(context.Context, ID, Resolution, Order) (*Standing, string, error)
	Redrive(ctx context.Context, id ID, engine string, by Order) (*Standing, string, error)
}

// Order is what every verb has that changes a saga: why, and who.
type Order struct {
	Reason, Actor string
	// DryRun only asks what would be done.
	DryRun bool
}

// Resolution is how an operator settles a step.
type Resolution struct {
	Step string
	// As is "retry", "done" or "refund".
	As           string
	WithoutProof bool
}

// Undoing is what a cancel undoes, by step.
type Undoing struct{ Undone, ToUndo, CannotUndo []string }

// ID names a saga. A kind with one definition leaves that out.
type ID struct{ Definition, Key string }

// String is the id as it is typed.
func (id ID) String() string { return strings.TrimPrefix(id.Definition+" "+id.Key, " ") }

// many tells whether the kind has many definitions, so that NAME is typed, too.
func (k *Kind) many() bool { return len(k.Args) > 1 }

// id reads the arguments of a verb about one saga.
func (k *Kind) id(args []string) (ID, error) {
	for i, name := range k.Args {
		if args[i] == "" {
			return ID{}, cli.Usage("%s is empty", name)
		}
	}
	if k.many() {
		return ID{args[0], args[1]}, nil
	}
	return ID{Key: args[0]}, nil
}

// names are the parts of an id, as Args, Headings and Fields have them.
func (k *Kind) names(id ID) []string {
	if k.many() {
		return []string{id.Definition, id.Key}
	}
	return []string{id.Key}
}

// fields begin an object of json about a saga.
func (k *Kind) fields(id ID) cli.Object {
	var o cli.Object
	for i, name := range k.names(id) {
		o = append(o, cli.Field{Name: k.Fields[i], Value: name})
	}
	return o
}

// listed is an id of a list in the form "ids": what is left to type. The definition is left out where the caller has typed it.
func (k *Kind) listed(id ID, in Query) string {
	if k.many() && in.Definition == "" {
		return id.String()
	}
	return id.Key
}

// hint is a command to type about a saga.
func (k *Kind) hint(verb string, id ID) string {
	return strings.Join([]string{k.Program, k.Group, verb, id.String()}, " ")
}

// CompleteIDs offers sagas, newest first, to the shell: those with one of the statuses, or all where there is none.
func (k *Kind) CompleteIDs(statuses ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) >= len(k.Args):
			return nil, cobra.ShellCompDirectiveNoFileComp
		case len(args) < len(k.Args)-1:
			return cli.Complete(cmd.Context(), begun, k.Definitions)
		}
		q := Query{Statuses: statuses}
		if k.many() {
			q.Definition = args[0]
		}
		return cli.Complete(cmd.Context(), begun, func(ctx context.Context) ([]string, error) {
			api, err := k.Reach(ctx)
			if err != nil {
				return nil, err
			}
			found, _, err := api.List(ctx, q, Page{Limit: listPage})
			keys := make([]string, len(found))
			for i, s := range found {
				keys[i] = s.ID.Key
			}
			return keys, err
		})
	}
}

// oneOf checks a flag's value against the words that there are.
func oneOf(flag, value string, words []string) error {
	if value != "" && !slices.Contains(words, value) {
		return cli.Usage("--%s %q is none of %s", flag, value, strings.Join(words, ", "))
	}
	return nil
}
