package sagaverbs_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
	"github.com/checkoutsaga/orchestrator/gen/saga/v1/sagav1connect"
	"github.com/checkoutsaga/orchestrator/internal/cli"
	"github.com/checkoutsaga/orchestrator/internal/cli/sagaverbs"
)

// noon is what every clock in these tests shows.
var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }

// agency is a server of sagas that answers what a test puts into it, and keeps what it was asked.
type agency struct {
	sagav1connect.UnimplementedSagaServiceHandler
	url string

	saga        *sagav1.Saga
	definitions []*sagav1.Definition
	// pages is what List finds, page by page.
	pages [][]*sagav1.Saga
	// watched is what Watch sends; a nil entry breaks the connection off. Then it ends, or with hold it does not.
	watched []*sagav1.Saga
	hold    bool
	// beforeSend is called before each message of a stream.
	beforeSend func()
	before     bool // Start finds that it was accepted before.
	history    *sagav1.HistoryResponse
	findings   *sagav1.DoctorResponse
	open       []*sagav1.ListOpenHistoriesResponse
	refusal    error
	// refusals are those of single sagas, by key.
	refusals map[string]error

	mu    sync.Mutex
	asked []proto.Message
}

func openAgency(t *testing.T) *agency {
	t.Helper()
	a := &agency{saga: booked(), refusals: make(map[string]error), beforeSend: func() {}, definitions: []*sagav1.Definition{
		{Name: "errand", Version: 1, Plan: &sagav1.Plan{Version: 1, Steps: []*sagav1.PlannedStep{{Name: "run", Participant: "runner"}}}},
		{Name: "travel", Version: 3, Plan: plan(), Deadline: durationpb.New(15 * time.Minute)},
	}}
	mux := http.NewServeMux()
	mux.Handle(sagav1connect.NewSagaServiceHandler(a))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	a.url = server.URL
	return a
}

func (a *agency) take(msg proto.Message, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, msg)
	if err := a.refusals[key]; err != nil {
		return err
	}
	return a.refusal
}

// answered is how the saga with a key stands.
func (a *agency) answered(key string) *sagav1.Saga {
	s := proto.CloneOf(a.saga)
	s.Key = key
	return s
}

func (a *agency) ListDefinitions(_ context.Context, req *connect.Request[sagav1.ListDefinitionsRequest]) (*connect.Response[sagav1.ListDefinitionsResponse], error) {
	return connect.NewResponse(&sagav1.ListDefinitionsResponse{Definitions: a.definitions}), a.take(req.Msg, "")
}

func (a *agency) Start(_ context.Context, req *connect.Request[sagav1.StartRequest]) (*connect.Response[sagav1.StartResponse], error) {
	err := a.take(req.Msg, req.Msg.Key)
	return connect.NewResponse(&sagav1.StartResponse{Saga: a.answered(req.Msg.Key), Created: !a.before}), err
}

func (a *agency) Get(_ context.Context, req *connect.Request[sagav1.GetRequest]) (*connect.Response[sagav1.GetResponse], error) {
	err := a.take(req.Msg, req.Msg.Key)
	return connect.NewResponse(&sagav1.GetResponse{Saga: a.answered(req.Msg.Key), Plan: plan()}), err
}

func (a *agency) List(_ context.Context, req *connect.Request[sagav1.ListRequest]) (*connect.Response[sagav1.ListResponse], error) {
	err := a.take(req.Msg, "")
	page := strings.Count(req.Msg.PageToken, "+") // As many as there were pages.
	answer := &sagav1.ListResponse{}
	if page < len(a.pages) {
		answer.Sagas = a.pages[page]
	}
	if page+1 < len(a.pages) {
		answer.NextPageToken = req.Msg.PageToken + "+"
	}
	return connect.NewResponse(answer), err
}

func (a *agency) History(_ context.Context, req *connect.Request[sagav1.HistoryRequest]) (*connect.Response[sagav1.HistoryResponse], error) {
	return connect.NewResponse(a.history), a.take(req.Msg, req.Msg.Key)
}

func (a *agency) Watch(ctx context.Context, req *connect.Request[sagav1.WatchRequest], stream *connect.ServerStream[sagav1.WatchResponse]) error {
	if err := a.take(req.Msg, req.Msg.Key); err != nil {
		return err
	}
	for len(a.watched) > 0 {
		next := a.watched[0]
		a.watched = a.watched[1:]
		if next == nil {
			panic(http.ErrAbortHandler) // As when the process is killed.
		}
		if err := stream.Send(&sagav1.WatchResponse{Saga: next}); err != nil {
			return err
		}
	}
	if a.hold {
		a.beforeSend()
		<-ctx.Done()
	}
	return nil
}

func (a *agency) Cancel(_ context.Context, req *connect.Request[sagav1.CancelRequest]) (*connect.Response[sagav1.CancelResponse], error) {
	err := a.take(req.Msg, req.Msg.Key)
	return connect.NewResponse(&sagav1.CancelResponse{
		Saga: a.answered(req.Msg.Key), Undone: []string{"book-hotel"}, ToUndo: []string{"book-flight"},
	}), err
}

func (a *agency) Approve(_ context.Context, req *connect.Request[sagav1.ApproveRequest]) (*connect.Response[sagav1.ApproveResponse], error) {
	return connect.NewResponse(&sagav1.ApproveResponse{Saga: a.answered(req.Msg.Key)}), a.take(req.Msg, req.Msg.Key)
}

func (a *agency) Reject(_ context.Context, req *connect.Request[sagav1.RejectRequest]) (*connect.Response[sagav1.RejectResponse], error) {
	return connect.NewResponse(&sagav1.RejectResponse{Saga: a.answered(req.Msg.Key)}), a.take(req.Msg, req.Msg.Key)
}

func (a *agency) Resolve(_ context.Context, req *connect.Request[sagav1.ResolveRequest]) (*connect.Response[sagav1.ResolveResponse], error) {
	return connect.NewResponse(&sagav1.ResolveResponse{Saga: a.answered(req.Msg.Key), What: "cancel-flight is tried at once"}), a.take(req.Msg, req.Msg.Key)
}

func (a *agency) Redrive(_ context.Context, req *connect.Request[sagav1.RedriveRequest]) (*connect.Response[sagav1.RedriveResponse], error) {
	return connect.NewResponse(&sagav1.RedriveResponse{Saga: a.answered(req.Msg.Key), What: "run 2 goes on"}), a.take(req.Msg, req.Msg.Key)
}

func plan() *sagav1.Plan {
	return &sagav1.Plan{Version: 3, Steps: []*sagav1.PlannedStep{
		{Name: "book-flight", Participant: "airline", Compensation: "cancel-flight"},
		{Name: "sign-off", Participant: "operator", Decision: true},
		{Name: "issue-ticket", Participant: "airline", Compensation: "return-ticket", Pivot: true},
		{Name: "send-papers", Participant: "post"},
	}}
}

// booked is a saga that has ended well.
func booked() *sagav1.Saga {
	input, err := structpb.NewValue(map[string]any{"from": "VIE", "to": "LIS", "seats": 2})
	if err != nil {
		panic(err)
	}
	return &sagav1.Saga{
		Definition: "travel", Version: 3, Key: "trip-17", Status: sagav1.Status_STATUS_CONFIRMED, Phase: "final", Engine: "embedded", Run: 1,
		About: "ann", Money: &sagav1.Money{Currency: "EUR", MinorUnits: 41900}, StartedAt: ago(3 * time.Minute), UpdatedAt: ago(2 * time.Minute),
		EndedAt: ago(2 * time.Minute), Deadline: timestamppb.New(noon.Add(12 * time.Minute)), Input: input,
		Steps: []*sagav1.Step{{
			Name: "book-flight", Participant: "airline", State: "done", Attempts: 1, StartedAt: ago(3 * time.Minute),
			EndedAt: ago(3*time.Minute - 12*time.Millisecond), Compensation: "not-needed", Reference: "PNR-4711",
			Output: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"seat": structpb.NewStringValue("12A")}}),
		}},
	}
}

func ending(status sagav1.Status, reason string) *sagav1.Saga {
	s := booked()
	s.Status, s.Reason = status, reason
	return s
}

// turningBack is one that is being undone.
func turningBack() *sagav1.Saga {
	s := booked()
	s.Status, s.Phase, s.EndedAt, s.Reason, s.ReasonCode = sagav1.Status_STATUS_COMPENSATING, "undoing", nil, "issue-ticket: sold out", "sold_out"
	s.Steps[0].Compensation = "running"
	s.Steps = append(s.Steps, &sagav1.Step{
		Name: "issue-ticket", Participant: "airline", State: "rejected", Attempts: 1, Error: "sold out", Compensation: "not-needed",
	})
	return s
}

func stuck() *sagav1.Saga {
	s := turningBack()
	s.Status = sagav1.Status_STATUS_NEEDS_ATTENTION
	s.Attention = &sagav1.Attention{
		Step: "cancel-flight", Cause: "cancel-flight has failed 12 times", Since: ago(time.Hour), Attempts: 12, LastError: "no answer\x1b[2J",
		Next: timestamppb.New(noon.Add(30 * time.Second)), Advice: "look at the airline; call it", Code: "failing",
	}
	return s
}

func awaiting() *sagav1.Saga {
	s := booked()
	s.Status, s.Phase, s.EndedAt, s.Money = sagav1.Status_STATUS_AWAITING_APPROVAL, "forward", nil, nil
	s.ApprovalDeadline = timestamppb.New(noon.Add(23 * time.Hour))
	s.Steps = append(s.Steps, &sagav1.Step{Name: "sign-off", Participant: "operator", State: "running", Compensation: "not-needed"})
	return s
}

// keyed are sagas that wait for an operator, by their keys.
func keyed(keys ...string) []*sagav1.Saga {
	var all []*sagav1.Saga
	for _, key := range keys {
		s := stuck()
		s.Key = key
		all = append(all, s)
	}
	return all
}

// answer is what one command line left behind.
type answer struct {
	status   int
	out, err string
}

// program is somebody's program: it has these verbs and no other.
var program = cli.Program{Name: "travelling", Verbs: func(c *cli.Client) []*cobra.Command {
	return []*cobra.Command{sagaverbs.Sagas(c), sagaverbs.Doctor(c)}
}}

// types runs one command line, of which each word is typed as it is, where nobody can be asked.
func (a *agency) types(t *testing.T, line string) answer {
	t.Helper()
	return a.typed(t.Context(), "", strings.Fields(line)...)
}

func (a *agency) typed(ctx context.Context, stdin string, args ...string) answer {
	var out, err bytes.Buffer
	status := program.Run(ctx, args, cli.Surroundings{
		In: strings.NewReader(stdin), Out: cli.Printer{To: &out}, Err: cli.Printer{To: &err}, Now: func() time.Time { return noon },
		Getenv: func(name string) string { return map[string]string{cli.ServerVariable: a.url}[name] },
	})
	return answer{status: status, out: out.String(), err: err.String()}
}

// last is what it was asked last.
func (a *agency) last() proto.Message {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[len(a.asked)-1]
}
