package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/sagas/runs"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/saga"
)

const (
	// historiesPage is how many histories are in memory at a time; they have some tens of kB each.
	historiesPage = 50
	// historiesAtOnce bounds the questions to the engine that are out at a time: it drives sagas meanwhile.
	historiesAtOnce = 4
	// historyTimeout bounds one of them.
	historyTimeout = 5 * time.Second
)

// History is what the engine has of the run that drives an open saga.
type History struct {
	store.OpenRun
	// InstanceID is the run's workflow.
	InstanceID string
	// Events are the history, each a durabletask HistoryEvent as protobuf; none where the engine knows no such instance.
	Events [][]byte
	// Unreadable says why the history could not be read; empty where it could.
	Unreadable string
}

// Histories tells of every open saga's run, by definition and key. Only this process's engine is asked: it does not know the runs of
// another.
func (d *Doctor) Histories(ctx context.Context, tell func(History) error) error {
	after := saga.ID{}
	for {
		page, err := d.Store.OpenRuns(ctx, d.Engine.Name(), after, historiesPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].ID

		answers := make([]History, len(page))
		var reading errgroup.Group
		reading.SetLimit(historiesAtOnce)
		for i, run := range page {
			reading.Go(func() error {
				answers[i] = d.history(ctx, run)
				return nil
			})
		}
		_ = reading.Wait() // Each says for itself what went wrong.
		for _, answer := range answers {
			if err := tell(answer); err != nil {
				return err
			}
		}
	}
}

func (d *Doctor) history(ctx context.Context, run store.OpenRun) History {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	answer := History{OpenRun: run, InstanceID: runs.ID(run.ID, run.Run)}
	history, err := d.Engine.History(ctx, answer.InstanceID)
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
		answer.Events, answer.Unreadable = nil, strings.Join(strings.Fields(err.Error()), " ")
	}
	return answer
}
