package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/dapr/durabletask-go/backend"
	"github.com/dapr/durabletask-go/task"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func TestAnAttemptFencesCallsAndRecords(t *testing.T) {
	order := checkout.Order{ID: "ord-1", Amount: checkout.Money{Currency: "EUR", MinorUnits: 100}}
	goAhead := checkout.Pass{Pass: journal.Pass{Leave: journal.Go}, Order: order}
	answered := []string{"answered"}
	const silent = "payment has not answered since 12:03:04Z"
	tests := map[string]struct {
		journal *records
		answers []answer
		want    saga.Reply
		wantErr string
		calls   int
		learned saga.Outcome
		// held is what the gate says, one answer after the other, the last one for ever.
		held []string
		// fenced are the reasons with which the journal was asked; nil means once and with none.
		fenced []string
		// told is what the gate was told.
		told []string
	}{
		"an applied step is recorded and told": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a cancel that stands by then turns the saga back": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied, TurnBack: true}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a refusal is data": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_REJECTED, reason: "card_declined"}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "card_declined"}, calls: 1, learned: saga.Rejected, told: answered,
		},
		"a step that was undone before it arrived is refused, never a success": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_UNDONE_BEFORE}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "undone_before"}, calls: 1, learned: saga.Rejected, told: answered,
		},
		"no answer is asked for again at once, and the second one counts": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}, {outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 2, learned: saga.Applied,
			told: []string{"no answer for ord-1: reset", "answered"},
		},
		"three times without an answer is not known": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}},
			want:    saga.Reply{Outcome: saga.Unknown}, calls: 3, learned: saga.Unknown,
			told: []string{"no answer for ord-1: reset", "no answer for ord-1: reset", "no answer for ord-1: reset"},
		},
		"what is on record is told without a call": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Known, Learned: journal.Learned{Outcome: saga.Applied}}}},
			want:    saga.Reply{Outcome: saga.Applied},
		},
		"a checkout that is being undone turns the saga back without a call": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.TurnBack, Reason: "changed my mind"}}},
			want:    saga.Reply{Outcome: saga.TurnedBack, Reason: "changed my mind"},
		},
		"a run that was superseded calls nobody": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Superseded}}},
			want:    saga.Reply{Outcome: saga.Superseded},
		},
		"a run that was superseded meanwhile ends": {
			journal: &records{pass: goAhead, standing: journal.Over},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Superseded}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a journal that cannot be read calls nobody": {
			journal: &records{fenceErr: errors.New("database is away")},
			wantErr: "database is away",
		},
		"an outcome that cannot be recorded is not told": {
			journal: &records{pass: goAhead, recordErr: errors.New("database is away")},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			wantErr: "database is away", calls: 1, learned: saga.Applied, told: answered,
		},
		"what cannot be is not believed, and is tried again": {
			journal: &records{pass: goAhead, standing: journal.Doubted},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED, reason: "unseen"}},
			want:    saga.Reply{Outcome: saga.Unknown, Reason: "unseen"}, calls: 1, learned: saga.Applied, told: answered,
		},
		"what a person has to decide first is held without a call": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Hold, Reason: "awaits approval", Wait: time.Hour}}},
			want:    saga.Reply{Outcome: saga.Held, Reason: "awaits approval", HoldMS: 3_600_000},
		},
		"a participant that is held back is not called, and the row is told why": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Hold, Reason: "held back: " + silent, Wait: 2 * time.Minute}}},
			held:    []string{silent}, fenced: []string{silent},
			want: saga.Reply{Outcome: saga.Held, Reason: "held back: " + silent, HoldMS: 120_000},
		},
		"a cancel is seen while the participant is held back": {
			journal: &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.TurnBack, Reason: "changed my mind"}}},
			held:    []string{silent}, fenced: []string{silent},
			want: saga.Reply{Outcome: saga.TurnedBack, Reason: "changed my mind"},
		},
		"a participant that comes back while the row is told is called": {
			journal: &records{heldBack: checkout.Pass{Pass: journal.Pass{Leave: journal.Hold, Wait: 2 * time.Minute}}, pass: goAhead, standing: journal.GoOn},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			held:    []string{silent, ""}, fenced: []string{silent, ""},
			want: saga.Reply{Outcome: saga.Applied}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a participant that others find silent meanwhile is not asked again at once": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}},
			held:    []string{"", silent},
			want:    saga.Reply{Outcome: saga.Unknown}, calls: 1, learned: saga.Unknown,
			told: []string{"no answer for ord-1: reset"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			participant := &participant{answers: test.answers}
			gate := &gate{held: test.held}
			a := activity{test.journal, gate, checkout.Payment, participant.call}
			got, err := a.attempt(t.Context(), journal.Attempt{Call: saga.Call{Key: "ord-1", Run: 1, Step: checkout.ReserveStock}})
			if test.wantErr != "" {
				require.ErrorContains(t, err, test.wantErr)
			} else {
				require.NoError(t, err)
			}
			require.Empty(t, cmp.Diff(test.want, got))
			require.Equal(t, test.calls, participant.calls)
			require.Equal(t, test.learned, test.journal.learned.Outcome)
			require.Equal(t, test.told, gate.told)
			if test.fenced == nil {
				test.fenced = []string{""}
			}
			require.Equal(t, test.fenced, test.journal.fenced)
		})
	}
}

func TestAnAttemptIsBoundedAlthoughTheParticipantHangs(t *testing.T) {
	t.Parallel()
	kept := &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Go}}, standing: journal.GoOn}
	gate := &gate{}
	a := activity{kept, gate, checkout.Payment, hang}
	got, err := a.attempt(t.Context(), journal.Attempt{})
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.LessOrEqual(t, kept.learned.Took, callBudget+time.Second)
	require.Len(t, gate.told, 3)
}

func hang(ctx context.Context, _ checkout.Order) (*operationv1.Result, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestACallThatEndsBecauseThisProcessStopsIsNotTheParticipantsFault(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	gate := &gate{}
	a := activity{&records{}, gate, checkout.Payment, func(ctx context.Context, order checkout.Order) (*operationv1.Result, error) {
		stop()
		return hang(ctx, order)
	}}
	require.Equal(t, saga.Unknown, a.ask(ctx, checkout.Order{ID: "ord-1"}).Outcome)
	require.Empty(t, gate.told)
}

func TestAnErrorShowsWhetherTheParticipantUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		answered  bool
		attention journal.AttentionCode
	}{
		"other contents":        {err: connect.NewWireError(connect.CodeAlreadyExists, errAway), answered: true, attention: journal.AttentionConflict},
		"a request not to take": {err: connect.NewWireError(connect.CodeInvalidArgument, errAway), answered: true, attention: journal.AttentionBadRequest},
		"forgotten":             {err: connect.NewWireError(connect.CodeFailedPrecondition, errAway), answered: true, attention: journal.AttentionForgotten},
		"not found":             {err: connect.NewWireError(connect.CodeNotFound, errAway), answered: true},
		"the same code from our own side of the wire": {err: connect.NewError(connect.CodeInvalidArgument, errAway)},
		"cannot be reached":                           {err: connect.NewError(connect.CodeUnavailable, errAway)},
		"no time left":                                {err: connect.NewError(connect.CodeDeadlineExceeded, errAway)},
		"it says that it cannot":                      {err: connect.NewWireError(connect.CodeUnavailable, errAway)},
		"it fails":                                    {err: connect.NewWireError(connect.CodeInternal, errAway)},
		"the sidecar cannot deliver":                  {err: connect.NewWireError(connect.CodeUnknown, errAway)},
		"no error of the protocol":                    {err: errAway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := &gate{}
			participant := &participant{answers: []answer{{err: test.err}}}
			a := activity{&records{}, gate, checkout.Payment, participant.call}
			learned := a.try(t.Context(), checkout.Order{ID: "ord-1"})
			require.Equal(t, saga.Unknown, learned.Outcome)
			require.Equal(t, test.attention, learned.Attention)
			want := "no answer for ord-1: " + test.err.Error()
			if test.answered {
				want = "answered"
			}
			require.Equal(t, []string{want}, gate.told)
		})
	}
}

var errAway = errors.New("away")

func TestAnAnswerIsPassedOnWhole(t *testing.T) {
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	result := &operationv1.Result{
		Outcome: operationv1.Outcome_OUTCOME_APPLIED, Reason: "unseen", Detail: "nothing there", Reference: "auth-1",
		ValidUntil: timestamppb.New(until),
	}
	a := activity{&records{}, &gate{}, checkout.Payment, func(context.Context, checkout.Order) (*operationv1.Result, error) { return result, nil }}
	require.Equal(t, journal.Learned{
		Outcome: saga.Applied, Reason: "unseen", Detail: "nothing there", Reference: "auth-1", ValidUntil: until,
	}, a.try(t.Context(), checkout.Order{}))

	result.ValidUntil = nil
	require.Zero(t, a.try(t.Context(), checkout.Order{}).ValidUntil)
}

// I7: another order under a known id is nothing to try again; a person must look.
func TestAKeyMetWithAnotherDigestCallsForAttentionAndIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	refuses := &refusingWarehouse{}
	_, handler := warehousev1connect.NewWarehouseServiceHandler(refuses)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	kept := &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Go}}, standing: journal.GoOn}
	gate := &gate{}
	a := activity{kept, gate, checkout.Warehouse, reserveStock(warehousev1connect.NewWarehouseServiceClient(server.Client(), server.URL))}

	got, err := a.attempt(t.Context(), journal.Attempt{})
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.Equal(t, journal.AttentionConflict, kept.learned.Attention)
	require.Equal(t, 1, refuses.calls)
	require.Equal(t, []string{"answered"}, gate.told)
}

type refusingWarehouse struct {
	warehousev1connect.UnimplementedWarehouseServiceHandler
	calls int
}

func (w *refusingWarehouse) Reserve(context.Context, *connect.Request[warehousev1.ReserveRequest]) (*connect.Response[warehousev1.ReserveResponse], error) {
	w.calls++
	return nil, connect.NewError(connect.CodeAlreadyExists, errors.New("order ord-1 has other lines"))
}

func TestTextsAreCutToWhatHistoriesCanHold(t *testing.T) {
	require.Len(t, cut(strings.Repeat("x", 1000)), journal.MaxDetail)
	require.Equal(t, "ab", cut("a\x00b\xff"))
	for n := range 4 {
		got := cut(strings.Repeat("x", n) + strings.Repeat("€", 100))
		require.LessOrEqual(t, len(got), journal.MaxDetail)
		require.NotContains(t, got, "�")
	}
}

func TestEachActivityAsksTheGateOfItsParticipantAndCallsItsMethod(t *testing.T) {
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code":"failed_precondition"}`)) // So that it is asked once.
	}))
	t.Cleanup(server.Close)
	kept := &records{pass: checkout.Pass{Pass: journal.Pass{Leave: journal.Go}, Order: checkout.Order{ID: "ord-1"}}, standing: journal.GoOn}
	gate := &gate{}
	registry := task.NewTaskRegistry()
	require.NoError(t, Register(registry, kept, Participants{
		Warehouse: warehousev1connect.NewWarehouseServiceClient(server.Client(), server.URL),
		Payment:   paymentv1connect.NewPaymentServiceClient(server.Client(), server.URL),
	}, gate))

	got := make(map[string]string)
	do := func(activity, step string, undo bool) {
		gate.of = nil
		reply := execute(t, registry, activity, saga.Call{Key: "ord-1", Run: 1, Step: step, Undo: undo, Round: 1})
		require.Equal(t, saga.Reply{Step: step, Outcome: saga.Unknown}, reply, activity)
		got[activity] = strings.Join(slices.Compact(gate.of), " and ") + " " + asked
	}
	for _, step := range checkouttest.Plan().Steps {
		do(step.Name, step.Name, false)
		if step.Compensation != "" {
			do(step.Compensation, step.Name, true)
		}
	}
	require.Empty(t, cmp.Diff(map[string]string{
		checkout.ReserveStock:      "warehouse " + warehousev1connect.WarehouseServiceReserveProcedure,
		checkout.ReleaseStock:      "warehouse " + warehousev1connect.WarehouseServiceReleaseProcedure,
		checkout.CommitStock:       "warehouse " + warehousev1connect.WarehouseServiceCommitProcedure,
		checkout.AuthorizePayment:  "payment " + paymentv1connect.PaymentServiceAuthorizeProcedure,
		checkout.VoidAuthorization: "payment " + paymentv1connect.PaymentServiceVoidProcedure,
		checkout.CapturePayment:    "payment " + paymentv1connect.PaymentServiceCaptureProcedure,
		checkout.RefundPayment:     "payment " + paymentv1connect.PaymentServiceRefundProcedure,
	}, got))
}

// execute does an activity as an engine does.
func execute(t *testing.T, registry *task.TaskRegistry, activity string, call saga.Call) (reply saga.Reply) {
	t.Helper()
	input, err := json.Marshal(call)
	require.NoError(t, err)
	done, err := task.NewTaskExecutor(registry).ExecuteActivity(t.Context(), "ord-1-1", &protos.HistoryEvent{
		EventType: &protos.HistoryEvent_TaskScheduled{TaskScheduled: &protos.TaskScheduledEvent{
			Name: activity, Input: wrapperspb.String(string(input)),
		}},
	}, backend.ExecuteOptions{})
	require.NoError(t, err)
	require.Nil(t, done.GetTaskFailed(), "%s", activity)
	require.NoError(t, json.Unmarshal([]byte(done.GetTaskCompleted().GetResult().GetValue()), &reply))
	return reply
}

type answer struct {
	outcome operationv1.Outcome
	reason  string
	err     error
}

// participant gives its answers in turn, the last one for ever.
type participant struct {
	answers []answer
	calls   int
}

func (p *participant) call(_ context.Context, order checkout.Order) (*operationv1.Result, error) {
	if order.ID != "ord-1" {
		return nil, fmt.Errorf("asked for order %q", order.ID)
	}
	a := p.answers[min(p.calls, len(p.answers)-1)]
	p.calls++
	return &operationv1.Result{Outcome: a.outcome, Reason: a.reason}, a.err
}

// records answers as it is told to and keeps what it was asked and what was recorded.
type records struct {
	pass checkout.Pass
	// heldBack, where set, is its answer to an attempt whose participant is held back.
	heldBack  checkout.Pass
	fenceErr  error
	standing  journal.Standing
	recordErr error
	fenced    []string
	learned   journal.Learned
}

func (j *records) Fence(_ context.Context, a journal.Attempt) (checkout.Pass, error) {
	j.fenced = append(j.fenced, a.HeldBack)
	if a.HeldBack != "" && j.heldBack.Leave != "" {
		return j.heldBack, nil
	}
	return j.pass, j.fenceErr
}

func (j *records) Record(_ context.Context, _ journal.Attempt, l journal.Learned) (journal.Standing, error) {
	j.learned = l
	return j.standing, j.recordErr
}

// gate says what it is told to, one answer after the other, the last one for ever, and keeps what it is told.
type gate struct {
	held []string
	told []string
	// of has the participants that it was asked and told about.
	of []string
}

func (g *gate) HeldBack(participant string) string {
	g.of = append(g.of, participant)
	if len(g.held) == 0 {
		return ""
	}
	why := g.held[0]
	if len(g.held) > 1 {
		g.held = g.held[1:]
	}
	return why
}

func (g *gate) Answered(participant string) {
	g.of = append(g.of, participant)
	g.told = append(g.told, "answered")
}

func (g *gate) Unanswered(participant, orderID string, err error) {
	g.of = append(g.of, participant)
	g.told = append(g.told, fmt.Sprintf("no answer for %s: %v", orderID, err))
}
