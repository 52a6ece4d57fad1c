package node

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/events/bus/embedded"
	"github.com/checkoutsaga/orchestrator/internal/money"
	"github.com/checkoutsaga/orchestrator/internal/redact"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Engines that a process can choose.
const (
	// Auto is Dapr where a sidecar's ports are in the environment, and embedded otherwise.
	Auto     = "auto"
	Dapr     = "dapr"
	Embedded = "embedded"
)

// Config is what an orchestrator is put together from.
type Config struct {
	// DatabaseURL is the orchestrator's own database. With the embedded engine its state lies there too, in a schema of
	// its own.
	DatabaseURL string
	// Listen is the API's address. Port 0 takes a free one.
	Listen string
	// Hosts are what the API may be called beside localhost and the address that it listens at. Others are refused.
	Hosts rpcserver.Hosts
	// Engine is Auto, Dapr or Embedded.
	Engine string
	// URLs are where the participants are called without Dapr, by name. Warehouse and payment must be there; the others are asked
	// about events only.
	URLs map[string]string
	// AppIDs are whom the sidecar is asked for, by name.
	AppIDs map[string]string
	// Bus is what the participants of the same process share with the orchestrator; nil where there are none.
	Bus *embedded.Bus
	// Connections are what the servers of one process share; nil where this is the only one.
	Connections *rpcserver.Connections
	// DaprHTTPPort and DaprGRPCPort are the sidecar's; empty without one.
	DaprHTTPPort, DaprGRPCPort string
	// DaprAPIToken is what the sidecar asks for; empty where it asks for none.
	DaprAPIToken string
	// ApprovalAbove says above which amounts somebody has to approve, such as "EUR=50000,USD=60000": minor units by currency. Empty:
	// nobody has to.
	ApprovalAbove Amounts
	// KeepWorkflows is how long the engine keeps the workflows of checkouts that have ended. Too little leaves nothing to look at
	// when one is to be explained by its history, too much grows the engine's tables.
	KeepWorkflows time.Duration
	// KeepCheckouts is how long checkouts that have ended, and their participants' operations, are kept; zero keeps them for ever.
	KeepCheckouts time.Duration
	// Components are the folders of component files, in a list like PATH, for doctor to look at; empty where they are not here.
	Components string
	// Policy is how sagas try again; zero takes the defaults.
	Policy saga.Policy

	// unread is what was wrong with the environment.
	unread []error
}

const (
	// DefaultKeepWorkflows is how long workflows that have ended are kept where nothing is said.
	DefaultKeepWorkflows = 24 * time.Hour
	// leastKeepCheckouts is more than outboxes (40 days) and inboxes (60 days) keep: no event that may still come finds its checkout
	// forgotten.
	leastKeepCheckouts = 61 * 24 * time.Hour
)

// Amounts are minor units by currency. It is a flag's value, which may be given several times.
type Amounts map[string]int64

// Set adds amounts, such as "EUR=50000" or "EUR=50000,USD=60000".
func (a *Amounts) Set(text string) error {
	if *a == nil {
		*a = make(Amounts)
	}
	for _, part := range strings.Split(text, ",") {
		currency, digits, _ := strings.Cut(strings.TrimSpace(part), "=")
		minorUnits, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || minorUnits < 0 {
			return fmt.Errorf("must be a currency and minor units such as EUR=50000, not %q", part)
		}
		if !money.Known(currency) {
			return fmt.Errorf("must name a currency of ISO 4217 such as EUR, not %q", currency)
		}
		(*a)[currency] = minorUnits
	}
	return nil
}

// String is what Set reads.
func (a *Amounts) String() string {
	var parts []string
	for _, currency := range slices.Sorted(maps.Keys(*a)) {
		parts = append(parts, fmt.Sprintf("%s=%d", currency, (*a)[currency]))
	}
	return strings.Join(parts, ",")
}

// Type is what the command line's help calls it.
func (a *Amounts) Type() string { return "CURRENCY=MINOR_UNITS" }

// DefaultListen is the API's address where nothing is said. Loopback only: nobody outside of the machine is let in unasked.
const DefaultListen = "127.0.0.1:8080"

// Participants are the names of all participants; the first two do the steps of a checkout.
func Participants() []string {
	return []string{checkout.Warehouse, checkout.Payment, "orders", "notification", "pricing"}
}

// defaultURLs are where the participants that do steps are called where nothing is said.
var defaultURLs = map[string]string{checkout.Warehouse: "http://127.0.0.1:8081", checkout.Payment: "http://127.0.0.1:8082"}

// variable is the environment variable that says something about a participant, such as WAREHOUSE_URL.
func variable(participant, what string) string { return strings.ToUpper(participant) + "_" + what }

// FromEnv reads the configuration from environment variables.
func FromEnv(getenv func(string) string) Config {
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
	c := Config{
		DatabaseURL:   getenv("ORCHESTRATOR_DATABASE_URL"),
		Listen:        or("ORCHESTRATOR_LISTEN", listen),
		Engine:        or("ORCHESTRATOR_ENGINE", Auto),
		URLs:          make(map[string]string),
		AppIDs:        make(map[string]string),
		KeepWorkflows: DefaultKeepWorkflows,
		Components:    getenv("ORCHESTRATOR_COMPONENTS"),
		DaprHTTPPort:  getenv("DAPR_HTTP_PORT"),
		DaprGRPCPort:  getenv("DAPR_GRPC_PORT"),
		DaprAPIToken:  getenv("DAPR_API_TOKEN"),
	}
	c.fromText("ORCHESTRATOR_HOSTS", getenv, c.Hosts.Set)
	c.fromText("ORCHESTRATOR_APPROVAL_ABOVE", getenv, c.ApprovalAbove.Set)
	c.fromText("ORCHESTRATOR_KEEP_WORKFLOWS", getenv, duration(&c.KeepWorkflows))
	c.fromText("ORCHESTRATOR_KEEP_CHECKOUTS", getenv, duration(&c.KeepCheckouts))
	for _, name := range Participants() {
		c.URLs[name] = or(variable(name, "URL"), defaultURLs[name])
		c.AppIDs[name] = or(variable(name, "APP_ID"), name)
	}
	return c
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

// setting is an environment variable with its value.
type setting struct{ name, value string }

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
	if c.DatabaseURL == "" {
		say("ORCHESTRATOR_DATABASE_URL", "is missing; it names the PostgreSQL database of the orchestrator")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		say("ORCHESTRATOR_LISTEN", "must be an address such as %s, or [::1]:8080 with IPv6, not %q", DefaultListen, c.Listen)
	}
	if c.KeepWorkflows <= 0 {
		say("ORCHESTRATOR_KEEP_WORKFLOWS", "must be a positive duration such as 24h, not %s", c.KeepWorkflows)
	}
	if c.KeepCheckouts != 0 && c.KeepCheckouts < leastKeepCheckouts {
		say("ORCHESTRATOR_KEEP_CHECKOUTS", "must be 0, for ever, or at least %s, for which events may still come", leastKeepCheckouts)
	}
	switch c.Engine {
	case Dapr:
		for _, port := range []setting{{"DAPR_HTTP_PORT", c.DaprHTTPPort}, {"DAPR_GRPC_PORT", c.DaprGRPCPort}} {
			if _, err := strconv.ParseUint(port.value, 10, 16); err != nil {
				say(port.name, "must be the sidecar's port, not %q; `dapr run` sets it", port.value)
			}
		}
		for _, name := range Participants() {
			if c.AppIDs[name] == "" {
				say(variable(name, "APP_ID"), "must not be empty with engine dapr")
			}
		}
	case Embedded:
		for _, name := range Participants() {
			address, must := c.URLs[name], defaultURLs[name] != ""
			if u, err := url.Parse(address); (err != nil || u.Host == "") && (must || address != "") {
				say(variable(name, "URL"), "must be an address such as %s, not %q", defaultURLs[checkout.Warehouse], redact.URL(address))
			}
		}
	default:
		say("ORCHESTRATOR_ENGINE", "must be auto, dapr or embedded, not %q", c.Engine)
	}
	return errors.Join(wrong...)
}

// settings is the configuration as people may see it.
func (c *Config) settings() []doctor.Setting {
	list := []doctor.Setting{
		{Name: "ORCHESTRATOR_ENGINE", Value: c.Engine},
		{Name: "ORCHESTRATOR_LISTEN", Value: c.Listen},
		{Name: "ORCHESTRATOR_HOSTS", Value: c.Hosts.String()},
		{Name: "ORCHESTRATOR_DATABASE_URL", Value: redact.URL(c.DatabaseURL)},
		{Name: "ORCHESTRATOR_APPROVAL_ABOVE", Value: c.ApprovalAbove.String()},
		{Name: "ORCHESTRATOR_KEEP_WORKFLOWS", Value: c.KeepWorkflows.String()},
		{Name: "ORCHESTRATOR_KEEP_CHECKOUTS", Value: c.KeepCheckouts.String()},
	}
	if c.Engine == Dapr {
		list = append(list,
			doctor.Setting{Name: "ORCHESTRATOR_COMPONENTS", Value: c.Components},
			doctor.Setting{Name: "DAPR_HTTP_PORT", Value: c.DaprHTTPPort},
			doctor.Setting{Name: "DAPR_GRPC_PORT", Value: c.DaprGRPCPort})
	}
	for _, name := range Participants() {
		if c.Engine == Dapr {
			list = append(list, doctor.Setting{Name: variable(name, "APP_ID"), Value: c.AppIDs[name]})
		} else {
			list = append(list, doctor.Setting{Name: variable(name, "URL"), Value: redact.URL(c.URLs[name])})
		}
	}
	return list
}
