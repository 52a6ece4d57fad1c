package api

import (
	"context"

	"connectrpc.com/connect"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/sagas/doctor"
)

// Doctor looks at everything this process needs and says how to mend what is wrong.
func (s *Service) Doctor(ctx context.Context, _ *connect.Request[sagav1.DoctorRequest]) (*connect.Response[sagav1.DoctorResponse], error) {
	answer := &sagav1.DoctorResponse{}
	for _, f := range s.doctor.Look(ctx) {
		answer.Findings = append(answer.Findings, &sagav1.Finding{Check: f.Check, Ok: f.OK, Detail: f.Detail, Mend: f.Mend})
	}
	for _, set := range s.doctor.Settings {
		answer.Settings = append(answer.Settings, &sagav1.Setting{Name: set.Name, Value: set.Value})
	}
	return connect.NewResponse(answer), nil
}

// ListOpenHistories sends the engine's history of every open saga's run.
func (s *Service) ListOpenHistories(ctx context.Context, _ *connect.Request[sagav1.ListOpenHistoriesRequest],
	stream *connect.ServerStream[sagav1.ListOpenHistoriesResponse]) error {
	return s.doctor.Histories(ctx, func(h doctor.History) error {
		return stream.Send(&sagav1.ListOpenHistoriesResponse{
			Definition: h.Definition, Key: h.Key, Run: int32(h.Run), InstanceId: h.InstanceID, Step: h.Step, Events: h.Events, Unreadable: h.Unreadable,
		})
	})
}
