package outbox

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestI5AnEventExistsIfAndOnlyIfItsTransactionCommits(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write := func(end error) error {
		return pg.InTx(t.Context(), o.pool, func(tx pgx.Tx) error {
			require.NoError(t, o.Write(t.Context(), tx, Order("ord-1", event.Orchestrated), reserved("A")))
			return end
		})
	}
	undone := errors.New("undone")
	require.ErrorIs(t, write(undone), undone)
	require.NoError(t, write(nil))
	require.ErrorIs(t, write(undone), undone)
	require.NoError(t, write(nil))
	require.Equal(t, []string{"warehouse:order:ord-1:1", "warehouse:order:ord-1:2"}, ids(t, o, Selection{}), "what is undone leaves no gap")
}

func TestAnEventCanBeWrittenInABatch(t *testing.T) {
	t.Parallel()
	o := setup(t)
	require.NoError(t, pg.InTx(t.Context(), o.pool, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		require.NoError(t, o.Queue(t.Context(), batch, Order("ord-1", event.Orchestrated), reserved("A")))
		require.NoError(t, o.Queue(t.Context(), batch, Article("A"), &warehousev1.InventoryStockChanged{OnHand: 3}))
		return tx.SendBatch(t.Context(), batch).Close()
	}))
	require.Equal(t, []string{"warehouse:order:ord-1:1", "warehouse:article:A:1"}, ids(t, o, Selection{}))
}

func TestAnEventIsWhatItsContractAsksFor(t *testing.T) {
	t.Parallel()
	o := setup(t)
	traced := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}))
	require.NoError(t, pg.InTx(t.Context(), o.pool, func(tx pgx.Tx) error {
		return errors.Join(
			o.Write(traced, tx, Order("ord-1", event.Orchestrated), reserved("Schraube-M8-“ü”")),
			o.Write(t.Context(), tx, Article("A"), &warehousev1.InventoryStockChanged{}))
	}))
	listed, err := o.List(t.Context(), Selection{}, 0, 10)
	require.NoError(t, err)
	require.Len(t, listed, 2)

	m, err := event.Decode("warehouse.inventory.reserved", listed[0].Data)
	require.NoError(t, err)
	require.Equal(t, "Schraube-M8-“ü”", m.(*warehousev1.InventoryReserved).Lines[0].Sku)
	h := m.GetHeader()
	require.Equal(t, listed[0].Header.String(), h.String())
	require.WithinDuration(t, time.Now(), h.OccurredAt.AsTime(), time.Minute)
	h.OccurredAt = nil
	require.Equal(t, (&eventv1.Header{
		EventId: "warehouse:order:ord-1:1", Topic: "warehouse.inventory.reserved", Producer: "warehouse", OrderId: "ord-1", Seq: 1,
		SchemaVersion: 1, Coordination: event.Orchestrated, Traceparent: "00-01000000000000000000000000000000-0200000000000000-01",
	}).String(), h.String())

	// A message of zeros is nothing but its header.
	m, err = event.Decode("warehouse.inventory.stock_changed", listed[1].Data)
	require.NoError(t, err)
	require.Equal(t, "A", m.GetHeader().Sku)
}

func TestAnEventThatIsNotTheAppsToWritePanics(t *testing.T) {
	t.Parallel()
	warehouse, payment := New("warehouse", nil, nil), New("payment", nil, nil)
	order := Order("ord-1", event.Orchestrated)
	for name, write := range map[string]func() error{
		"another's":      func() error { return payment.Queue(t.Context(), nil, order, reserved("A")) },
		"about an order": func() error { return warehouse.Queue(t.Context(), nil, Article("A"), reserved("A")) },
		"with a header": func() error {
			return warehouse.Queue(t.Context(), nil, order, &warehousev1.InventoryReserved{Header: &eventv1.Header{}})
		},
		"no event": func() error { return warehouse.Queue(t.Context(), nil, order, noEvent{}) },
	} {
		require.Panics(t, func() { _ = write() }, name)
	}
}

type noEvent struct{ *eventv1.Selection }

func (noEvent) GetHeader() *eventv1.Header { return nil }

func TestI6NumbersOfAKeyHaveNoGapAndThePositionsTheirOrder(t *testing.T) {
	t.Parallel()
	o := setup(t)
	const writers, each, keys = 32, 20, 3
	require.NoError(t, writeConcurrently(t.Context(), o, writers, each, keys))
	requireNumbered(t, o, writers*each, keys)
}

func TestI6ManyWhoWriteAboutTheSameKeysAtOnceNumberThemWithoutGapAndWaitForEachOtherOnlyOneWay(t *testing.T) {
	t.Parallel()
	o := setup(t)
	const writers, each, keys, together = 8, 20, 5, 12
	all, ctx := errgroup.WithContext(t.Context())
	for range writers {
		all.Go(func() error {
			for range each {
				told := make([]Told, together) // In any order of keys, most of which are there several times.
				for i := range told {
					told[i] = Told{Subject: Order(fmt.Sprint("ord-", rand.N(keys)), event.Orchestrated), Message: reserved(fmt.Sprint(i))}
				}
				err := pg.InTx(ctx, o.pool, func(tx pgx.Tx) error {
					batch := new(pgx.Batch)
					if err := o.QueueAll(batch, told); err != nil {
						return err
					}
					return tx.SendBatch(ctx, batch).Close()
				})
				if err != nil {
					return err // Such as a deadlock, of which PostgreSQL makes one fail.
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
	requireNumbered(t, o, writers*each*together, keys)
}

func TestEventsOfOneKeyThatAreWrittenTogetherKeepTheirOrder(t *testing.T) {
	t.Parallel()
	o := setup(t)
	require.NoError(t, pg.InTx(t.Context(), o.pool, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		order := func(id, sku string) Told {
			return Told{Subject: Order(id, event.Orchestrated), Message: reserved(sku)}
		}
		require.NoError(t, o.QueueAll(batch, []Told{
			order("ord-2", "C"), order("ord-1", "B"), order("ord-2", "A"), {Subject: Article("ord-2"), Message: &warehousev1.InventoryStockChanged{}}}))
		require.NoError(t, o.QueueAll(batch, nil))
		return tx.SendBatch(t.Context(), batch).Close()
	}))
	require.Equal(t, []string{"warehouse:order:ord-2:1", "warehouse:order:ord-1:1", "warehouse:order:ord-2:2", "warehouse:article:ord-2:1"}, ids(t, o, Selection{}))
	listed, err := o.List(t.Context(), Selection{OrderIDs: []string{"ord-2"}}, 0, 10)
	require.NoError(t, err)
	require.Contains(t, string(listed[0].Data), `"C"`)
	require.Contains(t, string(listed[1].Data), `"A"`)
}

// requireNumbered requires that the events of each key are numbered without a gap, in the order of their positions.
func requireNumbered(t *testing.T, o *Outbox, events, keys int) {
	t.Helper()
	rows, err := o.pool.Query(t.Context(), `SELECT key, seq FROM outbox ORDER BY position`)
	require.NoError(t, err)
	last, count := map[string]int64{}, 0
	var key string
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&key, &seq}, func() error {
		require.Equal(t, last[key]+1, seq, "of %s, in the order of positions", key)
		last[key], count = seq, count+1
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, events, count)
	require.Len(t, last, keys)
}

// writeConcurrently writes events about a few orders; a third of the transactions are undone after they wrote, and tried again.
func writeConcurrently(ctx context.Context, o *Outbox, writers, each, keys int) error {
	all, ctx := errgroup.WithContext(ctx)
	undone := errors.New("undone")
	for range writers {
		all.Go(func() error {
			for n := 0; n < each; {
				err := pg.InTx(ctx, o.pool, func(tx pgx.Tx) error {
					if err := o.Write(ctx, tx, Order(fmt.Sprint("ord-", rand.N(keys)), event.Orchestrated), reserved("A")); err != nil {
						return err
					}
					if rand.N(3) == 0 {
						return undone
					}
					return nil
				})
				switch {
				case err == nil:
					n++
					o.Committed()
				case !errors.Is(err, undone):
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

func TestASelectionIsListedInPages(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write(t, o, "ord-1", "ord-2", "ord-1", "ord-3", "ord-2")
	all := []string{"warehouse:order:ord-1:1", "warehouse:order:ord-2:1", "warehouse:order:ord-1:2", "warehouse:order:ord-3:1", "warehouse:order:ord-2:2"}
	var after int64
	var got []string
	for {
		page, err := o.List(t.Context(), Selection{}, after, 2)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			got, after = append(got, e.Header.EventId), e.Position
		}
	}
	require.Equal(t, all, got)

	for name, tc := range map[string]struct {
		selection Selection
		want      []string
	}{
		"of orders":  {Selection{OrderIDs: []string{"ord-2", "ord-3"}}, []string{all[1], all[3], all[4]}},
		"of a topic": {Selection{Topic: "warehouse.inventory.reserved"}, all},
		"of another": {Selection{Topic: "warehouse.inventory.released"}, nil},
		"since":      {Selection{Since: time.Now().Add(time.Hour)}, nil},
		"two things": {Selection{OrderIDs: []string{"ord-1"}, Topic: "warehouse.inventory.reserved", Unpublished: true}, []string{all[0], all[2]}},
	} {
		require.Equal(t, tc.want, ids(t, o, tc.selection), name)
		count, err := o.Count(t.Context(), tc.selection)
		require.NoError(t, err)
		require.EqualValues(t, len(tc.want), count, name)
	}
}

func TestPruningTakesOnlyWhatIsPublishedAndOldAndNumbersGoOn(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write(t, o, "ord-1", "ord-1", "ord-1")
	_, err := o.pool.Exec(t.Context(), `UPDATE outbox SET occurred_at = clock_timestamp() - interval '41 days' WHERE seq < 3`)
	require.NoError(t, err)
	_, err = o.pool.Exec(t.Context(), `UPDATE outbox SET published_at = clock_timestamp() WHERE seq <> 2`)
	require.NoError(t, err)
	r := &relay{Outbox: o}
	require.NoError(t, r.prune(t.Context()))
	require.Equal(t, []string{"warehouse:order:ord-1:2", "warehouse:order:ord-1:3"}, ids(t, o, Selection{}), "the second is old and waits")

	_, err = o.pool.Exec(t.Context(), `UPDATE outbox SET published_at = clock_timestamp(), occurred_at = clock_timestamp() - interval '41 days'`)
	require.NoError(t, err)
	require.NoError(t, r.prune(t.Context()))
	require.Empty(t, ids(t, o, Selection{}))
	write(t, o, "ord-1")
	require.Equal(t, []string{"warehouse:order:ord-1:4"}, ids(t, o, Selection{}))
}

func TestTheBacklogIsAMetric(t *testing.T) {
	t.Parallel()
	o := setup(t)
	write(t, o, "ord-1", "ord-2")
	_, err := o.pool.Exec(t.Context(), `UPDATE outbox SET occurred_at = clock_timestamp() - interval '90 seconds' WHERE key = 'ord-1'`)
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	registry.MustRegister(o.Collector())
	values := func() map[string]float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		got := map[string]float64{}
		for _, f := range families {
			got[f.GetName()] = f.Metric[0].Gauge.GetValue()
		}
		return got
	}
	require.EqualValues(t, 2, values()["outbox_backlog_events"])
	require.InDelta(t, 90, values()["outbox_backlog_age_seconds"], 10)
	o.pool.Close()
	require.Empty(t, values(), "without a database the page has the other metrics")
}

// setup is an outbox on a database of the test's own.
func setup(t testing.TB) *Outbox {
	t.Helper()
	return open(t, pgtest.URL(t), slog.New(slog.DiscardHandler))
}

// open is what one more process has of an outbox.
func open(t testing.TB, url string, log *slog.Logger) *Outbox {
	t.Helper()
	pool, err := pg.Open(t.Context(), url, 10)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, pg.Migrate(t.Context(), pool, Migrations()))
	return New("warehouse", pool, log)
}

func reserved(sku string) *warehousev1.InventoryReserved {
	return &warehousev1.InventoryReserved{Lines: []*warehousev1.Line{{Sku: sku, Quantity: 1}}}
}

// write writes an event about each of the orders, and does not tell.
func write(t testing.TB, o *Outbox, orders ...string) {
	t.Helper()
	for chunk := range slices.Chunk(orders, 1000) {
		require.NoError(t, pg.InTx(t.Context(), o.pool, func(tx pgx.Tx) error {
			batch := new(pgx.Batch)
			for _, id := range chunk {
				if err := o.Queue(t.Context(), batch, Order(id, event.Orchestrated), reserved("A")); err != nil {
					return err
				}
			}
			return tx.SendBatch(t.Context(), batch).Close()
		}))
	}
}

func ids(t testing.TB, o *Outbox, s Selection) (ids []string) {
	t.Helper()
	listed, err := o.List(t.Context(), s, 0, 100_000)
	require.NoError(t, err)
	for _, e := range listed {
		ids = append(ids, e.Header.EventId)
	}
	return ids
}

// broker is a bus that keeps what it takes.
type broker struct {
	mu sync.Mutex
	// taken has every publication, repeats too.
	taken []publication
	// refuse says what is not taken; nil takes all.
	refuse func(bus.Event) error
	// hold is called with each event before it is taken.
	hold func(context.Context, bus.Event)
}

type publication struct {
	bus.Event
	at time.Time
}

func (b *broker) Publish(ctx context.Context, events []bus.Event) []error {
	return bus.InLanes(ctx, 16, events, func(ctx context.Context, e bus.Event) error {
		b.mu.Lock()
		hold, refuse := b.hold, b.refuse
		b.mu.Unlock()
		if hold != nil {
			hold(ctx, e)
		}
		if refuse != nil {
			if err := refuse(e); err != nil {
				return err
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.taken = append(b.taken, publication{e, time.Now()})
		return ctx.Err()
	})
}

func (b *broker) PublishRaw(context.Context, string, []byte) error { panic("not asked for") }

func (b *broker) setRefuse(refuse func(bus.Event) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = refuse
}

func (b *broker) publications() []publication {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.taken)
}

func (b *broker) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

// newest is the last publication; false if there is none.
func (b *broker) newest() (publication, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.taken) == 0 {
		return publication{}, false
	}
	return b.taken[len(b.taken)-1], true
}

// firsts are the ids of what was taken, by key, each where it was taken first.
func (b *broker) firsts() map[string][]string {
	firsts, seen := map[string][]string{}, map[string]bool{}
	for _, e := range b.publications() {
		if !seen[e.ID] {
			seen[e.ID] = true
			firsts[e.Key] = append(firsts[e.Key], e.ID)
		}
	}
	return firsts
}

// count is how many different events it has.
func (b *broker) count() (count int) {
	for _, ids := range b.firsts() {
		count += len(ids)
	}
	return count
}

// hasAllInOrder requires that every event of the outbox was published, with the id that it has there, in order within its key.
func (b *broker) hasAllInOrder(t testing.TB, o *Outbox) {
	t.Helper()
	want := map[string][]string{}
	listed, err := o.List(t.Context(), Selection{}, 0, 100_000)
	require.NoError(t, err)
	for _, e := range listed {
		want[e.Header.OrderId] = append(want[e.Header.OrderId], e.Header.EventId)
	}
	require.Equal(t, want, b.firsts())
}

// logs keeps what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// relaying runs the outbox's relay until the test ends or stop is called, which waits for its end. A relay that lost its database is
// run again, as package process does.
func relaying(t testing.TB, o *Outbox, to bus.Publisher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := o.Relay(ctx, to)
		for ctx.Err() == nil {
			pause.For(ctx, 100*time.Millisecond)
			err = o.Relay(ctx, to)
		}
		ended <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition, at most within.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, within, 2*time.Millisecond, what)
}

// leaderOf is the backend that holds the leader's lock; 0 while nobody does.
func leaderOf(t testing.TB, pool *pgxpool.Pool) (pid int) {
	t.Helper()
	const query = `
		SELECT pid FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND (classid::bigint << 32) | objid::bigint = $1`
	err := pool.QueryRow(t.Context(), query, int64(leaderLock)).Scan(&pid)
	if !errors.Is(err, pgx.ErrNoRows) {
		require.NoError(t, err)
	}
	return pid
}

func median(all []time.Duration) time.Duration {
	slices.SortFunc(all, cmp.Compare[time.Duration])
	return all[len(all)/2]
}
