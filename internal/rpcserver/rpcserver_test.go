package rpcserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

func TestJSONHasTheNamesOfTheProtoFilesAndTellsZeros(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8"} {
		for _, body := range []string{`{"sku": "A", "on_hand": 7}`, `{"sku": "A", "onHand": 7}`} {
			res, err := http.Post(s.URL()+warehousev1connect.WarehouseServiceSetStockProcedure, contentType, strings.NewReader(body))
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, `{"sku":"A","on_hand":7,"reserved":0,"committed":0}`, text(t, res))
		}
	}
}

func TestI9WhatIsNotARequestIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for name, tc := range map[string]struct{ body, code, says string }{
		"an unknown field": {`{"sku": "A", "quantitty": 1}`, "invalid_argument", "quantitty"},
		"not JSON":         {`sku=A`, "invalid_argument", "syntax error"},
		"nothing":          {``, "invalid_argument", "body is empty"},
		"over 1 MiB":       {`{"sku": "` + strings.Repeat("A", 1<<20) + `"}`, "resource_exhausted", "larger than"},
	} {
		res, err := http.Post(s.URL()+warehousev1connect.WarehouseServiceSetStockProcedure, "application/json", strings.NewReader(tc.body))
		require.NoError(t, err, name)
		body := text(t, res)
		require.Contains(t, body, tc.code, name)
		require.Contains(t, body, tc.says, name)
	}
}

func TestErrorsBecomeCodesAndOnlyOursAreLogged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		handler func(context.Context) error
		code    connect.Code
		logged  string
	}{
		"an error meant for the caller": {func(context.Context) error { return connect.NewError(connect.CodeNotFound, errors.New("no")) }, connect.CodeNotFound, ""},
		"an error of ours":              {func(context.Context) error { return errors.New("disk is full") }, connect.CodeInternal, "disk is full"},
		"a panic":                       {func(context.Context) error { panic("nil map") }, connect.CodeInternal, "nil map"},
		"a call that takes too long":    {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, connect.CodeUnavailable, "deadline exceeded"},
		"a database that is away":       {func(context.Context) error { return fmt.Errorf("read order: %w", &pgconn.PgError{Code: "57P01"}) }, connect.CodeUnavailable, "57P01"},
		"a connection that is refused":  {func(context.Context) error { return &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED} }, connect.CodeUnavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, tc.handler)
			client := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.URL())
			_, err := client.GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "A"}))
			require.Equal(t, tc.code, connect.CodeOf(err), err)
			if tc.logged == "" {
				require.Empty(t, s.log.String())
			} else {
				require.Equal(t, 1, strings.Count(s.log.String(), "level=ERROR")+strings.Count(s.log.String(), "level=WARN"), s.log.String())
				require.Contains(t, s.log.String(), tc.logged)
				require.NotContains(t, err.Error(), tc.logged, "what an error of ours says stays inside")
			}
			switch tc.code {
			case connect.CodeUnavailable:
				require.ErrorContains(t, err, errAway.Error())
			case connect.CodeInternal:
				told := regexp.MustCompile(`^internal: internal error ([A-Z2-7]{8}); the server's log has a line with this id$`).FindStringSubmatch(err.Error())
				require.NotNil(t, told, err.Error())
				require.Contains(t, s.log.String(), "error_id="+told[1]+" procedure=/warehouse.v1.WarehouseService/GetStock")
			}
			_, err = client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "A"}))
			require.NoError(t, err, "the process lives on")
			require.Contains(t, get(t, s.URL()+"/metrics"), `rpc_server_duration_seconds_count{code="`+tc.code.String()+`",procedure="/warehouse.v1.WarehouseService/GetStock"} 1`)
		})
	}
}

func TestACallerIsAnsweredBeforeItsOwnTimeIsUp(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{CallTimeout: time.Minute}, standardLimits(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.URL()).
		GetStock(ctx, connect.NewRequest(&warehousev1.GetStockRequest{Sku: "A"}))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), err)
	require.ErrorContains(t, err, errAway.Error())
}

func TestI9WhatBreaksAContractReachesNoHandler(t *testing.T) {
	t.Parallel()
	s := start(t, func(context.Context) error { panic("it was called") })
	_, unary := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.URL()).
		GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "a\x00b"}))
	stream, err := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, s.URL()).
		Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "a\x00b"}))
	require.NoError(t, err)
	require.False(t, stream.Receive(), "the stream must not begin")
	for field, err := range map[string]error{"sku": unary, "order_id": stream.Err()} {
		var wire *connect.Error
		require.ErrorAs(t, err, &wire)
		require.Equal(t, connect.CodeInvalidArgument, wire.Code())
		require.Contains(t, wire.Message(), field+": must ")
		require.Len(t, wire.Details(), 1)
		detail, err := wire.Details()[0].Value()
		require.NoError(t, err)
		require.Equal(t, field, detail.(*checkoutv1.BadField).Field)
	}
	require.Empty(t, s.log.String())
	require.Contains(t, get(t, s.URL()+"/metrics"), `rpc_server_duration_seconds_count{code="invalid_argument",procedure="/warehouse.v1.WarehouseService/GetStock"} 1`)
}

func TestRunFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]*http.Transport{"over HTTP/1.1": {}, "over HTTP/2 without TLS": h2c()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer transport.CloseIdleConnections()
			begun, finish := make(chan struct{}), make(chan struct{})
			s := start(t, func(context.Context) error {
				close(begun)
				<-finish
				return nil
			})
			client := warehousev1connect.NewWarehouseServiceClient(&http.Client{Transport: transport}, s.URL(), connect.WithGRPCWeb())
			answered := make(chan error, 1)
			go func() {
				_, err := client.GetStock(context.WithoutCancel(t.Context()), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "A"}))
				answered <- err
			}()
			<-begun
			s.stop()
			require.Eventually(t, func() bool {
				_, err := http.Get(s.URL() + "/healthz")
				return err != nil
			}, 5*time.Second, 5*time.Millisecond, "connections were still taken")
			require.Empty(t, s.ran)
			close(finish)
			require.NoError(t, <-answered)
			require.NoError(t, <-s.ran)
			s.ran <- nil // for the cleanup
		})
	}
}

func TestACallThatWaitsHearsThatTheServerStops(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	s := start(t, func(ctx context.Context) error {
		close(begun)
		<-Stopping(ctx).Done()
		return ctx.Err()
	})
	answered := make(chan error, 1)
	go func() {
		_, err := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.URL()).
			GetStock(context.WithoutCancel(t.Context()), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "A"}))
		answered <- err
	}()
	<-begun
	s.stop()
	require.NoError(t, <-answered)
	require.NoError(t, <-s.ran)
	s.ran <- nil
}

func TestRunEndsStreams(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	stream, err := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, s.URL()).
		Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	require.True(t, stream.Receive(), "the stream began")
	s.stop()
	require.NoError(t, <-s.ran)
	s.ran <- nil
	require.False(t, stream.Receive())
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(stream.Err()), stream.Err())
}

func TestReadyzTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	lacks := errors.New("the database does not answer")
	s := startWith(t, Config{Ready: func(context.Context) error { return lacks }}, standardLimits(), nil)
	require.Equal(t, "ok\n", get(t, s.URL()+"/healthz"))
	res, err := http.Get(s.URL() + "/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, lacks.Error()+"\n", text(t, res))
	lacks = nil
	require.Equal(t, "ok\n", get(t, s.URL()+"/readyz"))
}

func TestAnAddressThatIsTakenIsAnError(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	_, err := Listen(Config{Address: strings.TrimPrefix(s.URL(), "http://"), Log: slog.Default()})
	require.ErrorContains(t, err, "listen on 127.0.0.1:")
}

func TestAddressFromEnvPrefersItsVariableThenDapr(t *testing.T) {
	require.Equal(t, "127.0.0.1:1", AddressFromEnv("X_LISTEN", "127.0.0.1:1"))
	t.Setenv("APP_PORT", "2")
	require.Equal(t, "127.0.0.1:2", AddressFromEnv("X_LISTEN", "127.0.0.1:1"))
	t.Setenv("X_LISTEN", "127.0.0.1:3")
	require.Equal(t, "127.0.0.1:3", AddressFromEnv("X_LISTEN", "127.0.0.1:1"))
}

// running is a server with a warehouse whose GetStock does what the test says and whose SetStock echoes.
type running struct {
	*Server
	stop context.CancelFunc
	ran  chan error
	log  *lockedBuffer
}

func start(t *testing.T, getStock func(context.Context) error) *running {
	t.Helper()
	return startWith(t, Config{}, standardLimits(), getStock)
}

func startWith(t *testing.T, c Config, l limits, getStock func(context.Context) error) *running {
	t.Helper()
	r := newStopped(t, c, l)
	r.Mount(warehousev1connect.NewWarehouseServiceHandler(scripted{getStock: getStock}, r.Options()...))
	r.Mount(checkoutv1connect.NewCheckoutServiceHandler(watched{}, r.Options()...))
	r.run(t)
	return r
}

// newStopped is a server without services that does not run yet.
func newStopped(t *testing.T, c Config, l limits) *running {
	t.Helper()
	log := &lockedBuffer{}
	c.Log = slog.New(slog.NewTextHandler(log, nil))
	if c.CallTimeout == 0 {
		c.CallTimeout = time.Second
	}
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	s, err := listen(c, l)
	require.NoError(t, err)
	return &running{Server: s, ran: make(chan error, 1), log: log}
}

// run runs the server until the test ends.
func (r *running) run(t *testing.T) {
	t.Helper()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.ran <- r.Run(ctx) }()
	t.Cleanup(func() {
		r.stop()
		require.NoError(t, <-r.ran)
	})
}

type scripted struct {
	warehousev1connect.UnimplementedWarehouseServiceHandler
	getStock func(context.Context) error
}

func (s scripted) GetStock(ctx context.Context, _ *connect.Request[warehousev1.GetStockRequest]) (*connect.Response[warehousev1.GetStockResponse], error) {
	return connect.NewResponse(&warehousev1.GetStockResponse{}), s.getStock(ctx)
}

func (scripted) SetStock(_ context.Context, req *connect.Request[warehousev1.SetStockRequest]) (*connect.Response[warehousev1.SetStockResponse], error) {
	return connect.NewResponse(&warehousev1.SetStockResponse{Sku: req.Msg.Sku, OnHand: req.Msg.OnHand}), nil
}

type watched struct {
	checkoutv1connect.UnimplementedCheckoutServiceHandler
}

func (watched) Watch(ctx context.Context, _ *connect.Request[checkoutv1.WatchRequest], stream *connect.ServerStream[checkoutv1.WatchResponse]) error {
	if err := stream.Send(&checkoutv1.WatchResponse{}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// FollowHistory sends three entries, the last two after the request's time is up where it is hurried.
func (watched) FollowHistory(ctx context.Context, _ *connect.Request[checkoutv1.FollowHistoryRequest], stream *connect.ServerStream[checkoutv1.FollowHistoryResponse]) error {
	if err := stream.Send(&checkoutv1.FollowHistoryResponse{}); err != nil {
		return err
	}
	select {
	case <-time.After(2 * soon):
	case <-ctx.Done():
		return ctx.Err()
	}
	return errors.Join(stream.Send(&checkoutv1.FollowHistoryResponse{}), stream.Send(&checkoutv1.FollowHistoryResponse{}))
}

// lockedBuffer is a log that a test reads while the server writes.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	return text(t, res)
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}
