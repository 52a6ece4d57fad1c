package sagaverbs

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// WaitFlags are the flags --wait and --timeout of a verb that starts a saga.
type WaitFlags struct {
	wait    bool
	timeout time.Duration
}

// AddTo gives cmd the flags.
func (f *WaitFlags) AddTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait for the end; the exit status tells it")
	cmd.Flags().DurationVar(&f.timeout, "timeout", defaultWait, "how long --wait waits; 0 means without end")
}

// Validate is to be called before anything is done.
func (f *WaitFlags) Validate(cmd *cobra.Command, out *cli.Output) error {
	if err := errors.Join(out.Validate(), validateTimeout(f.timeout)); err != nil {
		return err
	}
	if cmd.Flags().Changed("timeout") && !f.wait {
		return cli.Usage("--timeout is for --wait")
	}
	return nil
}

// Beginning is a saga that is about to be started, with the id that it will have: who lost the answer can ask for it, or start it again.
type Beginning struct {
	ID ID
	// Again is what to type for the same start, such as "--id x".
	Again string
	// Start makes the call. Created is false where it had been accepted before.
	Start func(context.Context) (s *Standing, created bool, err error)
}

// Begin starts a saga and prints how it stands then, or with --wait once it has ended.
func (k *Kind) Begin(ctx context.Context, api API, out *cli.Output, b Beginning, f WaitFlags) error {
	s, created, err := b.Start(ctx)
	id := b.ID.String()
	if cli.BrokenOff(ctx, err) {
		return cli.CutShort(ctx, "it is not known whether %s was accepted; see: %s", id, k.hint("status", b.ID))
	}
	if err != nil {
		if cli.ExitStatus(err) == cli.ExitUnreachable {
			k.Err.Say("it is not known whether %s was accepted; the same start with %s finds out and does nothing twice", id, b.Again)
		}
		return err
	}
	if !created {
		k.Err.Say("%s was accepted before", id)
	}
	if !f.wait {
		return out.Print(k.result(s))
	}
	return k.waitAndPrint(ctx, api, out, Watched{ID: b.ID, Settled: true, Known: true}, f.timeout)
}
