package host

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/redact"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sagas/api"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

// Engines that a process can choose.
const (
	// Auto is Dapr where a sidecar's ports are in the environment, and embedded otherwise.
	Auto     = "auto"
	Dapr     = "dapr"
	Embedded = "embedded"
)

const (
	// DefaultListen is the API's address where nothing is said. Loopback only: nobody outside of the machine is let in unasked.
	DefaultListen = "127.0.0.1:8080"
	// DefaultKeepWorkflows is how long workflows that have ended are kept where nothing is said.
	DefaultKeepWorkflows = 24 * time.Hour
)

// Config is what one process for sagas is put together from.
type Config struct {
	// Definitions are the sagas that this process drives and accepts.
	Definitions []*saga.Definition
	// Participants are those in this process, by name. The others are called by URLs or, with Dapr, AppIDs, over the contract.
	Participants map[string]participant.Participant
	// URLs are where participants are called without Dapr, AppIDs whom the sidecar is asked for; a name that is missing there is its
	// own app id.
	URLs, AppIDs map[string]string
	// Starters start the sagas of definitions that are not accepted by their declaration alone.
	Starters map[string]api.Starter

	// Program is what people type to steer sagas of this process; advice names it. Default "orchestrator".
	Program string

	// DatabaseURL is the process's own database. With the embedded engine its state lies there too, in a schema of its own.
	DatabaseURL string
	// Listen is the API's address. Port 0 takes a free one.
	Listen string
	// Hosts are what the API may be called beside localhost and the address that it listens at. Others are refused.
	Hosts rpcserver.Hosts
	// Connections are what the servers of one process share; nil where this is the only one.
	Connections *rpcserver.Connections
	// Engine is Auto, Dapr or Embedded.
	Engine string
	// DaprHTTPPort and DaprGRPCPort are the sidecar's; empty without one.
	DaprHTTPPort, DaprGRPCPort string
	// DaprAPIToken is what the sidecar asks for; empty where it asks for none.
	DaprAPIToken string
	// KeepWorkflows is how long the engine keeps the workflows of sagas that have ended. Too little leaves nothing to look at when
	// one is to be explained by its history, too much grows the engine's tables.
	KeepWorkflows time.Duration
	// KeepSagas is how long sagas that have ended, and their participants' operations, are kept; zero keeps them for ever.
	KeepSagas time.Duration
	// Policy is how sagas try again; zero takes the defaults.
	Policy saga.Policy

	// Migrations are those of what guests have beside, after the host's own.
	Migrations []pg.Migrations

	// unread is what was wrong with the environment.
	unread []error
	// getenv is what FromEnv read from, for participants that only sagas under way name.
	getenv func(string) string
}

// variable is the environment variable that says something about a participant, such as AIRLINE_URL.
func variable(participant, what string) string {
	return strings.ToUpper(strings.ReplaceAll(participant, "-", "_")) + "_" + what
}

// FromEnv reads what the environment says of a process for sagas into c.
func (c *Config) FromEnv(getenv func(string) string) {
	or := func(name, fallback string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return fallback
	}
	listen := DefaultListen
	if port := getenv("APP_PORT"); port != "" { // `dapr run` chose it.
		listen = net.JoinHostPort("127.0.0.1", port)
	}
	c.DatabaseURL, c.Listen, c.Engine = getenv("ORCHESTRATOR_DATABASE_URL"), or("ORCHESTRATOR_LISTEN", listen), or("ORCHESTRATOR_ENGINE", Auto)
	c.DaprHTTPPort, c.DaprGRPCPort, c.DaprAPIToken = getenv("DAPR_HTTP_PORT"), getenv("DAPR_GRPC_PORT"), getenv("DAPR_API_TOKEN")
	c.KeepWorkflows = DefaultKeepWorkflows
	c.fromText("ORCHESTRATOR_HOSTS", getenv, c.Hosts.Set)
	c.fromText("ORCHESTRATOR_KEEP_WORKFLOWS", getenv, duration(&c.KeepWorkflows))
	c.fromText("ORCHESTRATOR_KEEP_SAGAS", getenv, duration(&c.KeepSagas))
	c.getenv = getenv
	c.URLs, c.AppIDs = make(map[string]string), make(map[string]string)
	for _, name := range c.remote() {
		c.URLs[name], c.AppIDs[name] = getenv(variable(name, "URL")), or(variable(name, "APP_ID"), name)
	}
}

// fromText sets something from a variable, if it has a value; what is wrong with it is told by Validate.
func (c *Config) fromText(variable string, getenv func(string) string, set func(string) error) {
	text := getenv(variable)
	if text == "" {
		return
	}
	if err := set(text); err != nil {
		c.unread = append(c.unread, fmt.Errorf("%s: %w", variable, err))
	}
}

// duration reads a time such as 1464h.
func duration(into *time.Duration) func(string) error {
	return func(text string) (err error) {
		if *into, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("must be a duration such as 24h, not %q", text)
		}
		return nil
	}
}

// url is where a participant is called without Dapr; empty where nobody said.
func (c *Config) url(participant string) string { return c.said(c.URLs, participant, "URL") }

// appID is whom the sidecar is asked for: a participant of which nobody said is its own app id.
func (c *Config) appID(participant string) string {
	return cmp.Or(c.said(c.AppIDs, participant, "APP_ID"), participant)
}

func (c *Config) said(of map[string]string, participant, what string) string {
	if of[participant] == "" && c.getenv != nil {
		return c.getenv(variable(participant, what))
	}
	return of[participant]
}

// remote are the participants of all definitions that are not in this process.
func (c *Config) remote() (names []string) {
	for _, name := range c.names() {
		if _, here := c.Participants[name]; !here {
			names = append(names, name)
		}
	}
	return names
}

// names are the participants of all definitions.
func (c *Config) names() (names []string) {
	for _, d := range c.Definitions {
		names = append(names, d.Plan().Participants()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Validate names every setting that is wrong, and settles Auto.
func (c *Config) Validate() error {
	wrong := slices.Clone(c.unread)
	say := func(setting, problem string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s: %s", setting, fmt.Sprintf(problem, args...)))
	}
	if c.Engine == Auto {
		c.Engine = Embedded
		if c.DaprGRPCPort != "" {
			c.Engine = Dapr
		}
	}
	if c.Program == "" {
		c.Program = "orchestrator"
	}
	if c.DatabaseURL == "" {
		say("ORCHESTRATOR_DATABASE_URL", "is missing; it names the PostgreSQL database of the orchestrator")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		say("ORCHESTRATOR_LISTEN", "must be an address such as %s, or [::1]:8080 with IPv6, not %q", DefaultListen, c.Listen)
	}
	if c.KeepWorkflows <= 0 {
		say("ORCHESTRATOR_KEEP_WORKFLOWS", "must be a positive duration such as 24h, not %s", c.KeepWorkflows)
	}
	if c.KeepSagas < 0 {
		say("ORCHESTRATOR_KEEP_SAGAS", "must not be negative; 0 keeps them for ever")
	}
	seen := make(map[string]bool)
	for _, d := range c.Definitions {
		if seen[d.Name()] {
			say("saga "+d.Name(), "is there twice")
		}
		seen[d.Name()] = true
	}
	switch c.Engine {
	case Dapr:
		for _, port := range []struct{ name, value string }{{"DAPR_HTTP_PORT", c.DaprHTTPPort}, {"DAPR_GRPC_PORT", c.DaprGRPCPort}} {
			if _, err := strconv.ParseUint(port.value, 10, 16); err != nil {
				say(port.name, "must be the sidecar's port, not %q; `dapr run` sets it", port.value)
			}
		}
	case Embedded:
		for _, name := range c.remote() {
			if u, err := url.Parse(c.URLs[name]); err != nil || u.Host == "" {
				say(variable(name, "URL"), "must be an address such as http://127.0.0.1:8081, not %q; it is where %s is called, which %s names",
					redact.URL(c.URLs[name]), name, c.naming(name))
			}
		}
	default:
		say("ORCHESTRATOR_ENGINE", "must be auto, dapr or embedded, not %q", c.Engine)
	}
	return errors.Join(wrong...)
}

// naming is a step of a definition that names a participant.
func (c *Config) naming(participant string) string {
	for _, d := range c.Definitions {
		for _, step := range d.Plan().Steps {
			if step.Participant == participant {
				return fmt.Sprintf("step %s of saga %s", step.Name, d.Name())
			}
		}
	}
	return "nothing"
}

// settings is the configuration as people may see it.
func (c *Config) settings() []doctor.Setting {
	list := []doctor.Setting{
		{Name: "ORCHESTRATOR_ENGINE", Value: c.Engine},
		{Name: "ORCHESTRATOR_LISTEN", Value: c.Listen},
		{Name: "ORCHESTRATOR_HOSTS", Value: c.Hosts.String()},
		{Name: "ORCHESTRATOR_DATABASE_URL", Value: redact.URL(c.DatabaseURL)},
		{Name: "ORCHESTRATOR_KEEP_WORKFLOWS", Value: c.KeepWorkflows.String()},
		{Name: "ORCHESTRATOR_KEEP_SAGAS", Value: c.KeepSagas.String()},
	}
	if c.Engine == Dapr {
		list = append(list, doctor.Setting{Name: "DAPR_HTTP_PORT", Value: c.DaprHTTPPort}, doctor.Setting{Name: "DAPR_GRPC_PORT", Value: c.DaprGRPCPort})
	}
	for _, name := range c.remote() {
		if c.Engine == Dapr {
			list = append(list, doctor.Setting{Name: variable(name, "APP_ID"), Value: c.appID(name)})
		} else {
			list = append(list, doctor.Setting{Name: variable(name, "URL"), Value: redact.URL(c.url(name))})
		}
	}
	return list
}

// sidecar is where this process's own answers, if it has one.
func (c *Config) sidecar() doctor.Sidecar {
	if c.Engine != Dapr {
		return doctor.Sidecar{}
	}
	return doctor.Sidecar{URL: "http://127.0.0.1:" + c.DaprHTTPPort, Token: c.DaprAPIToken}
}
