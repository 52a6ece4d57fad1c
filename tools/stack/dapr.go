package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// apps are the applications of dapr.yaml with the key of their address in .local/env.
var apps = []struct{ id, address string }{
	{"warehouse", "WAREHOUSE_URL"},
	{"payment", "PAYMENT_URL"},
	{"orchestrator", "ORCHESTRATOR_SERVER"},
}

// upDapr starts the applications of dapr.yaml with `dapr run -f`, on a private PostgreSQL, Redis and control plane.
func (s *stack) upDapr(ctx context.Context) error {
	dapr, err := s.dapr(ctx)
	if err != nil {
		return err
	}
	url, err := s.startPostgres(ctx, "orchestrator", "warehouse", "payment", "dapr")
	if err != nil {
		return err
	}
	s.say("Starting Redis ...")
	if _, err := localstack.StartRedis(ctx, s.local("redis")); err != nil {
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
		Suffix:    fmt.Sprintf("-%x", sha256.Sum256([]byte(s.root)))[:7],
		Runtime:   s.local("runtime"),
		Resources: s.local("components"),
		Placement: plane.PlacementAddress(),
		Scheduler: plane.SchedulerAddress(),
		Logs:      s.local("log"),
		Apps:      map[string]renderedApp{},
	}
	databases := map[string]string{
		"ORCHESTRATOR_DATABASE_URL": url("orchestrator"),
		"WAREHOUSE_DATABASE_URL":    url("warehouse"),
		"PAYMENT_DATABASE_URL":      url("payment"),
	}
	env := merged(databases)
	ports, err := localstack.FreePorts(5 * len(apps))
	if err != nil {
		return err
	}
	for i, app := range apps {
		p := ports[5*i:]
		r.Apps[app.id] = renderedApp{AppPort: p[0], HTTPPort: p[1], GRPCPort: p[2], InternalGRPCPort: p[3], MetricsPort: p[4], Env: databases}
		env[app.address] = fmt.Sprintf("http://127.0.0.1:%d", p[0])
	}
	if err := renderResources(s.root+"/components", r); err != nil {
		return err
	}
	template, err := os.ReadFile(s.root + "/dapr.yaml")
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

	s.say("Starting warehouse, payment and orchestrator, each with a sidecar: dapr run -f .local/dapr.yaml ...")
	st := state{Engine: onDapr}
	// The sidecars read the state store's address from here; what the template lists reaches the applications only.
	run, err := s.start(&st, "dapr", map[string]string{"WORKFLOW_DATABASE_URL": url("dapr")}, dapr.CLI, "run", "-f", s.local("dapr.yaml"))
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, 2*time.Minute, run, env["WAREHOUSE_URL"], env["PAYMENT_URL"], env["ORCHESTRATOR_SERVER"]); err != nil {
		return err
	}
	return s.writeEnv(env)
}

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
