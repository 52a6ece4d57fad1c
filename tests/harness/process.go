package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a real program under test. It can be killed and started again on the same address.
type Process struct {
	name string
	url  string
	path string
	args []string
	env  []string
	log  string

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of its end; to be read after done
}

// NewProcess describes a program that serves at url; Start starts it. It ends with the test, and its log is shown if the
// test fails.
func NewProcess(t testing.TB, name, url string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{
		name: name, url: url, path: filepath.Join(binaries(t), name), args: args, env: env,
		log: filepath.Join(t.ArtifactDir(), fmt.Sprintf("%s-%s.log", name, url[strings.LastIndexByte(url, ':')+1:])),
	}
	t.Cleanup(func() {
		if p.Running() {
			p.Kill(t)
		}
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, tail(p.log))
		}
	})
	return p
}

// URL is where it listens.
func (p *Process) URL() string { return p.url }

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Start starts it and returns when it says that it is ready.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	p.Launch(t)
	p.AwaitReady(t)
}

// Launch starts it and does not wait.
func (p *Process) Launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	// The test's own variables that name databases or sidecars must not leak in.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	p.cmd, p.done = cmd, make(chan struct{})
	go func() {
		defer close(p.done)
		// Pdeathsig goes by the thread that started the child, so this thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
}

// Ask runs the program as a command line against the process's own address, in its environment, and returns its output and exit
// status.
func (p *Process) Ask(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(t.Context(), p.path, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "ORCHESTRATOR_SERVER=" + p.url}, p.env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var ended *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
		t.Fatalf("run %s %v: %v", p.name, args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// AwaitReady returns when /readyz says that it is ready.
func (p *Process) AwaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, p.name+" to be ready", func(ctx context.Context) error {
		if !p.Running() {
			t.Fatalf("%s has ended: %v", p.name, p.err)
		}
		return Ready(ctx, p.url)
	})
}

// Ready asks the process at url whether it is ready.
func Ready(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// Running tells whether it was started and has not ended.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends it with SIGKILL and returns when it is gone.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if !p.Running() {
		t.Fatalf("kill %s: it does not run", p.name)
	}
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// Terminate sends SIGTERM and returns the exit status and how long the end took. It fails the test if the process has not ended
// within grace.
func (p *Process) Terminate(t testing.TB, grace time.Duration) (status int, took time.Duration) {
	t.Helper()
	began := time.Now()
	if err := syscall.Kill(p.PID(), syscall.SIGTERM); err != nil {
		t.Fatalf("stop %s: %v", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(grace):
		t.Fatalf("%s has not ended %s after SIGTERM", p.name, grace)
	}
	return p.cmd.ProcessState.ExitCode(), time.Since(began)
}

// RSS is its resident memory in bytes.
func (p *Process) RSS(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no VmRSS of %s", p.name)
	return 0
}

// CPU is the processor time that it has used.
func (p *Process) CPU(t testing.TB) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	// After the name, which is in parentheses: the 12th and 13th fields are user and system time in 1/100 s (proc(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// built is the folder with the binaries of this test run.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// binaries builds the programs once for all tests of a package; Main removes them.
func binaries(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "checkoutsaga-bin-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir, "github.com/checkoutsaga/orchestrator/cmd/...")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// Main runs a package's tests and clears away what they built.
func Main(m *testing.M) {
	flag.Parse()
	if !given("test.parallel") {
		// These tests wait more than they compute, so more may run at once than there are cores.
		if err := flag.Set("test.parallel", "24"); err != nil {
			panic(err) // The flag is the testing package's own.
		}
	}
	status := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(status)
}

func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-6000):])
}
