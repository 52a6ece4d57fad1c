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

	config    Config
	suffix    string
	resources string // the rendered components
	// replica is a second orchestrator, while there is one.
	replica *Service
}

// Start starts the services and waits until they are ready. All of it dies with this process.
func Start(ctx context.Context, config Config) (*Stack, error) {
	s := &Stack{config: config, suffix: fmt.Sprintf("-%06x", rand.Uint32N(1<<24)), Services: map[string]*Service{}}
	s.resources = filepath.Join(config.Dir, "components")
	ids := map[string]string{}
	for _, name := range Names() {
		ids[name] = s.AppID(name)
	}
	if err := localstack.RenderComponents(s.resources, ids, config.Components, filepath.Join(config.Components, "brokers", config.Broker.Kind())); err != nil {
		return nil, err
	}
	ports, err := localstack.FreePorts(len(Names()))
	if err != nil {
		return nil, err
	}
	for _, name := range Names() {
		s.Services[name] = &Service{}
	}
	s.Orchestrator, s.Warehouse, s.Payment = s.Services[Orchestrator], s.Services[Warehouse], s.Services[Payment]

	group, groupCtx := errgroup.WithContext(ctx)
	for i, name := range Names() {
		group.Go(func() error { return s.start(groupCtx, s.Services[name], name, ports[i], config.Dir) })
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

// start starts one process of a service with its sidecar. Their logs and process ids lie in dir.
func (s *Stack) start(ctx context.Context, service *Service, name string, port int, dir string) error {
	service.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	var err error
	service.Sidecar, err = localstack.StartSidecar(ctx, s.config.Dapr, s.config.Plane, localstack.SidecarConfig{
		AppID:         s.AppID(name),
		AppPort:       port,
		AppHealthPath: "/apphealthz",
		Resources:     []string{s.resources},
		Configs:       []string{filepath.Join(s.resources, "config.yaml")},
		Env:           append(s.config.Broker.Env(), "WORKFLOW_DATABASE_URL="+s.config.DatabaseURL("dapr")),
		Dir:           dir,
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
		Dir:      dir,
		ReadyURL: service.URL + "/readyz",
		Tied:     true,
	}
	for _, other := range Names() {
		upper := strings.ToUpper(other)
		app.Env = append(app.Env, upper+"_APP_ID="+s.AppID(other), upper+"_DATABASE_URL="+s.config.DatabaseURL(other))
	}
	if name == Orchestrator {
		// Orders in USD await approval; those in EUR, which are the most, do not.
		app.Env = append(app.Env, "ORCHESTRATOR_COMPONENTS="+s.resources)
		app.Args = []string{"serve", "--engine", "dapr", "--approval-above", "USD=0"}
	}
	service.App, err = localstack.StartProgram(ctx, app)
	return err
}

// StartReplica starts a second orchestrator of the same app id, with a sidecar of its own, on the same database.
func (s *Stack) StartReplica(ctx context.Context) (*Service, error) {
	ports, err := localstack.FreePorts(1)
	if err != nil {
		return nil, err
	}
	s.replica = &Service{}
	if err := s.start(ctx, s.replica, Orchestrator, ports[0], filepath.Join(s.config.Dir, "replica")); err != nil {
		return nil, err
	}
	return s.replica, s.replica.Sidecar.WaitForApp(ctx)
}

// StopReplica ends the second orchestrator as an operator does who wants one less.
func (s *Stack) StopReplica() {
	s.replica.stop()
	s.replica = nil
}

// Stop ends the services in the order in which nobody misses another: the orchestrator first.
func (s *Stack) Stop() {
	for _, name := range slices.Backward(Names()) {
		s.Services[name].stop()
	}
}

func (s *Service) stop() {
	s.App.Stop(15 * time.Second)
	s.Sidecar.Stop()
}

// Kill ends what was started without asking.
func (s *Stack) Kill() {
	for _, service := range s.Services {
		service.kill()
	}
	if s.replica != nil {
		s.replica.kill()
	}
}

func (s *Service) kill() {
	if s.App != nil {
		s.App.Kill()
	}
	if s.Sidecar != nil {
		s.Sidecar.Kill()
	}
}

// deafSidecar is how long a sidecar may take to accept the worker of an orchestrator that was started again.
const deafSidecar = 15 * time.Second

// RestartOrchestrator is RestartWorker of the orchestrator.
func (s *Stack) RestartOrchestrator(ctx context.Context) error {
	return s.Orchestrator.RestartWorker(ctx)
}

// RestartWorker starts a killed orchestrator as a supervisor does. daprd 1.18.2 halts its workflow actors, without a bound
// on the time, when its only worker goes away, and registers no worker until that has ended; when turns are under way it may
// never end ("actor type ... not registered"). So a sidecar whose worker stays unready is started again too;
// docs/decisions/0006 has the evidence.
func (s *Service) RestartWorker(ctx context.Context) error {
	if err := s.App.Launch(); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, deafSidecar)
	defer cancel()
	if err := s.App.WaitReady(patient); err == nil {
		return nil
	}
	s.Sidecar.Kill()
	if err := s.Sidecar.Restart(ctx); err != nil {
		return err
	}
	return s.App.WaitReady(ctx)
}

// AppID is what the service is called on this host. Sidecars find each other by it across all checkouts of the repository.
func (s *Stack) AppID(name string) string { return name + s.suffix }

// StartEmbedded starts an orchestrator with the embedded engine, and without a sidecar or a bus, beside the one on Dapr and on its
// database.
func (s *Stack) StartEmbedded(ctx context.Context) (*localstack.Program, string, error) {
	ports, err := localstack.FreePorts(1)
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	program, err := localstack.StartProgram(ctx, localstack.ProgramConfig{
		Name: "embedded", Path: filepath.Join(s.config.Bin, Orchestrator), Args: []string{"serve", "--engine", "embedded", "--approval-above", "USD=0"},
		Env: []string{
			"ORCHESTRATOR_DATABASE_URL=" + s.config.DatabaseURL(Orchestrator), "ORCHESTRATOR_LISTEN=" + address,
			"WAREHOUSE_URL=" + s.Warehouse.URL, "PAYMENT_URL=" + s.Payment.URL,
		},
		Dir: s.config.Dir, ReadyURL: "http://" + address + "/readyz", Tied: true,
	})
	return program, "http://" + address, err
}
