package rpcserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
)

// soon is a limit that a test can wait for, and that a busy machine keeps.
const soon = 500 * time.Millisecond

func hurried() limits {
	l := standardLimits()
	l.requestTime, l.answerTime = soon, soon
	return l
}

func TestABodyThatDripsEndsInTime(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{}, hurried(), nil)
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": h2c()} {
		for _, tc := range []struct{ contentType, procedure string }{
			{"application/json", warehousev1connect.WarehouseServiceSetStockProcedure},
			{"application/connect+json", checkoutv1connect.CheckoutServiceWatchProcedure},
			{"application/grpc-web+proto", checkoutv1connect.CheckoutServiceWatchProcedure},
			{"application/json", "/nowhere"}, // Nobody reads it.
		} {
			t.Run(name+" "+tc.contentType+" "+tc.procedure, func(t *testing.T) {
				t.Parallel()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+tc.procedure, dripping{t.Context()})
				require.NoError(t, err)
				req.Header.Set("Content-Type", tc.contentType)
				res, err := transport.RoundTrip(req)
				if tc.procedure == "/nowhere" {
					if err == nil { // Over HTTP/1.1 the connection may end before the answer is read.
						require.Equal(t, http.StatusNotFound, res.StatusCode)
						_ = res.Body.Close()
					}
					return
				}
				require.NoError(t, err, "it is told why")
				body := text(t, res)
				switch {
				case strings.HasPrefix(tc.contentType, "application/grpc"):
					require.Equal(t, "4", res.Header.Get("Grpc-Status")+res.Trailer.Get("Grpc-Status"), body)
				default:
					require.Contains(t, body, `"code":"deadline_exceeded"`)
					require.Contains(t, body, "the request did not arrive within 500ms")
				}
			})
		}
	}
}

func TestAConnectionWhoseBodyDripsIsClosed(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{}, hurried(), nil)
	for _, path := range []string{warehousev1connect.WarehouseServiceSetStockProcedure, "/nowhere", "/healthz"} {
		conn := dial(t, s)
		_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", path)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.ReadAll(conn)
		require.NoError(t, err, "%s: the server closes it", path)
	}
}

func TestAStreamLastsLongerThanItsRequestMayTake(t *testing.T) {
	t.Parallel()
	s := startWith(t, Config{}, hurried(), nil)
	for name, c := range map[string]struct {
		transport *http.Transport
		options   []connect.ClientOption
	}{
		"Connect over HTTP/1.1":  {&http.Transport{}, nil},
		"Connect over HTTP/2":    {h2c(), nil},
		"gRPC":                   {h2c(), []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web over HTTP/1.1": {&http.Transport{}, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC-Web over HTTP/2":   {h2c(), []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer c.transport.CloseIdleConnections()
			client := checkoutv1connect.NewCheckoutServiceClient(&http.Client{Transport: c.transport}, s.URL(), c.options...)
			stream, err := client.FollowHistory(t.Context(), connect.NewRequest(&checkoutv1.FollowHistoryRequest{OrderId: "A"}))
			require.NoError(t, err)
			for range 3 {
				require.True(t, stream.Receive(), stream.Err())
			}
			require.False(t, stream.Receive())
			require.NoError(t, stream.Err())
		})
	}
}

func TestALeftStreamIsNoticedAfterItsRequestsTimeIsUp(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": h2c()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startWith(t, Config{}, hurried(), nil)
			ctx, leave := context.WithCancel(t.Context())
			stream, err := checkoutv1connect.NewCheckoutServiceClient(&http.Client{Transport: transport}, s.URL()).
				Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "A"}))
			require.NoError(t, err)
			require.True(t, stream.Receive())
			<-time.After(2 * soon)
			require.Contains(t, get(t, s.URL()+"/metrics"), "rpc_server_open_streams 1\n")
			leave()
			require.Eventually(t, func() bool {
				return strings.Contains(get(t, s.URL()+"/metrics"), "rpc_server_open_streams 0\n")
			}, 5*time.Second, 5*time.Millisecond)
		})
	}
}

func TestAnAnswerThatNobodyReadsIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, preface := range map[string]func(t *testing.T, s *running) func(){
		"HTTP/1.1": func(t *testing.T, s *running) func() {
			conn := dial(t, s)
			_, err := fmt.Fprint(conn, "POST /endless HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
			require.NoError(t, err)
			return func() {}
		},
		"HTTP/2": func(t *testing.T, s *running) func() {
			res, err := h2c().RoundTrip(request(t, s.URL()+"/endless"))
			require.NoError(t, err)
			return func() { _ = res.Body.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStopped(t, Config{}, hurried())
			ended := make(chan error, 1)
			s.MountRaw("/endless", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						ended <- err
						return
					}
				}
			}))
			s.run(t)
			defer preface(t, s)()
			select {
			case err := <-ended:
				require.Error(t, err)
			case <-time.After(10 * time.Second):
				t.Fatal("the handler still writes")
			}
		})
	}
}

func TestEachPieceOfALongAnswerHasItsOwnTime(t *testing.T) {
	t.Parallel()
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	a := &answer{ResponseWriter: w, controller: http.NewResponseController(w), limit: time.Minute}
	n, err := a.Write(make([]byte, 2*answerPiece+1))
	require.NoError(t, err)
	require.Equal(t, 2*answerPiece+1, n)
	require.Equal(t, []string{
		"a deadline", "32768 bytes", "none",
		"a deadline", "32768 bytes", "none",
		"a deadline", "1 bytes", "none",
	}, w.seen)
}

// deadlines is a writer that notes its deadlines.
type deadlines struct {
	http.ResponseWriter
	seen []string
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	if at.IsZero() {
		d.seen = append(d.seen, "none")
	} else {
		d.seen = append(d.seen, "a deadline")
	}
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.seen = append(d.seen, fmt.Sprintf("%d bytes", len(p)))
	return len(p), nil
}

func TestABodyOfAnySizeIsNotRead(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for name, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": h2c()} {
		for _, contentType := range []string{"application/json", "application/proto", "application/grpc-web+proto"} {
			// The body has no end, so the answer shows that the server stopped reading.
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+warehousev1connect.WarehouseServiceSetStockProcedure, endless{t.Context()})
			require.NoError(t, err)
			req.Header.Set("Content-Type", contentType)
			res, err := transport.RoundTrip(req)
			require.NoError(t, err, "%s %s", name, contentType)
			body := text(t, res)
			if strings.HasPrefix(contentType, "application/grpc") {
				require.Equal(t, "8", res.Header.Get("Grpc-Status")+res.Trailer.Get("Grpc-Status"), body)
			} else {
				require.Contains(t, body, `"code":"resource_exhausted"`, name)
			}
		}
		transport.CloseIdleConnections()
	}
}

func TestAGzipBombIsInflatedToTheLimitAndNoFurther(t *testing.T) {
	t.Parallel()
	bomb := zipped(t, 64*maxMessage)
	g := new(gunzip)
	require.NoError(t, g.Reset(bytes.NewReader(bomb)))
	inflated, err := io.Copy(io.Discard, g)
	require.ErrorIs(t, err, errInflated)
	require.EqualValues(t, maxMessage+1, inflated)

	s := start(t, nil)
	for _, contentType := range []string{"application/json", "application/proto"} {
		req := request(t, s.URL()+warehousev1connect.WarehouseServiceSetStockProcedure)
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(bomb)), int64(len(bomb))
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Content-Encoding", "gzip")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		require.Contains(t, text(t, res), errInflated.Error())
	}
}

func TestCompressedMessagesOfUpToTheLimitAreRead(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	client := warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, s.URL(), connect.WithSendGzip())
	sku := strings.Repeat("A", maxMessage-6) // with the field's tag and length: exactly as much as may be
	for range 2 {
		_, err := client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku}))
		require.ErrorContains(t, err, "sku: must not be longer than 64 bytes", "it was read, and judged")
		_, err = client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "A"}))
		require.NoError(t, err)
	}
	_, err := client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku + strings.Repeat("A", 10)}))
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
}

func BenchmarkAGzipBomb(b *testing.B) {
	bomb := zipped(b, 1<<30)
	for b.Loop() {
		g := new(gunzip)
		require.NoError(b, g.Reset(bytes.NewReader(bomb)))
		_, err := io.Copy(io.Discard, g)
		require.ErrorIs(b, err, errInflated)
	}
}

func zipped(t testing.TB, zeros int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := io.CopyN(w, nothing{}, zeros)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// dripping is a body of which a byte comes every now and then, for ever: in an envelope, too few to be a second message in time.
type dripping struct{ ctx context.Context }

func (d dripping) Read(p []byte) (int, error) {
	select {
	case <-time.After(soon / 3):
		p[0] = 0
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// endless is a body of 0x01 without an end: in an envelope, a message of 16 MB that is not compressed.
type endless struct{ ctx context.Context }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), e.ctx.Err()
}

func h2c() *http.Transport {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return transport
}

func dial(t *testing.T, s *running) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func request(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	require.NoError(t, err)
	return req
}

func contextWithLocal(t *testing.T, local net.Addr) context.Context {
	return context.WithValue(t.Context(), http.LocalAddrContextKey, local)
}
