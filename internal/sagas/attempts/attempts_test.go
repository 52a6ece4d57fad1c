package attempts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func TestAnAttemptFencesCallsAndRecords(t *testing.T) {
	goAhead := journal.Pass{Leave: journal.Go, Input: json.RawMessage(`{"seats": 2}`)}
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
			answers: []answer{{outcome: participant.Applied}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a cancel that stands by then turns the saga back": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: participant.Applied}},
			want:    saga.Reply{Outcome: saga.Applied, TurnBack: true}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a refusal is data": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: participant.Rejected, reason: "card_declined"}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "card_declined"}, calls: 1, learned: saga.Rejected, told: answered,
		},
		"a step that was undone before it arrived is refused, never a success": {
			journal: &records{pass: goAhead, standing: journal.GoBack},
			answers: []answer{{outcome: participant.UndoneBefore}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "undone_before"}, calls: 1, learned: saga.Rejected, told: answered,
		},
		"no answer is asked for again at once, and the second one counts": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}, {outcome: participant.Applied}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 2, learned: saga.Applied,
			told: []string{"no answer for trip-1: reset", "answered"},
		},
		"three times without an answer is not known": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}},
			want:    saga.Reply{Outcome: saga.Unknown}, calls: 3, learned: saga.Unknown,
			told: []string{"no answer for trip-1: reset", "no answer for trip-1: reset", "no answer for trip-1: reset"},
		},
		"what is on record is told without a call": {
			journal: &records{pass: journal.Pass{Leave: journal.Known, Learned: journal.Learned{Outcome: saga.Applied}}},
			want:    saga.Reply{Outcome: saga.Applied},
		},
		"a saga that is being undone turns the saga back without a call": {
			journal: &records{pass: journal.Pass{Leave: journal.TurnBack, Reason: "changed my mind"}},
			want:    saga.Reply{Outcome: saga.TurnedBack, Reason: "changed my mind"},
		},
		"a run that was superseded calls nobody": {
			journal: &records{pass: journal.Pass{Leave: journal.Superseded}},
			want:    saga.Reply{Outcome: saga.Superseded},
		},
		"a run that was superseded meanwhile ends": {
			journal: &records{pass: goAhead, standing: journal.Over},
			answers: []answer{{outcome: participant.Applied}},
			want:    saga.Reply{Outcome: saga.Superseded}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a journal that cannot be read calls nobody": {
			journal: &records{fenceErr: errors.New("database is away")},
			wantErr: "database is away",
		},
		"an outcome that cannot be recorded is not told": {
			journal: &records{pass: goAhead, recordErr: errors.New("database is away")},
			answers: []answer{{outcome: participant.Applied}},
			wantErr: "database is away", calls: 1, learned: saga.Applied, told: answered,
		},
		"what cannot be is not believed, and is tried again": {
			journal: &records{pass: goAhead, standing: journal.Doubted},
			answers: []answer{{outcome: participant.Applied, reason: "unseen"}},
			want:    saga.Reply{Outcome: saga.Unknown, Reason: "unseen"}, calls: 1, learned: saga.Applied, told: answered,
		},
		"what a person has to decide first is held without a call": {
			journal: &records{pass: journal.Pass{Leave: journal.Hold, Reason: "awaits approval", Wait: time.Hour}},
			want:    saga.Reply{Outcome: saga.Held, Reason: "awaits approval", HoldMS: 3_600_000},
		},
		"a participant that is held back is not called, and the row is told why": {
			journal: &records{pass: journal.Pass{Leave: journal.Hold, Reason: "held back: " + silent, Wait: 2 * time.Minute}},
			held:    []string{silent}, fenced: []string{silent},
			want: saga.Reply{Outcome: saga.Held, Reason: "held back: " + silent, HoldMS: 120_000},
		},
		"a cancel is seen while the participant is held back": {
			journal: &records{pass: journal.Pass{Leave: journal.TurnBack, Reason: "changed my mind"}},
			held:    []string{silent}, fenced: []string{silent},
			want: saga.Reply{Outcome: saga.TurnedBack, Reason: "changed my mind"},
		},
		"a participant that comes back while the row is told is called": {
			journal: &records{heldBack: journal.Pass{Leave: journal.Hold, Wait: 2 * time.Minute}, pass: goAhead, standing: journal.GoOn},
			answers: []answer{{outcome: participant.Applied}},
			held:    []string{silent, ""}, fenced: []string{silent, ""},
			want: saga.Reply{Outcome: saga.Applied}, calls: 1, learned: saga.Applied, told: answered,
		},
		"a participant that others find silent meanwhile is not asked again at once": {
			journal: &records{pass: goAhead, standing: journal.GoOn},
			answers: []answer{{err: errors.New("reset")}},
			held:    []string{"", silent},
			want:    saga.Reply{Outcome: saga.Unknown}, calls: 1, learned: saga.Unknown,
			told: []string{"no answer for trip-1: reset"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := &answers{answers: test.answers}
			gate := &gate{held: test.held}
			got, err := with(test.journal, gate, asked).attempt(t.Context(), pay)
			if test.wantErr != "" {
				require.ErrorContains(t, err, test.wantErr)
			} else {
				require.NoError(t, err)
				test.want.Step = pay.Step
			}
			require.Empty(t, cmp.Diff(test.want, got))
			require.Equal(t, test.calls, asked.calls)
			require.Equal(t, test.learned, test.journal.learned.Outcome)
			require.Equal(t, test.told, gate.told)
			if test.fenced == nil {
				test.fenced = []string{""}
			}
			require.Equal(t, test.fenced, test.journal.fenced)
		})
	}
}

// pay is an attempt at a step.
var pay = journal.Attempt{Call: saga.Call{Definition: "trip", Key: "trip-1", Run: 1, Step: "charge-card", Participant: "payment", Round: 3}}

func with(j Journal, g Gate, payment participant.Participant) *attempts {
	return &attempts{j, g, map[string]participant.Participant{"payment": payment}}
}

func TestAnAttemptIsBoundedAlthoughTheParticipantHangs(t *testing.T) {
	t.Parallel()
	kept := &records{pass: journal.Pass{Leave: journal.Go}, standing: journal.GoOn}
	gate := &gate{}
	got, err := with(kept, gate, hangs{}).attempt(t.Context(), pay)
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.LessOrEqual(t, kept.learned.Took, callBudget+time.Second)
	require.Len(t, gate.told, 3)
}

// hangs answers nobody.
type hangs struct{ asked func() }

func (h hangs) Do(ctx context.Context, _ participant.Request) (participant.Result, error) {
	if h.asked != nil {
		h.asked()
	}
	<-ctx.Done()
	return participant.Result{}, ctx.Err()
}

func (h hangs) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return h.Do(ctx, r)
}

func (h hangs) Get(context.Context, participant.ID) (participant.Operation, error) {
	return participant.Operation{}, nil
}

func TestACallThatEndsBecauseThisProcessStopsIsNotTheParticipantsFault(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	gate := &gate{}
	require.Equal(t, saga.Unknown, with(&records{}, gate, hangs{stop}).ask(ctx, pay, journal.Pass{}).Outcome)
	require.Empty(t, gate.told)
}

func TestAnErrorShowsWhetherTheParticipantUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		err       error
		answered  bool
		attention journal.AttentionCode
	}{
		"other contents":        {err: fmt.Errorf("%w: other seats", participant.ErrConflict), answered: true, attention: journal.AttentionConflict},
		"a request not to take": {err: participant.ErrBadRequest, answered: true, attention: journal.AttentionBadRequest},
		"forgotten":             {err: participant.ErrForgotten, answered: true, attention: journal.AttentionForgotten},
		"no answer of ours":     {err: participant.ErrBadAnswer, answered: true, attention: journal.AttentionBadAnswer},
		"not found":             {err: connect.NewWireError(connect.CodeNotFound, errAway), answered: true},
		"the same code from our own side of the wire": {err: connect.NewError(connect.CodeNotFound, errAway)},
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
			learned := with(&records{}, gate, &answers{answers: []answer{{err: test.err}}}).try(t.Context(), pay, journal.Pass{Input: json.RawMessage(`{"seats": 2}`)})
			require.Equal(t, saga.Unknown, learned.Outcome)
			require.Equal(t, test.attention, learned.Attention)
			want := "no answer for trip-1: " + test.err.Error()
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
	result := participant.Result{Outcome: participant.Applied, Reason: "unseen", Detail: "nothing there", Reference: "auth-1", ValidUntil: until}
	asked := &answers{answers: []answer{{result: &result}}}
	require.Equal(t, journal.Learned{
		Outcome: saga.Applied, Reason: "unseen", Detail: "nothing there", Reference: "auth-1", ValidUntil: until,
	}, with(&records{}, &gate{}, asked).try(t.Context(), pay, journal.Pass{Input: json.RawMessage(`{"seats": 2}`)}))
}

// I7: other contents under a known key are nothing to try again; a person must look.
func TestAKeyMetWithAnotherDigestCallsForAttentionAndIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	kept := &records{pass: journal.Pass{Leave: journal.Go, Input: json.RawMessage(`{"seats": 2}`)}, standing: journal.GoOn}
	gate, asked := &gate{}, &answers{answers: []answer{{err: participant.ErrConflict}}}
	got, err := with(kept, gate, asked).attempt(t.Context(), pay)
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.Equal(t, journal.AttentionConflict, kept.learned.Attention)
	require.Equal(t, 1, asked.calls)
	require.Equal(t, []string{"answered"}, gate.told)
}

func TestAParticipantThatThisProcessDoesNotHaveCallsForAttention(t *testing.T) {
	gate := &gate{}
	learned := (&attempts{&records{}, gate, nil}).try(t.Context(), pay, journal.Pass{})
	require.Equal(t, journal.AttentionBadRequest, learned.Attention)
	require.Contains(t, learned.Detail, `this process has no participant "payment"`)
	require.Empty(t, gate.told, "nobody was called")
}

func TestTextsAreCutToWhatHistoriesCanHold(t *testing.T) {
	require.Len(t, journal.Cut(strings.Repeat("x", 1000)), journal.MaxDetail)
	require.Equal(t, "ab", journal.Cut("a\x00b\xff"))
	for n := range 4 {
		got := journal.Cut(strings.Repeat("x", n) + strings.Repeat("€", 100))
		require.LessOrEqual(t, len(got), journal.MaxDetail)
		require.NotContains(t, got, "�")
	}
}

func TestOneActivityDoesEveryStepAndCompensation(t *testing.T) {
	kept := &records{pass: journal.Pass{Leave: journal.Go, Input: json.RawMessage(`{"seats": 2}`)}, standing: journal.GoOn}
	gate, asked := &gate{}, &answers{answers: []answer{{outcome: participant.Applied}}}
	registry := task.NewTaskRegistry()
	require.NoError(t, Register(registry, kept, map[string]participant.Participant{"payment": asked}, gate))
	call := pay.Call
	require.Equal(t, saga.Reply{Step: "charge-card", Outcome: saga.Applied}, execute(t, registry, "charge-card", call))
	call.Undo = true
	require.Equal(t, saga.Reply{Step: "charge-card", Outcome: saga.Applied}, execute(t, registry, "refund-card", call))
	require.Equal(t, []string{"payment"}, slices.Compact(gate.of))
	want := participant.Request{
		Definition: "trip", Key: "trip-1", Step: "charge-card", Attempt: 3, Input: json.RawMessage(`{"seats": 2}`), IdempotencyKey: "trip:trip-1:charge-card:do",
	}
	undo := want
	undo.IdempotencyKey = "trip:trip-1:charge-card:undo"
	require.Empty(t, cmp.Diff([]participant.Request{want, undo}, asked.requests))
}

// execute does an activity as an engine does.
func execute(t *testing.T, registry *task.TaskRegistry, activity string, call saga.Call) (reply saga.Reply) {
	t.Helper()
	input, err := json.Marshal(call)
	require.NoError(t, err)
	done, err := task.NewTaskExecutor(registry).ExecuteActivity(t.Context(), "trip.trip-1-1", &protos.HistoryEvent{
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
	outcome participant.Outcome
	reason  string
	err     error
	// result, where set, is the whole answer.
	result *participant.Result
}

// answers is a participant that gives its answers in turn, the last one for ever.
type answers struct {
	answers  []answer
	calls    int
	requests []participant.Request
}

func (p *answers) Do(_ context.Context, r participant.Request) (participant.Result, error) {
	if string(r.Input) != `{"seats": 2}` {
		return participant.Result{}, fmt.Errorf("asked for %q", r.Input)
	}
	p.requests = append(p.requests, r)
	a := p.answers[min(p.calls, len(p.answers)-1)]
	p.calls++
	if a.result != nil {
		return *a.result, nil
	}
	return participant.Result{Outcome: a.outcome, Reason: a.reason}, a.err
}

func (p *answers) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return p.Do(ctx, r)
}

func (p *answers) Get(context.Context, participant.ID) (participant.Operation, error) {
	return participant.Operation{}, nil
}

// records answers as it is told to and keeps what it was asked and what was recorded.
type records struct {
	pass journal.Pass
	// heldBack, where set, is its answer to an attempt whose participant is held back.
	heldBack  journal.Pass
	fenceErr  error
	standing  journal.Standing
	recordErr error
	fenced    []string
	learned   journal.Learned
}

func (j *records) Fence(_ context.Context, a journal.Attempt) (journal.Pass, error) {
	j.fenced = append(j.fenced, a.HeldBack)
	if a.HeldBack != "" && j.heldBack.Leave != "" {
		return j.heldBack, nil
	}
	return j.pass, j.fenceErr
}

func (j *records) Record(_ context.Context, a journal.Attempt, l journal.Learned, _ func(string) bool) (saga.Reply, error) {
	j.learned = l
	if j.recordErr != nil {
		return saga.Reply{}, j.recordErr
	}
	return j.standing.Reply(a, l), nil
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

func (g *gate) Unanswered(participant, key string, err error) {
	g.of = append(g.of, participant)
	g.told = append(g.told, fmt.Sprintf("no answer for %s: %v", key, err))
}
