package sagaverbs_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/internal/cli"
)

func (a *agency) Doctor(_ context.Context, req *connect.Request[sagav1.DoctorRequest]) (*connect.Response[sagav1.DoctorResponse], error) {
	return connect.NewResponse(a.findings), a.take(req.Msg, "")
}

func (a *agency) ListOpenHistories(_ context.Context, _ *connect.Request[sagav1.ListOpenHistoriesRequest], stream *connect.ServerStream[sagav1.ListOpenHistoriesResponse]) error {
	for _, h := range a.open {
		if err := stream.Send(h); err != nil {
			return err
		}
	}
	return nil
}

func (a *agency) FollowHistory(_ context.Context, req *connect.Request[sagav1.FollowHistoryRequest], stream *connect.ServerStream[sagav1.FollowHistoryResponse]) error {
	for _, e := range a.history.Entries {
		if err := stream.Send(&sagav1.FollowHistoryResponse{Entries: []*sagav1.Entry{e, e}}); err != nil {
			return err
		}
	}
	return a.take(req.Msg, req.Msg.Key)
}

func TestEveryProgramHasADoctor(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.findings = &sagav1.DoctorResponse{
		Findings: []*sagav1.Finding{{Check: "database", Ok: true, Detail: "answers in 1ms"}, {Check: "participant bank", Detail: "refused", Mend: "start it"}},
		Settings: []*sagav1.Setting{{Name: "BANK_URL", Value: "http://127.0.0.1:8081"}},
	}
	got := a.types(t, "doctor")
	require.Equal(t, cli.ExitFindings, got.status)
	require.Equal(t, `CHECK              WHAT    DETAIL           HOW TO MEND IT
database           ok      answers in 1ms   -
participant bank   WRONG   refused          start it

SETTING               VALUE
ORCHESTRATOR_SERVER   `+a.url+` (from ORCHESTRATOR_SERVER)
BANK_URL              http://127.0.0.1:8081
`, got.out)
	require.Equal(t, "participant bank\n", a.types(t, "doctor -o ids").out)
	a.findings.Findings[1].Ok = true
	require.Zero(t, a.types(t, "doctor").status)
	require.Contains(t, a.types(t, "doctor --help").out, "whether the new code fits every open saga")
}

func TestReplayNamesSagasByDefinitionAndKey(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.open = []*sagav1.ListOpenHistoriesResponse{
		{Definition: "travel", Key: "trip-1", Run: 2, InstanceId: "travel.trip-1-2", Step: "book-flight", Unreadable: "the engine sleeps"},
		{Definition: "travel", Key: "trip-2", Run: 1, InstanceId: "travel.trip-2-1"}, // Not begun.
	}
	got := a.types(t, "doctor --replay")
	require.Equal(t, cli.ExitFindings, got.status)
	require.Contains(t, got.out, `SAGA     KEY      RUN   STEP          NOT READ, BECAUSE
travel   trip-1   2     book-flight   the engine sleeps
`)
	require.Contains(t, got.err, "0 of 1 open sagas fit this build\n1 more have no history")
	require.Contains(t, compact(a.types(t, "doctor --replay -o json").out),
		`"unreadable":[{"saga":"travel","key":"trip-1","run":2,"step":"book-flight","why":"theenginesleeps"}]`)
	a.open = a.open[1:]
	require.Zero(t, a.types(t, "doctor --replay").status)
}

func TestAHistoryIsFollowedLineByLine(t *testing.T) {
	t.Parallel()
	a := openAgency(t)
	a.history = &sagav1.HistoryResponse{Entries: []*sagav1.Entry{
		{At: ago(60e9), Kind: "attempt", Step: "book-flight", Attempt: 1, DurationMs: 12, Outcome: "applied"}, {At: ago(30e9), Kind: "status", Outcome: "CONFIRMED"},
	}}
	require.Equal(t, answer{out: "1m   attempt   book-flight   1   applied   12ms   -   -\n" +
		"1m   attempt   book-flight   1   applied   12ms   -   -\n" +
		"30s   status   -   -   CONFIRMED   -   -   -\n30s   status   -   -   CONFIRMED   -   -   -\n"},
		a.types(t, "saga history travel trip-17 --follow"), "two that are alike are two")
	require.Contains(t, compact(a.types(t, "saga history travel trip-17 --follow -o json").out),
		`{"at":"2026-01-31T11:59:00Z","kind":"attempt","step":"book-flight","attempt":1,"actor":"","reason":"","duration_ms":12,"outcome":"applied","error":""}{"at"`)
}
