package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/pause"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// chaosSteps is how many steps the workflows of these tests take.
const chaosSteps = 4

// loadedURL makes the test binary a process that runs the engine on that database, and starts instances all the time, until it is killed.
const loadedURL = "EMBEDDED_LOADED_DATABASE_URL"

// beLoaded prints the id of each instance that it was told is started.
func beLoaded(url string) error {
	ctx := context.Background()
	var committer *commit.Committer
	e, err := tryOpen(ctx, url, recording(&committer))
	if err != nil {
		return err
	}
	committer = e.committer
	var out sync.Mutex
	for starter := range 64 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("of-%d-%d-%d", os.Getpid(), starter, n)
				if err := e.Start(ctx, "steps", id, chaosSteps); err != nil {
					continue
				}
				out.Lock()
				fmt.Println(id)
				out.Unlock()
				for pause.For(ctx, 5*time.Millisecond) { // So that there are some in each of their steps, and not ever more.
					if i, err := e.Inspect(ctx, id); err == nil && i.State == engine.Completed {
						break
					}
				}
			}
		}()
	}
	return e.Run(ctx)
}

func TestI8NothingIsLostOrRecordedTwiceThoughTheProcessIsKilledAHundredTimes(t *testing.T) {
	url := pgtest.URL(t)
	e := openRecording(t, url)
	kills := 100
	if testing.Short() {
		kills = 10
	}
	var started []string
	for range kills {
		victim := exec.Command(os.Args[0])
		victim.Env = append(os.Environ(), loadedURL+"="+url)
		out, err := victim.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, victim.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan(), "the victim ended early")
		started = append(started, lines.Text())
		time.AfterFunc(time.Duration(20+rand.IntN(200))*time.Millisecond, func() { _ = victim.Process.Kill() })
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "of-") {
				started = append(started, lines.Text())
			}
		}
		_ = victim.Wait()
	}
	run(t, e)
	awaitAllEnded(t, e)
	t.Logf("%d instances were started", len(started))
	requireOnce(t, e.pool, started, chaosSteps)
}

// awaitAllEnded waits until the engine runs and nothing goes on.
func awaitAllEnded(t testing.TB, o *opened) {
	t.Helper()
	require.Eventually(t, func() bool {
		var open int
		err := o.pool.QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM (SELECT FROM engine.log GROUP BY key HAVING max(status) = 0) open) + (SELECT count(*) FROM engine.inbox)`).Scan(&open)
		return err == nil && open == 0
	}, 60*time.Second, 50*time.Millisecond, "some instances go on")
}

func TestI8NothingIsLostOrRecordedTwiceThoughAnswersOfCommitsAreLost(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	proxy := startProxy(t, url)
	e := openRecording(t, proxy.url)
	run(t, e)
	require.NoError(t, e.Start(t.Context(), "steps", "first", chaosSteps))
	await(t, e, "first", engine.Completed)
	proxy.cutEvery.Store(7)
	ids := startAll(t, 300, e)
	proxy.cutEvery.Store(0)
	awaitAllEnded(t, e)
	t.Logf("%d answers were lost", proxy.cut.Load())
	require.NotZero(t, proxy.cut.Load())
	requireOnce(t, e.pool, ids, chaosSteps)
}

// startAll starts instances from many goroutines by any of the engines, each until it is known to be started.
func startAll(t testing.TB, n int, engines ...*opened) (ids []string) {
	t.Helper()
	var starting sync.WaitGroup
	todo := make(chan string)
	for range 32 {
		starting.Go(func() {
			for id := range todo {
				for err := errors.New("not yet"); err != nil && !errors.Is(err, engine.ErrExists); {
					err = engines[rand.IntN(len(engines))].Start(t.Context(), "steps", id, chaosSteps)
				}
			}
		})
	}
	for i := range n {
		ids = append(ids, fmt.Sprintf("i-%d", i))
		todo <- ids[i]
	}
	close(todo)
	starting.Wait()
	return ids
}

func TestI8NothingIsLostOrRecordedTwiceThoughTwoProcessesTakeOverFromEachOther(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	both := []*opened{openRecording(t, url), openRecording(t, url)}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var lost atomic.Int32
	for _, e := range both {
		running.Go(func() {
			for ctx.Err() == nil {
				if e.Run(ctx) != nil {
					lost.Add(1)
				}
			}
		})
	}
	defer func() { stop(); running.Wait() }()
	changes := make(chan struct{})
	running.Go(func() {
		defer close(changes)
		for n := 0; n < 6 && pause.For(ctx, 500*time.Millisecond); n++ {
			if n%2 == 0 {
				cutLock(t, url)
			} else { // Another process takes over, and who runs the engine has not noticed.
				_, err := both[0].pool.Exec(ctx, `UPDATE engine.owner SET epoch = epoch + 1`)
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	ids := startAll(t, 500, both...)
	<-changes
	awaitAllEnded(t, both[0])
	t.Logf("leadership was lost %d times", lost.Load())
	require.NotZero(t, lost.Load())
	requireOnce(t, both[0].pool, ids, chaosSteps)
}

func TestWhoWasTakenOverFromWritesNothing(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.URL(t))
	ended := make(chan error, 1)
	go func() { ended <- o.Run(t.Context()) }()
	require.NoError(t, o.Start(t.Context(), "steps", "before", 1))
	await(t, o, "before", engine.Completed)
	_, err := o.pool.Exec(t.Context(), `UPDATE engine.owner SET epoch = epoch + 1`)
	require.NoError(t, err)
	require.NoError(t, o.Start(t.Context(), "steps", "after", 1), "it lies in the inbox")
	require.ErrorIs(t, <-ended, embedded.ErrLost)
	require.ErrorIs(t, o.Start(t.Context(), "steps", "after", 1), engine.ErrExists)
	require.NoError(t, o.Raise(t.Context(), "after", "an event", nil))
	var rows, posted int
	require.NoError(t, o.pool.QueryRow(t.Context(), `SELECT count(*) FROM engine.log WHERE id = 'after'`).Scan(&rows))
	require.Zero(t, rows)
	require.NoError(t, o.pool.QueryRow(t.Context(), `SELECT count(*) FROM engine.inbox`).Scan(&posted))
	require.Equal(t, 2, posted)

	run(t, o)
	await(t, o, "after", engine.Completed)
	requireOnce(t, o.pool, []string{"before", "after"}, 1)
}

func TestOfManyWhoStartAnIDOneIsTold(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.URL(t))
	for _, when := range []string{"before-anybody-runs-it", "while-it-runs"} {
		var told atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				switch err := o.Start(t.Context(), "steps", when, 1); {
				case err == nil:
					told.Add(1)
				case !errors.Is(err, engine.ErrExists):
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, told.Load(), when)
		if when == "before-anybody-runs-it" {
			run(t, o)
		}
		await(t, o, when, engine.Completed)
	}
}

func TestAPanicOfAWorkflowEndsThatInstanceAlone(t *testing.T) {
	t.Parallel()
	r := task.NewTaskRegistry()
	require.NoError(t, r.AddWorkflowN("panics", func(*task.WorkflowContext) (any, error) { panic("out of its mind") }))
	require.NoError(t, r.AddWorkflowN("asks for more", func(ctx *task.WorkflowContext) (any, error) {
		ctx.ContinueAsNew(nil)
		return nil, nil
	}))
	o := open(t, pgtest.URL(t), r)
	run(t, o)
	for workflow, want := range map[string]string{"panics": "out of its mind", "asks for more": "nothing else that a workflow can ask for"} {
		require.NoError(t, o.Start(t.Context(), workflow, workflow, nil))
		await(t, o, workflow, engine.Failed)
		i, err := o.Inspect(t.Context(), workflow)
		require.NoError(t, err)
		require.Contains(t, i.Failure, want)
	}
}

// proxy stands between an engine and PostgreSQL, and cuts a connection when PostgreSQL tells by it that it has committed.
type proxy struct {
	url string
	// cutEvery is which answers are lost; zero: none.
	cutEvery atomic.Int64
	seen     atomic.Int64
	cut      atomic.Int64
}

func startProxy(t testing.TB, databaseURL string) *proxy {
	t.Helper()
	config, err := pgx.ParseConfig(databaseURL)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := net.JoinHostPort(config.Host, fmt.Sprint(config.Port))
	require.Contains(t, databaseURL, server)
	p := &proxy{url: strings.Replace(databaseURL, server, listener.Addr().String(), 1)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			backend, err := pg.Dialer().DialContext(context.Background(), "tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			hangUp := sync.OnceFunc(func() { client.Close(); backend.Close() })
			serving.Go(func() { defer hangUp(); _, _ = io.Copy(backend, client) })
			serving.Go(func() { defer hangUp(); p.answer(client, backend) })
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return p
}

// answer hands on what PostgreSQL says, until it loses an answer.
func (p *proxy) answer(client io.Writer, backend io.Reader) {
	said := make([]byte, 64<<10)
	for {
		n, err := backend.Read(said)
		if err != nil {
			return
		}
		if every := p.cutEvery.Load(); every > 0 && bytes.Contains(said[:n], []byte("COMMIT\x00")) && p.seen.Add(1)%every == 0 {
			p.cut.Add(1)
			return
		}
		if _, err := client.Write(said[:n]); err != nil {
			return
		}
	}
}
