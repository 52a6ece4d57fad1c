// Package stack runs the checkout on real Dapr as production does: orchestrator, warehouse and payment as processes of their
// own, each with a sidecar, on one control plane and one PostgreSQL server. Each process can be killed and started again on
// its ports. The tests of tests/dapr and the benchmark build on it.
package stack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// Names of the three services, without the suffix of their app ids.
const (
	Orchestrator = "orchestrator"
	Warehouse    = "warehouse"
	Payment      = "payment"
)

var services = []string{Warehouse, Payment, Orchestrator}

// Config says where a stack runs.
type Config struct {
	// Components is the folder of component files, Bin that of the programs.
	Components, Bin string
	// Dir receives logs, process ids and rendered components.
	Dir   string
	Dapr  localstack.Dapr
	Plane *localstack.ControlPlane
	// DatabaseURL names the database of a service, and of the workflow engine, "dapr". The databases exist and are empty.
	DatabaseURL func(name string) string
}

// Service is one application with its sidecar.
type Service struct {
	App     *localstack.Program
	Sidecar *localstack.Sidecar
	// URL is the application's own address, past the sidecar.
	URL string
}

// Stack is the three services.
type Stack struct {
	Orchestrator, Warehouse, Payment *Service

	config   Config
	suffix   string
	services map[string]*Service
}

// Start starts the services and waits until they are ready. All of it dies with this process.
func Start(ctx context.Context, config Config) (*Stack, error) {
	s := &Stack{config: config, suffix: fmt.Sprintf("-%06x", rand.Uint32N(1<<24)), services: map[string]*Service{}}
	resources := filepath.Join(config.Dir, "components")
	if err := RenderComponents(config.Components, resources, s.AppID); err != nil {
		return nil, err
	}
	ports, err := localstack.FreePorts(len(services))
	if err != nil {
		return nil, err
	}
	for i, name := range services {
		s.services[name] = &Service{URL: fmt.Sprintf("http://127.0.0.1:%d", ports[i])}
	}
	s.Orchestrator, s.Warehouse, s.Payment = s.services[Orchestrator], s.services[Warehouse], s.services[Payment]

	group, groupCtx := errgroup.WithContext(ctx)
	for i, name := range services {
		group.Go(func() error { return s.start(groupCtx, name, ports[i], resources) })
	}
	if err := group.Wait(); err != nil {
		s.Kill()
		return nil, err
	}
	// The orchestrator calls itself ready before the sidecars of its participants have seen them listen.
	for _, name := range services {
		if err := s.services[name].Sidecar.WaitForApp(ctx); err != nil {
			s.Kill()
			return nil, err
		}
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, name string, port int, resources string) error {
	service := s.services[name]
	var err error
	service.Sidecar, err = localstack.StartSidecar(ctx, s.config.Dapr, s.config.Plane, localstack.SidecarConfig{
		AppID:     s.AppID(name),
		AppPort:   port,
		Resources: []string{resources},
		Configs:   []string{filepath.Join(resources, "config.yaml")},
		Env:       []string{"WORKFLOW_DATABASE_URL=" + s.config.DatabaseURL("dapr")},
		Dir:       s.config.Dir,
		Tied:      true,
	})
	if err != nil {
		return err
	}
	app := localstack.ProgramConfig{
		Name: name,
		Path: filepath.Join(s.config.Bin, name),
		Env: []string{
			fmt.Sprintf("APP_PORT=%d", port),
			fmt.Sprintf("DAPR_HTTP_PORT=%d", service.Sidecar.HTTPPort),
			fmt.Sprintf("DAPR_GRPC_PORT=%d", service.Sidecar.GRPCPort),
			"WAREHOUSE_APP_ID=" + s.AppID(Warehouse),
			"PAYMENT_APP_ID=" + s.AppID(Payment),
			"ORCHESTRATOR_DATABASE_URL=" + s.config.DatabaseURL(Orchestrator),
			"WAREHOUSE_DATABASE_URL=" + s.config.DatabaseURL(Warehouse),
			"PAYMENT_DATABASE_URL=" + s.config.DatabaseURL(Payment),
		},
		Dir:      s.config.Dir,
		ReadyURL: service.URL + "/readyz",
		Tied:     true,
	}
	if name == Orchestrator {
		app.Args = []string{"serve", "--engine", "dapr"}
	}
	service.App, err = localstack.StartProgram(ctx, app)
	return err
}

// Stop ends the services in the order in which nobody misses another: the orchestrator first.
func (s *Stack) Stop() {
	for _, service := range []*Service{s.Orchestrator, s.Warehouse, s.Payment} {
		service.App.Stop(15 * time.Second)
		service.Sidecar.Stop()
	}
}

// Kill ends what was started without asking.
func (s *Stack) Kill() {
	for _, service := range s.services {
		if service.App != nil {
			service.App.Kill()
		}
		if service.Sidecar != nil {
			service.Sidecar.Kill()
		}
	}
}

// AppID is what the service is called on this host. Sidecars find each other by it across all checkouts of the repository.
func (s *Stack) AppID(name string) string { return name + s.suffix }

// RenderComponents copies into a folder the component files that development and production use, with the services called by their app ids.
func RenderComponents(from, to string, appID func(string) string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make folder for components: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no component files in " + from)
	}
	names := map[string]string{}
	for _, name := range services {
		names[name] = appID(name)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var resource any
		if err := yaml.Unmarshal(text, &resource); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if text, err = yaml.Marshal(renamed(resource, names)); err != nil {
			return fmt.Errorf("render %s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// renamed is a document whose keys and values that are in names go by their new names.
func renamed(document any, names map[string]string) any {
	rename := func(s string) string {
		if name, ok := names[s]; ok {
			return name
		}
		return s
	}
	switch d := document.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range d {
			out[rename(key)] = renamed(value, names)
		}
		return out
	case []any:
		for i := range d {
			d[i] = renamed(d[i], names)
		}
		return d
	case string:
		return rename(d)
	}
	return document
}
