// Command stack does the work of the make targets: it installs what is missing, starts and stops the whole system under .local/ and
// runs the demonstration. It talks to the system from outside, as a user would, and imports none of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stack:", redact.Text(err.Error()))
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "stack",
		Short:         "Starts and stops the system on this machine, for the make targets",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(
		verb("install", "Install PostgreSQL, Redis, RabbitMQ and what tests need where they are missing", func(ctx context.Context, s *stack) error {
			return localstack.Install(ctx, s.out)
		}),
		engineVerb("up", "Start the system in the background and return when it is ready", func(ctx context.Context, s *stack, engine, broker string) error {
			return s.up(ctx, engine, broker)
		}),
		engineVerb("run", "Start the system, run the demonstration, and stop it", func(ctx context.Context, s *stack, engine, broker string) error {
			return s.run(ctx, engine, broker)
		}),
		verb("demo", "Run the demonstration on the system that is up", func(ctx context.Context, s *stack) error { return s.demo(ctx) }),
		verb("down", "Stop whatever up started; data stays", func(ctx context.Context, s *stack) error { return s.down(ctx) }),
		verb("clean", "Stop, and remove all data under .local/", func(ctx context.Context, s *stack) error { return s.clean(ctx) }),
		verb("tools", "Build buf and the linter, once per version, and link them into .local/tools", func(ctx context.Context, s *stack) error {
			return s.linkTools(ctx)
		}),
		verb("dapr-build", "Build Dapr and its command line, once per version", func(ctx context.Context, s *stack) error {
			_, err := s.dapr(ctx)
			return err
		}),
		verb("test-env", "Start the tests' PostgreSQL and build Dapr and what stands in for Kafka, so that tests side by side need not", func(ctx context.Context, s *stack) error {
			return s.testEnv(ctx)
		}),
		verb("test-down", "Stop the tests' PostgreSQL", func(ctx context.Context, s *stack) error {
			return localstack.StopPostgres(ctx, s.local("test-postgres"))
		}),
	)
	return cmd
}

func verb(use, short string, do func(context.Context, *stack) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		root, err := moduleRoot()
		if err != nil {
			return err
		}
		return do(cmd.Context(), &stack{root: root, out: cmd.OutOrStdout()})
	}}
}

func engineVerb(use, short string, do func(ctx context.Context, s *stack, engine, broker string) error) *cobra.Command {
	var engine, broker string
	cmd := verb(use, short, func(ctx context.Context, s *stack) error {
		if engine != embedded && engine != onDapr {
			return fmt.Errorf("--engine must be %s or %s, not %q", embedded, onDapr, engine)
		}
		if !slices.Contains(localstack.Brokers, broker) {
			return fmt.Errorf("--broker must be %s, not %q", strings.Join(localstack.Brokers, " or "), broker)
		}
		return do(ctx, s, engine, broker)
	})
	cmd.Flags().StringVar(&engine, "engine", embedded, "what runs the workflows: embedded or dapr")
	cmd.Flags().StringVar(&broker, "broker", localstack.Redis, "what carries the events on Dapr: redis, rabbitmq or kafka; embedded needs none")
	return cmd
}

// moduleRoot is the root of the checkout of the repository that this runs in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tools", "stack")); err == nil { // An example has a dapr.yaml, too.
			// All links resolved: processes are recognised by their folder.
			return filepath.EvalSymlinks(dir)
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("call it within the repository: no tools/stack here or above")
		}
		dir = filepath.Dir(dir)
	}
}
