package localstack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// SidecarConfig says which sidecar to start.
type SidecarConfig struct {
	// AppID is unique on the host's network: sidecars find each other by multicast DNS, so two of the same name, in two checkouts
	// of the repository, would share their traffic. Give it a suffix.
	AppID string
	// AppPort is where the application listens; zero for one that is only a client.
	AppPort int
	// AppHealthPath is where the application answers the sidecar's health checks, as often as in dapr.yaml. While it does not
	// answer, the sidecar delivers no events and passes on no calls. Empty: no checks.
	AppHealthPath string
	// AppProtocol is http (the default), h2c or grpc.
	AppProtocol string
	// Resources are folders of component files; Configs are configuration files.
	Resources, Configs []string
	// Env is added to the environment, for components that read secrets from it.
	Env []string
	// Args are further flags of daprd.
	Args []string
	// LogLevel is daprd's; info if empty.
	LogLevel string
	// Dir gets log and process id.
	Dir string
	// Tied: the sidecar dies with this process.
	Tied bool
}

// Sidecar is a daprd without Dapr's command line, all of it on loopback ports.
//
// Sidecars find each other by multicast DNS, through any interface that is up and can multicast. Each announces 127.0.0.1
// (DAPR_HOST_IP) and listens only there, so it can be found from elsewhere but not be reached. If loopback is the only interface,
// it must be told to multicast: `ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo`.
type Sidecar struct {
	process *process
	config  SidecarConfig

	// HTTPPort and GRPCPort are those of its API. Kill and Restart do not change them.
	HTTPPort, GRPCPort int
}

// StartSidecar starts a sidecar on free ports and waits until its API works. It does not wait for the application, as the sidecar's
// own /v1.0/healthz does.
func StartSidecar(ctx context.Context, dapr Dapr, plane *ControlPlane, config SidecarConfig) (*Sidecar, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ports, err := FreePorts(4)
	if err != nil {
		return nil, err
	}
	s := &Sidecar{config: config, HTTPPort: ports[0], GRPCPort: ports[1]}
	args := []string{
		"--app-id", config.AppID,
		"--dapr-http-port", fmt.Sprint(s.HTTPPort), "--dapr-grpc-port", fmt.Sprint(s.GRPCPort), "--dapr-listen-addresses", "127.0.0.1",
		"--dapr-internal-grpc-port", fmt.Sprint(ports[2]), "--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--metrics-port", fmt.Sprint(ports[3]), "--metrics-listen-address", "127.0.0.1",
		"--placement-host-address", plane.PlacementAddress(), "--scheduler-host-address", plane.SchedulerAddress(),
	}
	if config.AppPort != 0 {
		args = append(args, "--app-port", fmt.Sprint(config.AppPort))
	}
	if config.AppProtocol != "" {
		args = append(args, "--app-protocol", config.AppProtocol)
	}
	if config.AppHealthPath != "" {
		args = append(args, "--enable-app-health-check", "--app-health-check-path", config.AppHealthPath,
			"--app-health-probe-interval", "2", "--app-health-probe-timeout", "1500", "--app-health-threshold", "2")
	}
	if config.LogLevel != "" {
		args = append(args, "--log-level", config.LogLevel)
	}
	for _, folder := range config.Resources {
		args = append(args, "--resources-path", folder)
	}
	for _, file := range config.Configs {
		args = append(args, "--config", file)
	}
	s.process = &process{
		name: "daprd-" + config.AppID, program: dapr.Daprd, args: append(args, config.Args...), dir: dir, tied: config.Tied,
		env: append([]string{"DAPR_HOST_IP=127.0.0.1"}, config.Env...),
	}
	if err := s.Restart(ctx); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// Restart starts it again after Kill or Stop, on the same ports, and waits until its API works.
func (s *Sidecar) Restart(ctx context.Context) error {
	if err := s.process.start(); err != nil {
		return err
	}
	return s.process.ready(ctx, answers(fmt.Sprintf("http://127.0.0.1:%d/v1.0/healthz/outbound", s.HTTPPort)))
}

// WaitForApp waits until the sidecar has seen the application listen. From then on it takes calls for it.
func (s *Sidecar) WaitForApp(ctx context.Context) error {
	return s.process.ready(ctx, answers(fmt.Sprintf("http://127.0.0.1:%d/v1.0/healthz", s.HTTPPort)))
}

// Kill ends it without warning.
func (s *Sidecar) Kill() { s.process.kill() }

// Stop asks it to end and waits for that; after 10 s it is killed.
func (s *Sidecar) Stop() { s.process.stop(10 * time.Second) }

// LogFile is where it logs to.
func (s *Sidecar) LogFile() string { return s.process.logFile() }
