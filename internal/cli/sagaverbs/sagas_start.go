package sagaverbs

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

func newStart(k kind, saga string) *cobra.Command {
	var file string
	var deadline, approval time.Duration
	var wait WaitFlags
	cmd := &cobra.Command{
		Use:   "start NAME [KEY] [-f input.json | -]",
		Short: "Start a saga",
		Long: `Starts a saga of the definition NAME with the input in a file (-f input.json, or - for stdin): one JSON value, of which the
definition says what it must hold. Without a file there is no input.

The same start again is the same saga; the same key with another input is refused with exit status 4. Without KEY one is made and told
on stderr, so that the start can be repeated with it.`,
		Example: "  " + saga + "start travel trip-17 -f trip.json --wait\n" +
			`  echo '{"from": "VIE", "to": "LIS"}' | ` + saga + "start travel -",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return cli.Complete(cmd.Context(), begun, k.Definitions)
		},
	}
	// `start NAME [KEY] -` reads stdin, as `-f -` does; no key is a lone dash.
	words := func(args []string) ([]string, string) {
		if last := len(args) - 1; last > 0 && args[last] == "-" && file == "" {
			return args[:last], "-"
		}
		return args, file
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		args, _ = words(args)
		switch {
		case slices.Contains(args, "-") && file != "":
			return cli.Usage("-f and - are two ways to say where the input is; take one")
		case slices.Contains(args, "-"):
			return cli.Usage("- is where the input comes from; before it stands NAME, or NAME KEY")
		case len(args) == 1:
			return nil
		}
		return cli.Takes(k.Args...)(cmd, args)
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "input.json, or - for stdin; at most 1 MiB")
	flags.DurationVar(&deadline, "deadline", 0, "how long it may take before it is undone, 1s to 720h; 0 leaves it to the definition")
	flags.DurationVar(&approval, "approval-deadline", 0, "how long it may await approval, where it needs one, 1s to 720h; 0 means 24h")
	wait.AddTo(cmd)
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := wait.Validate(cmd, out); err != nil {
			return err
		}
		args, path := words(args)
		id := ID{Definition: args[0]}
		if len(args) > 1 {
			id.Key = args[1]
		}
		switch {
		case id.Definition == "":
			return cli.Usage("%s is empty", k.Args[0])
		case len(args) > 1 && id.Key == "":
			return cli.Usage("%s is empty; leave it out to have one made", k.Args[1])
		case deadline < 0 || approval < 0:
			return cli.Usage("--deadline and --approval-deadline must not be negative")
		}
		request := &sagav1.StartRequest{Definition: id.Definition}
		if deadline > 0 {
			request.Deadline = durationpb.New(deadline)
		}
		if approval > 0 {
			request.ApprovalDeadline = durationpb.New(approval)
		}
		if path != "" {
			text, name, err := ReadDocument(path, k.In, "an input")
			if err != nil {
				return err
			}
			if request.Input, err = parseInput(text); err != nil {
				return cli.Usage("%s, %w", name, err)
			}
		}
		return k.start(cmd.Context(), out, id, request, wait)
	}
	return cmd
}

func (k kind) start(ctx context.Context, out *cli.Output, id ID, request *sagav1.StartRequest, wait WaitFlags) error {
	service, err := k.service(ctx)
	if err != nil {
		return err
	}
	if id.Key == "" {
		// A definition's name is short enough to stand before it, and says what it is of.
		id.Key = id.Definition + "-" + strings.ToLower(rand.Text()[:16])
		k.Err.Say("key %s", id.Key)
	}
	request.Key = id.Key
	return k.Begin(ctx, sagaAPI{k.Kind, service}, out, Beginning{
		ID: id, Again: "the key " + id.Key,
		Start: func(ctx context.Context) (*Standing, bool, error) {
			answer, err := cli.Call(ctx, service.Start, request)
			if err != nil {
				return nil, false, err
			}
			return standing(answer.Saga), answer.Created, nil
		},
	}, wait)
}
