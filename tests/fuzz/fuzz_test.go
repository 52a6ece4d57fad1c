package fuzz

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/process"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

const (
	// usualTime is how long it goes on where FUZZ names no other time.
	usualTime = 20 * time.Second
	// batch is how many calls go between two looks at log and databases.
	batch = 100
	// callTime bounds one call; a stream is left after it, which is no fault.
	callTime = 15 * time.Second
	// streamTime is how long a stream is listened to.
	streamTime = 200 * time.Millisecond
)

// TestI9NothingThatIsSentBreaksAnything sends arbitrary requests to every procedure that there is: none is answered with an error of
// ours or with SQL, none is logged as one, and what is refused writes nothing. It prints its seed; FUZZ_SEED repeats it, as far as
// background work and the clock allow.
func TestI9NothingThatIsSentBreaksAnything(t *testing.T) {
	length, seed := usualTime, uint64(time.Now().UnixNano())
	if given := os.Getenv("FUZZ"); given != "" {
		var err error
		length, err = time.ParseDuration(given)
		require.NoError(t, err, "FUZZ")
	}
	if testing.Short() {
		length = min(length, 5*time.Second)
	}
	if given := os.Getenv("FUZZ_SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err, "FUZZ_SEED")
	}
	t.Logf("FUZZ=%s FUZZ_SEED=%d", length, seed)
	s := open(t)
	s.start(t, "ord-1", "tok_visa")
	s.start(t, "ord-2", "tok_declined")
	random := rand.New(rand.NewPCG(seed, 0))
	tried, refused := make(map[string]int), make(map[string]int)
	for end, spoil := time.Now().Add(length), true; time.Now().Before(end) || spoil; spoil = !spoil {
		// A batch of each kind in turn: requests that are good but for a zero byte in one text, none of which may be taken or write
		// anything; and whatever comes, mostly with little that is odd, so that it gets far, and sometimes with nothing else.
		var before map[string]string
		if spoil {
			before = s.quiet(t)
		}
		odds := pick(source{Rand: random}, []int{10, 25, 60, 100})
		for range batch {
			p := s.draw(random)
			var c call
			if spoil {
				good := source{random, 0}
				m := good.message(p.input)
				if !good.spoil(m.ProtoReflect()) {
					continue // There is no text in it.
				}
				c = p.written(good, m)
			} else {
				c = p.arbitrary(source{random, odds})
			}
			isRefused := s.send(t, c)
			if tried[p.name]++; isRefused {
				refused[p.name]++
			} else if spoil {
				require.Fail(t, "a zero byte was taken", c.String())
			}
		}
		if spoil {
			require.Empty(t, cmp.Diff(before, s.quiet(t)), "refused requests wrote something")
		}
		s.log.check(t)
	}
	total := 0
	for _, name := range s.names {
		total += tried[name]
		t.Logf("%-55s %5d tried, %5d refused", name, tried[name], refused[name])
	}
	t.Logf("%d calls", total)
}

// procedure is one that a process serves.
type procedure struct {
	name, url string
	input     protoreflect.MessageDescriptor
	streams   bool
	// get says that it may be called by GET.
	get bool
}

// call is one request as it goes over the wire.
type call struct {
	*procedure
	method, contentType, query string
	key                        string
	body                       []byte
}

// draw is any procedure, at any process that serves it.
func (s *system) draw(random *rand.Rand) *procedure {
	same := s.procedures[s.names[random.IntN(len(s.names))]]
	return same[random.IntN(len(same))]
}

// encode writes a message down. What JSON cannot say, such as a time without end, goes as protobuf.
func (s source) encode(m proto.Message) (kind string, body []byte) {
	if s.IntN(2) == 0 {
		if body, err := (protojson.MarshalOptions{UseProtoNames: s.IntN(2) == 0}).Marshal(m); err == nil {
			return "json", body
		}
	}
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return "proto", body
}

func (p *procedure) arbitrary(s source) call {
	kind, body := s.encode(s.message(p.input))
	body = bytes.ReplaceAll(body, []byte(broken), []byte(brokenAs))
	if s.odd() {
		switch s.IntN(6) {
		case 0: // Any bytes.
			body = make([]byte, s.IntN(300))
			for i := range body {
				body[i] = byte(s.IntN(256))
			}
		case 1: // A few bytes of it are others.
			for range 1 + s.IntN(4) {
				if len(body) > 0 {
					body[s.IntN(len(body))] = byte(s.IntN(256))
				}
			}
		case 2: // The rest is missing.
			body = body[:s.IntN(len(body)+1)]
		case 3:
			kind, body = "json", []byte(s.json(0))
		}
	}
	c := p.request(s, kind, body)
	if s.odd() {
		c.key = pick(s, []string{"k", strings.Repeat("k", 300), "a\tb", "\xff\xfe", "ключ", "ord-1"})
	}
	return c
}

func (p *procedure) written(s source, m proto.Message) call {
	kind, body := s.encode(m)
	return p.request(s, kind, body)
}

func (p *procedure) request(s source, kind string, body []byte) call {
	c := call{procedure: p, method: http.MethodPost}
	switch {
	case p.streams:
		c.contentType = "application/connect+" + kind
		c.body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	case p.get && s.IntN(3) == 0 && len(body) < 10_000:
		c.method = http.MethodGet
		c.query = url.Values{"connect": {"v1"}, "encoding": {kind}, "base64": {"1"}, "message": {base64.RawURLEncoding.EncodeToString(body)}}.Encode()
	default:
		c.contentType, c.body = "application/"+kind, body
	}
	return c
}

// over is the call as a request.
func (c call) over(ctx context.Context, t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, c.method, c.url+c.name+"?"+c.query, bytes.NewReader(c.body))
	require.NoError(t, err)
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	if c.key != "" {
		req.Header["Idempotency-Key"] = []string{c.key}
	}
	return req
}

func (c call) String() string {
	return fmt.Sprintf("%s %s?%s %s key=%q\n%q", c.method, c.name, c.query, c.contentType, c.key, c.body[:min(len(c.body), 2000)])
}

// ofOurs are codes that say that something went wrong here, and never that a request is wrong.
var ofOurs = []string{"internal", "unknown", "data_loss", "unavailable", "deadline_exceeded", "unauthenticated"}

// inside is what no caller may read: SQL, and Go's own words.
var inside = regexp.MustCompile(`SQLSTATE|ERROR:|violates|pgconn|pgx|INSERT INTO|UPDATE [a-z]+ SET|SELECT |goroutine |runtime error|nil pointer|\.go:\d`)

// send sends a call and holds the answer to what every answer must be.
func (s *system) send(t *testing.T, c call) (refused bool) {
	t.Helper()
	limit := callTime
	if c.streams {
		limit = streamTime
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	res, err := s.client.Do(c.over(ctx, t))
	if err != nil && ctx.Err() == nil {
		// A server closes a connection on which it has not read a request to its end, and the next one on it may be lost.
		s.client.CloseIdleConnections()
		res, err = s.client.Do(c.over(ctx, t))
	}
	if err != nil && c.streams && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return false // It has begun and waits.
	}
	require.NoError(t, err, "no answer: %s", c)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if !c.streams || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		require.NoError(t, err, "half an answer: %s", c)
	}
	require.Less(t, res.StatusCode, 500, "%s\n%s", text, c)
	code := ""
	if c.streams {
		text, code = lastOf(text)
	} else if res.StatusCode != http.StatusOK {
		code = codeOf(text)
	}
	require.NotContains(t, ofOurs, code, "%s\n%s", text, c)
	if code != "" {
		require.NotRegexp(t, inside, string(text), c)
	}
	return res.StatusCode != http.StatusOK || code != ""
}

func codeOf(text []byte) string {
	var told struct{ Code string }
	_ = json.Unmarshal(text, &told) // What is no JSON has no code; its status says enough.
	return told.Code
}

// lastOf is the end of a stream, if it has come, and its error's code.
func lastOf(stream []byte) (end []byte, code string) {
	for len(stream) >= 5 {
		flags, size := stream[0], int(binary.BigEndian.Uint32(stream[1:]))
		if len(stream) < 5+size {
			break
		}
		if flags&2 != 0 {
			var told struct {
				Error struct{ Code string }
			}
			_ = json.Unmarshal(stream[5:5+size], &told)
			return stream[5 : 5+size], told.Error.Code
		}
		stream = stream[5+size:]
	}
	return nil, ""
}

// system is everything in this process.
type system struct {
	// names are those of all procedures; procedures are, by name, where they are served.
	names      []string
	procedures map[string][]*procedure
	databases  map[string]*pgxpool.Pool
	client     *http.Client
	log        *errorLog
}

func open(t *testing.T) *system {
	t.Helper()
	s := &system{databases: make(map[string]*pgxpool.Pool), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}, log: &errorLog{}}
	config := node.DevFromEnv(func(string) string { return "" })
	database := func(name string) string {
		url := pgtest.URL(t)
		pool, err := pg.Open(t.Context(), url, 1)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		s.databases[name] = pool
		return url
	}
	config.DatabaseURL, config.Listen = database("orchestrator"), "127.0.0.1:0"
	for _, name := range node.Participants() {
		config.Participants[name] = process.Settings{DatabaseURL: database(name), Listen: "127.0.0.1:0"}
	}
	d, err := node.OpenDev(t.Context(), config, slog.New(s.log))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		stop()
		require.NoError(t, <-done)
		d.Close()
	})
	urls := []string{d.URL()}
	for _, name := range node.Participants() {
		urls = append(urls, d.ParticipantURL(name))
	}
	s.find(t, append(urls, strangers(t, database("stranger"))))
	return s
}

// strangers serves a participant as somebody else writes one, and returns its address. It has a step by each name that is drawn.
func strangers(t *testing.T, databaseURL string) string {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, ledger.Migrate(t.Context(), pool))
	steps := make(map[string]ledger.Step)
	for _, name := range good["step"] {
		steps[name] = ledger.Step{
			Do: func(_ context.Context, _ pgx.Tx, r participant.Request) (participant.Result, error) {
				return participant.Result{Outcome: participant.Applied, Reference: r.Key}, nil
			},
			Undo: func(context.Context, pgx.Tx, participant.Request) error { return nil },
		}
	}
	mux := http.NewServeMux()
	mux.Handle(participant.Handler(ledger.New(pool, steps)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// start has an order that requests can be about.
func (s *system) start(t *testing.T, orderID, paymentMethod string) {
	t.Helper()
	url := s.procedures[checkoutv1connect.CheckoutServiceStartProcedure][0].url
	_, err := checkoutv1connect.NewCheckoutServiceClient(s.client, url).Start(t.Context(), connect.NewRequest(&checkoutv1.StartRequest{
		OrderId: orderID, CustomerId: "cus-1", Currency: "EUR", PaymentMethod: paymentMethod, Items: []*checkoutv1.Item{{Sku: "CHAIR-OAK", Quantity: 1}},
	}))
	require.NoError(t, err)
}

// find lists the procedures of every service that this program has a contract of, at each process that serves it.
func (s *system) find(t *testing.T, urls []string) {
	t.Helper()
	s.procedures = make(map[string][]*procedure)
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if options, _ := file.Options().(*descriptorpb.FileOptions); !strings.HasPrefix(options.GetGoPackage(), "github.com/checkoutsaga/orchestrator/") {
			return true // A library's contract.
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				s.findOne(t, methods.Get(j), urls)
			}
		}
		return true
	})
	require.NotEmpty(t, s.procedures)
	s.names = slices.Sorted(maps.Keys(s.procedures))
}

func (s *system) findOne(t *testing.T, m protoreflect.MethodDescriptor, urls []string) {
	t.Helper()
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	options, _ := m.Options().(*descriptorpb.MethodOptions)
	for _, url := range urls {
		res, err := s.client.Head(url + name)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		if res.StatusCode != http.StatusNotFound {
			s.procedures[name] = append(s.procedures[name], &procedure{
				name: name, url: url, input: m.Input(), streams: m.IsStreamingServer(),
				get: options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
			})
		}
	}
	require.NotEmpty(t, s.procedures[name], "no process serves %s", name)
}

// quiet waits until nothing is under way and nothing is written any more, and returns what the databases hold then.
func (s *system) quiet(t *testing.T) map[string]string {
	t.Helper()
	var moved string
	var underWay []string
	last := s.content(t)
	if !assert.Eventually(t, func() bool {
		s.settle(t)
		// What is under way is asked between the two: an event that both still show unpublished may be published right after them.
		before := last
		underWay = s.underWay(t)
		last = s.content(t)
		moved = cmp.Diff(before, last)
		return moved == "" && len(underWay) == 0
	}, time.Minute, 100*time.Millisecond) {
		require.FailNow(t, "the databases do not come to rest", "%s\n%s", moved, strings.Join(underWay, "\n"))
	}
	return last
}

// settle ends, as an operator would, checkouts that do not end by themselves: a request to a participant may have shipped what an order
// cannot pay, or have taken its name, so that the event that it starts with becomes a dead letter.
func (s *system) settle(t *testing.T) {
	t.Helper()
	operator := checkoutv1connect.NewCheckoutServiceClient(s.client, s.procedures[checkoutv1connect.CheckoutServiceResolveProcedure][0].url)
	done := func(err error) { // It may have gone on meanwhile.
		assert.True(t, err == nil || connect.CodeOf(err) == connect.CodeFailedPrecondition, "%v", err)
	}
	rows, err := s.databases["orchestrator"].Query(t.Context(), `
		SELECT order_id, coalesce(attention->>'step', '') FROM checkouts
		WHERE status = 'NEEDS_ATTENTION' OR phase = 'forward' AND started_at < now() - interval '5 s'`)
	require.NoError(t, err)
	stuck, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ OrderID, Step string }])
	require.NoError(t, err)
	for _, c := range stuck {
		if c.Step == "" {
			_, err := operator.Cancel(t.Context(), connect.NewRequest(&checkoutv1.CancelRequest{OrderId: c.OrderID, Reason: "it waits for its deadline alone", Actor: "fuzz"}))
			done(err)
			continue
		}
		_, err := operator.Resolve(t.Context(), connect.NewRequest(&checkoutv1.ResolveRequest{
			OrderId: c.OrderID, Step: c.Step, As: checkoutv1.Resolution_RESOLUTION_DONE, WithoutProof: true, Reason: "a request shipped it", Actor: "fuzz",
		}))
		done(err)
	}
}

// underWay are the checkouts that are open and the events that are still to be published, as JSON.
func (s *system) underWay(t *testing.T) (all []string) {
	t.Helper()
	for name, pool := range s.databases {
		if name != "notification" && name != "stranger" { // They have no events.
			all = append(all, jsonOf(t, pool, `SELECT to_jsonb(e)::text FROM outbox e WHERE published_at IS NULL`)...)
		}
		if name == "orchestrator" {
			all = append(all, jsonOf(t, pool, `SELECT to_jsonb(c)::text FROM checkouts c WHERE phase <> 'final'`)...)
		}
	}
	return all
}

func jsonOf(t *testing.T, pool *pgxpool.Pool, query string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), query)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return found
}

// content is a hash of every table, by database and table.
func (s *system) content(t *testing.T) map[string]string {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	content, errs := make(map[string]string), []error{}
	for name, pool := range s.databases {
		all.Go(func() {
			rows, err := hashes(context.WithoutCancel(t.Context()), pool)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			for table, hash := range rows {
				content[name+"."+table] = hash
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	return content
}

func hashes(ctx context.Context, pool *pgxpool.Pool) (map[string]string, error) {
	const each = `
		SELECT coalesce(string_agg(format('SELECT %L AS name, md5(coalesce(string_agg(t::text, '','' ORDER BY t::text), '''')) AS hash FROM %s AS t',
		                                  oid::regclass, oid::regclass), ' UNION ALL '), 'SELECT '''', ''''')
		  FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace`
	var query string
	if err := pool.QueryRow(ctx, each).Scan(&query); err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	rows, err := pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("hash tables: %w", err)
	}
	defer rows.Close()
	found := make(map[string]string)
	for rows.Next() {
		var table, hash string
		if err := rows.Scan(&table, &hash); err != nil {
			return nil, fmt.Errorf("hash tables: %w", err)
		}
		found[table] = hash
	}
	return found, rows.Err()
}

// errorLog keeps the lines of level ERROR, and what net/http says of a panic, which is only a warning there.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *errorLog) WithGroup(string) slog.Handler                    { return l }

func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelError && !strings.Contains(r.Message, "panic") {
		return nil
	}
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

func (l *errorLog) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.lines, "the log has errors")
}
