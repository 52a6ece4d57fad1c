package embedded_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// Everything listens on, and is reached by, IPv6's loopback address: databases, participants, the API and the command line.
func TestAllOfItWorksOnIPv6Loopback(t *testing.T) {
	t.Parallel()
	if listener, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skipf("this machine has no IPv6 loopback: %v", err)
	} else {
		require.NoError(t, listener.Close())
	}
	process := func(name string, env []string, args ...string) *harness.Process {
		t.Helper()
		address, upper := freeAddress6(t), strings.ToUpper(name)
		p := harness.NewProcess(t, name, "http://"+address, append(env, upper+"_LISTEN="+address, upper+"_DATABASE_URL="+database6(t)), args...)
		p.Start(t)
		return p
	}
	warehouse, payment := process("warehouse", nil), process("payment", nil)
	orchestrator := process("orchestrator", []string{"WAREHOUSE_URL=" + warehouse.URL(), "PAYMENT_URL=" + payment.URL()}, "serve")

	for _, ask := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"checkout", "start", "--order-id", "six", "--item", "CHAIR-OAK=1", "--payment-method", "tok_visa", "--wait", "--server", orchestrator.URL()}, 0, "CONFIRMED"},
		{[]string{"doctor"}, 0, "@[::1]:"}, // The database's address, without its password.
		{[]string{"audit"}, 0, ""},
		{[]string{"checkout", "list", "--server", "http://[::1]:1"}, 6, "http://[::1]:1"},
		{[]string{"checkout", "list", "--server", "http://::1:8080"}, 2, "http://[::1]:8080"},
		{[]string{"serve", "--listen", "::1:8080"}, 2, "[::1]:8080"},
	} {
		out, errs, status := orchestrator.Ask(t, ask.args...)
		require.Equal(t, ask.status, status, "%v:\n%s%s", ask.args, out, errs)
		require.Contains(t, out+errs, ask.says, "%v", ask.args)
	}

	own, err := url.Parse(orchestrator.URL())
	require.NoError(t, err)
	for host, want := range map[string]int{
		own.Host:                  http.StatusOK,
		"[::1]":                   http.StatusOK,
		"[0:0:0:0:0:0:0:1]:8080":  http.StatusOK,
		"localhost:" + own.Port(): http.StatusOK,
		"[fd00::1]:" + own.Port(): http.StatusMisdirectedRequest,
		"evil.example":            http.StatusMisdirectedRequest,
	} {
		require.Equal(t, want, post(t, orchestrator.URL(), host, ""), "Host: %s", host)
	}
	require.Equal(t, http.StatusOK, post(t, orchestrator.URL(), own.Host, orchestrator.URL()), "a page of its own")
	require.Equal(t, http.StatusForbidden, post(t, orchestrator.URL(), own.Host, "http://[::1]:1"), "a page of another port")
}

// post asks a server for its checkouts, by a name, from a page of a site.
func post(t *testing.T, server, host, origin string) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+"/checkout.v1.CheckoutService/List", strings.NewReader("{}"))
	require.NoError(t, err)
	req.Host = host
	req.Header.Set("Content-Type", "application/json")
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}

func freeAddress6(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp6", "[::1]:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// database6 is a new database, reached by IPv6 through a relay, because the server of the tests listens on 127.0.0.1.
func database6(t *testing.T) string {
	t.Helper()
	address, err := url.Parse(pgtest.URL(t))
	require.NoError(t, err)
	server := address.Host
	listener, err := net.Listen("tcp6", "[::1]:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return // The test has ended.
			}
			go relay(from, server)
		}
	}()
	address.Host = fmt.Sprintf("[::1]:%d", listener.Addr().(*net.TCPAddr).Port)
	return address.String()
}

// relay passes on what two ends say until one of them hangs up.
func relay(from net.Conn, server string) {
	defer from.Close()
	to, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
}
