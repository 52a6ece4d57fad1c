package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// surroundings is all that the command line takes from its process, so that a test can stand in for it.
type surroundings struct {
	in io.Reader
	// out takes results, and err all else.
	out, err printer
	getenv   func(string) string
	// workDir is where the search for .local/env begins.
	workDir string
	now     func() time.Time
	// colour says whether out shows colours, and terminal whether somebody types in.
	colour, terminal bool
}

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, s surroundings) int {
	root := newRoot(s)
	root.SetArgs(args)
	err := ended(ctx, root.ExecuteContext(ctx))
	var known *exit
	switch {
	case err == nil:
	case errors.As(err, &known) && known.news:
		s.err.say("%v", err)
	default:
		s.err.say("orchestrator: %v", err)
	}
	return exitStatus(err)
}

func newRoot(s surroundings) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "orchestrator",
		Short: "Runs checkouts as durable sagas, and shows and steers them",
		Long: `orchestrator serve is the process; orchestrator dev is everything in one process. All other verbs are
clients of its API: --server, or ORCHESTRATOR_SERVER, or what .local/env says.

Exit status: 0 done; 1 failed; 2 wrong usage or refused input; 3 no such thing; 4 conflict or too late;
5 not allowed; 6 unreachable; 7 not ended in time; 8 audit or doctor found something; 10 rejected;
11 cancelled or expired; 12 needs attention; 130 interrupted; 143 ended by SIGTERM or SIGHUP. What a verb waited for goes on.`,
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(s.in)
	root.SetOut(s.out.lines())
	root.SetErr(s.err.lines())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%s: %w; see `%s --help`", cmd.CommandPath(), err, cmd.CommandPath())
	})

	c := &client{surroundings: s}
	root.PersistentFlags().StringVar(&c.flag, "server", "", "address of the orchestrator's API (default: ORCHESTRATOR_SERVER, or .local/env, or "+defaultServer+")")

	checkouts := group(&cobra.Command{Use: "checkout", Short: "Start, see and steer checkouts"})
	checkouts.AddCommand(newStart(c), newStatus(c), newList(c), newHistory(c), newWait(c),
		newCancel(c), newApprove(c), newReject(c), newResolve(c), newRedrive(c))
	deadLetters := group(&cobra.Command{Use: "dead-letter", Short: "See, replay and archive messages that a consumer could not take"})
	deadLetters.AddCommand(newDeadLetterList(c), newDeadLetterShow(c), newReplay(c), newArchive(c))
	events := group(&cobra.Command{Use: "event", Short: "See events and who received them, and publish them again"})
	events.AddCommand(newEventList(c), newRepublish(c))
	root.AddCommand(newServe(s), newDev(s), checkouts, deadLetters, events, newAudit(c), newDoctor(c), newVersion(s))
	return root
}

// group makes a command that only holds others; anything else that is typed there is wrong usage.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("%s has no verb %q; see `%s --help`", cmd.CommandPath(), args[0], cmd.CommandPath())
		}
		cmd.SetOut(cmd.ErrOrStderr())
		if err := cmd.Help(); err != nil {
			return err
		}
		return usage("say what to do")
	}
	return cmd
}

// takes checks the number of arguments and names them when it is wrong.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		case len(args) > len(names):
			return usage("%s: %q is one argument too many", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}
