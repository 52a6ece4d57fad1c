package cli

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

	"github.com/checkoutsaga/orchestrator/internal/localenv"
	"github.com/checkoutsaga/orchestrator/internal/redact"
)

const (
	// ServerVariable names the server in the environment, and in .local/env.
	ServerVariable = "ORCHESTRATOR_SERVER"
	defaultServer  = "http://127.0.0.1:8080"

	// reachTimeout is how long a server may take to say that it is there; people wait at most 5 s for "cannot be reached".
	reachTimeout = 4 * time.Second
	// callTimeout bounds a call that is not a stream, once the server has shown that it is there.
	callTimeout = 30 * time.Second
	// completionTimeout bounds what the shell's completion may take.
	completionTimeout = 2 * time.Second
)

// Client finds and calls the server. Every verb of a program has the same.
type Client struct {
	Surroundings
	// Program is the name that people type.
	Program string

	howToStart string
	flag       string // --server
}

// Reach returns what makes a client of any service of the server that the flag, the environment or .local/env names, after making sure
// that somebody answers there:
//
//	sagas, err := cli.Reach(ctx, c, sagav1connect.NewSagaServiceClient)
func Reach[Service any](ctx context.Context, c *Client, service func(connect.HTTPClient, string, ...connect.ClientOption) Service) (s Service, err error) {
	address, source, err := c.Server()
	if err != nil {
		return s, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: reachTimeout}).DialContext
	web := &http.Client{Transport: transport}
	err = reach(ctx, web, address)
	if ctx.Err() != nil {
		return s, context.Cause(ctx) // That says nothing of the server.
	}
	if err != nil {
		return s, ExitWith(ExitUnreachable, "the orchestrator at %s (%s) cannot be reached: %w\n"+
			"  %s; --server or %s names another", redact.URL(address), source, err, c.howToStart, ServerVariable)
	}
	// The server goes on with the trace of who types.
	tracing, err := otelconnect.NewInterceptor(otelconnect.WithoutMetrics())
	if err != nil {
		return s, fmt.Errorf("make tracing: %w", err)
	}
	return service(web, address, connect.WithInterceptors(tracing)), nil
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

// Server is the address of the API and where it was found.
func (c *Client) Server() (address, source string, err error) {
	address, source = c.flag, "from --server"
	if address == "" {
		address, source = c.Getenv(ServerVariable), "from "+ServerVariable
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
		return "", "", Usage("server %q (%s) is not an address such as %s, or http://[::1]:8080 with IPv6", redact.Text(address), source, defaultServer)
	}
	return strings.TrimRight(address, "/"), source, nil
}

// localServer looks for .local/env in the working folder and above, which a server that runs in the background writes. One that
// somebody else may have written is told of and passed over: it would lead to whatever server they like.
func (c *Client) localServer() (address, source string, err error) {
	for dir := c.WorkDir; dir != ""; dir = filepath.Dir(dir) {
		settings, err := localenv.Read(dir)
		var distrusted *localenv.DistrustedError
		switch {
		case errors.As(err, &distrusted):
			c.Err.Say("%s: %v", c.Program, distrusted)
		case err == nil:
			return settings[ServerVariable], "from " + localenv.Path(dir), nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", "", err
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", "", nil
}

// Call makes one call of the API with its time bounded.
func Call[Req, Resp any](ctx context.Context, method func(context.Context, *connect.Request[Req]) (*connect.Response[Resp], error), msg *Req) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := method(ctx, connect.NewRequest(msg))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

// Complete offers to the shell, newest first, those of the words that begin as what is typed. What would steer the terminal is not
// offered.
func Complete(ctx context.Context, begun string, words func(context.Context) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	all, err := words(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var offered []string
	for _, word := range all {
		if strings.HasPrefix(word, begun) && Visible(word) == word {
			offered = append(offered, word)
		}
	}
	return offered, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// CompleteFlag offers fixed words for a flag to the shell.
func CompleteFlag(cmd *cobra.Command, flag string, words []string) {
	CompleteFlagWith(cmd, flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// CompleteFlagWith offers words for a flag to the shell.
func CompleteFlagWith(cmd *cobra.Command, flag string, words cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, words); err != nil {
		panic(err) // The flag does not exist: a mistake that every test would meet.
	}
}
