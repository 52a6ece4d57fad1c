package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localenv"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

// The engines, as the orchestrator calls them.
const (
	embedded = "embedded"
	onDapr   = "dapr"
)

// apps are the applications, by their names in dapr.yaml, databases and environment variables.
var apps = []string{"orchestrator", "warehouse", "payment", "orders", "notification", "pricing"}

// addressKey is the name of an application's address in .local/env. The command line reads the orchestrator's.
func addressKey(app string) string {
	if app == "orchestrator" {
		return "ORCHESTRATOR_SERVER"
	}
	return strings.ToUpper(app) + "_URL"
}

// databaseURLs are the variables with each application's database.
func databaseURLs(urls map[string]string) map[string]string {
	variables := map[string]string{}
	for _, app := range apps {
		variables[strings.ToUpper(app)+"_DATABASE_URL"] = urls[app]
	}
	return variables
}

// stopGrace is how long applications may take to finish what is in hand; the engine takes up to 10 s.
const stopGrace = 15 * time.Second

// stack is the system of one checkout of the repository. All its files are under .local/ there.
type stack struct {
	root string
	out  io.Writer
}

// state is what down has to stop; .local/stack.json keeps it.
type state struct {
	Engine string `json:"engine"`
	// Broker is empty if there is none: embedded.
	Broker string `json:"broker,omitempty"`
	// Sessions are in the order of their start.
	Sessions []session `json:"sessions"`
}

func (s *stack) local(elem ...string) string {
	return filepath.Join(append([]string{s.root, ".local"}, elem...)...)
}

func (s *stack) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// up starts the system, or finds it running, and says how to go on.
func (s *stack) up(ctx context.Context, engine, broker string) error {
	if running, now := s.running(); !running {
		if err := s.begin(ctx, engine, broker); err != nil {
			return err
		}
	} else if now.Engine != engine {
		return fmt.Errorf("it runs on the %s engine here; `make down` stops it", now.Engine)
	} else if engine == onDapr && now.Broker != broker {
		return fmt.Errorf("it runs with %s as its broker here; `make down` stops it", now.Broker)
	}
	s.sayHowToGoOn(engine)
	return nil
}

// begin starts a system that does not run. If it fails, it stops what it has started.
func (s *stack) begin(ctx context.Context, engine, broker string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()

	if running, _ := s.running(); running {
		return errors.New("the system runs here already; `make down` stops it")
	}
	start, needed := s.upEmbedded, ""
	if engine == onDapr {
		start, needed = func(ctx context.Context) error { return s.upDapr(ctx, broker) }, broker
	}
	if err := localstack.InstallFor(ctx, s.out, needed); err != nil {
		return err
	}
	// The logs are only of this start.
	if err := errors.Join(os.RemoveAll(s.local("log")), os.Mkdir(s.local("log"), 0o700)); err != nil {
		return err
	}
	if err := start(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(err, s.stopAll(stopCtx))
	}
	return nil
}

// run is the main job from nothing to nothing: up, the demonstration, down.
func (s *stack) run(ctx context.Context, engine, broker string) (err error) {
	if err := s.begin(ctx, engine, broker); err != nil {
		return err
	}
	defer func() {
		// Even after an interrupt, which has ended ctx.
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.down(stopCtx))
	}()
	return s.demo(ctx)
}

func (s *stack) down(ctx context.Context) error {
	if _, err := os.Stat(s.local()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.stopAll(ctx)
}

func (s *stack) stopAll(ctx context.Context) error {
	st, err := s.readState()
	if err != nil {
		return err
	}
	var errs []error
	// Last started, first stopped: applications before what they need.
	for _, started := range slices.Backward(st.Sessions) {
		errs = append(errs, started.end(ctx, s.root, stopGrace))
	}
	for _, broker := range localstack.Brokers {
		errs = append(errs, localstack.StopBroker(broker, s.local(broker)))
	}
	errs = append(errs, s.stopControlPlane(ctx))
	for _, dir := range s.postgresDirs() {
		errs = append(errs, localstack.StopPostgres(ctx, dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	// The addresses lead nowhere now.
	if err := errors.Join(remove(s.local("env")), remove(s.stateFile())); err != nil {
		return err
	}
	if len(st.Sessions) > 0 {
		s.say("Stopped. Data stays under .local/.")
	}
	return nil
}

func (s *stack) clean(ctx context.Context) error {
	if err := s.down(ctx); err != nil {
		return err
	}
	var errs []error
	for _, dir := range s.postgresDirs() {
		errs = append(errs, localstack.RemovePostgres(dir))
	}
	return errors.Join(append(errs, os.RemoveAll(s.local()))...)
}

// postgresDirs are the folders of PostgreSQL servers: the system's own, and those of tests that were killed before they stopped
// theirs.
func (s *stack) postgresDirs() []string {
	dirs := []string{s.local("postgres")}
	found, _ := filepath.Glob(s.local("test-*")) // The pattern is a good one.
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			dirs = append(dirs, path)
		}
	}
	return dirs
}

// testEnv prepares what tests in packages side by side would otherwise all prepare at once.
func (s *stack) testEnv(ctx context.Context) error {
	if _, err := localstack.LocalDir(s.root); err != nil {
		return err
	}
	if _, err := localstack.StartPostgres(ctx, s.local("test-postgres"), localstack.PostgresOptions{Throwaway: true}); err != nil {
		return err
	}
	if _, err := localstack.BuildKafka(ctx, s.root, s.out); err != nil {
		return err
	}
	_, err := s.dapr(ctx)
	return err
}

// startPostgres starts the private server with the databases and returns the connection string of each one's role.
func (s *stack) startPostgres(ctx context.Context, databases ...string) (urls map[string]string, err error) {
	s.say("Starting PostgreSQL ...")
	pg, err := localstack.StartPostgres(ctx, s.local("postgres"), localstack.PostgresOptions{})
	if err != nil {
		return nil, err
	}
	urls = map[string]string{}
	for _, name := range databases {
		if urls[name], err = pg.EnsureDatabase(ctx, name); err != nil {
			return nil, err
		}
	}
	return urls, nil
}

// awaitReady waits until each address answers /readyz, or until a session that it needs has ended.
func (s *stack) awaitReady(ctx context.Context, timeout time.Duration, needs session, addresses ...string) error {
	waitCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, address := range addresses {
		err := localstack.WaitFor(waitCtx, address+"/readyz", func(ctx context.Context) error {
			if len(needs.members(s.root)) == 0 {
				cancel() // There is nothing to wait for.
				return fmt.Errorf("%s has ended", needs.Name)
			}
			return ready(ctx, address)
		})
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, s.logTails())
		}
	}
	return nil
}

func ready(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("not ready: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// logTails are the ends of the logs of this start, to find out what went wrong. They go into CI's output, so they name neither the
// machine nor folders outside the repository, and have no passwords.
func (s *stack) logTails() string {
	host, _ := os.Hostname()
	unnamed := strings.NewReplacer(s.root+"/", "", " instance="+host, "")
	var logs []string
	for _, dir := range append([]string{"log", "dapr"}, localstack.Brokers...) {
		found, _ := filepath.Glob(s.local(dir, "*.log"))
		logs = append(logs, found...)
	}
	var tails strings.Builder
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(line string) bool {
			// Dapr says a lot when all is well.
			return line == "" || strings.Contains(line, " scope=dapr.") && strings.Contains(line, " level=info ") ||
				strings.Contains(line, `"logger":"diagrid-cron`) && strings.Contains(line, `"level":"info"`)
		})
		if len(lines) == 0 {
			continue
		}
		fmt.Fprintf(&tails, "--- end of %s\n%s\n", unnamed.Replace(path), redact.Text(unnamed.Replace(strings.Join(lines[max(0, len(lines)-15):], "\n"))))
	}
	return tails.String()
}

func (s *stack) sayHowToGoOn(engine string) {
	where := "all in one process"
	if engine == onDapr {
		where = "on Dapr, a sidecar beside each application"
	}
	s.say(`
The system is up (%s). Try:

  bin/orchestrator checkout start --item CHAIR-OAK=2 --item LAMP-BRASS=1 --payment-method tok_visa --wait
  bin/orchestrator checkout list
  bin/orchestrator audit

Addresses and databases are in .local/env, logs in .local/log/. "make down" stops it.`, where)
}

// running tells whether a system that up started is alive, and how it was started.
func (s *stack) running() (bool, state) {
	st, err := s.readState()
	if err != nil {
		return false, st
	}
	alive := func(started session) bool { return len(started.members(s.root)) > 0 }
	return slices.ContainsFunc(st.Sessions, alive), st
}

func (s *stack) stateFile() string { return s.local("stack.json") }

func (s *stack) readState() (state, error) {
	var st state
	text, err := os.ReadFile(s.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return st, fmt.Errorf("read .local/stack.json: %w", err)
	}
	return st, nil
}

func (s *stack) writeState(st state) error {
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(s.stateFile(), append(text, '\n'))
}

// writeEnv writes .local/env, which scripts and the command line read.
func (s *stack) writeEnv(values map[string]string) error { return localenv.Write(s.root, values) }

func (s *stack) readEnv() (map[string]string, error) {
	values, err := localenv.Read(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("nothing runs here; `make up` or `make up-dapr` starts it")
	}
	return values, err
}

// lock keeps two calls for the same checkout of the repository apart.
func (s *stack) lock() (unlock func(), err error) {
	if _, err := localstack.LocalDir(s.root); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.local("stack.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock .local: %w", err)
	}
	return func() { f.Close() }, nil
}

// writeWhole replaces a file in one step: a reader sees the old one or the new one.
func writeWhole(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
