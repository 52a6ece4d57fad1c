package embedded_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/tests/harness"
)

// Without Dapr, and not all in one process, there is no bus: calls are made, and events stay in their outboxes. That is no fault, and
// what would need a bus is refused with a sentence.
func TestProcessesApartWithoutDaprDoAllThatNeedsNoBus(t *testing.T) {
	t.Parallel()
	p := harness.StartProcesses(t)
	type asked struct {
		args   []string
		status int
		says   string
	}
	ask := func(a asked) string {
		t.Helper()
		out, errs, status := p.OrchestratorProcess.Ask(t, a.args...)
		require.Equal(t, a.status, status, "%v:\n%s%s", a.args, out, errs)
		require.Contains(t, out+errs, a.says, "%v", a.args)
		return out + errs
	}
	start := func(id, method string, more ...string) []string {
		return append([]string{"checkout", "start", "--order-id", id, "--item", "CHAIR-OAK=1", "--payment-method", method}, more...)
	}
	ask(asked{start("good", "tok_visa", "--wait"), 0, "CONFIRMED"})
	ask(asked{start("declined", "tok_declined", "--wait"), 10, "all is undone"})
	ask(asked{start("events", "tok_visa", "--coordination", "choreographed"), 4, "this process has no bus"})
	ask(asked{[]string{"checkout", "status", "events"}, 3, `there is no checkout "events"`})

	// A participant that is down is named, and what waits for it can be cancelled.
	p.WarehouseProcess.Kill(t)
	ask(asked{start("waits", "tok_visa"), 0, "RUNNING"})
	awaitAttempts(t, &p.System, "waits", "reserve-stock", 1) // One that was never begun has nothing to undo.
	ask(asked{[]string{"checkout", "cancel", "waits", "--reason", "changed my mind"}, 0, "reserve-stock"})
	ask(asked{[]string{"doctor"}, 8, "participant warehouse"})
	p.WarehouseProcess.Start(t)
	ask(asked{[]string{"checkout", "wait", "waits"}, 11, "was cancelled (changed my mind); all is undone"})

	// An operator settles what a participant refuses for ever.
	fault := p.Arm(t, harness.Fault{Kind: harness.HoldBefore, Procedure: "Commit", OrderID: "settled"})
	ask(asked{start("settled", "tok_visa"), 0, "RUNNING"})
	fault.Await(t)
	ask(asked{[]string{"checkout", "resolve", "settled", "--step", "commit-stock", "--as", "done", "--reason", "it lay at the door"}, 4, "warehouse"})
	fault.Lift()
	ask(asked{[]string{"checkout", "wait", "settled"}, 0, "CONFIRMED"})

	for _, db := range []string{"orchestrator", "warehouse", "payment"} {
		age(t, p.Databases[db], "outbox", "occurred_at")
	}
	age(t, p.Databases["orchestrator"], "checkouts", "started_at", "ended_at")
	findings := ask(asked{[]string{"doctor"}, 0, "this process has no bus, so events stay in their outboxes"})
	require.NotContains(t, findings, "WRONG")
	ask(asked{[]string{"audit"}, 0, "note: this process has no bus"})
	ask(asked{[]string{"event", "republish", "--unpublished", "--reason", "they wait"}, 4, "this process has no bus"})
	ask(asked{[]string{"event", "republish", "--unpublished", "--dry-run"}, 6, "orders: this orchestrator was not told of it"})
	p.Audit(t)
}

// age makes times of a table older by an hour, so that what is late shows.
func age(t *testing.T, database, table string, columns ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	set := ""
	for i, column := range columns {
		if i > 0 {
			set += ", "
		}
		set += column + " = " + column + " - interval '1 hour'"
	}
	_, err = conn.Exec(t.Context(), "UPDATE "+table+" SET "+set)
	require.NoError(t, errors.Join(err, conn.Close(context.WithoutCancel(t.Context()))))
}
