package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// victimURL, when it is set, makes the test binary a process that runs the engine on that database until it is killed.
const victimURL = "EMBEDDED_VICTIM_DATABASE_URL"

// victimInstances is how many instances the victim starts, more than activities fit at once.
const victimInstances = 40

func TestMain(m *testing.M) {
	if url := os.Getenv(victimURL); url != "" {
		if err := beVictim(url); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	if url := os.Getenv(loadedURL); url != "" {
		if err := beLoaded(url); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// beVictim prints a line for each activity that it begins, and finishes none.
func beVictim(url string) error {
	ctx := context.Background()
	e, err := tryOpen(ctx, url, oneActivity(func(ctx context.Context) error {
		fmt.Println("begun")
		<-ctx.Done()
		return ctx.Err()
	}))
	if err != nil {
		return err
	}
	for n := range victimInstances {
		if err := e.Start(ctx, "one", fmt.Sprintf("ord-%d-1", n), nil); err != nil {
			return err
		}
	}
	return e.Run(ctx)
}

func oneActivity(do func(context.Context) error) *task.TaskRegistry {
	r := task.NewTaskRegistry()
	_ = r.AddWorkflowN("one", func(ctx *task.WorkflowContext) (any, error) { return nil, ctx.CallActivity("one").Await(nil) })
	_ = r.AddActivityN("one", func(ctx task.ActivityContext) (any, error) { return nil, do(ctx.Context()) })
	return r
}

func TestI8WorkOfAKilledProcessGoesOnWithinTenSeconds(t *testing.T) {
	url := pgtest.URL(t)
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), victimURL+"="+url)
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	lines := bufio.NewScanner(out)
	for range 32 {
		require.True(t, lines.Scan(), "the victim ended early")
		require.Equal(t, "begun", lines.Text())
	}
	require.NoError(t, victim.Process.Kill())
	killed := time.Now()
	_ = victim.Wait()

	e := open(t, url, oneActivity(func(context.Context) error { return nil }))
	run(t, e)
	for n := range victimInstances {
		await(t, e, fmt.Sprintf("ord-%d-1", n), engine.Completed)
	}
	t.Logf("all went on %s after the kill", time.Since(killed))
	require.Less(t, time.Since(killed), 10*time.Second)
}

func TestI8ASecondProcessStandsByAndTakesOverWhatTheFirstHadInHand(t *testing.T) {
	url := pgtest.URL(t)
	begun := make(chan struct{}, 1)
	first := open(t, url, oneActivity(func(ctx context.Context) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	second := open(t, url, oneActivity(func(context.Context) error { return nil }))
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	require.NoError(t, first.Start(t.Context(), "one", "ord-1-1", nil))
	<-begun
	run(t, second)
	require.NoError(t, second.Start(t.Context(), "one", "ord-2-1", nil), "a process that stands by may use the engine")
	require.NoError(t, second.Check(t.Context()), "somebody runs it")
	<-begun // By the first: the second one stands by.

	cutLock(t, url)
	require.ErrorContains(t, <-ended, "keep leadership")
	await(t, second, "ord-1-1", engine.Completed)
	await(t, second, "ord-2-1", engine.Completed)
}

func TestI8RunGoesOnInTheSameProcessAfterItsLockWasLost(t *testing.T) {
	url := pgtest.URL(t)
	var runs atomic.Int32
	e := open(t, url, oneActivity(func(ctx context.Context) error {
		if runs.Add(1) == 1 {
			<-ctx.Done() // It was in hand when the lock was lost.
		}
		return ctx.Err()
	}))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(t.Context()) }()
	require.NoError(t, e.Start(t.Context(), "one", "ord-1-1", nil))
	require.Eventually(t, func() bool { return runs.Load() == 1 }, 5*time.Second, time.Millisecond)
	cutLock(t, url)
	require.ErrorContains(t, <-ended, "keep leadership")
	require.Error(t, e.Check(t.Context()))

	run(t, e)
	await(t, e, "ord-1-1", engine.Completed)
	require.EqualValues(t, 2, runs.Load(), "what was cut off counts for nothing and ran again")
}

// TestI8WorkGoesOnWhateverConnectionIsCut cuts all connections of the engine but the lock's, over and over: a turn whose
// transaction was cut is looked up in the log, and nothing waits for a timeout.
func TestI8WorkGoesOnWhateverConnectionIsCut(t *testing.T) {
	url := pgtest.URL(t)
	e := open(t, url, oneActivity(func(context.Context) error { return nil }))
	run(t, e)
	require.NoError(t, e.Start(t.Context(), "one", "first", nil))
	await(t, e, "first", engine.Completed) // It has taken over.
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	const instances, each = 150, 5
	for n := range instances {
		if n%each == 0 {
			const query = `
				SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
				  AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')
				ORDER BY random() LIMIT 2`
			_, err := conn.Exec(t.Context(), query)
			require.NoError(t, err)
		}
		for err := errors.New("not started"); err != nil && !errors.Is(err, engine.ErrExists); {
			err = e.Start(t.Context(), "one", fmt.Sprintf("ord-%d-1", n), nil)
		}
	}
	began := time.Now()
	for n := range instances {
		await(t, e, fmt.Sprintf("ord-%d-1", n), engine.Completed)
	}
	t.Logf("all had ended %s after the last start", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), 10*time.Second)
}

// cutLock ends the session by which a process runs the engine.
func cutLock(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `
		SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	require.NoError(t, err)
}

func TestManyProcessesMayOpenANewDatabaseAtOnce(t *testing.T) {
	url := pgtest.URL(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			e, err := tryOpen(t.Context(), url, task.NewTaskRegistry())
			if err != nil {
				t.Error(err)
				return
			}
			e.cut()
		})
	}
	all.Wait()
}
