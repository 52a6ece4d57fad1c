package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/task"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/replay"
)

// replayView is what became of the histories of open checkouts in this build.
type replayView struct {
	// Replayed counts those that were run through it, whether they fit or not.
	Replayed    int              `json:"replayed"`
	Differences []differenceView `json:"differences"`
	Unreadable  []unreadableView `json:"unreadable"`

	// without counts the checkouts whose run the engine does not know, yet or any more: what it starts will be of any build.
	without int
}

type differenceView struct {
	OrderID string `json:"order_id"`
	Run     int32  `json:"run"`
	// Step is where the checkout is; what it was doing where this build does another thing is in Difference.
	Step       string `json:"step"`
	Difference string `json:"difference"`
}

type unreadableView struct {
	OrderID string `json:"order_id"`
	Run     int32  `json:"run"`
	Step    string `json:"step"`
	Why     string `json:"why"`
}

// doctorReplay tells whether the code of this very build fits the open checkouts of the server.
func doctorReplay(ctx context.Context, c *cli.Client, out *cli.Output) error {
	api, err := checkoutService(ctx, c)
	if err != nil {
		return err
	}
	view, err := replayOpen(ctx, api)
	if err != nil {
		return err
	}
	if err := out.Print(replayResult(view)); err != nil {
		return err
	}
	c.Err.Say("%d of %d open checkouts fit this build", view.Replayed-len(view.Differences), view.Replayed+len(view.Unreadable))
	if view.without > 0 {
		c.Err.Say("%d more have no history: the engine has not begun their run, or has lost it, and the sweeper sees to that", view.without)
	}
	switch {
	case len(view.Differences) > 0:
		return cli.ExitWith(cli.ExitFindings, "%d open checkouts do not fit this build: deployed, it stops each of them, which then needs attention; "+
			"wait until they have ended", len(view.Differences))
	case len(view.Unreadable) > 0:
		return cli.ExitWith(cli.ExitFindings, "%d histories could not be read, so that nobody knows whether they fit", len(view.Unreadable))
	}
	return nil
}

func replayOpen(ctx context.Context, api checkoutv1connect.CheckoutServiceClient) (*replayView, error) {
	registry := task.NewTaskRegistry()
	if err := saga.Register(registry, saga.Policy{}); err != nil {
		return nil, err
	}
	stream, err := api.ListOpenHistories(ctx, connect.NewRequest(&checkoutv1.ListOpenHistoriesRequest{}))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	view := &replayView{Differences: []differenceView{}, Unreadable: []unreadableView{}}
	for stream.Receive() {
		view.add(registry, stream.Msg())
	}
	return view, stream.Err()
}

func (v *replayView) add(registry *task.TaskRegistry, m *checkoutv1.ListOpenHistoriesResponse) {
	if m.Unreadable == "" && len(m.Events) == 0 {
		v.without++
		return
	}
	why := m.Unreadable
	var history []*protos.HistoryEvent
	if why == "" {
		var err error
		if history, err = readHistory(m.Events); err != nil {
			why = err.Error()
		}
	}
	if why != "" {
		v.Unreadable = append(v.Unreadable, unreadableView{OrderID: m.OrderId, Run: m.Run, Step: m.Step, Why: why})
		return
	}
	v.Replayed++
	if err := replay.Check(registry, m.InstanceId, history); err != nil {
		v.Differences = append(v.Differences, differenceView{OrderID: m.OrderId, Run: m.Run, Step: m.Step, Difference: err.Error()})
	}
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

func replayResult(view *replayView) cli.Result {
	var ids []string
	for _, d := range view.Differences {
		ids = append(ids, d.OrderID)
	}
	return cli.Result{Value: view, IDs: ids, Tables: func(bool) []cli.Table {
		differences := cli.Table{Headings: []string{"ORDER ID", "RUN", "STEP", "DIFFERENCE"}}
		for _, d := range view.Differences {
			differences.Add(d.OrderID, fmt.Sprint(d.Run), cli.OrDash(d.Step), d.Difference)
		}
		unreadable := cli.Table{Headings: []string{"ORDER ID", "RUN", "STEP", "NOT READ, BECAUSE"}}
		for _, u := range view.Unreadable {
			unreadable.Add(u.OrderID, fmt.Sprint(u.Run), cli.OrDash(u.Step), u.Why)
		}
		return []cli.Table{differences, unreadable}
	}}
}
