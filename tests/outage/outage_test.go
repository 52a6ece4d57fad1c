// Package outage_test takes away what the system depends on, while orders come in, and gives it back: the database in each of
// the ways in which it can be away, on both engines. Nobody starts a process of ours by hand meanwhile. Who says whether it held is
// package judge.
package outage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// How long, and how often.
const (
	restarts = 20
	stopped  = time.Minute
	crowded  = 30 * time.Second
	full     = 20 * time.Second
)

// folder is a new folder that the server's user can enter, with a short name: its socket's path must fit into 107 bytes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "outage-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// startServer starts a PostgreSQL server of the test's own below dir. It has few connections, so that they are soon taken.
func startServer(t *testing.T, dir string) *localstack.Postgres {
	t.Helper()
	dir = filepath.Join(dir, "postgres")
	server, err := localstack.StartPostgres(t.Context(), dir, localstack.PostgresOptions{Connections: 150})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(localstack.StopPostgres(ctx, dir), localstack.RemovePostgres(dir)); err != nil {
			t.Error(err)
		}
	})
	return server
}

// load is orders that keep coming in: each lane asks for one until it is accepted, sees it to its end, and goes on with the next. An
// answer that is neither what was asked for nor `unavailable` is an error.
type load struct {
	system *harness.System
	cancel context.CancelFunc
	done   sync.WaitGroup

	accepted, unavailable atomic.Int64
	mu                    sync.Mutex
	wrong                 []string
}

// lanes is how many orders are under way at most, and each begins one every so often: what is tried is the outage, not how much
// the machine can do beside five others.
const (
	lanes = 32
	every = 2 * time.Second
)

// methods are the payment methods, the good one more often than the others.
var methods = []string{"tok_visa", "tok_declined", "tok_visa", "tok_flaky", "tok_visa", "tok_expires"}

func startLoad(t *testing.T, s *harness.System) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{system: s, cancel: cancel}
	run := time.Now().UnixMilli()
	for lane := range lanes {
		l.done.Go(func() {
			pace := time.NewTicker(200 * time.Millisecond)
			defer pace.Stop()
			next := time.NewTicker(every)
			defer next.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				order := harness.Order{ID: fmt.Sprintf("load-%d-%d-%d", run, lane, i), Method: methods[(lane+i)%len(methods)]}
				if i%4 == 3 {
					order.Coordination = "choreographed"
				}
				isAccepted := l.ask(ctx, pace.C, "start "+order.ID, func() (bool, error) {
					_, err := s.TryStart(ctx, order)
					return true, err
				})
				if isAccepted {
					l.accepted.Add(1)
				}
				l.ask(ctx, pace.C, "get "+order.ID, func() (bool, error) {
					c, err := s.Get(ctx, order.ID)
					return c.GetEndedAt() != nil, err
				})
				select {
				case <-next.C:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		l.done.Wait()
	})
	return l
}

// ask repeats a call until it gives what is wanted, and says whether it did before the load ended.
func (l *load) ask(ctx context.Context, again <-chan time.Time, what string, call func() (bool, error)) bool {
	for ctx.Err() == nil {
		began := time.Now()
		isDone, err := call()
		switch {
		case err == nil && isDone:
			return true
		case err == nil, ctx.Err() != nil:
		case harness.IsCode(err, connect.CodeUnavailable):
			l.unavailable.Add(1)
		default:
			l.mu.Lock()
			l.wrong = append(l.wrong, fmt.Sprintf("%s, after %s: %v", what, time.Since(began).Round(time.Millisecond), err))
			l.mu.Unlock()
		}
		select {
		case <-again:
		case <-ctx.Done():
		}
	}
	return false
}

// awaitEnds waits until so many more checkouts have ended.
func (l *load) awaitEnds(t *testing.T, more int) {
	t.Helper()
	want := -1
	harness.Eventually(t, fmt.Sprintf("%d more checkouts to end", more), func(ctx context.Context) error {
		final, err := l.system.Judge.Final(ctx)
		if err != nil {
			return err
		}
		ended := 0
		for _, n := range final {
			ended += n
		}
		if want < 0 {
			want = ended + more
		}
		if ended < want {
			return fmt.Errorf("%d of %d have", ended, want)
		}
		return nil
	})
}

// stop ends the load, fails the test if an answer was wrong, and returns how many orders were accepted.
func (l *load) stop(t *testing.T) int64 {
	t.Helper()
	l.cancel()
	l.done.Wait()
	for i, w := range l.wrong {
		if i == 10 {
			break
		}
		t.Error(w)
	}
	return l.accepted.Load()
}

// requireProgress demands that something is learned again in time, and returns after how long it was.
func requireProgress(t *testing.T, s *harness.System, back time.Time, within time.Duration) time.Duration {
	t.Helper()
	var first time.Time
	harness.Eventually(t, "progress", func(ctx context.Context) (err error) {
		first, err = s.Judge.FirstProgress(ctx, "orchestrator", back)
		if err == nil && first.IsZero() {
			err = errors.New("there is none")
		}
		return err
	})
	require.Less(t, first.Sub(back), within)
	return first.Sub(back)
}

// openNow are the orders that have not ended.
func openNow(t *testing.T, s *harness.System) (orders []string) {
	t.Helper()
	harness.Eventually(t, "the open orders to be told", func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, s.Databases["orchestrator"])
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return conn.QueryRow(ctx, `SELECT coalesce(array_agg(order_id), '{}') FROM checkouts WHERE phase <> 'final'`).Scan(&orders)
	})
	return orders
}

// lastProgress tells which of the orders was the last to go on, when nothing had happened to it since a moment, and after how long.
func lastProgress(t *testing.T, s *harness.System, orders []string, since time.Time) (order string, after time.Duration) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Databases["orchestrator"])
	require.NoError(t, err)
	defer conn.Close(context.Background())
	const query = `
		SELECT order_id || ' (' || coordination || ')', first FROM checkouts
		JOIN (SELECT key AS order_id, min(at) AS first FROM entries WHERE at > $2 GROUP BY key) went_on USING (order_id)
		WHERE order_id = ANY($1) ORDER BY first DESC LIMIT 1`
	var at time.Time
	err = conn.QueryRow(t.Context(), query, orders, since).Scan(&order, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return "none", 0
	}
	require.NoError(t, err)
	return order, at.Sub(since)
}

// awaitSaying waits until /readyz of a process says something.
func awaitSaying(t *testing.T, url, text string) {
	t.Helper()
	harness.Within(t, 15*time.Second, "/readyz to say "+text, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		said, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		if answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(said), text) {
			return fmt.Errorf("it says %d: %s", answer.StatusCode, said)
		}
		return nil
	})
}

// awaitUnavailable waits until every call says that it cannot be served, and doctor, which answers when nothing else does, says why.
func awaitUnavailable(t *testing.T, s *harness.System) {
	t.Helper()
	calls := map[string]func(context.Context) error{
		"Get":    func(ctx context.Context) error { _, err := s.Get(ctx, "no-one"); return err },
		"Cancel": func(ctx context.Context) error { _, err := s.Cancel(ctx, "no-one"); return err },
		"Start":  func(ctx context.Context) error { _, err := s.TryStart(ctx, harness.Order{ID: "no-one"}); return err },
		"List": func(ctx context.Context) error {
			_, err := s.Checkouts.List(ctx, connect.NewRequest(&checkoutv1.ListRequest{}))
			return err
		},
	}
	for name, call := range calls {
		harness.Within(t, 20*time.Second, name+" to be unavailable", func(ctx context.Context) error {
			if err := call(ctx); !harness.IsCode(err, connect.CodeUnavailable) {
				return fmt.Errorf("it answers %v", err)
			}
			return nil
		})
	}
	answer, err := s.Checkouts.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
	require.NoError(t, err)
	var found []string
	for _, f := range answer.Msg.Findings {
		if !f.Ok {
			found = append(found, f.Check+": "+f.Detail)
		}
	}
	require.Regexp(t, `parts of this process: [^\n]*: missing since `, strings.Join(found, "\n"))
}

// cutEachInTurn ends every connection to the server that there is now, each once the one before is gone, and returns how many it
// was.
func cutEachInTurn(t *testing.T, url string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), `
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY backend_start`)
	require.NoError(t, err)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	for _, pid := range pids {
		_, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend($1, 5000)`, pid)
		require.NoError(t, err)
	}
	return len(pids)
}

// takeAllConnections takes every connection of the server, those that others have too, until release is called.
func takeAllConnections(t *testing.T, url string) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = "taker"
	first, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	var mu sync.Mutex
	taken := []*pgx.Conn{first}
	var taking sync.WaitGroup
	for range 8 {
		taking.Go(func() {
			for ctx.Err() == nil {
				conn, err := pgx.ConnectConfig(ctx, config)
				if err != nil { // There is none left, for the moment; asking without a pause would take the machine, too.
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				mu.Lock()
				taken = append(taken, conn)
				mu.Unlock()
			}
		})
	}
	taking.Go(func() {
		const cutOthers = `
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND application_name <> 'taker' AND pid <> pg_backend_pid()`
		for ctx.Err() == nil {
			_, _ = first.Exec(ctx, cutOthers)
		}
	})
	release = sync.OnceFunc(func() {
		cancel()
		taking.Wait()
		for _, conn := range taken {
			_ = conn.Close(context.Background())
		}
	})
	t.Cleanup(release)
	return release
}

// smallDisk is a file system that is soon full.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := folder(t)
	if err := mountSmall(t, dir); err != nil {
		t.Skipf("this machine, or this user, does not let a small file system be mounted: %v", err)
	}
	return dir
}

// mountSmall mounts a file system of 600 MB on a folder until the test ends.
func mountSmall(t *testing.T, dir string) error {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=600m,mode=0755"); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return nil
}

// fill leaves no room on a disk until release is called.
func fill(t *testing.T, disk string) (release func()) {
	t.Helper()
	path := filepath.Join(disk, "filler")
	file, err := os.Create(path)
	require.NoError(t, err)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		block := make([]byte, 1<<20)
		for {
			if n, err := file.Write(block); err != nil || n < len(block) {
				block = block[:max(len(block)/2, 1)]
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond): // What the server gives back is taken, too.
			}
		}
	}()
	release = sync.OnceFunc(func() {
		close(stop)
		<-done
		if err := errors.Join(file.Close(), os.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	return release
}

// awaitFullDisk waits until orders cannot be accepted any more.
func awaitFullDisk(t *testing.T, s *harness.System) {
	t.Helper()
	n := 0
	harness.Eventually(t, "the disk to be full", func(ctx context.Context) error {
		n++
		_, err := s.TryStart(ctx, harness.Order{ID: fmt.Sprintf("full-%d", n)})
		if !harness.IsCode(err, connect.CodeUnavailable) {
			return fmt.Errorf("an order was accepted, or refused otherwise: %v", err)
		}
		return nil
	})
}
