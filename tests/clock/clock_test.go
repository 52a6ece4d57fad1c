// Package clock_test sets clocks by an hour, forward and back, while checkouts are open. The database's clock, the only judge of
// deadlines, is set by libfaketime (Debian's package of that name; these tests are skipped without it). Go programs read the clock past
// the C library, so that libfaketime does nothing to them. What a process compares its own clock with lies in the embedded engine's
// tables; moving these by an hour is the same to it as a clock that was set.
package clock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	paymentv1 "github.com/checkoutsaga/orchestrator/gen/payment/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/tests/harness"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

func TestMain(m *testing.M) { harness.Main(m) }

// goesOnWithin is longer than the sweeper's patience with a run whose timer is lost.
const goesOnWithin = 90 * time.Second

func TestTheDatabasesClockIsSetBackByAnHour(t *testing.T) {
	clock := startFaked(t)
	s := startDev(t, clock)
	o := open(t, &s.System)
	o.lose(t, "lost-0")
	clock.set(t, "-3600")
	o.heal(t)
	s.Start(t, harness.Order{ID: "after"})
	s.AwaitEnd(t, "after", harness.Confirmed)
	took := s.AwaitAllEnded(t, goesOnWithin)
	t.Logf("all had ended after %s", took.Round(time.Millisecond))
	o.require(t, harness.Confirmed)
	s.Audit(t)
}

func TestTheDatabasesClockIsSetForwardByAnHour(t *testing.T) {
	clock := startFaked(t)
	s := startDev(t, clock)
	o := open(t, &s.System)
	clock.set(t, "+3600")
	o.heal(t)
	s.Start(t, harness.Order{ID: "after"})
	s.AwaitEnd(t, "after", harness.Confirmed)
	took := s.AwaitAllEnded(t, goesOnWithin)
	t.Logf("all had ended after %s", took.Round(time.Millisecond))
	o.require(t, harness.Expired) // Their deadlines have passed, by the one clock that says so.
	s.Audit(t)
}

func TestTheProcessesClockIsSetByAnHour(t *testing.T) {
	for name, moved := range map[string]time.Duration{
		"back":    time.Hour, // What it wrote lies an hour later than before.
		"forward": -time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := harness.StartShop(t)
			s.Config.ApprovalAbove = node.Amounts{"USD": 0}
			stop := s.Open(t)
			s.WatchSums(t)
			o := open(t, s.System)
			stop()
			o.moveTimers(t, moved)
			s.Open(t)
			o.heal(t)
			took := s.AwaitAllEnded(t, goesOnWithin)
			t.Logf("all had ended after %s", took.Round(time.Millisecond))
			o.require(t, harness.Confirmed)
			s.Audit(t)
		})
	}
}

// opened are checkouts that stand at different places.
type opened struct {
	system *harness.System
	ids    []string
}

const held = "tok_insufficient_funds"

// open starts some that are in backoff, because the card network fails, and some that await approval.
func open(t *testing.T, s *harness.System) *opened {
	t.Helper()
	o := &opened{system: s}
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: held, Authorize: "fails"})
	for i := range 4 {
		held := harness.Order{ID: fmt.Sprintf("held-%d", i), Method: held}
		lost := harness.Order{ID: fmt.Sprintf("lost-%d", i), Method: held.Method}
		waits := harness.Order{ID: fmt.Sprintf("waits-%d", i), Currency: "USD", ApprovalDeadline: 10 * time.Minute}
		for _, order := range []harness.Order{held, lost, waits} {
			s.Start(t, order)
			o.ids = append(o.ids, order.ID)
		}
	}
	harness.Eventually(t, "all to stand in their places", func(ctx context.Context) error {
		for _, id := range o.ids {
			c, err := s.Get(ctx, id)
			if err != nil {
				return err
			}
			if c.Status != checkoutv1.Status_STATUS_AWAITING_APPROVAL && c.Steps[1].Attempts < 3 {
				return errors.New(id + " stands at " + harness.Steps(c))
			}
		}
		return nil
	})
	return o
}

// heal has the network work again, and approves what waits.
func (o *opened) heal(t *testing.T) {
	t.Helper()
	o.system.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: held, Authorize: "works"})
	for _, id := range o.ids {
		_, err := o.system.Checkouts.Approve(t.Context(), connect.NewRequest(&checkoutv1.ApproveRequest{OrderId: id, Reason: "the trial", Actor: "trial"}))
		if err != nil && !harness.IsCode(err, connect.CodeFailedPrecondition) { // Most need none, or it is too late.
			t.Error(err)
		}
	}
}

func (o *opened) require(t *testing.T, want harness.Status) {
	t.Helper()
	for _, id := range o.ids {
		o.system.AwaitEnd(t, id, want)
	}
}

// moveTimers moves the timers of all workflows.
func (o *opened) moveTimers(t *testing.T, by time.Duration) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), o.system.Databases["orchestrator"])
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	type row struct {
		Key    int64
		Seq    int32
		Events []byte
	}
	found, err := conn.Query(t.Context(), `SELECT key, seq, events FROM engine.log`)
	require.NoError(t, err)
	rows, err := pgx.CollectRows(found, pgx.RowToStructByPos[row])
	require.NoError(t, err)
	moved := 0
	for _, r := range rows {
		var history protos.GetInstanceHistoryResponse
		require.NoError(t, proto.Unmarshal(r.Events, &history))
		for _, event := range history.Events {
			if timer := event.GetTimerCreated(); timer != nil && timer.FireAt.AsTime().Year() < 9999 { // That year is never.
				timer.FireAt = timestamppb.New(timer.FireAt.AsTime().Add(by))
				moved++
			}
		}
		events, err := proto.Marshal(&history)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `UPDATE engine.log SET events = $3 WHERE key = $1 AND seq = $2`, r.Key, r.Seq, events)
		require.NoError(t, err)
	}
	require.NotZero(t, moved)
	_, err = conn.Exec(t.Context(), `UPDATE engine.lasting SET wake = wake + $1::interval`, by)
	require.NoError(t, err)
}

// lose has the engine forget the first run of a checkout, so that only the sweeper can tell.
func (o *opened) lose(t *testing.T, id string) {
	t.Helper()
	o.exec(t, `DELETE FROM engine.log WHERE key = (SELECT key FROM engine.log WHERE id = $1)`, runs.ID(checkout.Saga(id), 1))
}

func (o *opened) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), o.system.Databases["orchestrator"])
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, errors.Join(err, conn.Close(context.WithoutCancel(t.Context()))))
}

// faked is a PostgreSQL server whose clock the test sets.
type faked struct {
	*localstack.Postgres
	file string
}

func startFaked(t *testing.T) *faked {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("needs libfaketime: apt-get install libfaketime")
	}
	dir, err := os.MkdirTemp("", "clock-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) // The server's user is another one where root runs the test.
	f := &faked{file: filepath.Join(dir, "offset")}
	f.set(t, "+0")
	home := filepath.Join(dir, "postgres")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(localstack.StopPostgres(ctx, home), localstack.RemovePostgres(home), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	preloaded := map[string]string{
		"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": f.file, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
		"FAKETIME_DISABLE_SHM": "1",
	}
	for name, value := range preloaded {
		require.NoError(t, os.Setenv(name, value))
	}
	f.Postgres, err = localstack.StartPostgres(t.Context(), home, localstack.PostgresOptions{Throwaway: true, Connections: 200})
	for name := range preloaded { // Nothing else is to have it.
		require.NoError(t, os.Unsetenv(name))
	}
	require.NoError(t, err)
	return f
}

// set moves the server's clock by seconds from the real time, and sees that it has.
func (f *faked) set(t *testing.T, seconds string) {
	t.Helper()
	fresh := f.file + ".new"
	require.NoError(t, os.WriteFile(fresh, []byte(seconds+"\n"), 0o644))
	require.NoError(t, os.Rename(fresh, f.file))
	if f.Postgres == nil {
		return
	}
	conn, err := pgx.Connect(t.Context(), f.SuperuserURL("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var now time.Time
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now))
	offset, err := time.ParseDuration(seconds + "s")
	require.NoError(t, err)
	require.InDelta(t, offset.Seconds(), time.Until(now).Seconds(), 60, "the server's clock is not set")
}

func startDev(t *testing.T, server *faked) *harness.Dev {
	t.Helper()
	databases := judge.Databases{}
	for _, name := range append(node.Participants(), "orchestrator") {
		url, err := server.EnsureDatabase(t.Context(), name)
		require.NoError(t, err)
		databases[name] = url
	}
	d := harness.StartDev(t, databases, "ORCHESTRATOR_APPROVAL_ABOVE=USD=0")
	d.WatchSums(t)
	return d
}
