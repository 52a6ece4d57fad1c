package rpcserver

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"

	"connectrpc.com/connect"
)

// Hosts are names or addresses that a server answers to beside its own. It is a flag's value.
type Hosts []string

var hostPattern = regexp.MustCompile(`^[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?$`)

// Set adds hosts, such as "checkout.example,10.1.2.3".
func (h *Hosts) Set(text string) error {
	for _, part := range strings.Split(text, ",") {
		host := strings.ToLower(strings.TrimSpace(part))
		if _, err := netip.ParseAddr(host); err != nil && !hostPattern.MatchString(host) {
			return fmt.Errorf("must be hosts without a port, separated by commas, such as checkout.example,10.1.2.3, not %q", part)
		}
		*h = append(*h, host)
	}
	return nil
}

// String is what Set reads.
func (h *Hosts) String() string { return strings.Join(*h, ",") }

// Type is what the command line's help calls it.
func (h *Hosts) Type() string { return "HOST,..." }

// answersFor are the hosts that a server answers to: localhost, the name that it listens on and Config.Hosts, and in any case
// loopback addresses and the address at which the connection came in.
//
// Without it, a web page whose name resolves to this machine for a moment (DNS rebinding) could read and steer what listens on
// loopback: to the browser the page and this server are one origin. But the Host that the browser sends is still the page's own
// name.
type answersFor map[string]bool

func newAnswersFor(listen string, told Hosts) answersFor {
	a := answersFor{"localhost": true}
	if host := hostOf(listen); host != "" {
		a[host] = true
	}
	for _, host := range told {
		a[host] = true
	}
	return a
}

// only answers 421 to requests for other hosts.
func (a answersFor) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.isOurs(r) {
			refuse(w, http.StatusMisdirectedRequest, connect.CodeInvalidArgument,
				fmt.Sprintf("this server does not answer for host %q; if it should, its operator adds the host to the process's setting ..._HOSTS", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a answersFor) isOurs(r *http.Request) bool {
	host := hostOf(r.Host)
	if a[host] {
		return true
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if address.Unmap().IsLoopback() {
		return true
	}
	local, isTCP := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return isTCP && local.AddrPort().Addr().Unmap() == address.Unmap()
}

// hostOf is the host of an address with or without a port, in the form that names are compared in.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// sameSite refuses what a browser sends from another site's page. Other clients say nothing of a site and are let in.
func sameSite(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, connect.CodePermissionDenied, "requests from pages of another site are refused")
	}))
	return protection.Handler(next)
}

// refuse answers as a Connect handler does, so that Connect's clients show the message.
func refuse(w http.ResponseWriter, status int, code connect.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code.String(), "message": message}) // Who has hung up needs none.
}
