package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// asProgram in the environment makes this test binary the program itself, so that tests can send it real signals.
const asProgram = "ORCHESTRATOR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is the command line as a process of its own.
type program struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu       sync.Mutex
	out, err bytes.Buffer
}

// stream is one of a program's outputs, which is read while it is written.
type stream struct {
	of *sync.Mutex
	to *bytes.Buffer
}

func (s stream) Write(text []byte) (int, error) {
	s.of.Lock()
	defer s.of.Unlock()
	return s.to.Write(text)
}

func startProgram(t *testing.T, server, line string, env ...string) *program {
	t.Helper()
	return runProgram(t, exec.Command(os.Args[0], strings.Fields(line)...), server, env...)
}

func runProgram(t *testing.T, cmd *exec.Cmd, server string, env ...string) *program {
	t.Helper()
	p := &program{cmd: cmd, done: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{asProgram + "=1", cli.ServerVariable + "=" + server, "PATH=" + os.Getenv("PATH")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = stream{&p.mu, &p.out}, stream{&p.mu, &p.err}
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // The state has it.
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// said is all that it has written.
func (p *program) said() (out, err string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String(), p.err.String()
}

// ends waits for its end and returns its exit status, which is -1 where a signal ended it.
func (p *program) ends(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		out, err := p.said()
		t.Fatalf("it does not end\n%s%s", out, err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// signals are those that end a program, and the exit status that goes with each.
var signals = []struct {
	sent   syscall.Signal
	status int
	word   string
}{
	{syscall.SIGINT, 130, "interrupted"}, {syscall.SIGTERM, 143, "terminated"}, {syscall.SIGHUP, 143, "terminated"},
}

// endless is a server whose checkout never ends: it sends one message of each stream and holds it.
type endless struct {
	checkoutv1connect.UnimplementedCheckoutServiceHandler
}

func (endless) Start(_ context.Context, req *connect.Request[checkoutv1.StartRequest]) (*connect.Response[checkoutv1.StartResponse], error) {
	c := compensating()
	c.OrderId = req.Msg.OrderId
	return connect.NewResponse(&checkoutv1.StartResponse{Checkout: c, Created: true}), nil
}

func (endless) Watch(ctx context.Context, req *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	c := compensating()
	c.OrderId = req.Msg.OrderId
	err := stream.Send(&checkoutv1.WatchResponse{Checkout: c})
	<-ctx.Done()
	return err
}

func (endless) FollowHistory(ctx context.Context, req *connect.Request[checkoutv1.FollowHistoryRequest], stream *connect.ServerStream[checkoutv1.FollowHistoryResponse]) error {
	status := "COMPENSATING"
	if req.Msg.OrderId == "ord-ended" {
		status = "CANCELLED"
	}
	err := stream.Send(&checkoutv1.FollowHistoryResponse{Entries: []*checkoutv1.Entry{{At: ago(time.Minute), Kind: "status", Outcome: status}}})
	<-ctx.Done()
	return err
}

func TestAnInterruptedWaitSaysThatTheCheckoutGoesOn(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(endless{}))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	for _, signal := range signals {
		for line, want := range map[string]string{
			"checkout start --order-id ord-7 --item CHAIR-OAK=1 --payment-method tok_visa --wait": "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout wait ord-7":                        "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout wait ord-7 --timeout 0":            "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout status ord-7 --watch":              "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout status ord-7 --watch -o json":      "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout history ord-7 --follow":            "ord-7 goes on; see it with: orchestrator checkout wait ord-7",
			"checkout history ord-ended --follow -o ids": "orchestrator: ord-ended has ended; its last events were not waited for",
		} {
			t.Run(signal.sent.String()+" "+line, func(t *testing.T) {
				t.Parallel()
				p := startProgram(t, server.URL, line)
				require.Eventually(t, func() bool {
					out, err := p.said()
					return strings.Contains(out+err, "COMPENSATING") || strings.Contains(out, "ord-ended")
				}, 20*time.Second, 5*time.Millisecond)
				require.NoError(t, p.cmd.Process.Signal(signal.sent))
				require.Equal(t, signal.status, p.ends(t))
				_, err := p.said()
				require.Equal(t, want, lastLine(err))
				require.NotContains(t, err, "signal")
				require.NotContains(t, err, "cancel")
			})
		}
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return lines[len(lines)-1]
}

// silent is a server that answers nothing but that it is there, and tells that it was asked.
func silent(t *testing.T, healthy bool) (url string, asked <-chan struct{}) {
	t.Helper()
	calls := make(chan struct{}, 100)
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if healthy && r.URL.Path == "/healthz" {
			return
		}
		calls <- struct{}{}
		<-ended
	}))
	t.Cleanup(func() {
		close(ended)
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL, calls
}

func waitFor(t *testing.T, asked <-chan struct{}) {
	t.Helper()
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("the server was not asked")
	}
}

func TestEveryVerbThatIsInterruptedSaysSoInAWord(t *testing.T) {
	t.Parallel()
	for i, line := range everyVerb(t) {
		if strings.HasPrefix(line, "dead-letter") && strings.Contains(line, "dl-1 --reason") {
			continue // It finishes the batch that is in hand; a second signal ends that, too.
		}
		signal := signals[i%len(signals)]
		t.Run(signal.sent.String()+" "+line, func(t *testing.T) {
			t.Parallel()
			url, asked := silent(t, true)
			p := startProgram(t, url, line)
			waitFor(t, asked)
			require.NoError(t, p.cmd.Process.Signal(signal.sent))
			require.Equal(t, signal.status, p.ends(t))
			out, err := p.said()
			require.Empty(t, out)
			want := signal.word
			fields := strings.Fields(line)
			group, verb, id := fields[0], fields[min(1, len(fields)-1)], "ord-1"
			if group == "saga" {
				id = "travel trip-1"
			}
			see := "; see: orchestrator " + group + " status " + id
			switch {
			case verb == "start":
				// Nobody knows, so nothing is claimed.
				want = "it is not known whether " + id + " was accepted" + see
			case verb == "wait", strings.Contains(line, "--watch"), strings.Contains(line, "--follow"):
				want = "nothing was heard of " + id + " so far" + see
			case strings.Contains(line, " "+id+" ") && strings.Contains(line, "--reason"):
				want = "it is not known whether the word to " + verb + " " + id + " arrived" + see
			}
			require.Equal(t, "orchestrator: "+want+"\n", err)
		})
	}
}

func TestAnInterruptBeforeTheServerIsReachedSaysNothingOfTheServer(t *testing.T) {
	t.Parallel()
	url, asked := silent(t, false)
	p := startProgram(t, url, "checkout wait ord-1")
	waitFor(t, asked)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, p.ends(t))
	_, err := p.said()
	require.Equal(t, "orchestrator: interrupted\n", err)
}

func TestASecondInterruptEndsItAtOnce(t *testing.T) {
	t.Parallel()
	found := make([]*checkoutv1.Checkout, 2)
	for i := range found {
		found[i] = compensating()
		found[i].OrderId = fmt.Sprintf("ord-%d", i)
	}
	b := openBridge(t, found)
	asked, ended := make(chan struct{}, 1), make(chan struct{})
	b.before = func(string) {
		asked <- struct{}{}
		<-ended
	}
	t.Cleanup(func() { close(ended) })
	// The first waits for the cancel that is in hand.
	p := startProgram(t, b.url, "checkout cancel --attention --reason r --yes")
	waitFor(t, asked)
	require.Eventually(t, func() bool {
		_ = p.cmd.Process.Signal(syscall.SIGINT) // Again and again: two that come together are one.
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, -1, p.ends(t))
	require.Equal(t, syscall.SIGINT, p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(), "which a shell shows as 130")
}

func TestWhatAProgramWasStartedToIgnoreItIgnores(t *testing.T) {
	t.Parallel()
	url, asked := silent(t, true)
	p := runProgram(t, exec.Command("sh", "-c", `trap "" HUP; exec "$0" checkout wait ord-1`, os.Args[0]), url)
	waitFor(t, asked)
	// Of two that are there the lower number, which is that of SIGHUP, comes first.
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, p.ends(t))
}

// servingAt finds the address in the log of a process that serves.
var servingAt = regexp.MustCompile(`"serving".*"url":"([^"]+)"`)

func TestServeStopsInOrderAtEachSignalThatAsksForIt(t *testing.T) {
	t.Parallel()
	for _, signal := range signals {
		t.Run(signal.sent.String(), func(t *testing.T) {
			t.Parallel()
			p := startProgram(t, "", "serve --engine embedded --listen 127.0.0.1:0 --warehouse-url http://127.0.0.1:9 --payment-url http://127.0.0.1:9",
				"ORCHESTRATOR_DATABASE_URL="+pgtest.URL(t))
			require.Eventually(t, func() bool {
				_, log := p.said()
				found := servingAt.FindStringSubmatch(log)
				if found == nil {
					return false
				}
				answer, err := http.Get(found[1] + "/readyz")
				return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
			}, 30*time.Second, 10*time.Millisecond)
			require.NoError(t, p.cmd.Process.Signal(signal.sent))
			status := p.ends(t)
			_, err := p.said()
			require.Zero(t, status, err)
			require.Contains(t, err, "nothing is in hand any more")
		})
	}
}
