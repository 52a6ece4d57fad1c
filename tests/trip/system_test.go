package trip_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/daprtest"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// system is the trip on one engine: the program and its three participants as processes, a proxy before each participant, and on Dapr a
// sidecar for each of the four.
type system struct {
	bin, dir string
	// url is the API's address.
	url     string
	proxies map[string]*harness.Proxy
	// victims are the processes, and goesOnWithin is I8's bound once one of them was killed.
	victims      []victim
	goesOnWithin time.Duration

	sagasURL, booksURL string
	// sagas and books are the databases of the program and of the participants.
	sagas, books *pgxpool.Pool

	mu sync.Mutex
	// ends is how trips have to end, by key.
	ends map[string]end
}

// victim is a process that can be killed, and started again as a supervisor does.
type victim struct {
	name string
	// participant is whose process it is, or whose sidecar; empty for those of the program.
	participant string
	kill        func()
	restart     func(context.Context) error
}

// startTimeout bounds the start of a whole system.
const startTimeout = 2 * time.Minute

// begin starts the participants of a system.
func begin(t *testing.T, bin string) *system {
	t.Helper()
	s := &system{
		bin: bin, dir: t.ArtifactDir(), proxies: make(map[string]*harness.Proxy), ends: make(map[string]end),
		sagasURL: pgtest.URL(t), booksURL: pgtest.URL(t),
	}
	ports, err := localstack.FreePorts(len(participants) + 1)
	require.NoError(t, err)
	s.url = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	for i, name := range participants {
		at := fmt.Sprintf("http://127.0.0.1:%d", ports[i+1])
		program := s.run(t, localstack.ProgramConfig{
			Name: name, Path: filepath.Join(s.bin, "trip-participant"), Args: []string{name},
			Env: []string{fmt.Sprintf("APP_PORT=%d", ports[i+1]), "DATABASE_URL=" + s.booksURL},
		})
		answers := func(ctx context.Context) error {
			return localstack.WaitFor(ctx, name+" to answer", func(ctx context.Context) error {
				_, err := participant.Client(nil, at).Get(ctx, participant.ID{Definition: definition, Key: "nobody", Step: "book-flight"})
				return err
			})
		}
		s.victims = append(s.victims, victim{name, name, program.Kill, func(ctx context.Context) error {
			if err := program.Launch(); err != nil {
				return err
			}
			return answers(ctx)
		}})
		s.proxies[name] = harness.StartProxy(t, at)
		ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
		defer cancel()
		require.NoError(t, answers(ctx))
	}
	s.sagas, s.books = pool(t, s.sagasURL), pool(t, s.booksURL)
	s.watchTheBooks(t)
	return s
}

// startEmbedded starts the whole system on the embedded engine.
func startEmbedded(t *testing.T, bin string) *system {
	t.Helper()
	s := begin(t, bin)
	s.goesOnWithin = 10 * time.Second
	env := []string{"ORCHESTRATOR_ENGINE=embedded", "ORCHESTRATOR_LISTEN=" + strings.TrimPrefix(s.url, "http://")}
	for name, proxy := range s.proxies {
		env = append(env, strings.ToUpper(name)+"_URL="+proxy.URL())
	}
	program := s.serve(t, env)
	s.victims = append(s.victims, victim{name: "the program", kill: program.Kill, restart: program.Restart})
	return s
}

// startOnDapr starts the whole system on a Dapr of its own.
func startOnDapr(t *testing.T, bin string) *system {
	t.Helper()
	s := begin(t, bin)
	s.goesOnWithin = time.Minute
	configs := []string{filepath.Join(example(t), "components", "config.yaml")}
	apps := []daprtest.App{{Name: "trip", Port: port(t, s.url), Configs: configs}}
	for name, proxy := range s.proxies {
		apps = append(apps, daprtest.App{Name: name, Port: port(t, proxy.URL()), Configs: configs})
	}
	dapr := daprtest.Start(t, apps...)
	sidecar := dapr.Sidecar("trip")
	env := []string{
		fmt.Sprintf("APP_PORT=%d", port(t, s.url)), fmt.Sprintf("DAPR_HTTP_PORT=%d", sidecar.HTTPPort), fmt.Sprintf("DAPR_GRPC_PORT=%d", sidecar.GRPCPort),
	}
	for _, name := range participants {
		env = append(env, strings.ToUpper(name)+"_APP_ID="+dapr.AppID(name))
	}
	program := &stack.Service{App: s.serve(t, env), Sidecar: sidecar, URL: s.url}
	for _, name := range participants {
		its := dapr.Sidecar(name)
		s.victims = append(s.victims, victim{"the sidecar of " + name, name, its.Kill, its.Restart})
	}
	s.victims = append(s.victims,
		victim{name: "the program", kill: program.App.Kill, restart: program.RestartWorker},
		victim{name: "the sidecar of the program", kill: sidecar.Kill, restart: sidecar.Restart})
	return s
}

// serve starts the program.
func (s *system) serve(t *testing.T, env []string) *localstack.Program {
	t.Helper()
	return s.run(t, localstack.ProgramConfig{
		Name: "trip", Path: filepath.Join(s.bin, "trip"), Args: []string{"serve"}, Env: append(env, "ORCHESTRATOR_DATABASE_URL="+s.sagasURL),
		ReadyURL: s.url + "/readyz",
	})
}

// run starts a program that ends with the test.
func (s *system) run(t *testing.T, c localstack.ProgramConfig) *localstack.Program {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c.Dir, c.Tied = s.dir, true
	program, err := localstack.StartProgram(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		program.Kill()
		if text, err := os.ReadFile(program.LogFile()); err == nil && t.Failed() {
			t.Logf("end of the log of %s:\n%s", c.Name, text[max(0, len(text)-4000):])
		}
	})
	return program
}

func pool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), url, 4)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// open tells which of some trips have not ended, and where they are.
func (s *system) open(ctx context.Context, keys []string) (open []string, err error) {
	err = s.sagas.QueryRow(ctx, `
		SELECT coalesce(array_agg(key || ' is ' || status || ' at ' || at_step), '{}') FROM sagas WHERE key = ANY($1) AND phase <> 'final'`, keys).Scan(&open)
	return open, err
}

// types has somebody type a command of the program, which has to end with an exit status, and returns what it printed.
func (s *system) types(t *testing.T, exit int, input string, args ...string) string {
	t.Helper()
	out, err := s.typed(t.Context(), exit, input, args...)
	require.NoError(t, err)
	return out
}

func (s *system) typed(ctx context.Context, exit int, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "trip"), append([]string{"saga"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "ORCHESTRATOR_SERVER=" + s.url}
	var out, says bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &says
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &ended):
		return "", err
	case cmd.ProcessState.ExitCode() != exit:
		return "", fmt.Errorf("`trip saga %s` has exit status %d and not %d:\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), exit, out.String(), says.String())
	}
	return out.String(), nil
}

// example is the folder of the trip's module.
func example(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs(filepath.Join("..", "..", "examples", "trip"))
	require.NoError(t, err)
	return folder
}

// build makes the trip's programs, in a folder that goes with the test.
func build(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	text, err := exec.Command("go", "build", "-C", example(t), "-o", bin+"/", "./...").CombinedOutput()
	require.NoError(t, err, "%s", text)
	return bin
}

// port is that of an address.
func port(t *testing.T, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	n, err := strconv.Atoi(u.Port())
	require.NoError(t, err)
	return n
}
