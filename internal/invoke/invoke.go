// Package invoke is the seam between this process and the participants it calls: through the Dapr sidecar by app id, or
// straight by address. It knows no participant and no protocol above HTTP.
//
// It sets no timeout for a call, and Dapr has none: the context of each call must end. A call that the sidecar cannot
// deliver is answered by the sidecar with status 500 and a JSON body of its own (ERR_DIRECT_INVOKE), which a Connect client takes
// for an error of unknown outcome, as it should. A sidecar without a resiliency policy for the app repeats what could not be
// delivered up to three times, so callees must bear repeats.
package invoke

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// maxConns bounds the connections to one host; on Dapr that host is the sidecar. A call beyond it waits.
const maxConns = 128

// Caller makes the clients of one process; they share its connections.
type Caller struct {
	transport *http.Transport
	sidecar   string // base URL of the sidecar's HTTP API; empty for direct calls
	token     string
}

// Direct calls participants by their address.
func Direct() *Caller {
	return &Caller{transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxConnsPerHost:     maxConns,
		MaxIdleConnsPerHost: maxConns,
		IdleConnTimeout:     90 * time.Second,
		// Small JSON or protobuf on the same machine or network.
		DisableCompression: true,
	}}
}

// ThroughDapr calls participants through the sidecar whose HTTP API is on httpPort of this host. token is DAPR_API_TOKEN, empty
// where the sidecar asks for none.
func ThroughDapr(httpPort int, token string) *Caller {
	c := Direct()
	c.sidecar, c.token = fmt.Sprintf("http://127.0.0.1:%d", httpPort), token
	return c
}

// To returns what a Connect client of one participant is made of: an HTTP client and a base URL. target is the participant's
// app id with Dapr, and its base URL otherwise.
func (c *Caller) To(target string) (client *http.Client, baseURL string) {
	if c.sidecar == "" {
		return &http.Client{Transport: c.transport}, target
	}
	return &http.Client{Transport: &throughSidecar{c.transport, target, c.token}}, c.sidecar
}

// Close closes connections that are not in use.
func (c *Caller) Close() { c.transport.CloseIdleConnections() }

// throughSidecar tells the sidecar whom a request is for. The path stays as it is.
type throughSidecar struct {
	transport    *http.Transport
	appID, token string
}

func (s *throughSidecar) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context()) // A RoundTripper must leave its request alone.
	req.Header.Set("dapr-app-id", s.appID)
	if s.token != "" {
		req.Header.Set("dapr-api-token", s.token)
	}
	return s.transport.RoundTrip(req)
}
