package orchestrator

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/localenv"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/sagas/host"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// participantsDatabase is the variable that names the database of the participants in the process of dev, where the sagas' is named.
const participantsDatabase = "PARTICIPANTS_DATABASE_URL"

func newServe(s cli.Surroundings, program string, c Config) *cobra.Command {
	var config host.Config
	definitions, broken := c.definitions()
	config.Program, config.Definitions, config.Participants = program, definitions, c.Participants
	config.FromEnv(s.Getenv)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sagas: API, workflow worker and sweeper",
		Long: `Runs the sagas until an interrupt, SIGTERM or SIGHUP, which finishes what is in hand. Each flag has an environment variable; the
sidecar's ports come from DAPR_HTTP_PORT and DAPR_GRPC_PORT, which "dapr run" sets, and where they are set, engine "auto" is Dapr.
A participant is called at the address in <PARTICIPANT>_URL or, through the sidecar, by the app id in <PARTICIPANT>_APP_ID, which
is its name where nothing is said.`,
		Args: cli.Takes(),
	}
	flags := cmd.Flags()
	configFlags(flags, &config)
	flags.StringVar(&config.Engine, "engine", config.Engine, "auto, dapr or embedded (ORCHESTRATOR_ENGINE)")
	for name := range config.URLs {
		upper := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		flags.Var(cli.Entry(config.URLs, name), name+"-url", fmt.Sprintf("where %s is called, without Dapr (%s_URL)", name, upper))
		flags.Var(cli.Entry(config.AppIDs, name), name+"-app-id", fmt.Sprintf("whom the sidecar calls for %s (%s_APP_ID)", name, upper))
	}
	cli.HideDefaults(flags)
	cli.CompleteFlag(cmd, "engine", []string{host.Auto, host.Dapr, host.Embedded})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if broken != nil {
			return cli.Usage("wrong program:\n%w", broken)
		}
		log, err := s.Logger("orchestrator")
		if err != nil {
			return err
		}
		return serve(cmd.Context(), config, log, nil)
	}
	return cmd
}

func newDev(s cli.Surroundings, program string, c Config) *cobra.Command {
	var config host.Config
	definitions, broken := c.definitions()
	config.Program, config.Definitions, config.Participants = program, definitions, maps.Clone(c.Participants)
	config.FromEnv(s.Getenv)
	folder := ".local"
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process: sagas, embedded engine and participants",
		Long: `Runs the sagas with the embedded engine, and the participants beside them, until an interrupt, SIGTERM or SIGHUP. Without a
database it starts a PostgreSQL of its own, whose data stay in the folder .local; where none is installed, it installs one. While it
runs, .local/env says to the other verbs, and to you, where its API and its databases are; it has their passwords.`,
		Args: cli.Takes(),
	}
	flags := cmd.Flags()
	configFlags(flags, &config)
	flags.StringVar(&folder, "data", folder, "the folder of dev's own database")
	cli.HideDefaults(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if broken != nil {
			return cli.Usage("wrong program:\n%w", broken)
		}
		log, err := s.Logger("dev")
		if err != nil {
			return err
		}
		config.Engine = host.Embedded
		participantsURL := s.Getenv(participantsDatabase)
		var tell func(api string) error
		if config.DatabaseURL == "" {
			own, err := ownDatabase(cmd.Context(), folder, s)
			if err != nil {
				return cli.NotOpened(cmd.Context(), err)
			}
			defer own.stop()
			config.DatabaseURL, participantsURL = own.sagas, own.participants
			if filepath.Base(folder) == ".local" { // Elsewhere nobody looks for it.
				tell = func(api string) error { return own.tell(filepath.Dir(folder), api) }
				defer os.Remove(localenv.Path(filepath.Dir(folder)))
			}
		}
		if c.Dev != nil {
			here, close, err := c.Dev(cmd.Context(), participantsURL)
			if err != nil {
				return cli.NotOpened(cmd.Context(), err)
			}
			defer close()
			if config.Participants == nil {
				config.Participants = make(map[string]participant.Participant)
			}
			maps.Copy(config.Participants, here)
		}
		return serve(cmd.Context(), config, log, tell)
	}
	return cmd
}

// serve runs the process until ctx ends. It tells of the API's address, where somebody wants to know it.
func serve(ctx context.Context, config host.Config, log *slog.Logger, tell func(api string) error) error {
	if err := config.Validate(); err != nil {
		return cli.Usage("wrong configuration:\n%w", err)
	}
	h, err := process.Opened(ctx, log, func(ctx context.Context) (*host.Host, error) { return host.Open(ctx, config, host.Extra{}, log) })
	if err != nil {
		return cli.NotOpened(ctx, err)
	}
	defer h.Close()
	if tell != nil {
		if err := tell(h.URL()); err != nil {
			return cli.NotOpened(ctx, err)
		}
	}
	log.Info("serving", "url", h.URL(), "engine", config.Engine)
	return cli.RunToTheEnd(ctx, log, h)
}

// database is dev's own PostgreSQL.
type database struct {
	sagas, participants string
	stop                func()
}

// tell writes down where everything is.
func (d database) tell(folder, api string) error {
	// What others may write in is not believed, and a generous umask lets them.
	dir := filepath.Dir(localenv.Path(folder))
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, info.Mode().Perm()&^0o022); err != nil {
		return err
	}
	return localenv.Write(folder, map[string]string{cli.ServerVariable: api, "ORCHESTRATOR_DATABASE_URL": d.sagas, participantsDatabase: d.participants})
}

func ownDatabase(ctx context.Context, folder string, s cli.Surroundings) (database, error) {
	if err := localstack.Install(ctx, s.Err.To); err != nil {
		return database{}, err
	}
	dir := folder + "/postgres"
	server, err := localstack.StartPostgres(ctx, dir, localstack.PostgresOptions{})
	if err != nil {
		return database{}, err
	}
	d := database{stop: func() {
		if err := localstack.StopPostgres(context.WithoutCancel(ctx), dir); err != nil {
			s.Err.Say("the database was not stopped: %v", err)
		}
	}}
	if d.sagas, err = server.EnsureDatabase(ctx, "sagas"); err == nil {
		d.participants, err = server.EnsureDatabase(ctx, "participants")
	}
	if err != nil {
		d.stop()
		return database{}, err
	}
	return d, nil
}

// configFlags are those that serve and dev share.
func configFlags(flags *pflag.FlagSet, config *host.Config) {
	flags.StringVar(&config.DatabaseURL, "database-url", config.DatabaseURL, "the sagas' database (ORCHESTRATOR_DATABASE_URL)")
	flags.StringVar(&config.Listen, "listen", config.Listen, "the API's address (ORCHESTRATOR_LISTEN, or 127.0.0.1:APP_PORT)")
	flags.Var(&config.Hosts, "hosts",
		"what the API may be called beside localhost and its address; other Host headers are refused (ORCHESTRATOR_HOSTS)")
	flags.DurationVar(&config.KeepWorkflows, "keep-workflows", config.KeepWorkflows,
		"how long the engine keeps workflows of sagas that ended (ORCHESTRATOR_KEEP_WORKFLOWS, 24h)")
	flags.DurationVar(&config.KeepSagas, "keep-sagas", config.KeepSagas,
		"how long sagas that ended are kept; 0: for ever (ORCHESTRATOR_KEEP_SAGAS)")
}
