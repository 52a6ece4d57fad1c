package localstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// parentDir, when it is set, makes the test binary a process that starts a tied process in that folder and waits to be killed;
// brokerParent makes that process a broker.
const (
	parentDir    = "LOCALSTACK_PARENT_DIR"
	brokerParent = "LOCALSTACK_PARENT_OF_BROKER"
)

func TestMain(m *testing.M) {
	if dir, kind := os.Getenv(parentDir), os.Getenv(brokerParent); kind != "" {
		b, err := StartBroker(context.Background(), kind, moduleRoot, dir, true)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(b.Address())
		select {}
	} else if dir != "" {
		p := &process{name: "child", program: "/bin/sleep", args: []string{"1000"}, dir: dir, tied: true}
		if err := p.start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.pid)
		select {}
	}
	os.Exit(m.Run())
}

func TestATiedProcessDiesWhenItsParentIsKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentDir+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line := bufio.NewScanner(out)
	require.True(t, line.Scan())
	child, err := strconv.Atoi(line.Text())
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(child, 0))

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.NoError(t, WaitFor(ctx, "the child to die", func(context.Context) error {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
		if err == nil && exe != "" {
			return errors.New("it runs " + exe)
		}
		return nil
	}))
}

func TestAProcessIdThatIsUsedAgainIsNotTakenForTheProcess(t *testing.T) {
	p := &process{name: "gone", program: "/bin/sleep", dir: t.TempDir()}
	require.NoError(t, os.WriteFile(p.pidFile(), []byte(strconv.Itoa(os.Getpid())), 0o644))
	require.False(t, p.find())
	p.kill() // Must not kill this test.
}

func TestAProcessThatEndsAtOnceIsReportedWithItsLog(t *testing.T) {
	p := &process{name: "ends", program: "/bin/sh", args: []string{"-c", "echo the reason; exit 1"}, dir: t.TempDir(), tied: true}
	require.NoError(t, p.start())
	err := p.ready(t.Context(), func(context.Context) error { return errors.New("not ready") })
	require.ErrorContains(t, err, "the reason")
}

func TestControlPlaneOutlivesWhoStartedItUntilItIsStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dapr, err := FindDapr(ctx)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "plane")
	first, err := StartControlPlane(ctx, dapr, dir, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, StopControlPlane(dapr, dir)) })

	again, err := StartControlPlane(ctx, dapr, dir, false)
	require.NoError(t, err)
	require.Equal(t, first.SchedulerAddress(), again.SchedulerAddress())
	require.Equal(t, first.scheduler.pid, again.scheduler.pid, "a second scheduler was started")

	require.NoError(t, StopControlPlane(dapr, dir))
	require.False(t, first.scheduler.alive())
	require.False(t, first.placement.alive())
	require.NoError(t, StopControlPlane(dapr, dir), "stopping twice is fine")
}

func TestFreePortsDiffer(t *testing.T) {
	ports, err := FreePorts(50)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, port := range ports {
		require.False(t, seen[port])
		seen[port] = true
	}
}

func TestAPortIsReservedForOneAlone(t *testing.T) {
	port, err := FreePort()
	require.NoError(t, err)
	require.False(t, reserve(port), "until this process ends")
}

func TestWriteRuntimeMakesADaprdThatIsTheRealOneOnLoopback(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "it's", "daprd")
	require.NoError(t, os.MkdirAll(filepath.Dir(real), 0o755))
	require.NoError(t, os.WriteFile(real, []byte("#!/bin/sh\necho \"$DAPR_HOST_IP\" \"$@\"\n"), 0o755))
	require.NoError(t, WriteRuntime(filepath.Join(dir, "rt"), Dapr{Daprd: real}))

	daprd := filepath.Join(dir, "rt", ".dapr", "bin", "daprd")
	out, err := exec.Command(daprd, "--app-id", "a b").Output()
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1 --app-id a b --dapr-internal-grpc-listen-address 127.0.0.1 --metrics-listen-address 127.0.0.1\n", string(out))
	out, err = exec.Command(daprd, "--version").Output()
	require.NoError(t, err)
	require.Equal(t, " --version\n", string(out))
}

// I8: see docs/decisions/0006.
func TestASidecarThatAcceptsNoWorkerIsStartedAgainAndItsWatchEndsWithIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	started := filepath.Join(dir, "started")
	real := filepath.Join(dir, "daprd")
	require.NoError(t, os.WriteFile(real, []byte("#!/bin/sh\necho $$ >>'"+started+"'\nexec sleep 100\n"), 0o755))
	require.NoError(t, WriteRuntime(filepath.Join(dir, "rt"), Dapr{Daprd: real}))
	pids := func() []string {
		text, _ := os.ReadFile(started) // Not there until the first start.
		return strings.Fields(string(text))
	}

	// The orchestrator is deaf until its sidecar was started a second time.
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if len(pids()) < 2 {
			http.Error(w, "Dapr's sidecar of orchestrator has no workflow worker connected", http.StatusServiceUnavailable)
		}
	}))
	defer app.Close()
	_, port, err := net.SplitHostPort(app.Listener.Addr().String())
	require.NoError(t, err)

	sidecar := exec.Command(filepath.Join(dir, "rt", ".dapr", "bin", "daprd"), "--app-id", "orchestrator", "--app-port", port)
	sidecar.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, sidecar.Start())
	group := sidecar.Process.Pid
	defer syscall.Kill(-group, syscall.SIGKILL)
	err = sidecar.Wait()
	require.ErrorContains(t, err, "killed", "the deaf one is ended")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, WaitFor(ctx, "the second start", func(context.Context) error {
		if len(pids()) != 2 {
			return fmt.Errorf("started %d times", len(pids()))
		}
		return nil
	}))
	second, err := strconv.Atoi(pids()[1])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(second, syscall.SIGKILL))
	require.NoError(t, WaitFor(ctx, "the watch to end", func(context.Context) error {
		if syscall.Kill(-group, 0) != syscall.ESRCH {
			return errors.New("it goes on")
		}
		return nil
	}))
}
