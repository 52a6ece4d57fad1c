package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// upDapr starts the applications of dapr.yaml with `dapr run -f`, on a private PostgreSQL, broker and control plane.
func (s *stack) upDapr(ctx context.Context, broker string) error {
	dapr, err := s.dapr(ctx)
	if err != nil {
		return err
	}
	urls, err := s.startPostgres(ctx, slices.Concat(apps, []string{"dapr"})...)
	if err != nil {
		return err
	}
	s.say("Starting the broker, %s ...", broker)
	bus, err := localstack.StartBroker(ctx, broker, s.root, s.local(broker), false)
	if err != nil {
		return err
	}
	s.say("Starting Dapr's placement and scheduler (up to half a minute) ...")
	planeCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	plane, err := localstack.StartControlPlane(planeCtx, dapr, s.local("dapr"), false)
	if err != nil {
		return err
	}
	if err := localstack.WriteRuntime(s.local("runtime"), dapr); err != nil {
		return err
	}

	r := rendering{
		Root:      s.root,
		Suffix:    s.suffix(),
		Runtime:   s.local("runtime"),
		Resources: s.local("components"),
		Placement: plane.PlacementAddress(),
		Scheduler: plane.SchedulerAddress(),
		Logs:      s.local("log"),
		Apps:      map[string]renderedApp{},
	}
	ports, err := localstack.FreePorts(5 * len(apps))
	if err != nil {
		return err
	}
	databases := databaseURLs(urls)
	addresses := map[string]string{}
	for i, app := range apps {
		p := ports[5*i:]
		r.Apps[app] = renderedApp{AppPort: p[0], HTTPPort: p[1], GRPCPort: p[2], InternalGRPCPort: p[3], MetricsPort: p[4], Env: databases}
		addresses[addressKey(app)] = fmt.Sprintf("http://127.0.0.1:%d", p[0])
	}
	components := filepath.Join(s.root, "components")
	if err := localstack.RenderComponents(r.Resources, r.appIDs(), components, filepath.Join(components, "brokers", broker)); err != nil {
		return err
	}
	template, err := os.ReadFile(filepath.Join(s.root, "dapr.yaml"))
	if err != nil {
		return err
	}
	text, err := renderTemplate(template, r)
	if err != nil {
		return err
	}
	if err := writeWhole(s.local("dapr.yaml"), text); err != nil {
		return err
	}

	s.say("Starting %s, each with a sidecar: dapr run -f .local/dapr.yaml ...", strings.Join(apps, ", "))
	st := state{Engine: onDapr, Broker: broker}
	// The sidecars read these from here; what the template lists reaches only the applications.
	forSidecars := map[string]string{"WORKFLOW_DATABASE_URL": urls["dapr"]}
	for _, entry := range bus.Env() {
		name, value, _ := strings.Cut(entry, "=")
		forSidecars[name] = value
	}
	run, err := s.start(&st, "dapr", forSidecars, dapr.CLI, "run", "-f", s.local("dapr.yaml"))
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, 2*time.Minute, run, slices.Collect(maps.Values(addresses))...); err != nil {
		return err
	}
	return s.writeEnv(merged(databases, addresses))
}

// suffix makes app ids unique to this checkout of the repository.
func (s *stack) suffix() string { return fmt.Sprintf("-%x", sha256.Sum256([]byte(s.root)))[:7] }

// dapr finds Dapr, or builds it.
func (s *stack) dapr(ctx context.Context) (localstack.Dapr, error) {
	return localstack.BuildDapr(ctx, s.root, s.out)
}

// stopControlPlane stops placement and scheduler, if they were ever started.
func (s *stack) stopControlPlane(ctx context.Context) error {
	if _, err := os.Stat(s.local("dapr")); err != nil {
		return nil
	}
	dapr, err := localstack.FindDapr(ctx)
	if err != nil {
		return err
	}
	return localstack.StopControlPlane(dapr, s.local("dapr"))
}
