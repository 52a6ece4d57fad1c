// Package daprtest gives a test a Dapr of its own: placement, scheduler and one sidecar per application as real processes, with
// their state in a PostgreSQL database of the test, and a broker if it wants one. All of it ends with the test, and when the
// test's process is killed.
package daprtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// App is an application that gets a sidecar.
type App struct {
	// Name is the app id without the suffix that keeps tests on one host apart.
	Name string
	// Port is where it listens; zero for one that does not. It need not listen yet.
	Port int
	// Protocol is http (the default), h2c or grpc.
	Protocol string
	// HealthPath is where it answers health checks; empty: it is not asked.
	HealthPath string
	// Resources and Configs are added to the state store.
	Resources, Configs []string
	// Env is added to the sidecar's environment.
	Env []string
}

// Dapr is what Start started.
type Dapr struct {
	Plane *localstack.ControlPlane

	suffix   string
	sidecars map[string]*localstack.Sidecar
}

// startTimeout bounds the start of everything; it takes about 5 s on two idle cores.
const startTimeout = 90 * time.Second

// StartBroker starts a broker of the kind (localstack.Brokers) for the test alone. Tests that run with -short skip.
func StartBroker(t testing.TB, kind string) *localstack.Broker {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a broker")
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	b, err := localstack.StartBroker(ctx, kind, moduleRoot(t), filepath.Join(t.TempDir(), kind), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", kind, tail(b.LogFile()))
		}
	})
	return b
}

// Start starts a control plane and a sidecar for each app. Tests that run with -short skip.
func Start(t testing.TB, apps ...App) *Dapr {
	t.Helper()
	return start(t, nil, nil, apps)
}

// StartOn is Start, and gives each sidecar the components `pubsub` and `deadletter` of components/brokers on the broker, and
// those of the folders: subscriptions and retry policies. They name apps without suffix, as the files in components/ do, and are
// for the apps that their scopes list.
func StartOn(t testing.TB, broker *localstack.Broker, folders []string, apps ...App) *Dapr {
	t.Helper()
	return start(t, broker, folders, apps)
}

func start(t testing.TB, broker *localstack.Broker, folders []string, apps []App) *Dapr {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	programs, err := localstack.FindDapr(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	resources := filepath.Join(dir, "resources")
	writeStateStore(t, resources, pgtest.URL(t))

	d := &Dapr{suffix: fmt.Sprintf("%06x", rand.Uint32N(1<<24)), sidecars: map[string]*localstack.Sidecar{}}
	shared, env := []string{resources}, []string(nil)
	if broker != nil {
		rendered := filepath.Join(dir, "components")
		ids := map[string]string{}
		for _, app := range apps {
			ids[app.Name] = d.AppID(app.Name)
		}
		folders := append([]string{filepath.Join(moduleRoot(t), "components", "brokers", broker.Kind())}, folders...)
		if err := localstack.RenderComponents(rendered, ids, folders...); err != nil {
			t.Fatal(err)
		}
		shared, env = append(shared, rendered), broker.Env()
	}
	d.Plane, err = localstack.StartControlPlane(ctx, programs, filepath.Join(dir, "plane"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Plane.KillScheduler()
		d.Plane.KillPlacement()
	})
	for _, app := range apps {
		s, err := localstack.StartSidecar(ctx, programs, d.Plane, localstack.SidecarConfig{
			AppID:         d.AppID(app.Name),
			AppPort:       app.Port,
			AppHealthPath: app.HealthPath,
			AppProtocol:   app.Protocol,
			Resources:     slices.Concat(shared, app.Resources),
			Configs:       app.Configs,
			Env:           slices.Concat(env, app.Env),
			Dir:           filepath.Join(dir, app.Name),
			Tied:          true,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			s.Kill()
			if t.Failed() {
				t.Logf("end of the log of %s:\n%s", app.Name, tail(s.LogFile()))
			}
		})
		d.sidecars[app.Name] = s
	}
	return d
}

// AppID is the app id of the app called name.
func (d *Dapr) AppID(name string) string { return name + "-" + d.suffix }

// Sidecar is that of the app called name.
func (d *Dapr) Sidecar(name string) *localstack.Sidecar { return d.sidecars[name] }

// writeStateStore writes the component that keeps the state of workflows.
func writeStateStore(t testing.TB, folder, url string) {
	t.Helper()
	component := fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: state
spec:
  type: state.postgresql
  version: v2
  metadata:
    - {name: connectionString, value: %q}
    - {name: actorStateStore, value: "true"}
`, url)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "state.yaml"), []byte(component), 0o644); err != nil {
		t.Fatal(err)
	}
}

// moduleRoot is the folder of go.mod, above the package under test.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod here or above")
		}
		dir = filepath.Dir(dir)
	}
}

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}
