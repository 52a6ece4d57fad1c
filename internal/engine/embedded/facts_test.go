package embedded_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

// facts is a table whose changes take the turns of their activities along, as that of sagas does. A fact counts how often it was recorded.
type facts struct{}

const sqlFacts = `CREATE TABLE IF NOT EXISTS facts (instance text, step int, times int NOT NULL DEFAULT 1, PRIMARY KEY (instance, step))`

type fact struct {
	instance string
	step     int
	rider    commit.Rider
}

// impossible is a step of which no fact can be recorded.
const impossible = 99

func (*facts) Read(batch *pgx.Batch, changes []*commit.Change, _ bool) {
	for _, c := range changes {
		f := c.What.(*fact)
		batch.Queue(`SELECT times FROM facts WHERE instance = $1 AND step = $2 FOR UPDATE`, f.instance, f.step)
	}
}

func (*facts) Decide(changes []*commit.Change) {
	for _, c := range changes {
		f := c.What.(*fact)
		if f.step == impossible {
			c.Err = fmt.Errorf("step %d is impossible", f.step)
			continue
		}
		if f.rider != nil {
			f.rider.Answered(f.step)
		}
	}
}

func (*facts) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	for _, c := range changes {
		f := c.What.(*fact)
		batch.Queue(`INSERT INTO facts (instance, step) VALUES ($1, $2) ON CONFLICT (instance, step) DO UPDATE SET times = facts.times + 1`, f.instance, f.step)
	}
	return nil
}

type step struct {
	Instance string
	Step     int
}

// recording are workflows whose activities record facts by the committer of to, which may be set later. The workflow "steps" takes as
// many as its input says, one after the other, "both" takes two at once.
func recording(to **commit.Committer) *task.TaskRegistry {
	r := task.NewTaskRegistry()
	_ = r.AddWorkflowN("steps", func(ctx *task.WorkflowContext) (any, error) {
		var n int
		if err := ctx.GetInput(&n); err != nil {
			return nil, err
		}
		for i := range n {
			// What could not be recorded is tried again, as a saga does.
			for ctx.CallActivity("record", task.WithActivityInput(step{string(ctx.ID), i})).Await(nil) != nil {
			}
		}
		return nil, nil
	})
	_ = r.AddWorkflowN("both", func(ctx *task.WorkflowContext) (any, error) {
		one := ctx.CallActivity("record", task.WithActivityInput(step{string(ctx.ID), 0}))
		other := ctx.CallActivity("record", task.WithActivityInput(step{string(ctx.ID), 1}))
		if err := one.Await(nil); err != nil {
			return nil, err
		}
		return nil, other.Await(nil)
	})
	_ = r.AddWorkflowN("impossible", func(ctx *task.WorkflowContext) (any, error) {
		return nil, ctx.CallActivity("record", task.WithActivityInput(step{string(ctx.ID), impossible})).Await(nil)
	})
	table := &facts{}
	_ = r.AddActivityN("record", func(ctx task.ActivityContext) (any, error) {
		var in step
		if err := ctx.GetInput(&in); err != nil {
			return nil, err
		}
		f := &fact{in.Instance, in.Step, commit.RiderOf(ctx.Context())}
		changes := []*commit.Change{{Of: table, What: f}}
		if f.rider != nil {
			changes = append(changes, f.rider.Change())
		}
		if err := (*to).Do(ctx.Context(), changes...); err != nil {
			return nil, err
		}
		return in.Step, nil
	})
	return r
}

// openRecording opens an engine of recording workflows.
func openRecording(t testing.TB, url string) *opened {
	t.Helper()
	var committer *commit.Committer
	o := open(t, url, recording(&committer))
	committer = o.committer
	_, err := o.pool.Exec(t.Context(), sqlFacts)
	require.NoError(t, err)
	return o
}

// requireOnce requires that each instance has completed, and each of its facts was recorded once.
func requireOnce(t testing.TB, pool *pgxpool.Pool, instances []string, steps int) {
	t.Helper()
	var open, other, twice int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT FROM engine.log GROUP BY key HAVING max(status) <> 1) open`).Scan(&open))
	if open > 0 {
		var id string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT s.id FROM engine.log l JOIN engine.log s ON s.key = l.key AND s.seq = 0 WHERE l.status <> 1 GROUP BY s.id HAVING max(l.status) = 2 LIMIT 1`).Scan(&id))
		i, err := embedded.New(embedded.Config{Pool: pool}).Inspect(t.Context(), id)
		require.NoError(t, err)
		require.Failf(t, "have not completed", "%d: %s: %v", open, id, i)
	}
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM facts WHERE times <> 1`).Scan(&twice))
	require.Zero(t, twice, "recorded again")
	require.NoError(t, pool.QueryRow(t.Context(), `
		SELECT count(*) FROM unnest($1::text[]) i WHERE (SELECT count(*) FROM facts WHERE instance = i) <> $2`, instances, steps).Scan(&other))
	require.Zero(t, other, "an instance was lost, or a step of it")
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM engine.inbox`).Scan(&open))
	require.Zero(t, open, "something lies in the inbox")
}

func TestAnAnswerAndTheTurnThatItCausesAreOneTransaction(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.URL(t))
	run(t, o)
	require.NoError(t, o.Start(t.Context(), "steps", "i", 3))
	await(t, o, "i", engine.Completed)
	var together, rows int
	require.NoError(t, o.pool.QueryRow(t.Context(), `SELECT count(*) FROM facts f JOIN engine.log l ON l.xmin::text = f.xmin::text`).Scan(&together))
	require.Equal(t, 3, together)
	require.NoError(t, o.pool.QueryRow(t.Context(), `SELECT count(*) FROM engine.log`).Scan(&rows))
	require.Equal(t, 4, rows, "the start with the first turn, and one turn for each answer")
}

func TestParallelAnswersOfOneInstanceEachTakeTheirTurnAlong(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.URL(t))
	run(t, o)
	var ids []string
	for n := range 50 {
		ids = append(ids, fmt.Sprintf("i-%d", n))
		require.NoError(t, o.Start(t.Context(), "both", ids[n], nil))
	}
	for _, id := range ids {
		await(t, o, id, engine.Completed)
	}
	requireOnce(t, o.pool, ids, 2)
}

func TestAnAnswerThatCannotBeRecordedFailsItsActivityAlone(t *testing.T) {
	t.Parallel()
	o := openRecording(t, pgtest.URL(t))
	run(t, o)
	require.NoError(t, o.Start(t.Context(), "impossible", "i", nil))
	await(t, o, "i", engine.Failed)
	i, err := o.Inspect(t.Context(), "i")
	require.NoError(t, err)
	require.Contains(t, i.Failure, "step 99 is impossible")
}
