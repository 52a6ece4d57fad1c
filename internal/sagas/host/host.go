// Package host puts one process for sagas together: database, engine, interpreter, attempts, sweeper, retention and API. It wires and
// orders start and stop; it decides nothing about sagas.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/breaker"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/dapr"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/invoke"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/attempts"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/internal/sagas/operator"
	"github.com/checkoutsaga/orchestrator/internal/sagas/retention"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/sagas/sweeper"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// maxConns bounds the connections to the process's database. What activities change shares transactions, so that most of the time one or
// two work; the rest is for rows that somebody holds and for reading. Each has plans and caches of its own in PostgreSQL.
const maxConns = 16

// Host is one process for sagas: open it, run it, close it. What it is made of is for whoever adds to it before it runs.
type Host struct {
	Pool         *pgxpool.Pool
	Store        *store.Store
	Engine       engine.Engine
	Breakers     *breaker.Breakers
	Server       *rpcserver.Server
	Metrics      *prometheus.Registry
	Participants map[string]participant.Participant
	Desk         operator.Desk
	Doctor       *doctor.Doctor
	// Keeper keeps the parts going and knows what is missing.
	Keeper *process.Keeper

	committer   *commit.Committer
	caller      *invoke.Caller
	closeEngine func()
	sweeper     *sweeper.Sweeper
	retention   *retention.Retention
	log         *slog.Logger
}

// Extra is what somebody adds to a host while it is opened, once its database is migrated. Nil fields add nothing.
type Extra struct {
	// Guests are those of definitions that keep something beside their sagas.
	Guests func(*pgxpool.Pool) map[string]store.Guest
	// OpenDeadLetters returns those of the keys that an open dead letter is about.
	OpenDeadLetters func(ctx context.Context, keys []string) ([]string, error)
}

// Open reaches and migrates the database, makes the engine and takes the API's address. Calls wait there until Run.
func Open(ctx context.Context, config Config, extra Extra, log *slog.Logger) (*Host, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	h := &Host{log: log, Keeper: process.NewKeeper(log), Metrics: prometheus.NewRegistry()}
	if err := h.open(ctx, config, extra); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Migrations are those of every host's database.
func Migrations() []pg.Migrations {
	return []pg.Migrations{store.Migrations(), outbox.Migrations(), embedded.Migrations()}
}

func (h *Host) open(ctx context.Context, config Config, extra Extra) (err error) {
	if h.Pool, err = pg.OpenMigrated(ctx, config.DatabaseURL, maxConns, append(Migrations(), config.Migrations...)...); err != nil {
		return err
	}
	var guests map[string]store.Guest
	if extra.Guests != nil {
		guests = extra.Guests(h.Pool)
	}
	h.committer = commit.New(h.Pool)
	h.Store = store.New(h.Pool, h.committer, guests)
	names, err := h.participants(ctx, config)
	if err != nil {
		return err
	}
	if err := h.call(config, names); err != nil {
		return err
	}
	if err := bound(config.Definitions, h.Participants); err != nil {
		return err
	}
	if err := h.Store.NoteDefinitions(ctx, config.Definitions); err != nil {
		return err
	}
	h.Breakers = breaker.New(breaker.Config{Participants: names, Probe: h.probe, Wake: h.wake, Log: h.log})
	registry := task.NewTaskRegistry()
	if err := saga.Register(registry, config.Policy); err != nil {
		return err
	}
	if err := attempts.Register(registry, h.Store, h.Participants, h.Breakers); err != nil {
		return err
	}
	if err := h.openEngine(config, registry); err != nil {
		return err
	}
	h.sweeper = sweeper.New(h.Pool, h.Store, h.Engine, h.log)
	h.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		h.Breakers.Collector(), h.Keeper.Collector(), h.Store.Collector(), h.sweeper.Collector())
	h.Server, err = rpcserver.Listen(rpcserver.Config{
		Address: config.Listen, Hosts: config.Hosts, Connections: config.Connections,
		Ready: h.ready, AppHealth: h.Pool.Ping, Metrics: h.Metrics, Log: h.log,
	})
	if err != nil {
		return err
	}
	openDeadLetters := extra.OpenDeadLetters
	if openDeadLetters == nil {
		openDeadLetters = func(context.Context, []string) ([]string, error) { return nil, nil }
	}
	if h.retention, err = retention.New(retention.Config{
		KeepWorkflows: config.KeepWorkflows, KeepSagas: config.KeepSagas, Pool: h.Pool, Store: h.Store, Engine: h.Engine, Log: h.log,
		Participants: h.Participants, OpenDeadLetters: openDeadLetters,
	}); err != nil {
		return err
	}
	h.Desk = operator.Desk{Store: h.Store, Runs: runs.Runs{Engine: h.Engine, Log: h.log}, Participants: h.Participants}
	h.Doctor = &doctor.Doctor{
		Words: doctor.WordsOf(config.Program), Settings: config.settings(),
		Pool: h.Pool, Store: h.Store, Migrations: append(Migrations(), config.Migrations...), Engine: h.Engine, Sidecar: config.sidecar(),
		SweeperLock: sweeper.LeaderLock(h.Engine.Name()), Missing: h.Keeper.Missing, Definitions: config.Definitions,
		Participants: names, Probe: h.probe, HeldBack: h.Breakers.States,
	}
	h.Server.Mount(sagav1connect.NewSagaServiceHandler(api.New(h.Desk, h.Doctor, config.Definitions, config.Program, config.Starters), h.Server.Options()...))
	return nil
}

// participants are all that may be called: those that the definitions name, those that this process has or was told of, and those of
// sagas under way, whose definitions may have named others when they were accepted.
func (h *Host) participants(ctx context.Context, config Config) ([]string, error) {
	names := slices.Concat(config.names(), slices.Collect(maps.Keys(config.Participants)))
	for name, url := range config.URLs {
		if url != "" {
			names = append(names, name)
		}
	}
	underWay, err := h.Store.ParticipantsUnderWay(ctx)
	if err != nil {
		return nil, err
	}
	for name, saga := range underWay {
		if config.Engine == Embedded && !slices.Contains(names, name) && config.url(name) == "" {
			// Its sagas call for a person once they get there; the others go on, so this is no reason not to start.
			h.log.Error("sagas under way need a participant that no definition names any more, and there is no address of it",
				"participant", name, "variable", variable(name, "URL"), "saga", saga.Definition, "key", saga.Key)
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// bound tells of steps that nobody does or undoes, as far as the participants can tell: those of this process can.
func bound(definitions []*saga.Definition, participants map[string]participant.Participant) error {
	var wrong []error
	for _, d := range definitions {
		for _, step := range d.Plan().Steps {
			p, tells := participants[step.Participant].(participant.Bound)
			if !tells {
				continue
			}
			switch does, undoes := p.Does(d.Name(), step.Name); {
			case !does:
				wrong = append(wrong, fmt.Errorf("saga %s: step %s: %s does not do it", d.Name(), step.Name, step.Participant))
			case step.Compensation != "" && !undoes:
				wrong = append(wrong, fmt.Errorf("saga %s: step %s: %s does it, but %s, which is to undo it, is nothing that it does",
					d.Name(), step.Name, step.Participant, step.Compensation))
			}
		}
	}
	return errors.Join(wrong...)
}

// call makes what the participants are called by.
func (h *Host) call(config Config, names []string) error {
	h.caller = invoke.Direct()
	target := config.url
	if config.Engine == Dapr {
		port, err := strconv.Atoi(config.DaprHTTPPort)
		if err != nil {
			return fmt.Errorf("read DAPR_HTTP_PORT: %w", err)
		}
		h.caller, target = invoke.ThroughDapr(port, config.DaprAPIToken), config.appID
	}
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	if err != nil {
		return fmt.Errorf("make tracing: %w", err)
	}
	h.Participants = make(map[string]participant.Participant)
	for _, name := range names {
		if here, is := config.Participants[name]; is {
			h.Participants[name] = here
			continue
		}
		web, url := h.caller.To(target(name))
		h.Participants[name] = participant.Client(web, url, connect.WithInterceptors(tracing))
	}
	return nil
}

// probe asks a participant something cheap, to see whether it answers.
func (h *Host) probe(ctx context.Context, name string) error {
	if keeper, keeps := h.Participants[name].(participant.Keeper); keeps {
		_, err := keeper.List(ctx, participant.Query{PageSize: 1})
		if !errors.Is(err, errors.ErrUnsupported) { // That it keeps no records is an answer, and no proof of its health.
			return err
		}
	}
	_, err := h.Participants[name].Get(ctx, participant.ID{Definition: "probe", Key: "probe", Step: "probe"})
	return err
}

// wake wakes the sagas that are at a participant which answers again.
func (h *Host) wake(ctx context.Context, participant string) error {
	return h.sweeper.Wake(ctx, participant)
}

func (h *Host) openEngine(config Config, registry *task.TaskRegistry) error {
	if config.Engine == Dapr {
		opened, err := dapr.New(dapr.Config{
			Address: "127.0.0.1:" + config.DaprGRPCPort, Token: config.DaprAPIToken, Registry: registry, Log: h.log,
		})
		if err == nil {
			h.Engine, h.closeEngine = opened, opened.Close
		}
		return err
	}
	h.Engine = embedded.New(embedded.Config{Pool: h.Pool, Committer: h.committer, Registry: registry, Log: h.log})
	return nil
}

// ready says what keeps this process from driving sagas: what has been missing for a while, and since when; or what is so now.
func (h *Host) ready(ctx context.Context) error {
	if err := h.Keeper.Ready(); err != nil {
		return err
	}
	if err := h.Pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
	return h.Engine.Check(ctx)
}

// URL is where the API listens.
func (h *Host) URL() string { return h.Server.URL() }

// To is what a client of another process is made of. A target is an app id with Dapr, and an address otherwise.
func (h *Host) To(target string) (web *http.Client, baseURL string) { return h.caller.To(target) }

// Run serves the API and drives sagas until ctx ends. It stops in order: the API takes no more calls, the engine finishes the
// activities in hand, then the sweeper, so that nothing is begun that nobody would look after.
func (h *Host) Run(ctx context.Context) error { return process.RunParts(ctx, h.log, h.Parts()...) }

// Parts are kept going, but for the server, whose address is lost with it: a process without its API is better started anew.
func (h *Host) Parts() []process.Part {
	engine := "engine " + h.Engine.Name()
	return []process.Part{
		{Name: "api", Run: h.Server.Run},
		h.Keeper.Watch("database", h.Pool.Ping),
		h.Keeper.Watch(engine, h.Engine.Check),
		h.Keeper.Keep(process.Part{Name: "work of " + engine, Run: h.Engine.Run}),
		h.Keeper.Keep(process.Part{Name: "breakers", Run: func(ctx context.Context) error { h.Breakers.Run(ctx); return nil }}),
		h.Keeper.Keep(process.Part{Name: "sweeper", Run: h.sweeper.Run}),
		h.Keeper.Keep(process.Part{Name: "retention", Run: h.retention.Run}),
		h.Keeper.Keep(process.Part{Name: "listener for changes", Run: h.Store.Listen}),
	}
}

// Close gives back what Open took. Run must have returned.
func (h *Host) Close() {
	if h.Server != nil {
		_ = h.Server.Close() // After Run the listener is closed already.
	}
	if h.closeEngine != nil {
		h.closeEngine()
	}
	if h.caller != nil {
		h.caller.Close()
	}
	if h.Pool != nil {
		h.Pool.Close()
	}
}
