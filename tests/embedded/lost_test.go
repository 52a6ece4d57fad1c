package embedded_test

import (
	"context"
	"errors"
	"slices"
	"strings"
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
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// failing is the payment method whose authorization a test lets fail, without payment itself being at fault.
const failing = "tok_flaky"

// A build whose workflow does not fit the histories of open checkouts must stop those, and no other; and it must undo nothing, since
// it does not know what it does.
func TestI3AWorkflowThatDoesNotFitItsHistoryStopsThatCheckoutAlone(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Config.ApprovalAbove = approvedInUSD
	s.Config.Policy = saga.Policy{FirstWait: 20 * time.Millisecond, LongestWait: 500 * time.Millisecond, Patience: 1000}
	stop := s.Open(t)
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "fails"})
	misfits := startMany(t, s.System, "misfit", 6, harness.Order{Method: failing})
	fitting := startMany(t, s.System, "fitting", 4, inUSD)
	for _, id := range misfits {
		awaitAttempts(t, s.System, id, "authorize-payment", 5)
	}
	for _, id := range fitting {
		s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	stop()

	e := openEngine(t, s.System)
	for _, id := range misfits {
		e.rewrite(t, runs.ID(checkout.Saga(id), 1))
	}
	s.Open(t)
	fresh := startMany(t, s.System, "fresh", 10, harness.Order{})
	for _, id := range fresh {
		s.AwaitEnd(t, id, harness.Confirmed)
	}
	for _, id := range fitting {
		approve(t, s.System, id)
		require.EqualValues(t, 1, s.AwaitEnd(t, id, harness.Confirmed).Run, "what fits goes on in its run")
	}
	for _, id := range misfits {
		c := s.AwaitStatus(t, id, harness.NeedsAttention)
		require.Equal(t, "stopped", c.Attention.Code, "%v", c.Attention)
		require.Contains(t, c.Attention.LastError, "a previous execution called")
		require.Contains(t, c.Attention.Advice, "redrive")
		require.Equal(t, "forward", c.Phase)
		require.EqualValues(t, 1, c.Run, "nothing is tried before somebody has looked")
		require.Len(t, c.Held.Stock, 1, "nothing was undone: %s", harness.Steps(c))
		require.Equal(t, "not-needed", c.Steps[0].Compensation)
	}

	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "works"})
	for _, id := range misfits {
		answer, err := s.Checkouts.Redrive(t.Context(), connect.NewRequest(&checkoutv1.RedriveRequest{
			OrderId: id, Reason: "the build was looked at", Actor: "test",
		}))
		require.NoError(t, err)
		require.Nil(t, answer.Msg.Checkout.Attention)
	}
	for _, id := range misfits {
		require.EqualValues(t, 2, s.AwaitEnd(t, id, harness.Confirmed).Run)
	}
	s.Audit(t)
}

func TestI3ARunThatTheEngineLostBehindOurBackGoesOnInTheNext(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Config.ApprovalAbove = approvedInUSD
	s.Config.Policy = saga.Policy{FirstWait: 20 * time.Millisecond, LongestWait: 500 * time.Millisecond, Patience: 1000}
	stop := s.Open(t)
	lost := map[string]func(e *engineTables, t *testing.T, id string){
		"terminated": (*engineTables).terminate,
		"purged":     (*engineTables).purge,
	}
	e := openEngine(t, s.System)
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "fails"})
	var all []string
	for name := range lost {
		// One that waits for payment, and one that waits for a person.
		all = append(all, startMany(t, s.System, name, 1, harness.Order{Method: failing})...)
		awaitAttempts(t, s.System, name+"-00", "authorize-payment", 2)
		approved := startMany(t, s.System, name+"-approval", 1, inUSD)
		all = append(all, approved...)
		s.AwaitStatus(t, approved[0], checkoutv1.Status_STATUS_AWAITING_APPROVAL)
	}
	stop() // What the engine has in memory nobody takes from it.
	for _, id := range all {
		lose := lost[id[:strings.Index(id, "-")]]
		lose(e, t, runs.ID(checkout.Saga(id), 1))
	}
	s.Open(t)
	for name := range lost {
		// The word does not reach a run that is gone; the row has it.
		approve(t, s.System, name+"-approval-00")
	}
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "works"})
	began := time.Now()
	for _, id := range all {
		require.EqualValues(t, 2, s.AwaitEnd(t, id, harness.Confirmed).Run, id)
	}
	t.Logf("all had ended in their second run after %s", time.Since(began).Round(time.Millisecond))
	s.Audit(t)
}

func TestI3DeadlinesHoldThoughTheEngineLostItsTimers(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Config.ApprovalAbove = approvedInUSD
	stop := s.Open(t)
	s.WatchSums(t)
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "fails"})
	const deadline = 12 * time.Second
	backoff := harness.Order{Method: failing, Deadline: deadline}
	approval := harness.Order{Currency: "USD", ApprovalDeadline: deadline}
	e := openEngine(t, s.System)
	cases := map[string]struct {
		order harness.Order
		lose  func(e *engineTables, t *testing.T, id string)
		code  string
	}{
		"timers-backoff":    {backoff, (*engineTables).dropTimers, "deadline"},
		"instance-backoff":  {backoff, (*engineTables).purge, "deadline"},
		"timers-approval":   {approval, (*engineTables).dropTimers, "approval_deadline"},
		"instance-approval": {approval, (*engineTables).purge, "approval_deadline"},
	}
	ids := make(map[string][]string)
	for name, c := range cases {
		ids[name] = startMany(t, s.System, name, 3, c.order)
	}
	for name := range cases {
		for _, id := range ids[name] {
			if cases[name].code == "deadline" {
				awaitAttempts(t, s.System, id, "authorize-payment", 4) // The next wait is 2 s.
			} else {
				s.AwaitStatus(t, id, checkoutv1.Status_STATUS_AWAITING_APPROVAL)
			}
			e.awaitTimer(t, runs.ID(checkout.Saga(id), 1))
		}
	}
	stop()
	for name := range cases {
		for _, id := range ids[name] {
			cases[name].lose(e, t, runs.ID(checkout.Saga(id), 1))
		}
	}
	s.Open(t)
	s.SetBehaviour(t, &paymentv1.SetBehaviourRequest{PaymentMethod: failing, Authorize: "works"})
	var last time.Duration
	for name, c := range cases {
		for _, id := range ids[name] {
			ended := s.AwaitEnd(t, id, harness.Expired)
			require.Equal(t, c.code, ended.ReasonCode, id)
			due := ended.Deadline
			if c.code == "approval_deadline" {
				due = ended.ApprovalDeadline
			}
			late := ended.EndedAt.AsTime().Sub(due.AsTime())
			require.Positive(t, late, id)
			last = max(last, late)
		}
	}
	t.Logf("all had expired at most %s after their deadlines", last.Round(time.Millisecond))
	// The sweeper looks a second after a deadline; the rest is the undoing, and a loaded machine.
	require.Less(t, last, 10*time.Second)
	s.Audit(t)
}

// engineTables are the embedded engine's own tables, for tests that take from it what it needs while nobody runs it.
type engineTables struct{ conn *pgx.Conn }

func openEngine(t *testing.T, s *harness.System) *engineTables {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.Databases["orchestrator"])
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &engineTables{conn}
}

// terminate ends an instance.
func (e *engineTables) terminate(t *testing.T, id string) {
	t.Helper()
	ended, err := proto.Marshal(&protos.GetInstanceHistoryResponse{Events: []*protos.HistoryEvent{{
		EventId: -1, Timestamp: timestamppb.Now(), EventType: &protos.HistoryEvent_ExecutionCompleted{ExecutionCompleted: &protos.ExecutionCompletedEvent{
			WorkflowStatus: protos.OrchestrationStatus_ORCHESTRATION_STATUS_TERMINATED,
		}},
	}}})
	require.NoError(t, err)
	const query = `
		INSERT INTO engine.log (key, seq, status, events)
		SELECT key, max(seq) + 1, 2, $2 FROM engine.log WHERE key = (SELECT key FROM engine.log WHERE id = $1) GROUP BY key`
	tag, err := e.conn.Exec(t.Context(), query, id, ended)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
}

// purge lets nothing of an instance be left.
func (e *engineTables) purge(t *testing.T, id string) {
	t.Helper()
	_, err := e.conn.Exec(t.Context(), `DELETE FROM engine.log WHERE key = (SELECT key FROM engine.log WHERE id = $1)`, id)
	require.NoError(t, err)
	_, err = e.conn.Exec(t.Context(), `DELETE FROM engine.lasting WHERE id = $1`, id)
	require.NoError(t, err)
}

// rewrite lets an instance's history be that of a build that called an activity where this one waits for the first time.
func (e *engineTables) rewrite(t *testing.T, id string) {
	t.Helper()
	done := false
	e.change(t, id, func(events []*protos.HistoryEvent) []*protos.HistoryEvent {
		for _, event := range events {
			if event.GetTimerCreated() != nil && !done {
				done = true
				event.EventType = &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "ask-the-fraud-desk"}}
			}
		}
		return events
	})
	require.True(t, done, "%s never waited", id)
}

// dropTimers takes from an instance the timers that have not fired.
func (e *engineTables) dropTimers(t *testing.T, id string) {
	t.Helper()
	fired, dropped := map[int32]bool{}, 0
	e.change(t, id, func(events []*protos.HistoryEvent) []*protos.HistoryEvent {
		for _, event := range events {
			if f := event.GetTimerFired(); f != nil {
				fired[f.TimerId] = true
			}
		}
		return events
	})
	e.change(t, id, func(events []*protos.HistoryEvent) []*protos.HistoryEvent {
		return slices.DeleteFunc(events, func(event *protos.HistoryEvent) bool {
			drop := event.GetTimerCreated() != nil && !fired[event.EventId]
			if drop {
				dropped++
			}
			return drop
		})
	})
	require.NotZero(t, dropped, "%s has no timer", id)
	_, err := e.conn.Exec(t.Context(), `UPDATE engine.lasting SET wake = NULL WHERE id = $1`, id)
	require.NoError(t, err)
}

// change changes the rows of an instance's history.
func (e *engineTables) change(t *testing.T, id string, change func([]*protos.HistoryEvent) []*protos.HistoryEvent) {
	t.Helper()
	for _, r := range e.rows(t, id) {
		r.history.Events = change(r.history.Events)
		row, err := proto.Marshal(r.history)
		require.NoError(t, err)
		_, err = e.conn.Exec(t.Context(), `UPDATE engine.log SET events = $3 WHERE key = $1 AND seq = $2`, r.key, r.seq, row)
		require.NoError(t, err)
	}
}

type logRow struct {
	key     int64
	seq     int32
	history *protos.GetInstanceHistoryResponse
}

func (e *engineTables) rows(t *testing.T, id string) (found []logRow) {
	t.Helper()
	rows, err := e.conn.Query(t.Context(), `SELECT key, seq, events FROM engine.log WHERE key = (SELECT key FROM engine.log WHERE id = $1) ORDER BY seq`, id)
	require.NoError(t, err)
	var r logRow
	var events []byte
	_, err = pgx.ForEachRow(rows, []any{&r.key, &r.seq, &events}, func() error {
		r.history = &protos.GetInstanceHistoryResponse{}
		found = append(found, r)
		return proto.Unmarshal(events, r.history)
	})
	require.NoError(t, err)
	return found
}

// awaitTimer waits until an instance waits for nothing but a timer that is some time away.
func (e *engineTables) awaitTimer(t *testing.T, id string) {
	t.Helper()
	harness.Eventually(t, id+" to wait for a timer", func(context.Context) error {
		rows := e.rows(t, id)
		events := rows[len(rows)-1].history.Events
		last := events[len(events)-1].GetTimerCreated()
		if last == nil || time.Until(last.FireAt.AsTime()) < 300*time.Millisecond {
			return errors.New("it does not")
		}
		return nil
	})
}
