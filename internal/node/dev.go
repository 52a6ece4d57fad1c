package node

import (
	"context"
	"errors"
	"log/slog"

	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/redact"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/participants/notification"
	"github.com/checkoutsaga/orchestrator/participants/orders"
	"github.com/checkoutsaga/orchestrator/participants/payment"
	"github.com/checkoutsaga/orchestrator/participants/pricing"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
)

// Kinds are all participants, in the order of Participants, with what the environment says of them.
func Kinds(getenv func(string) string) []process.Kind {
	return []process.Kind{warehouse.Kind, payment.Kind, orders.Kind, notification.NewKind(notification.FromEnv(getenv)), pricing.Kind}
}

// DevConfig is an orchestrator with its participants in the same process.
type DevConfig struct {
	// Config is the orchestrator's; its engine is the embedded one, and its participants' addresses are filled in.
	Config
	// Participants are what each participant is told, by name.
	Participants map[string]process.Settings

	kinds []process.Kind
}

// DevFromEnv reads the configuration from environment variables.
func DevFromEnv(getenv func(string) string) DevConfig {
	c := DevConfig{Config: FromEnv(getenv), Participants: make(map[string]process.Settings), kinds: Kinds(getenv)}
	for _, kind := range c.kinds {
		c.Participants[kind.Name] = kind.FromEnv(getenv)
	}
	return c
}

// Validate names every setting that is wrong.
func (c *DevConfig) Validate() error {
	c.Engine = Embedded
	wrong := []error{c.Config.Validate()}
	for _, kind := range c.kinds {
		wrong = append(wrong, kind.Check(c.Participants[kind.Name]))
	}
	return errors.Join(wrong...)
}

func (c *DevConfig) settings() []doctor.Setting {
	list := c.Config.settings()
	for _, name := range Participants() {
		list = append(list,
			doctor.Setting{Name: variable(name, "DATABASE_URL"), Value: redact.URL(c.Participants[name].DatabaseURL)},
			doctor.Setting{Name: variable(name, "HOSTS"), Value: c.Participants[name].Hosts})
	}
	return list
}

// Dev is an orchestrator and its participants, each on its own database and its own address, with one bus between them.
type Dev struct {
	*Node
	participants map[string]*process.Participant
}

// OpenDev opens the participants and then the orchestrator that calls them.
func OpenDev(ctx context.Context, config DevConfig, log *slog.Logger) (*Dev, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	d := &Dev{participants: make(map[string]*process.Participant)}
	if err := d.open(ctx, config, log); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context, config DevConfig, log *slog.Logger) (err error) {
	config.Bus = embedded.New()
	config.Connections = rpcserver.NewConnections()
	for _, kind := range config.kinds {
		settings := config.Participants[kind.Name]
		settings.Connections = config.Connections
		p, err := process.Open(ctx, kind, settings, log.With("participant", kind.Name))
		if err != nil {
			return err
		}
		p.UseEmbedded(config.Bus)
		d.participants[kind.Name] = p
		config.URLs[kind.Name] = p.URL()
	}
	d.Node, err = openNode(ctx, config.Config, config.settings(), log)
	return err
}

// ParticipantURL is where a participant listens.
func (d *Dev) ParticipantURL(name string) string { return d.participants[name].URL() }

// Run serves all of it until ctx ends. The participants stop last: activities in hand still call them.
func (d *Dev) Run(ctx context.Context) error {
	parts := d.parts()
	for _, name := range Participants() {
		parts = append(parts, d.participants[name].Parts()...)
	}
	return process.RunParts(ctx, d.log, parts...)
}

// Close gives back what OpenDev took. Run must have returned.
func (d *Dev) Close() {
	if d.Node != nil {
		d.Node.Close()
	}
	for _, p := range d.participants {
		p.Close()
	}
}
