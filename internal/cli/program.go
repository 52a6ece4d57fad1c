// Package cli is what every program of this engine has at the command line, whatever its sagas are about: where a program stands
// (Surroundings), how it finds its server (Client), in which forms it prints (Output), how it ends (ExitWith), and how it runs all that
// (Program). The verbs about sagas are in package sagaverbs.
//
// It knows no trade: whose verbs they are, and what they are about, its callers say.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/propagation"

	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/telemetry"
)

// Program is a whole command line.
type Program struct {
	// Name is what people type. It stands before each error, and in each command that is shown.
	Name string
	// Short and Long are its help; what exit statuses mean is added.
	Short, Long string
	// HowToStart says to who finds no server how one is started here; empty means by the program's verb serve.
	HowToStart string
	// Verbs are its commands. `version` and `completion` are added.
	Verbs func(*Client) []*cobra.Command
}

// Main runs the program as a process, until its end or a signal, and returns the exit status:
//
//	func main() { os.Exit(cli.Main(program)) }
func Main(p Program) int {
	ctx, s := process.UntilSignal(), FromProcess()
	traces, err := telemetry.StartTracing(ctx, p.Name, s.Getenv)
	if err != nil {
		s.Err.Say("%s: %v", p.Name, err)
		return ExitUsage
	}
	// Who runs it in a trace of theirs finds what it does there.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": s.Getenv("TRACEPARENT")})
	status := p.Run(ctx, os.Args[1:], s)
	if err := traces.Stop(); err != nil {
		s.Err.Say("%s: the last spans were not sent: %v", p.Name, err)
	}
	return status
}

// Run executes one command line and returns the exit status.
func (p Program) Run(ctx context.Context, args []string, s Surroundings) int {
	root := p.Command(s)
	root.SetArgs(args)
	err := ended(ctx, root.ExecuteContext(ctx))
	var known *exit
	switch {
	case err == nil:
	case errors.As(err, &known) && known.news:
		s.Err.Say("%v", err)
	default:
		s.Err.Say("%s: %v", p.Name, err)
	}
	return ExitStatus(err)
}

// Command is the root of all commands.
func (p Program) Command(s Surroundings) *cobra.Command {
	root := Group(&cobra.Command{
		Use:   p.Name,
		Short: p.Short,
		Long: p.Long + `

Exit status: 0 done; 1 failed; 2 wrong usage or refused input; 3 no such thing; 4 conflict or too late;
5 not allowed; 6 unreachable; 7 not ended in time; 8 audit, doctor or check found something; 10 rejected;
11 cancelled or expired; 12 needs attention; 130 interrupted; 143 ended by SIGTERM or SIGHUP. What a verb waited for goes on.`,
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(s.In)
	root.SetOut(s.Out.lines())
	root.SetErr(s.Err.lines())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usage("%s: %w; see `%s --help`", cmd.CommandPath(), err, cmd.CommandPath())
	})
	c := &Client{Surroundings: s, Program: p.Name, howToStart: cmp.Or(p.HowToStart, fmt.Sprintf("`%s serve` starts one", p.Name))}
	root.PersistentFlags().StringVar(&c.flag, "server", "", "address of the orchestrator's API (default: "+ServerVariable+", or .local/env, or "+defaultServer+")")
	root.AddCommand(p.Verbs(c)...)
	root.AddCommand(newVersion(s))
	return root
}

// Group makes a command that only holds others; anything else that is typed there is wrong usage.
func Group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return Usage("%s has no verb %q; see `%s --help`", cmd.CommandPath(), args[0], cmd.CommandPath())
		}
		cmd.SetOut(cmd.ErrOrStderr())
		if err := cmd.Help(); err != nil {
			return err
		}
		return Usage("say what to do")
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// Takes checks the number of arguments and names them when it is wrong.
func Takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return Usage("%s: %s is missing", cmd.CommandPath(), names[len(args)])
		case len(args) > len(names):
			return Usage("%s: %q is one argument too many", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}
