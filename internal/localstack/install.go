package localstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// systemPackage is a Debian package and a check for what it brings, whoever installed that.
type systemPackage struct {
	name    string
	present func() bool
}

// Names of system packages.
const (
	postgresPackage = "postgresql"
	redisPackage    = "redis-server"
	rabbitPackage   = "rabbitmq-server"
)

// systemPackages are all that the project takes from the system.
var systemPackages = []systemPackage{
	{name: postgresPackage, present: func() bool { _, err := postgresBinaries(); return err == nil }},
	{name: redisPackage, present: func() bool { _, err := exec.LookPath("redis-server"); return err == nil }},
	{name: rabbitPackage, present: func() bool { _, err := os.Stat(rabbitServer); return err == nil }},
	// Only for tests: a pooler in front of PostgreSQL, and a clock that can be set.
	{name: "pgbouncer", present: func() bool { _, err := os.Stat("/usr/sbin/pgbouncer"); return err == nil }},
	{name: "libfaketime", present: func() bool {
		found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
		return err == nil && len(found) > 0
	}},
}

// Install installs with apt-get what this machine lacks of PostgreSQL, the brokers and the tests' tools, and writes its progress to
// out. It asks nothing: if it may not install, the error says what to type.
func Install(ctx context.Context, out io.Writer) error {
	return install(ctx, out, systemPackages, os.Geteuid() == 0)
}

// InstallFor is Install for a system on the broker; without a broker the system is embedded.
func InstallFor(ctx context.Context, out io.Writer, broker string) error {
	return install(ctx, out, neededFor(broker), os.Geteuid() == 0)
}

func neededFor(broker string) []systemPackage {
	ofBroker := map[string]string{Redis: redisPackage, RabbitMQ: rabbitPackage}[broker] // Kafka's stand-in is built from tools/kafka.
	return slices.DeleteFunc(slices.Clone(systemPackages), func(p systemPackage) bool {
		return p.name != postgresPackage && p.name != ofBroker
	})
}

func install(ctx context.Context, out io.Writer, packages []systemPackage, root bool) error {
	var missing []string
	for _, p := range packages {
		if !p.present() {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("not installed: %s. This is not a Debian system, so please install them yourself: "+
			"PostgreSQL 14 or newer with its server programs in PATH, redis-server, RabbitMQ in "+filepath.Dir(rabbitServer)+", and for the tests PgBouncer and libfaketime", names)
	}
	// One shell as root for everything, so that sudo is needed once.
	command := append([]string{"/bin/sh", "-c", installScript, "install"}, missing...)
	if !root {
		if exec.CommandContext(ctx, "sudo", "-n", "true").Run() != nil {
			return fmt.Errorf("not installed: %s. Installing needs root and sudo would ask for a password, so please run once: "+
				"sudo apt-get install --no-install-recommends %s", names, names)
		}
		command = append([]string{"sudo", "-n"}, command...)
	}
	fmt.Fprintf(out, "Installing %s with apt-get (once; a minute or so) ...\n", strings.Join(missing, ", "))
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install %s: %w: %s", names, err, lastLines(string(text), 15))
	}
	var still []string
	for _, p := range packages {
		if !p.present() {
			still = append(still, p.name)
		}
	}
	if len(still) > 0 {
		return errors.New("apt-get succeeded, yet not found: " + strings.Join(still, ", "))
	}
	fmt.Fprintln(out, "Installed.")
	return nil
}

// installScript runs as root with the packages as its arguments. We run servers of our own, so the packages' services must not
// start: policy-rc.d prevents that. One that is there already is left as it was. The machine's own upgrades may hold the lock;
// apt-get waits for it.
const installScript = `set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
apt-get -o DPkg::Lock::Timeout=300 update
apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
`

// lastLines is the end of a text, where programs say what went wrong.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
