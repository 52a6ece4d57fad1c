package sagaverbs

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/cli"
)

// defaultWait is how long the verbs that wait do so where nothing is said.
const defaultWait = time.Minute

func validateTimeout(d time.Duration) error {
	if d < 0 {
		return cli.Usage("--timeout must not be negative")
	}
	return nil
}

// Wait completes cmd as the verb that waits until a saga has ended or needs attention.
func (k *Kind) Wait(cmd *cobra.Command) *cobra.Command {
	var timeout time.Duration
	cmd.Args, cmd.ValidArgsFunction = cli.Takes(k.Args...), k.CompleteIDs()
	cmd.Flags().DurationVar(&timeout, "timeout", defaultWait, "how long to wait; 0 means without end")
	out := cli.AddOutput(cmd, k.Surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := errors.Join(out.Validate(), validateTimeout(timeout)); err != nil {
			return err
		}
		id, err := k.id(args)
		if err != nil {
			return err
		}
		api, err := k.Reach(cmd.Context())
		if err != nil {
			return err
		}
		return k.waitAndPrint(cmd.Context(), api, out, Watched{ID: id, Settled: true}, timeout)
	}
	return cmd
}

// waitAndPrint waits, telling progress on stderr, and prints how the saga stands then. Its error tells the end.
func (k *Kind) waitAndPrint(ctx context.Context, api API, out *cli.Output, w Watched, timeout time.Duration) error {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	var last *Standing
	err := api.Watch(bounded, w, func(now *Standing) error {
		tellProgress(k.Err, last, now)
		last = now
		return nil
	})
	inTime := bounded.Err() == nil
	if err != nil && (inTime || ctx.Err() != nil) {
		return err
	}
	if last == nil {
		return cli.ExitWith(cli.ExitNotEnded, "nothing was heard of %s within %s", w.ID.String(), timeout)
	}
	if err := out.Print(k.result(last)); err != nil {
		return err
	}
	return endOf(last, timeout)
}

// endOf is the exit that goes with how a saga stands.
func endOf(s *Standing, timeout time.Duration) error {
	id := s.ID.String()
	switch s.Status {
	case confirmed:
		return nil
	case rejected:
		return cli.ExitWith(cli.ExitRejected, "%s was rejected (%s); all is undone", id, s.Reason)
	case cancelled:
		return cli.ExitWith(cli.ExitUndone, "%s was cancelled (%s); all is undone", id, s.Reason)
	case expired:
		return cli.ExitWith(cli.ExitUndone, "%s expired (%s); all is undone", id, s.Reason)
	case needsAttention:
		cause := ""
		if s.Attention != nil {
			cause = s.Attention.Cause
		}
		return cli.ExitWith(cli.ExitAttention, "%s needs attention: %s", id, cause)
	case awaitingApproval:
		return cli.ExitWith(cli.ExitNotEnded, "%s has not ended within %s; it awaits approval", id, timeout)
	}
	return cli.ExitWith(cli.ExitNotEnded, "%s has not ended within %s; it goes on", id, timeout)
}

// Watched is a saga that is watched until it is final or, where Settled is set, until it is final or needs attention.
type Watched struct {
	ID
	Settled bool
	// Known says that the saga exists, so that a server that cannot be reached is waited for from the first.
	Known bool
}

// reconnect is the pause before a broken watch is begun again.
const reconnect = 500 * time.Millisecond

// Follow calls use with each message of a stream about a saga, until the server ends it. Once the saga is known to exist, a server that
// goes away is waited for until ctx ends: the saga outlives it, so the wait does too.
func Follow[M any](ctx context.Context, k *Kind, w Watched, open func() (*connect.ServerStreamForClient[M], error), use func(*M) error) error {
	known := w.Known
	for {
		stream, err := open()
		if err == nil {
			for stream.Receive() {
				known = true
				if err := use(stream.Msg()); err != nil {
					return errors.Join(err, stream.Close())
				}
			}
			err = errors.Join(stream.Err(), stream.Close())
		}
		switch {
		case err == nil:
			return nil
		case cli.Stopped(ctx) && !known:
			return cli.CutShort(ctx, "nothing was heard of %s so far; see: %s", w.ID.String(), k.hint("status", w.ID))
		case cli.Stopped(ctx):
			return cli.GoesOn(ctx, "%s goes on; see it with: %s", w.ID.String(), k.hint("wait", w.ID))
		case !known, ctx.Err() != nil, cli.IsVerdict(err):
			return err
		}
		select {
		case <-time.After(reconnect):
		case <-ctx.Done(): // The next attempt tells why.
		}
	}
}

// tellProgress writes a line for everything that has changed. Before is nil at first.
func tellProgress(p cli.Printer, before, now *Standing) {
	if before == nil {
		before = &Standing{}
	}
	known := make(map[string]StepView)
	for _, s := range before.Steps {
		known[s.Name] = s
	}
	key := now.ID.Key
	for _, s := range now.Steps {
		was := known[s.Name]
		switch {
		case s.State == was.State && s.Attempts == was.Attempts, s.State == "pending", s.State == "skipped":
		case s.Error != "" && s.Attempts == 0: // A person's word.
			p.Say("%s  %-17s %s: %s", key, s.Name, s.State, s.Error)
		case s.Error != "":
			p.Say("%s  %-17s %s, attempt %d: %s", key, s.Name, s.State, s.Attempts, s.Error)
		default:
			p.Say("%s  %-17s %s", key, s.Name, s.State)
		}
		if s.Compensation != was.Compensation && s.Compensation != "not-needed" {
			p.Say("%s  %-17s undoing it: %s", key, s.Name, s.Compensation)
		}
	}
	if now.Status != before.Status {
		p.Say("%s  %s", key, now.Status)
	}
}
