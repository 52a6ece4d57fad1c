package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/process"
)

func newServe(s cli.Surroundings) *cobra.Command {
	config := node.FromEnv(s.Getenv)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the orchestrator: API, workflow worker and sweeper",
		Long: `Runs the orchestrator until an interrupt, SIGTERM or SIGHUP, which finishes what is in hand. Each flag has an environment
variable; the sidecar's ports come from DAPR_HTTP_PORT and DAPR_GRPC_PORT, which "dapr run" sets, and where
they are set, engine "auto" is Dapr. "orchestrator doctor" shows what a running process was given.`,
		Args: cli.Takes(),
	}
	flags := cmd.Flags()
	configFlags(flags, &config)
	flags.StringVar(&config.Engine, "engine", config.Engine, "auto, dapr or embedded (ORCHESTRATOR_ENGINE)")
	for _, name := range node.Participants() {
		upper := strings.ToUpper(name)
		flags.Var(cli.Entry(config.URLs, name), name+"-url", fmt.Sprintf("where %s is called, without Dapr (%s_URL)", name, upper))
		flags.Var(cli.Entry(config.AppIDs, name), name+"-app-id", fmt.Sprintf("whom the sidecar calls for %s (%s_APP_ID)", name, upper))
	}
	cli.HideDefaults(flags)
	cli.CompleteFlag(cmd, "engine", []string{node.Auto, node.Dapr, node.Embedded})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := config.Validate(); err != nil {
			return cli.Usage("wrong configuration:\n%w", err)
		}
		log, err := s.Logger("orchestrator")
		if err != nil {
			return err
		}
		n, err := process.Opened(cmd.Context(), log, func(ctx context.Context) (*node.Node, error) { return node.Open(ctx, config, log) })
		if err != nil {
			return cli.NotOpened(cmd.Context(), err)
		}
		defer n.Close()
		log.Info("serving", "url", n.URL(), "engine", config.Engine)
		return cli.RunToTheEnd(cmd.Context(), log, n)
	}
	return cmd
}

func newDev(s cli.Surroundings) *cobra.Command {
	config := node.DevFromEnv(s.Getenv)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process: orchestrator, embedded engine and all participants",
		Long: `Runs the orchestrator with the embedded engine, and warehouse, payment, orders, notification and pricing beside it,
each on its own database and its own address, with their events handed from one to the other, until an interrupt,
SIGTERM or SIGHUP. "make up" starts it with a private PostgreSQL.`,
		Args: cli.Takes(),
	}
	flags := cmd.Flags()
	configFlags(flags, &config.Config)
	databases, addresses, hosts := make(map[string]string), make(map[string]string), make(map[string]string)
	for _, name := range node.Participants() {
		upper := strings.ToUpper(name)
		told := config.Participants[name]
		databases[name], addresses[name], hosts[name] = told.DatabaseURL, told.Listen, told.Hosts
		flags.Var(cli.Entry(databases, name), name+"-database-url", fmt.Sprintf("the database of %s (%s_DATABASE_URL)", name, upper))
		flags.Var(cli.Entry(addresses, name), name+"-listen", fmt.Sprintf("the address of %s (%s_LISTEN)", name, upper))
		flags.Var(cli.Entry(hosts, name), name+"-hosts", fmt.Sprintf("what %s may be called, as --hosts (%s_HOSTS)", name, upper))
	}
	cli.HideDefaults(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range node.Participants() {
			config.Participants[name] = process.Settings{DatabaseURL: databases[name], Listen: addresses[name], Hosts: hosts[name]}
		}
		if err := config.Validate(); err != nil {
			return cli.Usage("wrong configuration:\n%w", err)
		}
		log, err := s.Logger("dev")
		if err != nil {
			return err
		}
		d, err := process.Opened(cmd.Context(), log, func(ctx context.Context) (*node.Dev, error) { return node.OpenDev(ctx, config, log) })
		if err != nil {
			return cli.NotOpened(cmd.Context(), err)
		}
		defer d.Close()
		log.Info("serving", "url", d.URL(), "warehouse_url", d.ParticipantURL("warehouse"), "payment_url", d.ParticipantURL("payment"), "engine", config.Engine)
		return cli.RunToTheEnd(cmd.Context(), log, d)
	}
	return cmd
}

// configFlags are those that serve and dev share.
func configFlags(flags *pflag.FlagSet, config *node.Config) {
	flags.StringVar(&config.DatabaseURL, "database-url", config.DatabaseURL, "the orchestrator's database (ORCHESTRATOR_DATABASE_URL)")
	flags.StringVar(&config.Listen, "listen", config.Listen, "the API's address (ORCHESTRATOR_LISTEN, or 127.0.0.1:APP_PORT)")
	flags.Var(&config.Hosts, "hosts",
		"what the API may be called beside localhost and its address; other Host headers are refused (ORCHESTRATOR_HOSTS)")
	flags.Var(&config.ApprovalAbove, "approval-above",
		"minor units above which an order needs somebody's approval, such as EUR=50000; repeatable; none by default (ORCHESTRATOR_APPROVAL_ABOVE)")
	flags.DurationVar(&config.KeepWorkflows, "keep-workflows", config.KeepWorkflows,
		"how long the engine keeps workflows of checkouts that ended (ORCHESTRATOR_KEEP_WORKFLOWS, 24h)")
	flags.DurationVar(&config.KeepCheckouts, "keep-checkouts", config.KeepCheckouts,
		"how long checkouts that ended are kept, at least 1464h; 0: for ever (ORCHESTRATOR_KEEP_CHECKOUTS)")
}
