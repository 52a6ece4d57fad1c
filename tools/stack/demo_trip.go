package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// trip shows that the engine runs anybody's saga: the program of examples/trip, with a process and databases of its own.
func (d *demonstration) trip(ctx context.Context, st state) (err error) {
	d.say("\n== Another saga on the same engine: a trip, which knows nothing of this checkout (examples/trip)\n")
	pg, err := localstack.StartPostgres(ctx, d.local("postgres"), localstack.PostgresOptions{}) // It runs.
	if err != nil {
		return err
	}
	databases := map[string]string{}
	for _, name := range []string{"trip_sagas", "trip_participants", "trip_dapr"} {
		if databases[name], err = pg.EnsureDatabase(ctx, name); err != nil {
			return err
		}
	}
	start := d.tripEmbedded
	if st.Engine == onDapr {
		start = d.tripOnDapr
	}
	others := state{Engine: st.Engine, Broker: st.Broker, Sessions: slices.Clone(st.Sessions)}
	began, server, err := start(ctx, &st, databases)
	if err != nil {
		return err
	}
	defer func() {
		// Even after an interrupt, which has ended ctx.
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, began.end(stopCtx, d.root, stopGrace), d.writeState(others))
	}()
	if err := d.awaitReady(ctx, 2*time.Minute, began, server); err != nil {
		return err
	}
	types := func(exit int, input string, args ...string) error {
		cmd := d.program(ctx, "trip", server, args...)
		typed := "trip " + strings.Join(args, " ")
		if input != "" {
			cmd.Stdin = strings.NewReader(input)
			typed = "echo '" + input + "' | " + typed
		}
		return d.types(exit, typed, cmd)
	}
	const trip = `{"traveller": "ann", "to": "lisbon", "nights": 3, "card": "%s", "price": {"minor_units": 48000, "currency": "EUR"}}`
	if err := types(exitConfirmed, fmt.Sprintf(trip, "visa"), "saga", "start", "trip", d.prefix+"-trip", "-", "--wait"); err != nil {
		return err
	}
	d.say("\nThe card is declined: car, hotel and flight are given back.\n")
	if err := types(exitRejected, fmt.Sprintf(trip, "declined"), "saga", "start", "trip", d.prefix+"-trip-declined", "-", "--wait"); err != nil {
		return err
	}
	d.say("")
	return types(0, "", "saga", "audit")
}

// tripEmbedded starts the trip in one process.
func (d *demonstration) tripEmbedded(_ context.Context, st *state, databases map[string]string) (began session, server string, err error) {
	port, err := localstack.FreePort()
	if err != nil {
		return session{}, "", err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	began, err = d.stack.start(st, "trip", map[string]string{
		"ORCHESTRATOR_DATABASE_URL": databases["trip_sagas"], "PARTICIPANTS_DATABASE_URL": databases["trip_participants"], "ORCHESTRATOR_LISTEN": listen,
	}, filepath.Join(d.root, "bin", "trip"), "dev")
	return began, "http://" + listen, err
}

// tripOnDapr starts the trip's own run template, on the control plane of the checkout.
func (d *demonstration) tripOnDapr(ctx context.Context, st *state, databases map[string]string) (began session, server string, err error) {
	dapr, err := d.dapr(ctx)
	if err != nil {
		return session{}, "", err
	}
	plane, err := localstack.StartControlPlane(ctx, dapr, d.local("dapr"), false) // It runs.
	if err != nil {
		return session{}, "", err
	}
	folder := filepath.Join(d.root, "examples", "trip")
	r := rendering{
		Root: folder, Suffix: d.suffix(), Runtime: d.local("runtime"), Resources: d.local("trip-components"),
		Placement: plane.PlacementAddress(), Scheduler: plane.SchedulerAddress(), Logs: d.local("log"), Apps: map[string]renderedApp{},
	}
	programs := []string{"trip", "airline", "agency", "bank"}
	ports, err := localstack.FreePorts(5 * len(programs))
	if err != nil {
		return session{}, "", err
	}
	env := map[string]string{"ORCHESTRATOR_DATABASE_URL": databases["trip_sagas"], "DATABASE_URL": databases["trip_participants"]}
	for i, app := range programs {
		p := ports[5*i:]
		r.Apps[app] = renderedApp{AppPort: p[0], HTTPPort: p[1], GRPCPort: p[2], InternalGRPCPort: p[3], MetricsPort: p[4], Env: env}
	}
	if err := localstack.RenderComponents(r.Resources, r.appIDs(), filepath.Join(folder, "components")); err != nil {
		return session{}, "", err
	}
	template, err := os.ReadFile(filepath.Join(folder, "dapr.yaml"))
	if err != nil {
		return session{}, "", err
	}
	text, err := renderTemplate(template, r)
	if err != nil {
		return session{}, "", err
	}
	if err := writeWhole(d.local("trip-dapr.yaml"), text); err != nil {
		return session{}, "", err
	}
	began, err = d.stack.start(st, "trip-dapr", map[string]string{"WORKFLOW_DATABASE_URL": databases["trip_dapr"]}, dapr.CLI, "run", "-f", d.local("trip-dapr.yaml"))
	return began, fmt.Sprintf("http://127.0.0.1:%d", ports[0]), err
}
