package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

const (
	// historiesPage is how many histories are in memory at a time; they have some tens of kB each.
	historiesPage = 50
	// historiesAtOnce bounds the questions to the engine that are out at a time: it drives checkouts meanwhile.
	historiesAtOnce = 4
	// historyTimeout bounds one of them.
	historyTimeout = 5 * time.Second
)

// ListOpenHistories sends the engine's history of every open checkout's run, by order id. Only this process's engine is asked:
// it does not know the runs of another.
func (s *Service) ListOpenHistories(ctx context.Context, _ *connect.Request[checkoutv1.ListOpenHistoriesRequest],
	stream *connect.ServerStream[checkoutv1.ListOpenHistoriesResponse]) error {
	after := saga.ID{}
	for {
		page, err := s.store.OpenRuns(ctx, s.engine.Name(), after, historiesPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].ID

		answers := make([]*checkoutv1.ListOpenHistoriesResponse, len(page))
		var reading errgroup.Group
		reading.SetLimit(historiesAtOnce)
		for i, run := range page {
			reading.Go(func() error {
				answers[i] = s.historyOf(ctx, run)
				return nil
			})
		}
		_ = reading.Wait() // Each says for itself what went wrong.
		for _, answer := range answers {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
}

func (s *Service) historyOf(ctx context.Context, run store.OpenRun) *checkoutv1.ListOpenHistoriesResponse {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	answer := &checkoutv1.ListOpenHistoriesResponse{
		OrderId: run.Key, Run: int32(run.Run), InstanceId: runs.ID(run.ID, run.Run), Step: run.Step,
	}
	history, err := s.engine.History(ctx, answer.InstanceId)
	if errors.Is(err, engine.ErrGone) {
		return answer // Not started yet, or lost: the sweeper sees to both.
	}
	for i := 0; err == nil && i < len(history); i++ {
		var event []byte
		if event, err = proto.Marshal(history[i]); err != nil {
			err = fmt.Errorf("marshal event %d: %w", i, err)
			break
		}
		answer.Events = append(answer.Events, event)
	}
	if err != nil {
		answer.Events, answer.Unreadable = nil, oneLine(err)
	}
	return answer
}
