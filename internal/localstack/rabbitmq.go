package localstack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// rabbitServer is Debian's start script. The one in PATH changes to the user of the system's own server.
const rabbitServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// rabbitMQ is a RabbitMQ node of its own, beside any other RabbitMQ or Erlang on the machine: it has its own data, ports and port
// mapper (epmd), all on loopback. The mapper starts first, because a node without one leaves a daemon behind.
var rabbitMQ = brokerKind{
	name:      RabbitMQ,
	portCount: 3, // for clients, for the node's own distribution, for its port mapper
	describe: func(dir string, ports []int, password string) ([]brokerProcess, error) {
		erlang, err := erlangBinaries()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(rabbitServer); err != nil {
			return nil, errNoRabbitMQ
		}
		if err := os.WriteFile(filepath.Join(dir, "advanced.config"), fmt.Appendf(nil, rabbitConfig, ports[0], rabbitUser, password), 0o600); err != nil {
			return nil, fmt.Errorf("configure RabbitMQ: %w", err)
		}
		// Only this address keeps the mapper off the other interfaces; the node's configuration does it for its distribution.
		mapper := []string{fmt.Sprintf("ERL_EPMD_PORT=%d", ports[2]), "ERL_EPMD_ADDRESS=127.0.0.1"}
		epmd := &process{name: "epmd", program: filepath.Join(erlang, "epmd"), dir: dir, env: mapper}
		node := &process{name: RabbitMQ, program: rabbitServer, executable: filepath.Join(erlang, "beam.smp"), dir: dir, env: append(mapper,
			"HOME="+dir,                  // for the secret that nodes share
			"RUNNING_UNDER_SYSTEMD=true", // makes the script become the node, so that a signal to its process is one to the node
			"RABBITMQ_CONF_ENV_FILE="+os.DevNull,
			"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "none"),
			"RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(dir, "advanced.config"),
			"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
			"RABBITMQ_NODENAME=checkoutsaga@localhost",
			fmt.Sprintf("RABBITMQ_DIST_PORT=%d", ports[1]),
			"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
			"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
			"RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
			"RABBITMQ_LOGS=-", // to standard output
		)}
		return []brokerProcess{
			{epmd, greets(ports[2], "", "")},
			{node, greets(ports[0], "AMQP\x00\x00\x09\x01", "\x01")}, // The protocol's greeting is answered by a frame of type 1.
		}, nil
	},
	env: func(address, password string) []string {
		return []string{"RABBITMQ_URL=amqp://" + rabbitUser + ":" + password + "@" + address}
	},
}

// rabbitUser is made with the node's data, in place of the default user, whose password everybody knows.
const rabbitUser = "checkoutsaga"

// rabbitConfig bounds memory and disk, and how long a message may be without an answer: components/brokers/rabbitmq says why. It
// checks a channel every 10 s.
const rabbitConfig = `[{rabbit, [
  {tcp_listeners, [{"127.0.0.1", %d}]},
  {default_user, <<"%s">>},
  {default_pass, <<"%s">>},
  {vm_memory_high_watermark, {absolute, 536870912}},
  {disk_free_limit, 50000000},
  {consumer_timeout, 30000},
  {channel_tick_interval, 10000}
]}].
`

var errNoRabbitMQ = errors.New("RabbitMQ is not installed; `make install` installs it")

// erlangBinaries is the folder of Erlang's runtime; Debian keeps it out of PATH.
func erlangBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/erlang/erts-*/bin/beam.smp")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", errNoRabbitMQ
	}
	return filepath.Dir(found[len(found)-1]), nil
}
