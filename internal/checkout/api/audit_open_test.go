package api_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/saga"
)

// engineSays has the engine answer Inspect.
func (f *fixture) engineSays(inspect func(id string) (engine.Instance, error)) {
	f.engine.mu.Lock()
	defer f.engine.mu.Unlock()
	f.engine.inspect = inspect
}

// opened is a world with one open checkout.
func opened(t *testing.T) *fixture {
	t.Helper()
	f := setup(t)
	f.openOne(t, "open", "")
	return f
}

func (f *fixture) set(t *testing.T, columns string) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), `UPDATE checkouts SET `+columns+` WHERE order_id = 'open'`)
	require.NoError(t, err)
}

func TestI3ACheckoutWithoutAWorkflowIsFound(t *testing.T) {
	t.Parallel()
	const gone, attention = engine.State("gone"), `status = 'NEEDS_ATTENTION', attention = '{"code": "%s"}'`
	cases := map[string]struct {
		is   engine.State
		set  string
		want string // what is said; empty if nothing is
	}{
		"runs":      {is: engine.Running},
		"lost":      {is: gone, want: "is RUNNING, but engine embedded does not know its run 1 (checkout.lost-1); the sweeper looks at it at 20"},
		"failed":    {is: engine.Failed, want: "is RUNNING, but engine embedded says that its run 1 (checkout.failed-1) is failed: boom; the"},
		"completed": {is: engine.Completed, want: "is RUNNING, but engine embedded says that its run 1 (checkout.completed-1) is completed; the"},
		"stalled":   {is: engine.Stalled, want: "is RUNNING, but engine embedded says that its run 1 (checkout.stalled-1) is stalled; the"},
		"later-run": {is: gone, set: `run = 3, started_run = 3`, want: "is RUNNING, but engine embedded does not know its run 3 (checkout.later-run-3); the"},
		// The sweeper is about to start these.
		"next-run":  {is: gone, set: `run = 2`},
		"first-run": {is: gone, set: `started_run = 0`},
		"never-started": {is: gone, set: `started_run = 0, started_at = now() - interval '3 minutes'`,
			want: "is RUNNING, but engine embedded has not begun its run 1 (checkout.never-started-1), although it was accepted 3m"},
		// Somebody is called because of that already.
		"stopped":     {is: gone, set: fmt.Sprintf(attention, "stopped")},
		"no-progress": {is: gone, set: fmt.Sprintf(attention, "no_progress")},
		"failing":     {is: gone, set: fmt.Sprintf(attention, "failing"), want: "is NEEDS_ATTENTION, but engine embedded does not know its run 1 (checkout.failing-1); the"},
		"awaits-approval": {is: gone, set: `status = 'AWAITING_APPROVAL', approval_deadline = now() + interval '1 day'`,
			want: "is AWAITING_APPROVAL, but engine embedded does not know its run 1 (checkout.awaits-approval-1); the"},
		"driven-by-events": {is: gone, set: `elsewhere = true, started_run = 0, started_at = now() - interval '3 minutes'`},
		"events-going-on":  {is: engine.Completed, set: `elsewhere = true, phase = 'pivoted'`},
		"choreographed-undone": {is: gone, set: `elsewhere = true, phase = 'undoing', verdict = 'EXPIRED', status = 'COMPENSATING'`,
			want: "is COMPENSATING, but engine embedded does not know its run 1 (checkout.choreographed-undone-1); the"},
	}
	f := setup(t)
	for id, c := range cases {
		f.openOne(t, id, c.set)
	}
	f.engineSays(func(instance string) (engine.Instance, error) {
		switch is := cases[strings.TrimPrefix(instance[:strings.LastIndex(instance, "-")], "checkout.")].is; is {
		case gone:
			return engine.Instance{}, engine.ErrGone
		case engine.Failed:
			return engine.Instance{State: is, Failure: "boom"}, nil
		default:
			return engine.Instance{State: is}, nil
		}
	})
	began := time.Now()
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Greater(t, time.Since(began), 3*time.Second, "it looked twice")
	require.EqualValues(t, len(cases), h.checked)
	for id, c := range cases {
		requireSaid(t, h, id, "I3", c.want)
	}
	require.Len(t, f.auditAll(t, &checkoutv1.AuditRequest{OrderId: "lost"}).violations, 1)
}

// openOne makes an open checkout, whose stock is reserved, and sets columns of it.
func (f *fixture) openOne(t *testing.T, id, set string) {
	t.Helper()
	f.start(t, order(withID(id)))
	f.do(t, id, checkout.ReserveStock, false, saga.Applied, "")
	if set != "" {
		_, err := f.pool.Exec(t.Context(), `UPDATE sagas SET `+set+` WHERE key = $1`, id)
		require.NoError(t, err)
	}
}

// requireSaid demands that the one thing said of an order begins so, or that nothing is said of it.
func requireSaid(t *testing.T, h heard, orderID, invariant, want string) {
	t.Helper()
	var said []string
	for _, v := range h.violations {
		if what, isOf := strings.CutPrefix(v, orderID+" "+invariant+": "); isOf {
			said = append(said, what)
		}
	}
	if want == "" {
		require.Empty(t, said, orderID)
		return
	}
	require.Len(t, said, 1, orderID)
	require.True(t, strings.HasPrefix(said[0], want), "%s: %s", orderID, said[0])
}

// Whatever is written between the two looks shows that somebody is at work.
func TestI3ACheckoutThatGoesOnBetweenTwoLooksHasAWorkflow(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*testing.T, *fixture){
		"an answer comes":         func(t *testing.T, f *fixture) { f.set(t, `updated_at = clock_timestamp()`) },
		"its next run takes over": func(t *testing.T, f *fixture) { f.set(t, `run = 2, started_run = 2`) },
		"a person is called for it": func(t *testing.T, f *fixture) {
			f.set(t, `status = 'NEEDS_ATTENTION', attention = '{"code": "stopped"}'`)
		},
		"it ends": func(t *testing.T, f *fixture) {
			f.do(t, "open", checkout.AuthorizePayment, false, saga.Rejected, "card_declined")
			f.do(t, "open", checkout.ReserveStock, true, saga.Applied, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := opened(t)
			var once sync.Once
			f.engineSays(func(string) (engine.Instance, error) {
				once.Do(func() { then(t, f) })
				return engine.Instance{State: engine.Completed}, nil
			})
			h := f.auditAll(t, &checkoutv1.AuditRequest{})
			require.Empty(t, h.violations)
			require.EqualValues(t, 1, h.checked)
		})
	}
}

func TestI3ACheckoutThatEndsWronglyBetweenTwoLooksIsComparedWithItsEnd(t *testing.T) {
	t.Parallel()
	f := opened(t)
	var once sync.Once
	f.engineSays(func(string) (engine.Instance, error) {
		once.Do(func() {
			f.do(t, "open", checkout.AuthorizePayment, false, saga.Rejected, "card_declined")
			f.do(t, "open", checkout.ReserveStock, true, saga.Applied, "")
			f.warehouse.operations[opKey("open", checkout.ReserveStock)].Undo = 0
		})
		return engine.Instance{State: engine.Completed}, nil
	})
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Equal(t, []string{"open I1: REJECTED, but the warehouse still holds its stock (reserve-stock applied)"}, h.violations)
}

func TestI3ACheckoutInWhichNothingHappensIsFound(t *testing.T) {
	t.Parallel()
	const old, awaits = `updated_at = now() - interval '11 minutes'`, `updated_at = now() - interval '2 days', status = 'AWAITING_APPROVAL', approval_deadline = `
	cases := map[string]struct{ set, want string }{
		"slow":                    {`updated_at = now() - interval '9 minutes'`, ""},
		"hangs":                   {old, "is RUNNING in phase forward, and nothing has been written since 20"},
		"is-called":               {old + `, status = 'NEEDS_ATTENTION', attention = '{"code": "failing"}'`, ""},
		"choreographed-in-time":   {old + `, elsewhere = true, check_at = now() + interval '1 minute'`, ""},
		"choreographed-and-hangs": {old + `, elsewhere = true, check_at = now() - interval '11 minutes'`, "is RUNNING in phase forward, and nothing"},
		"awaits-approval":         {awaits + `now() + interval '1 day'`, ""},
		"awaited-approval":        {awaits + `now() - interval '1 minute'`, ""},
		"approval-hangs":          {awaits + `now() - interval '11 minutes'`, "is AWAITING_APPROVAL in phase forward, and nothing has been written since 20"},
	}
	f := setup(t)
	for id, c := range cases {
		f.openOne(t, id, c.set)
	}
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	for id, c := range cases {
		requireSaid(t, h, id, "I3", c.want)
	}
}

func TestI1MoneyOfAnOpenCheckoutThatIsRightAtTheSecondLookIsNoViolation(t *testing.T) {
	t.Parallel()
	f := opened(t)
	f.do(t, "open", checkout.AuthorizePayment, false, saga.Applied, "")
	f.do(t, "open", checkout.CapturePayment, false, saga.Applied, "")
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations, "payment has what the order is for")

	_, wrong := f.books()
	wrong.operations[opKey("open", checkout.CapturePayment)].Amount.MinorUnits = 1
	f.serve(t, f.warehouse, &waveringPayment{fakePayment: f.payment, first: wrong, then: f.payment}, nil)
	h = f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)

	f.serve(t, f.warehouse, wrong, nil)
	h = f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Equal(t, []string{"open I1: RUNNING, but payment has captured 0.01 EUR and the order is for 129.97 EUR"}, h.violations)
}

func TestOfWhichRunsNothingIsKnownIsNoted(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i := range 20 {
		f.start(t, order(withID(fmt.Sprintf("ord-%d", i))))
	}
	_, err := f.pool.Exec(t.Context(), `UPDATE checkouts SET started_run = 1, engine = CASE WHEN order_id IN ('ord-1', 'ord-2') THEN 'dapr' ELSE engine END`)
	require.NoError(t, err)
	var mu sync.Mutex
	asked := 0
	f.engineSays(func(string) (engine.Instance, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return engine.Instance{}, errors.New("connection refused")
	})
	h := f.auditAll(t, &checkoutv1.AuditRequest{})
	require.Empty(t, h.violations)
	require.EqualValues(t, 20, h.checked)
	require.Contains(t, h.notes, "2 open checkouts are driven by engine dapr, which only a process that runs on it can ask for their runs")
	require.Contains(t, h.notes, "engine embedded cannot be asked for the runs of 18 open checkouts (connection refused), so nothing is said of those")
	require.Less(t, asked, 18, "an engine that does not answer is not asked for each")
}
