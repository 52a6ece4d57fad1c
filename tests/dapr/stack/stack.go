// Package stack runs the checkout on real Dapr as production does: orchestrator and participants as processes of their own, each
// with a sidecar, on one control plane, one broker and one PostgreSQL server. Each process can be killed and started again on
// its ports. The tests of tests/dapr and tests/brokers and the benchmark build on it.
package stack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// Names of the services, without the suffix of their app ids.
const (
	Orchestrator = "orchestrator"
	Warehouse    = "warehouse"
	Payment      = "payment"
	Orders       = "orders"
	Notification = "notification"
	Pricing      = "pricing"
)

// Names lists the services; the orchestrator, which calls the others, comes last.
func Names() []string {
	return []string{Warehouse, Payment, Orders, Notification, Pricing, Orchestrator}
}

// Config says where a stack runs.
type Config struct {
	// Components is the folder of component files, Bin that of the programs.
	Components, Bin string
	// Broker carries the events.
	Broker *localstack.Broker
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

// Stack is the services.
type Stack struct {
	Orchestrator, Warehouse, Payment *Service
	// Services are all of them, by name.
	Services map[string]*Service

	config Config
	suffix string
}

// Start starts the services and waits until they are ready. All of it dies with this process.
func Start(ctx context.Context, config Config) (*Stack, error) {
	s := &Stack{config: config, suffix: fmt.Sprintf("-%06x", rand.Uint32N(1<<24)), Services: map[string]*Service{}}
	resources := filepath.Join(config.Dir, "components")
	ids := map[string]string{}
	for _, name := range Names() {
		ids[name] = s.AppID(name)
	}
	if err := localstack.RenderComponents(resources, ids, config.Components, filepath.Join(config.Components, "brokers", config.Broker.Kind())); err != nil {
		return nil, err
	}
	ports, err := localstack.FreePorts(len(Names()))
	if err != nil {
		return nil, err
	}
	for i, name := range Names() {
		s.Services[name] = &Service{URL: fmt.Sprintf("http://127.0.0.1:%d", ports[i])}
	}
	s.Orchestrator, s.Warehouse, s.Payment = s.Services[Orchestrator], s.Services[Warehouse], s.Services[Payment]

	group, groupCtx := errgroup.WithContext(ctx)
	for i, name := range Names() {
		group.Go(func() error { return s.start(groupCtx, name, ports[i], resources) })
	}
	if err := group.Wait(); err != nil {
		s.Kill()
		return nil, err
	}
	// The orchestrator calls itself ready before the sidecars of its participants have seen them listen.
	for _, name := range Names() {
		if err := s.Services[name].Sidecar.WaitForApp(ctx); err != nil {
			s.Kill()
			return nil, err
		}
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, name string, port int, resources string) error {
	service := s.Services[name]
	var err error
	service.Sidecar, err = localstack.StartSidecar(ctx, s.config.Dapr, s.config.Plane, localstack.SidecarConfig{
		AppID:         s.AppID(name),
		AppPort:       port,
		AppHealthPath: "/apphealthz",
		Resources:     []string{resources},
		Configs:       []string{filepath.Join(resources, "config.yaml")},
		Env:           append(s.config.Broker.Env(), "WORKFLOW_DATABASE_URL="+s.config.DatabaseURL("dapr")),
		Dir:           s.config.Dir,
		Tied:          true,
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
		},
		Dir:      s.config.Dir,
		ReadyURL: service.URL + "/readyz",
		Tied:     true,
	}
	for _, other := range Names() {
		upper := strings.ToUpper(other)
		app.Env = append(app.Env, upper+"_APP_ID="+s.AppID(other), upper+"_DATABASE_URL="+s.config.DatabaseURL(other))
	}
	if name == Orchestrator {
		// Orders in USD await approval; those in EUR, which are the most, do not.
		app.Env = append(app.Env, "ORCHESTRATOR_COMPONENTS="+resources)
		app.Args = []string{"serve", "--engine", "dapr", "--approval-above", "USD=0"}
	}
	service.App, err = localstack.StartProgram(ctx, app)
	return err
}

// Stop ends the services in the order in which nobody misses another: the orchestrator first.
func (s *Stack) Stop() {
	for _, name := range slices.Backward(Names()) {
		service := s.Services[name]
		service.App.Stop(15 * time.Second)
		service.Sidecar.Stop()
	}
}

// Kill ends what was started without asking.
func (s *Stack) Kill() {
	for _, service := range s.Services {
		if service.App != nil {
			service.App.Kill()
		}
		if service.Sidecar != nil {
			service.Sidecar.Kill()
		}
	}
}

// deafSidecar is how long a sidecar may take to accept the worker of an orchestrator that was started again.
const deafSidecar = 15 * time.Second

// RestartOrchestrator starts a killed orchestrator as a supervisor does. daprd 1.18.2 halts its workflow actors, without a bound
// on the time, when its only worker goes away, and registers no worker until that has ended; when turns are under way it may
// never end ("actor type ... not registered"). So a sidecar whose worker stays unready is started again too;
// docs/decisions/0006 has the evidence.
func (s *Stack) RestartOrchestrator(ctx context.Context) error {
	if err := s.Orchestrator.App.Launch(); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, deafSidecar)
	defer cancel()
	if err := s.Orchestrator.App.WaitReady(patient); err == nil {
		return nil
	}
	s.Orchestrator.Sidecar.Kill()
	if err := s.Orchestrator.Sidecar.Restart(ctx); err != nil {
		return err
	}
	return s.Orchestrator.App.WaitReady(ctx)
}

// AppID is what the service is called on this host. Sidecars find each other by it across all checkouts of the repository.
func (s *Stack) AppID(name string) string { return name + s.suffix }
