package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// Whole is a stack with all that it stands on, for tests.
type Whole struct {
	*Stack
	Plane  *localstack.ControlPlane
	Broker *localstack.Broker

	dir string
	// Postgres is the server of all databases.
	Postgres    *localstack.Postgres
	postgresDir string
	options     localstack.PostgresOptions
	databases   map[string]string // connection strings
	run         string            // begins the names of this run's databases
}

// StartWhole builds the programs and starts everything from nothing, in less than three minutes. root is the folder of the
// module, broker one of localstack.Brokers. The PostgreSQL server is the stack's own, in .local/<postgres> or where an absolute path
// says: these tests are the heaviest, and others measure on the shared one. It gives up durability unless an option says otherwise. What
// was started when it fails is stopped by Stop, so there is a Whole even then.
func StartWhole(root, broker, postgres string, options ...func(*localstack.PostgresOptions)) (*Whole, error) {
	w := &Whole{
		run: fmt.Sprintf("run_%06x_", rand.Uint32N(1<<24)), postgresDir: postgres, databases: map[string]string{},
		options: localstack.PostgresOptions{Throwaway: true},
	}
	for _, option := range options {
		option(&w.options)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	local, err := localstack.LocalDir(root)
	if err != nil {
		return w, err
	}
	if !filepath.IsAbs(postgres) {
		w.postgresDir = filepath.Join(local, postgres)
	}
	return w, w.start(ctx, root, broker)
}

func (w *Whole) start(ctx context.Context, root, broker string) error {
	programs, err := localstack.FindDapr(ctx)
	if err != nil {
		return err
	}
	if w.dir, err = os.MkdirTemp("", "checkoutsaga-dapr-"); err != nil {
		return err
	}
	bin := filepath.Join(w.dir, "bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "./cmd/...")
	build.Dir = root
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w: %s", err, text)
	}
	if w.Postgres, err = localstack.StartPostgres(ctx, w.postgresDir, w.options); err != nil {
		return err
	}
	for _, name := range append(Names(), "dapr") {
		if w.databases[name], err = w.Postgres.EnsureDatabase(ctx, w.run+name); err != nil {
			return err
		}
	}
	if w.Broker, err = localstack.StartBroker(ctx, broker, root, filepath.Join(w.dir, broker), true); err != nil {
		return err
	}
	if w.Plane, err = localstack.StartControlPlane(ctx, programs, filepath.Join(w.dir, "plane"), true); err != nil {
		return err
	}
	w.Stack, err = Start(ctx, Config{
		Components: filepath.Join(root, "components"), Bin: bin, Dir: filepath.Join(w.dir, "stack"), Broker: w.Broker,
		Dapr: programs, Plane: w.Plane, DatabaseURL: w.DatabaseURL,
	})
	return err
}

// DatabaseURL is the address of a service's database.
func (w *Whole) DatabaseURL(name string) string { return w.databases[name] }

// CLI runs the command line on the stack's orchestrator and returns what it printed and its exit status.
func (w *Whole) CLI(ctx context.Context, args ...string) (stdout, stderr string, status int, err error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, "bin", Orchestrator), append(args, "--server", w.Orchestrator.URL)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		err = nil // An exit status is an answer.
	}
	if err != nil {
		return "", "", 0, fmt.Errorf("run orchestrator %v: %w", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode(), nil
}

// Databases are the addresses of all services' databases.
func (w *Whole) Databases() judge.Databases {
	d := judge.Databases{}
	for _, name := range Names() {
		d[name] = w.DatabaseURL(name)
	}
	return d
}

// URLs are the services' own addresses, past their sidecars.
func (w *Whole) URLs() map[string]string {
	urls := map[string]string{}
	for name, service := range w.Services {
		urls[name] = service.URL
	}
	return urls
}

// Stop ends all processes; after a failure logs and rows stay, and out is told where.
func (w *Whole) Stop(failed bool, out io.Writer) error {
	if w.Stack != nil {
		w.Stack.Kill()
	}
	if w.Plane != nil {
		w.Plane.KillScheduler()
		w.Plane.KillPlacement()
	}
	if w.Broker != nil {
		w.Broker.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := localstack.StopPostgres(ctx, w.postgresDir)
	if failed {
		fmt.Fprintf(out, "the logs of the stack are in %s, its rows in databases %s... of %s\n", w.dir, w.run, w.postgresDir)
		return err
	}
	return errors.Join(err, localstack.RemovePostgres(w.postgresDir), os.RemoveAll(w.dir))
}
