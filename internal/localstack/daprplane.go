package localstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ControlPlane is Dapr's placement service and its scheduler. Both are on loopback ports, except their two health ports: 1.18.2
// ignores the address for those.
type ControlPlane struct {
	placement, scheduler *process
	ports                planePorts
}

// planePorts are kept in a file, so that the control plane starts again where its sidecars look for it.
type planePorts struct {
	Placement, PlacementHealth, PlacementRaft, PlacementMetrics    int
	Scheduler, SchedulerHealth, EtcdClient, EtcdPeer, SchedMetrics int
}

// StartControlPlane starts the control plane with its data (every reminder of every workflow) and logs in dir, or finds it running,
// and waits until workflows can run on it. A tied one dies with this process; another goes on until StopControlPlane.
func StartControlPlane(ctx context.Context, dapr Dapr, dir string, tied bool) (*ControlPlane, error) {
	c, err := openControlPlane(dapr, dir, tied)
	if err != nil {
		return nil, err
	}
	unlock, err := lockFile(filepath.Join(c.placement.dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !c.placement.find() {
		err = c.StartPlacement(ctx)
	}
	if err == nil && !c.scheduler.find() {
		err = c.StartScheduler(ctx)
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// StopControlPlane stops the control plane with its data in dir. It is no error if none runs.
func StopControlPlane(dapr Dapr, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c, err := openControlPlane(dapr, dir, false)
	if err != nil {
		return err
	}
	c.placement.find()
	c.scheduler.find()
	c.Stop()
	return nil
}

func openControlPlane(dapr Dapr, dir string, tied bool) (*ControlPlane, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ports, err := loadPorts(filepath.Join(dir, "ports.json"))
	if err != nil {
		return nil, err
	}
	return &ControlPlane{
		ports: ports,
		placement: &process{name: "placement", program: dapr.Placement, dir: dir, tied: tied, args: []string{
			"--port", fmt.Sprint(ports.Placement), "--listen-address", "127.0.0.1",
			"--healthz-port", fmt.Sprint(ports.PlacementHealth), "--healthz-listen-address", "127.0.0.1",
			"--initial-cluster", fmt.Sprintf("dapr-placement-0=127.0.0.1:%d", ports.PlacementRaft),
			"--metrics-port", fmt.Sprint(ports.PlacementMetrics), "--metrics-listen-address", "127.0.0.1",
		}},
		scheduler: &process{name: "scheduler", program: dapr.Scheduler, dir: dir, tied: tied, args: []string{
			"--port", fmt.Sprint(ports.Scheduler), "--listen-address", "127.0.0.1",
			"--override-broadcast-host-port", fmt.Sprintf("127.0.0.1:%d", ports.Scheduler),
			"--healthz-port", fmt.Sprint(ports.SchedulerHealth), "--healthz-listen-address", "127.0.0.1",
			"--etcd-client-port", fmt.Sprint(ports.EtcdClient), "--etcd-client-listen-address", "127.0.0.1",
			"--etcd-initial-cluster", fmt.Sprintf("dapr-scheduler-server-0=http://127.0.0.1:%d", ports.EtcdPeer),
			"--etcd-data-dir", filepath.Join(dir, "etcd"), "--identity-directory-write", filepath.Join(dir, "identity"),
			"--metrics-port", fmt.Sprint(ports.SchedMetrics), "--metrics-listen-address", "127.0.0.1",
		}},
	}, nil
}

func loadPorts(file string) (ports planePorts, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		if err := json.Unmarshal(text, &ports); err != nil {
			return ports, fmt.Errorf("read %s: %w", file, err)
		}
		return ports, nil
	}
	free, err := FreePorts(9)
	if err != nil {
		return ports, err
	}
	ports = planePorts{free[0], free[1], free[2], free[3], free[4], free[5], free[6], free[7], free[8]}
	if text, err = json.Marshal(ports); err != nil {
		return ports, err
	}
	return ports, os.WriteFile(file, text, 0o644)
}

// PlacementAddress is a sidecar's placement host.
func (c *ControlPlane) PlacementAddress() string {
	return fmt.Sprintf("127.0.0.1:%d", c.ports.Placement)
}

// SchedulerAddress is a sidecar's scheduler host.
func (c *ControlPlane) SchedulerAddress() string {
	return fmt.Sprintf("127.0.0.1:%d", c.ports.Scheduler)
}

// Stop stops both. The scheduler of 1.18.2 may hang in its shutdown, so it is killed after 5 s.
func (c *ControlPlane) Stop() {
	c.scheduler.stop(5 * time.Second)
	c.placement.stop(5 * time.Second)
}

// KillScheduler ends the scheduler without warning.
func (c *ControlPlane) KillScheduler() { c.scheduler.kill() }

// KillPlacement ends placement without warning.
func (c *ControlPlane) KillPlacement() { c.placement.kill() }

// StartPlacement starts a placement service that was stopped, on the same port, and waits until it is ready.
func (c *ControlPlane) StartPlacement(ctx context.Context) error {
	if err := c.placement.start(); err != nil {
		return err
	}
	return c.placement.ready(ctx, answers(fmt.Sprintf("http://127.0.0.1:%d/healthz", c.ports.PlacementHealth)))
}

// StartScheduler starts a scheduler that was stopped, on the same port and with its data, and waits until it delivers: until it
// says "Cron is ready". It calls itself healthy long before that: 20 s before, after a kill.
func (c *ControlPlane) StartScheduler(ctx context.Context) error {
	var before int64
	if info, err := os.Stat(c.scheduler.logFile()); err == nil {
		before = info.Size()
	}
	if err := c.scheduler.start(); err != nil {
		return err
	}
	return c.scheduler.ready(ctx, func(context.Context) error {
		text, err := os.ReadFile(c.scheduler.logFile())
		if err != nil {
			return err
		}
		if !strings.Contains(string(text[before:]), "Cron is ready") {
			return errors.New("its cron is not ready")
		}
		return nil
	})
}

// answers checks that a GET of url succeeds.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("%s answers %s", url, res.Status)
		}
		return nil
	}
}
