package localstack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moduleRoot is where tools/kafka is found, as seen from this package.
const moduleRoot = "../.."

func TestABrokerIsFoundRunningAndStops(t *testing.T) {
	for _, kind := range Brokers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := brokerDir(t, kind)
			b, err := StartBroker(t.Context(), kind, moduleRoot, dir, false)
			require.NoError(t, err)
			t.Cleanup(b.Kill)
			require.Equal(t, kind, b.Kind())
			require.Contains(t, b.Env(), b.Address())

			again, err := StartBroker(t.Context(), kind, moduleRoot, dir, false)
			require.NoError(t, err)
			require.Equal(t, b.Address(), again.Address(), "a second start finds the first")

			require.NoError(t, StopBroker(kind, dir))
			require.Empty(t, processesIn(t, dir), "nothing is left running")
			require.NoError(t, StopBroker(kind, dir), "stopping twice is fine")

			other := brokerDir(t, kind)
			b, err = StartBroker(t.Context(), kind, moduleRoot, other, false)
			require.NoError(t, err, "what another folder left is not in the way")
			t.Cleanup(b.Kill)
			b.Kill()
			require.Empty(t, processesIn(t, other))
			require.NoError(t, b.Start(t.Context()), "it starts again after it was killed")
			b.Stop()
			require.Empty(t, processesIn(t, other))
		})
	}
}

func TestABrokerListensOnLoopbackOnly(t *testing.T) {
	for _, kind := range Brokers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b, err := StartBroker(t.Context(), kind, moduleRoot, brokerDir(t, kind), true)
			require.NoError(t, err)
			t.Cleanup(b.Kill)
			for _, port := range b.ports {
				var listening int
				for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
					for _, local := range listeners(t, table) {
						if host, found := strings.CutSuffix(local, ":"+strings.ToUpper(strconv.FormatInt(int64(port), 16))); found {
							require.Contains(t, []string{"0100007F", "00000000000000000000000001000000"}, host, "port %d", port)
							listening++
						}
					}
				}
				require.NotZero(t, listening, "nobody listens on port %d", port)
			}
		})
	}
}

func TestWhatStartsABrokerTiedTakesItAlong(t *testing.T) {
	for _, kind := range Brokers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := brokerDir(t, kind)
			parent := exec.Command(os.Args[0])
			parent.Env = append(os.Environ(), brokerParent+"="+kind, parentDir+"="+dir)
			out, err := parent.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, parent.Start())
			line := make([]byte, 100)
			n, err := out.Read(line)
			require.NoError(t, err)
			require.Contains(t, string(line[:n]), "127.0.0.1:")
			require.NotEmpty(t, processesIn(t, dir))

			require.NoError(t, parent.Process.Signal(syscall.SIGKILL))
			_ = parent.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			require.NoError(t, WaitFor(ctx, "the broker to die", func(context.Context) error {
				if left := processesIn(t, dir); len(left) > 0 {
					return errors.New("left: " + strings.Join(left, ", "))
				}
				return nil
			}))
		})
	}
}

func TestRedisKeepsWhatItConfirmedWhenItIsKilled(t *testing.T) {
	b, err := StartBroker(t.Context(), Redis, moduleRoot, brokerDir(t, Redis), true)
	require.NoError(t, err)
	t.Cleanup(b.Kill)
	answer, err := exchange(t.Context(), b.Address(), "SET greeting hello\r\n", len("+OK"))
	require.NoError(t, err)
	require.Equal(t, "+OK", answer)
	before := b.Address()
	b.Kill()
	require.NoError(t, b.Start(t.Context()))
	require.Equal(t, before, b.Address(), "on the same port")
	answer, err = exchange(t.Context(), b.Address(), "GET greeting\r\n", len("$5\r\nhello"))
	require.NoError(t, err)
	require.Equal(t, "$5\r\nhello", answer)
}

func TestAnUnknownBrokerIsRefused(t *testing.T) {
	_, err := StartBroker(t.Context(), "pigeon", moduleRoot, t.TempDir(), true)
	require.ErrorContains(t, err, `no broker is called "pigeon"`)
}

func brokerDir(t *testing.T, kind string) string { return filepath.Join(t.TempDir(), kind) }

// processesIn are the programs that run in dir.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var found []string
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/")) {
			exe, _ := os.Readlink(filepath.Join(filepath.Dir(link), "exe"))
			found = append(found, exe)
		}
	}
	return slices.DeleteFunc(found, func(exe string) bool { return exe == "" }) // It has ended and is not yet reaped.
}

// listeners are the local addresses of listening sockets, in hexadecimal as the kernel writes them.
func listeners(t *testing.T, table string) []string {
	t.Helper()
	text, err := os.ReadFile(table)
	require.NoError(t, err)
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "0A" {
			found = append(found, fields[1])
		}
	}
	return found
}
