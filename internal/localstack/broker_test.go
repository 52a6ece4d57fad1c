package localstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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
			require.Contains(t, strings.Join(b.Env(), " "), b.Address())

			again, err := StartBroker(t.Context(), kind, moduleRoot, dir, false)
			require.NoError(t, err)
			require.Equal(t, b.Address(), again.Address(), "a second start finds the first")

			require.NoError(t, StopBroker(kind, dir))
			requireNothingLeft(t, dir)
			require.NoError(t, StopBroker(kind, dir), "stopping twice is fine")

			other := brokerDir(t, kind)
			b, err = StartBroker(t.Context(), kind, moduleRoot, other, false)
			require.NoError(t, err, "what another folder left is not in the way")
			t.Cleanup(b.Kill)
			b.Kill()
			requireNothingLeft(t, other)
			require.NoError(t, b.Start(t.Context()), "it starts again after it was killed")
			b.Stop()
			requireNothingLeft(t, other)
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
	ask := func(command, want string) {
		t.Helper()
		conn, err := b.DialRedis(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, command+"\r\n")
		require.NoError(t, err)
		answer := make([]byte, len(want))
		_, err = io.ReadFull(conn, answer)
		require.NoError(t, err)
		require.Equal(t, want, string(answer))
	}
	ask("SET greeting hello", "+OK")
	before := b.Address()
	b.Kill()
	require.NoError(t, b.Start(t.Context()))
	require.Equal(t, before, b.Address(), "on the same port")
	ask("GET greeting", "$5\r\nhello")
}

func TestABrokerLetsNobodyInWithoutItsPasswordWhichNoCommandLineShows(t *testing.T) {
	for kind, letsIn := range map[string]func(t *testing.T, address, user, password string) bool{Redis: redisLetsIn, RabbitMQ: rabbitLetsIn} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := brokerDir(t, kind)
			b, err := StartBroker(t.Context(), kind, moduleRoot, dir, true)
			require.NoError(t, err)
			t.Cleanup(b.Kill)
			user := map[string]string{Redis: "default", RabbitMQ: rabbitUser}[kind]
			require.True(t, letsIn(t, b.Address(), user, b.password))
			require.False(t, letsIn(t, b.Address(), user, ""))
			require.False(t, letsIn(t, b.Address(), user, "x"+b.password))
			require.False(t, letsIn(t, b.Address(), "guest", "guest"), "whom every RabbitMQ knows")
			info, err := os.Stat(filepath.Join(dir, "password"))
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode())
			for _, p := range b.processes {
				command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
				require.NoError(t, err)
				require.NotContains(t, string(command), b.password)
			}
		})
	}
}

func TestAnUnknownBrokerIsRefused(t *testing.T) {
	_, err := StartBroker(t.Context(), "pigeon", moduleRoot, t.TempDir(), true)
	require.ErrorContains(t, err, `no broker is called "pigeon"`)
}

func brokerDir(t *testing.T, kind string) string { return filepath.Join(t.TempDir(), kind) }

// requireNothingLeft waits a little: RabbitMQ's helper process ends when it sees that the broker is gone.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(processesIn(t, dir)) == 0 }, 10*time.Second, 10*time.Millisecond, "nothing is left running")
}

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

func redisLetsIn(t *testing.T, address, user, password string) bool {
	t.Helper()
	request := "PING\r\n"
	if password != "" {
		request = "AUTH " + user + " " + password + "\r\n" + request
	}
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request+"QUIT\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return strings.Contains(string(answer), "+PONG")
}

// rabbitLetsIn logs in by AMQP 0-9-1: the greeting is answered by Connection.Start, which Connection.StartOk answers with user and
// password. Connection.Tune is the answer to those who are let in.
func rabbitLetsIn(t *testing.T, address, user, password string) bool {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, "AMQP\x00\x00\x09\x01")
	require.NoError(t, err)
	_, start := amqpMethod(t, conn)
	require.Equal(t, [2]uint16{10, 10}, start)

	response := "\x00" + user + "\x00" + password
	startOK := []byte{0, 10, 0, 11, 0, 0, 0, 0} // The method, and no properties.
	startOK = append(startOK, "\x05PLAIN"...)
	startOK = binary.BigEndian.AppendUint32(startOK, uint32(len(response)))
	startOK = append(startOK, response...)
	startOK = append(startOK, "\x05en_US"...)
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(startOK)))
	_, err = conn.Write(append(append(frame, startOK...), 0xCE))
	require.NoError(t, err)
	open, method := amqpMethod(t, conn)
	return open && method == [2]uint16{10, 30}
}

// amqpMethod reads a frame and tells its class and method, if the connection is still open.
func amqpMethod(t *testing.T, conn net.Conn) (open bool, method [2]uint16) {
	t.Helper()
	header := make([]byte, 7) // type, channel, size
	if _, err := io.ReadFull(conn, header); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return false, method
	} else {
		require.NoError(t, err)
	}
	payload := make([]byte, binary.BigEndian.Uint32(header[3:])+1)
	_, err := io.ReadFull(conn, payload)
	require.NoError(t, err)
	return true, [2]uint16{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}
}
