package main

import (
	"bufio"
	"context"
	"fmt"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
)

// steering is a verb by which an operator changes a checkout that is named, or each that a query finds.
type steering struct {
	*client
	verb   string
	reason string
	dryRun bool
	// mayName lists the flags of a query that mean something beside an id, too.
	mayName []string
	// validate looks at the verb's own flags; nil where there is nothing to look at.
	validate func() error
	// do does it to one checkout, or with dryRun only asks what it would do.
	do func(ctx context.Context, api checkoutv1connect.CheckoutServiceClient, orderID string) (deed, error)
}

// deed is what was done to one checkout.
type deed struct {
	checkout *checkoutv1.Checkout
	// what says it in a sentence.
	what string
	// alone is the result where the checkout was named.
	alone result
}

func (s *steering) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.reason, "reason", "", "why; kept for ever (required)")
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "change nothing, only tell what would be done")
}

// check looks at what every verb has.
func (s *steering) check(out *output) error {
	if err := out.validate(); err != nil {
		return err
	}
	if strings.TrimSpace(s.reason) == "" {
		return usage("--reason is missing: say why, it is kept")
	}
	if s.validate != nil {
		return s.validate()
	}
	return nil
}

// byID completes cmd as a verb that takes one id and no query.
func (s *steering) byID(cmd *cobra.Command) *cobra.Command {
	cmd.Args = takes("ID")
	s.addTo(cmd)
	out := addOutput(cmd, s.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.check(out); err != nil {
			return err
		}
		return s.one(cmd.Context(), out, args[0])
	}
	return cmd
}

// byIDOrQuery completes cmd as a verb that takes one id, or a query.
func (s *steering) byIDOrQuery(cmd *cobra.Command) *cobra.Command {
	var m many
	cmd.Args = cobra.ArbitraryArgs
	s.addTo(cmd)
	m.addTo(cmd)
	out := addOutput(cmd, s.surroundings)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.check(out); err != nil {
			return err
		}
		named, err := m.choice(cmd, args, s.mayName)
		if err != nil {
			return err
		}
		if named {
			return s.one(cmd.Context(), out, args[0])
		}
		return s.each(cmd.Context(), out, m)
	}
	return cmd
}

func (s *steering) one(ctx context.Context, out *output, orderID string) error {
	if orderID == "" {
		return usage("ID is empty")
	}
	api, err := s.api(ctx)
	if err != nil {
		return err
	}
	d, err := s.do(ctx, api, orderID)
	if _, stopped := stoppedBy(ctx); stopped && isCancelled(err) && !s.dryRun {
		return cutShort(ctx, "it is not known whether the word to %s %s arrived; see: orchestrator checkout status %s", s.verb, orderID, orderID)
	}
	if err != nil {
		return err
	}
	return out.print(d.alone)
}

// steeredView is how a checkout stands after a verb, and what the verb did.
type steeredView struct {
	checkoutView
	DryRun bool   `json:"dry_run"`
	What   string `json:"what"`
}

// steered is the deed of a verb that answers with the checkout and a sentence.
func (s *steering) steered(c *checkoutv1.Checkout, what string) deed {
	view := steeredView{checkoutView: viewCheckout(c), DryRun: s.dryRun, What: what}
	return deed{checkout: c, what: what, alone: result{value: view, ids: []string{view.OrderID}, tables: func(wide bool) []table {
		t := table{headings: []string{"ORDER ID", "STATUS", "WHAT"}}
		t.add(view.OrderID, view.Status, what)
		if !wide {
			return []table{t}
		}
		return append([]table{t}, s.standingTables(view.checkoutView, wide)...)
	}}}
}

// confirm asks whether to go on. Without an answer nothing goes on.
func (s surroundings) confirm(ctx context.Context) error {
	_ = s.err.text("go on? [y/N] ")
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(s.in).ReadString('\n') // What ends without a line is no yes.
		typed <- line
	}()
	select {
	case line := <-typed:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return usage("nothing was changed")
	case <-ctx.Done():
		s.err.say("")
		return cutShort(ctx, "nothing was changed")
	}
}

// actor is who asks: the login name, and the one behind sudo where there is one.
func actor(getenv func(string) string) string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if behind := getenv("SUDO_USER"); behind != "" && behind != name {
		return fmt.Sprintf("%s (as %s)", behind, name)
	}
	return name
}
