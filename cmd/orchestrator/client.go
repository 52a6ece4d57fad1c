package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"github.com/spf13/cobra"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/gen/deadletter/v1/deadletterv1connect"
	"github.com/checkoutsaga/orchestrator/internal/localenv"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

const (
	serverVariable = "ORCHESTRATOR_SERVER"
	defaultServer  = "http://127.0.0.1:8080"

	// reachTimeout is how long a server may take to say that it is there; people wait at most 5 s for "cannot be reached".
	reachTimeout = 4 * time.Second
	// callTimeout bounds a call that is not a stream, once the server has shown that it is there.
	callTimeout = 30 * time.Second
	// completionTimeout bounds what the shell's completion may take.
	completionTimeout = 2 * time.Second
)

// client finds and calls the orchestrator's API.
type client struct {
	surroundings
	// flag is --server.
	flag string
}

// api returns the API of checkouts of the server that the flag, the environment or .local/env names, after making sure that
// somebody answers there.
func (c *client) api(ctx context.Context) (checkoutv1connect.CheckoutServiceClient, error) {
	web, address, traced, err := c.reachServer(ctx)
	if err != nil {
		return nil, err
	}
	return checkoutv1connect.NewCheckoutServiceClient(web, address, traced), nil
}

// deadLetters returns the API of dead letters of the same server.
func (c *client) deadLetters(ctx context.Context) (deadletterv1connect.DeadLetterServiceClient, error) {
	web, address, traced, err := c.reachServer(ctx)
	if err != nil {
		return nil, err
	}
	return deadletterv1connect.NewDeadLetterServiceClient(web, address, traced), nil
}

func (c *client) reachServer(ctx context.Context) (web *http.Client, address string, traced connect.ClientOption, err error) {
	address, source, err := c.server()
	if err != nil {
		return nil, "", nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: reachTimeout}).DialContext
	web = &http.Client{Transport: transport}
	err = reach(ctx, web, address)
	if ctx.Err() != nil {
		return nil, "", nil, context.Cause(ctx) // That says nothing of the server.
	}
	if err != nil {
		return nil, "", nil, exitWith(exitUnreachable, "the orchestrator at %s (%s) cannot be reached: %w\n"+
			"  `make up` starts one here; --server or %s names another", redact.URL(address), source, err, serverVariable)
	}
	// The server goes on with the trace of who types.
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	if err != nil {
		return nil, "", nil, fmt.Errorf("make tracing: %w", err)
	}
	return web, address, connect.WithInterceptors(tracing), nil
}

// reach asks for any HTTP answer.
func reach(ctx context.Context, web *http.Client, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, fmt.Errorf("no answer within %s", reachTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := web.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err // The address is told already.
		}
		return err
	}
	return answer.Body.Close()
}

// server is the address of the API and where it was found.
func (c *client) server() (address, source string, err error) {
	address, source = c.flag, "from --server"
	if address == "" {
		address, source = c.getenv(serverVariable), "from "+serverVariable
	}
	if address == "" {
		if address, source, err = c.localServer(); err != nil {
			return "", "", err
		}
	}
	if address == "" {
		address, source = defaultServer, "the default"
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return "", "", usage("server %q (%s) is not an address such as %s, or http://[::1]:8080 with IPv6", redact.Text(address), source, defaultServer)
	}
	return strings.TrimRight(address, "/"), source, nil
}

// localServer looks for .local/env in the working folder and above, which `make up` writes. One that somebody else may have
// written is told of and passed over: it would lead to whatever server they like.
func (c *client) localServer() (address, source string, err error) {
	for dir := c.workDir; dir != ""; dir = filepath.Dir(dir) {
		settings, err := localenv.Read(dir)
		var distrusted *localenv.DistrustedError
		switch {
		case errors.As(err, &distrusted):
			c.err.say("orchestrator: %v", distrusted)
		case err == nil:
			return settings[serverVariable], "from " + localenv.Path(dir), nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", "", err
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", "", nil
}

// call makes one call of the API with its time bounded.
func call[Req, Resp any](ctx context.Context, method func(context.Context, *connect.Request[Req]) (*connect.Response[Resp], error), msg *Req) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := method(ctx, connect.NewRequest(msg))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// completeIDs offers order ids, newest first, to the shell: those with one of the statuses, or of all checkouts where there is none.
func (c *client) completeIDs(statuses ...checkoutv1.Status) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		api, err := c.api(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		answer, err := call(ctx, api.List, &checkoutv1.ListRequest{Limit: 1000, Statuses: statuses})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var ids []string
		for _, found := range answer.Checkouts {
			if strings.HasPrefix(found.OrderId, begun) && visible(found.OrderId) == found.OrderId {
				ids = append(ids, found.OrderId)
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// openStatuses are those of checkouts that have not ended.
func openStatuses() []checkoutv1.Status {
	return []checkoutv1.Status{
		checkoutv1.Status_STATUS_RUNNING, checkoutv1.Status_STATUS_AWAITING_APPROVAL, checkoutv1.Status_STATUS_COMPENSATING,
		checkoutv1.Status_STATUS_NEEDS_ATTENTION,
	}
}
