package rpcserver

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

func TestOnlyRequestsForAHostOfOursAreAnswered(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{Hosts: Hosts{"checkout.example", "10.9.8.7"}}, standardLimits(), nil)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL(), "http://"))
	require.NoError(t, err)
	for host, want := range map[string]int{
		"127.0.0.1:" + port:      http.StatusOK,
		"127.0.0.1":              http.StatusOK,
		"127.9.9.9:80":           http.StatusOK,
		"localhost:1":            http.StatusOK, // Through a tunnel the port is another one.
		"LocalHost.":             http.StatusOK,
		"[::1]:8080":             http.StatusOK,
		"[::1]":                  http.StatusOK,
		"[::ffff:127.0.0.1]":     http.StatusOK,
		"Checkout.Example:443":   http.StatusOK,
		"10.9.8.7":               http.StatusOK,
		"evil.example":           http.StatusMisdirectedRequest,
		"evil.example:" + port:   http.StatusMisdirectedRequest,
		"127.0.0.1.evil.example": http.StatusMisdirectedRequest,
		"localhost.evil.example": http.StatusMisdirectedRequest,
		"a.checkout.example":     http.StatusMisdirectedRequest,
		"10.9.8.6":               http.StatusMisdirectedRequest,
		"0.0.0.0:" + port:        http.StatusMisdirectedRequest,
		"[::2]":                  http.StatusMisdirectedRequest,
	} {
		for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": h2c()} {
			for _, path := range []string{"/healthz", "/metrics", "/nowhere", warehousev1connect.WarehouseServiceSetStockProcedure} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path, strings.NewReader("{}"))
				require.NoError(t, err)
				req.Host = host
				req.Header.Set("Content-Type", "application/json")
				res, err := transport.RoundTrip(req)
				require.NoError(t, err)
				body := text(t, res)
				if want != http.StatusOK {
					require.Equal(t, want, res.StatusCode, "%s %s %s", name, host, path)
				} else {
					require.NotEqual(t, http.StatusMisdirectedRequest, res.StatusCode, "%s %s %s: %s", name, host, path, body)
				}
			}
			transport.CloseIdleConnections()
		}
	}
}

func TestTheAddressThatAConnectionCameInAtIsOurs(t *testing.T) {
	t.Parallel()
	request := func(local net.Addr, host string) *http.Request {
		r, err := http.NewRequestWithContext(contextWithLocal(t, local), http.MethodGet, "http://"+host, nil)
		require.NoError(t, err)
		return r
	}
	everywhere := newAnswersFor("0.0.0.0:8080", nil)
	pod := &net.TCPAddr{IP: net.ParseIP("10.1.2.3"), Port: 8080}
	require.True(t, everywhere.isOurs(request(pod, "10.1.2.3:8080")), "a probe names the address")
	require.False(t, everywhere.isOurs(request(pod, "10.1.2.4:8080")))
	named := newAnswersFor("orchestrator:8080", nil)
	require.True(t, named.isOurs(request(pod, "orchestrator:8080")), "it was told to listen at this name")
}

func TestAMisdirectedClientIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	client := warehousev1connect.NewWarehouseServiceClient(&http.Client{Transport: as("evil.example")}, s.URL())
	_, err := client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "A"}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.ErrorContains(t, err, `does not answer for host "evil.example"`)
	require.ErrorContains(t, err, "HOSTS")
}

func TestHostsAreToldWithoutPorts(t *testing.T) {
	t.Parallel()
	var h Hosts
	require.NoError(t, h.Set("checkout.example, 10.1.2.3,"+"::1"))
	require.NoError(t, h.Set("CHECKOUT_1"))
	require.Equal(t, "checkout.example,10.1.2.3,::1,checkout_1", h.String())
	for _, wrong := range []string{"checkout.example:8080", "http://checkout.example", "*", "*.example", "", "a,,b", "a b", ".a"} {
		require.ErrorContains(t, new(Hosts).Set(wrong), "must be hosts without a port", wrong)
	}
}

func TestWhatAPageOfAnotherSiteSendsIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	s := newStopped(t, Config{}, standardLimits())
	s.MountRaw("POST /events/{topic}", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.run(t)
	for name, tc := range map[string]struct {
		headers map[string]string
		refused bool
	}{
		"no browser":               {map[string]string{}, false},
		"a page of ours":           {map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": s.URL()}, false},
		"the address bar":          {map[string]string{"Sec-Fetch-Site": "none"}, false},
		"another site":             {map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, true},
		"another port":             {map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, true},
		"an old browser":           {map[string]string{"Origin": "https://evil.example"}, true},
		"a page without an origin": {map[string]string{"Origin": "null"}, true},
	} {
		for _, path := range []string{"/healthz", "/nowhere", "/events/warehouse.inventory.reserved", warehousev1connect.WarehouseServiceSetStockProcedure} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+path, strings.NewReader("{}"))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json")
			for key, value := range tc.headers {
				req.Header.Set(key, value)
			}
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			body := text(t, res)
			require.Equal(t, tc.refused, res.StatusCode == http.StatusForbidden, "%s %s: %d %s", name, path, res.StatusCode, body)
			if tc.refused {
				require.Equal(t, `{"code":"permission_denied","message":"requests from pages of another site are refused"}`+"\n", body)
			}
		}
	}
}

// as sends requests for a host to where they were to go.
type as string

func (host as) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Host = string(host)
	return http.DefaultTransport.RoundTrip(req)
}
