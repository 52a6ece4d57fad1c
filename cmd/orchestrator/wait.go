package main

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

func newWait(c *client) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait until a checkout has ended or needs attention",
		Long: `Waits until a checkout has ended or needs attention, telling its progress on stderr. The exit status tells the
end: 0 confirmed, 10 rejected, 11 cancelled or expired, 12 needs attention, 7 not ended in time. While a checkout awaits
approval it goes on waiting.`,
		Example:           "  orchestrator checkout wait ord-1001 --timeout 5m",
		Args:              takes("ID"),
		ValidArgsFunction: c.completeIDs(),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", defaultWait, "how long to wait; 0 means without end")
	out := addOutput(cmd, c.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := errors.Join(out.validate(), validateTimeout(timeout)); err != nil {
			return err
		}
		api, err := c.api(cmd.Context())
		if err != nil {
			return err
		}
		return waitAndPrint(cmd.Context(), c, api, out, args[0], mayNotExist, timeout)
	}
	return cmd
}

// waitAndPrint waits, telling progress on stderr, and prints how the checkout stands then. Its error tells the end. If
// the checkout is known to exist, a server that cannot be reached is waited for from the first.
func waitAndPrint(ctx context.Context, c *client, api checkoutv1connect.CheckoutServiceClient, out *output, orderID string, known bool, timeout time.Duration) error {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	var last *checkoutv1.Checkout
	err := watch(bounded, api, orderID, untilSettled, known, func(now *checkoutv1.Checkout) error {
		tellProgress(c.err, last, now)
		last = now
		return nil
	})
	inTime := bounded.Err() == nil
	if err != nil && (inTime || ctx.Err() != nil) {
		return err
	}
	if last == nil {
		return exitWith(exitNotEnded, "nothing was heard of %s within %s", orderID, timeout)
	}
	if err := out.print(checkoutResult(out.surroundings, last)); err != nil {
		return err
	}
	return endOf(last, timeout)
}

// endOf is the exit that goes with how a checkout stands.
func endOf(c *checkoutv1.Checkout, timeout time.Duration) error {
	switch c.Status {
	case checkoutv1.Status_STATUS_CONFIRMED:
		return nil
	case checkoutv1.Status_STATUS_REJECTED:
		return exitWith(exitRejected, "%s was rejected (%s); all is undone", c.OrderId, c.Reason)
	case checkoutv1.Status_STATUS_CANCELLED:
		return exitWith(exitUndone, "%s was cancelled (%s); all is undone", c.OrderId, c.Reason)
	case checkoutv1.Status_STATUS_EXPIRED:
		return exitWith(exitUndone, "%s expired (%s); all is undone", c.OrderId, c.Reason)
	case checkoutv1.Status_STATUS_NEEDS_ATTENTION:
		return exitWith(exitAttention, "%s needs attention: %s", c.OrderId, c.GetAttention().GetCause())
	}
	if c.Status == checkoutv1.Status_STATUS_AWAITING_APPROVAL {
		return exitWith(exitNotEnded, "%s has not ended within %s; it awaits approval", c.OrderId, timeout)
	}
	return exitWith(exitNotEnded, "%s has not ended within %s; it goes on", c.OrderId, timeout)
}

// What a watch waits for.
const (
	untilSettled = true
	untilFinal   = false
)

// Whether a watch knows that the checkout exists.
const (
	exists      = true
	mayNotExist = false
)

// reconnect is the pause before a broken watch is begun again.
const reconnect = 500 * time.Millisecond

// watch calls use with the checkout now and after each change, until it is final or settled.
func watch(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string, settled, known bool, use func(*checkoutv1.Checkout) error) error {
	return follow(ctx, orderID, known, func() (*connect.ServerStreamForClient[checkoutv1.WatchResponse], error) {
		return api.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: orderID, UntilSettled: settled}))
	}, func(m *checkoutv1.WatchResponse) error { return use(m.Checkout) })
}

// follow calls use with each message of a stream about a checkout, until the server ends it. Once the checkout is known to
// exist, a server that goes away is waited for until ctx ends: the checkout outlives it, so the wait does too.
func follow[M any](ctx context.Context, orderID string, known bool, open func() (*connect.ServerStreamForClient[M], error), use func(*M) error) error {
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
		if err == nil {
			return nil
		}
		if _, stopped := stoppedBy(ctx); stopped {
			return waitCutShort(ctx, orderID, known)
		}
		if !known || ctx.Err() != nil || isVerdict(err) {
			return err
		}
		select {
		case <-time.After(reconnect):
		case <-ctx.Done(): // The next attempt tells why.
		}
	}
}

// waitCutShort is the end of a wait by a signal. The checkout goes on, if there is one.
func waitCutShort(ctx context.Context, orderID string, known bool) error {
	if !known {
		return cutShort(ctx, "nothing was heard of %s so far; see: orchestrator checkout status %s", orderID, orderID)
	}
	return news(cutShort(ctx, "%s goes on; see it with: orchestrator checkout wait %s", orderID, orderID))
}

// isVerdict tells an answer that would be the same next time from a connection that broke, for which there are many codes.
func isVerdict(err error) bool {
	switch exitStatus(err) {
	case exitUsage, exitNotFound, exitConflict, exitForbidden:
		return true
	}
	return false
}

// tellProgress writes a line for everything that has changed.
func tellProgress(p printer, before, now *checkoutv1.Checkout) {
	known := make(map[string]*checkoutv1.Step)
	for _, s := range before.GetSteps() {
		known[s.Name] = s
	}
	for _, s := range now.Steps {
		was := known[s.Name]
		switch {
		case s.State == was.GetState() && s.Attempts == was.GetAttempts(), s.State == "pending", s.State == "skipped":
		case s.Error != "" && s.Attempts == 0: // A person's word.
			p.say("%s  %-17s %s: %s", now.OrderId, s.Name, s.State, s.Error)
		case s.Error != "":
			p.say("%s  %-17s %s, attempt %d: %s", now.OrderId, s.Name, s.State, s.Attempts, s.Error)
		default:
			p.say("%s  %-17s %s", now.OrderId, s.Name, s.State)
		}
		if s.Compensation != was.GetCompensation() && s.Compensation != "not-needed" {
			p.say("%s  %-17s undoing it: %s", now.OrderId, s.Name, s.Compensation)
		}
	}
	if now.Status != before.GetStatus() {
		p.say("%s  %s", now.OrderId, statusWord(now.Status))
	}
}
