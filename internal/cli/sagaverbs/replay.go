package sagaverbs

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"google.golang.org/protobuf/proto"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/replay"
)

// replayView is what became of the histories of open sagas in this build.
type replayView struct {
	// Replayed counts those that were run through it, whether they fit or not.
	Replayed    int          `json:"replayed"`
	Differences []cli.Object `json:"differences"`
	Unreadable  []cli.Object `json:"unreadable"`
}

// replayed are the runs of open sagas, by what became of their histories in this build.
type replayed struct {
	fit                int
	differ, unreadable []replayedRun
	// without counts the sagas whose run the engine does not know, yet or any more: what it starts will be of any build.
	without int
}

type replayedRun struct {
	ID
	run int32
	// step is where the saga is; what it was doing where this build does another thing is in why.
	step, why string
}

// replay tells whether the code of this very build fits the open sagas of the server.
func (k *Kind) replay(ctx context.Context, api sagav1connect.SagaServiceClient, out *cli.Output) error {
	all, err := k.replayOpen(ctx, api)
	if err != nil {
		return err
	}
	if err := out.Print(k.replayResult(all)); err != nil {
		return err
	}
	differ, unreadable := len(all.differ), len(all.unreadable)
	k.Err.Say("%d of %d open %s fit this build", all.fit, all.fit+differ+unreadable, k.Many)
	if all.without > 0 {
		k.Err.Say("%d more have no history: the engine has not begun their run, or has lost it, and the sweeper sees to that", all.without)
	}
	switch {
	case differ > 0:
		return cli.ExitWith(cli.ExitFindings, "%d open %s do not fit this build: deployed, it stops each of them, which then needs attention; "+
			"wait until they have ended", differ, k.Many)
	case unreadable > 0:
		return cli.ExitWith(cli.ExitFindings, "%d histories could not be read, so that nobody knows whether they fit", unreadable)
	}
	return nil
}

func (k *Kind) replayOpen(ctx context.Context, api sagav1connect.SagaServiceClient) (all replayed, err error) {
	registry := task.NewTaskRegistry()
	if err := saga.Register(registry, saga.Policy{}); err != nil {
		return all, err
	}
	stream, err := api.ListOpenHistories(ctx, connect.NewRequest(&sagav1.ListOpenHistoriesRequest{}))
	if err != nil {
		return all, err
	}
	defer stream.Close()
	for stream.Receive() {
		all.add(registry, stream.Msg())
	}
	return all, stream.Err()
}

func (r *replayed) add(registry *task.TaskRegistry, m *sagav1.ListOpenHistoriesResponse) {
	if m.Unreadable == "" && len(m.Events) == 0 {
		r.without++
		return
	}
	run := replayedRun{ID: ID{m.Definition, m.Key}, run: m.Run, step: m.Step, why: m.Unreadable}
	var history []*protos.HistoryEvent
	if run.why == "" {
		var err error
		if history, err = readHistory(m.Events); err != nil {
			run.why = err.Error()
		}
	}
	if run.why != "" {
		r.unreadable = append(r.unreadable, run)
		return
	}
	if err := replay.Check(registry, m.InstanceId, history); err != nil {
		run.why = err.Error()
		r.differ = append(r.differ, run)
		return
	}
	r.fit++
}

func readHistory(events [][]byte) ([]*protos.HistoryEvent, error) {
	history := make([]*protos.HistoryEvent, len(events))
	for i, event := range events {
		history[i] = &protos.HistoryEvent{}
		if err := proto.Unmarshal(event, history[i]); err != nil {
			return nil, fmt.Errorf("read event %d: %w", i, err)
		}
	}
	return history, nil
}

func (k *Kind) replayResult(all replayed) cli.Result {
	view := replayView{Replayed: all.fit + len(all.differ), Differences: []cli.Object{}, Unreadable: []cli.Object{}}
	var ids []string
	differences := cli.Table{Headings: slices.Concat(k.Headings, []string{"RUN", "STEP", "DIFFERENCE"})}
	unreadable := cli.Table{Headings: slices.Concat(k.Headings, []string{"RUN", "STEP", "NOT READ, BECAUSE"})}
	row := func(r replayedRun) []string {
		return append(k.names(r.ID), fmt.Sprint(r.run), cli.OrDash(r.step), r.why)
	}
	object := func(r replayedRun) cli.Object { return k.fields(r.ID).With("run", r.run).With("step", r.step) }
	for _, r := range all.differ {
		ids = append(ids, k.listed(r.ID, Query{}))
		view.Differences = append(view.Differences, object(r).With("difference", r.why))
		differences.Add(row(r)...)
	}
	for _, r := range all.unreadable {
		view.Unreadable = append(view.Unreadable, object(r).With("why", r.why))
		unreadable.Add(row(r)...)
	}
	return cli.Result{Value: view, IDs: ids, Tables: func(bool) []cli.Table { return []cli.Table{differences, unreadable} }}
}
