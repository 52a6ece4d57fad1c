package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/backend/postgres"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

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
	s.Open(t)
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
		lose := lost[name]
		lose(e, t, runs.ID(checkout.Saga(name+"-00"), 1))
		lose(e, t, runs.ID(checkout.Saga(name+"-approval-00"), 1))
		// The word does not reach a run that is gone; the row has it.
		approve(t, s.System, approved[0])
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
	s.Open(t)
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
			cases[name].lose(e, t, runs.ID(checkout.Saga(id), 1))
		}
	}
	require.Zero(t, e.timers(t), "there is no timer left that could wake anybody")
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

// An activity of which the engine forgot that it was handed out is waited for by nobody who could tell: the run looks alive.
func TestI3ARunWhoseActivityWasLostIsReplaced(t *testing.T) {
	t.Parallel()
	s := harness.StartShop(t)
	s.Open(t)
	e := openEngine(t, s.System)
	held := s.Arm(t, harness.Fault{Kind: harness.HoldAfter, Procedure: "Authorize", OrderID: "forgotten", Times: 1})
	s.Start(t, harness.Order{ID: "forgotten"})
	held.Await(t)
	e.dropActivity(t, runs.ID(checkout.Saga("forgotten"), 1))
	held.Lift()
	began := time.Now()
	// 20 s until it is woken, and as long again until its silence tells that it never will.
	c := s.AwaitEnd(t, "forgotten", harness.Confirmed)
	t.Logf("it had ended in run %d after %s", c.Run, time.Since(began).Round(time.Millisecond))
	require.EqualValues(t, 2, c.Run)
	s.Audit(t)
}

// engineTables are the embedded engine's own tables, for tests that take from it what it needs.
type engineTables struct {
	conn   *pgx.Conn
	client backend.TaskHubClient
}

func openEngine(t *testing.T, s *harness.System) *engineTables {
	t.Helper()
	config, err := pgxpool.ParseConfig(s.Databases["orchestrator"])
	require.NoError(t, err)
	config.MaxConns = 2
	config.ConnConfig.RuntimeParams["search_path"] = "engine"
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	conn, err := pgx.ConnectConfig(t.Context(), config.ConnConfig.Copy())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	stock := postgres.NewPostgresBackend(&postgres.PostgresOptions{PgOptions: config}, backend.DefaultLogger())
	// The tables are there already.
	_ = stock.CreateTaskHub(t.Context())
	return &engineTables{conn, backend.NewTaskHubClient(stock)}
}

// terminate ends an instance as the engine's own tools do.
func (e *engineTables) terminate(t *testing.T, id string) {
	t.Helper()
	require.NoError(t, e.client.TerminateWorkflow(t.Context(), api.InstanceID(id)))
	harness.Eventually(t, id+" to be terminated", func(ctx context.Context) error {
		m, err := e.client.FetchWorkflowMetadata(ctx, api.InstanceID(id))
		if err == nil && !api.WorkflowMetadataIsComplete(m) {
			err = fmt.Errorf("it is %s", m.RuntimeStatus)
		}
		return err
	})
}

// purge lets nothing of an instance be left.
func (e *engineTables) purge(t *testing.T, id string) {
	t.Helper()
	e.awaitUnlocked(t, id)
	for _, table := range []string{"NewTasks", "NewEvents", "History", "Instances"} {
		_, err := e.conn.Exec(t.Context(), `DELETE FROM `+table+` WHERE InstanceID = $1`, id)
		require.NoError(t, err)
	}
}

// rewrite lets an instance's history be that of a build that called an activity where this one waits for the first time.
func (e *engineTables) rewrite(t *testing.T, id string) {
	t.Helper()
	type row struct {
		Number  int
		Payload []byte
	}
	rows, err := e.conn.Query(t.Context(), `SELECT SequenceNumber, EventPayload FROM History WHERE InstanceID = $1 ORDER BY SequenceNumber`, id)
	require.NoError(t, err)
	history, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	require.NoError(t, err)
	for _, r := range history {
		event, err := backend.UnmarshalHistoryEvent(r.Payload)
		require.NoError(t, err)
		if event.GetTimerCreated() == nil {
			continue
		}
		event.EventType = &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{Name: "ask-the-fraud-desk"}}
		payload, err := backend.MarshalHistoryEvent(event)
		require.NoError(t, err)
		_, err = e.conn.Exec(t.Context(), `UPDATE History SET EventPayload = $3 WHERE InstanceID = $1 AND SequenceNumber = $2`, id, r.Number, payload)
		require.NoError(t, err)
		return
	}
	require.Failf(t, "nothing to rewrite", "%s never waited", id)
}

func (e *engineTables) dropTimers(t *testing.T, id string) {
	t.Helper()
	tag, err := e.conn.Exec(t.Context(), `DELETE FROM NewEvents WHERE InstanceID = $1 AND VisibleTime IS NOT NULL`, id)
	require.NoError(t, err)
	require.NotZero(t, tag.RowsAffected(), "%s has no timer", id)
}

func (e *engineTables) dropActivity(t *testing.T, id string) {
	t.Helper()
	tag, err := e.conn.Exec(t.Context(), `DELETE FROM NewTasks WHERE InstanceID = $1`, id)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected(), "%s waits for no activity", id)
}

// awaitTimer waits until an instance waits for nothing but a timer that is some time away.
func (e *engineTables) awaitTimer(t *testing.T, id string) {
	t.Helper()
	harness.Eventually(t, id+" to wait for a timer", func(ctx context.Context) error {
		var waits bool
		err := e.conn.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM NewEvents WHERE InstanceID = $1 AND VisibleTime > (now() AT TIME ZONE 'UTC') + interval '300 milliseconds')
			   AND NOT EXISTS (SELECT FROM NewTasks WHERE InstanceID = $1)`, id).Scan(&waits)
		if err == nil && !waits {
			err = fmt.Errorf("it does not")
		}
		return err
	})
}

// awaitUnlocked waits until no turn of an instance is in hand.
func (e *engineTables) awaitUnlocked(t *testing.T, id string) {
	t.Helper()
	harness.Eventually(t, id+" to be at rest", func(ctx context.Context) error {
		var atRest bool
		err := e.conn.QueryRow(ctx, `SELECT LockExpiration IS NULL FROM Instances WHERE InstanceID = $1`, id).Scan(&atRest)
		if err == nil && !atRest {
			err = fmt.Errorf("it is not")
		}
		return err
	})
}

func (e *engineTables) timers(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, e.conn.QueryRow(t.Context(), `SELECT count(*) FROM NewEvents WHERE VisibleTime IS NOT NULL`).Scan(&n))
	return n
}
