package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/sagas/history"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// History tells all that is known of a saga. The participants are asked now.
func (s *Service) History(ctx context.Context, req *connect.Request[sagav1.HistoryRequest]) (*connect.Response[sagav1.HistoryResponse], error) {
	id := saga.ID{Definition: req.Msg.Definition, Key: req.Msg.Key}
	found, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	h, err := s.desk.Store.History(ctx, id)
	if err != nil {
		return nil, err
	}
	answer := &sagav1.HistoryResponse{Saga: s.toWire(found)}
	for _, e := range h.Entries {
		answer.Entries = append(answer.Entries, entryToWire(e))
	}
	for _, r := range s.desk.Records(ctx, found) {
		answer.Operations = append(answer.Operations, recordToWire(r))
	}
	return connect.NewResponse(answer), nil
}

// FollowHistory sends what happens to a saga as it becomes known, until it is final.
func (s *Service) FollowHistory(ctx context.Context, req *connect.Request[sagav1.FollowHistoryRequest], stream *connect.ServerStream[sagav1.FollowHistoryResponse]) error {
	id := saga.ID{Definition: req.Msg.Definition, Key: req.Msg.Key}
	return history.Followed[journal.Entry]{
		Store: s.desk.Store, Saga: id, Again: lookAgain,
		Look: func() (all []journal.Entry, final bool, err error) {
			found, err := s.find(ctx, id)
			if err != nil {
				return nil, false, err
			}
			h, err := s.desk.Store.History(ctx, id)
			return h.Entries, found.Status.IsFinal(), err
		},
		Identity: func(e journal.Entry) string {
			return fmt.Sprint(e.At.UnixNano(), e.Kind, e.Step, e.Attempt, e.Outcome, e.Actor, e.Reason)
		},
		Send: func(news []journal.Entry) error {
			answer := &sagav1.FollowHistoryResponse{}
			for _, e := range news {
				answer.Entries = append(answer.Entries, entryToWire(e))
			}
			return stream.Send(answer)
		},
	}.Follow(ctx)
}
