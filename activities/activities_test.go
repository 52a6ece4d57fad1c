package activities

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/workflows/saga"
)

func TestAnAttemptFencesCallsAndRecords(t *testing.T) {
	order := checkout.Order{ID: "ord-1", Amount: checkout.Money{Currency: "EUR", MinorUnits: 100}}
	goAhead := checkout.Pass{Leave: checkout.Go, Order: order}
	tests := map[string]struct {
		journal *journal
		answers []answer
		want    saga.Reply
		wantErr string
		calls   int
		learned checkout.Outcome
	}{
		"an applied step is recorded and told": {
			journal: &journal{pass: goAhead, standing: checkout.GoOn},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 1, learned: checkout.Applied,
		},
		"a cancel that stands by then turns the saga back": {
			journal: &journal{pass: goAhead, standing: checkout.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied, TurnBack: true}, calls: 1, learned: checkout.Applied,
		},
		"a refusal is data": {
			journal: &journal{pass: goAhead, standing: checkout.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_REJECTED, reason: "card_declined"}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "card_declined"}, calls: 1, learned: checkout.Refused,
		},
		"a step that was undone before it arrived is refused, never a success": {
			journal: &journal{pass: goAhead, standing: checkout.GoBack},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_UNDONE_BEFORE}},
			want:    saga.Reply{Outcome: saga.Rejected, Reason: "undone_before"}, calls: 1, learned: checkout.Refused,
		},
		"no answer is asked for again at once, and the second one counts": {
			journal: &journal{pass: goAhead, standing: checkout.GoOn},
			answers: []answer{{err: errors.New("reset")}, {outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Applied}, calls: 2, learned: checkout.Applied,
		},
		"three times without an answer is not known": {
			journal: &journal{pass: goAhead, standing: checkout.GoOn},
			answers: []answer{{err: errors.New("reset")}},
			want:    saga.Reply{Outcome: saga.Unknown}, calls: 3, learned: checkout.Unknown,
		},
		"what is on record is told without a call": {
			journal: &journal{pass: checkout.Pass{Leave: checkout.Known, Learned: checkout.Learned{Outcome: checkout.Applied}}},
			want:    saga.Reply{Outcome: saga.Applied},
		},
		"a checkout that is being undone turns the saga back without a call": {
			journal: &journal{pass: checkout.Pass{Leave: checkout.TurnBack, Reason: "changed my mind"}},
			want:    saga.Reply{Outcome: saga.TurnedBack, Reason: "changed my mind"},
		},
		"a run that was superseded calls nobody": {
			journal: &journal{pass: checkout.Pass{Leave: checkout.Superseded}},
			want:    saga.Reply{Outcome: saga.Superseded},
		},
		"a run that was superseded meanwhile ends": {
			journal: &journal{pass: goAhead, standing: checkout.Over},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			want:    saga.Reply{Outcome: saga.Superseded}, calls: 1, learned: checkout.Applied,
		},
		"a journal that cannot be read calls nobody": {
			journal: &journal{fenceErr: errors.New("database is away")},
			wantErr: "database is away",
		},
		"an outcome that cannot be recorded is not told": {
			journal: &journal{pass: goAhead, recordErr: errors.New("database is away")},
			answers: []answer{{outcome: operationv1.Outcome_OUTCOME_APPLIED}},
			wantErr: "database is away", calls: 1, learned: checkout.Applied,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			participant := &participant{answers: test.answers}
			a := activity{test.journal, participant.call}
			got, err := a.attempt(t.Context(), checkout.Attempt{OrderID: "ord-1", Run: 1, Step: checkout.ReserveStock})
			if test.wantErr != "" {
				require.ErrorContains(t, err, test.wantErr)
			} else {
				require.NoError(t, err)
			}
			require.Empty(t, cmp.Diff(test.want, got))
			require.Equal(t, test.calls, participant.calls)
			require.Equal(t, test.learned, test.journal.learned.Outcome)
		})
	}
}

func TestAnAttemptIsBoundedAlthoughTheParticipantHangs(t *testing.T) {
	t.Parallel()
	journal := &journal{pass: checkout.Pass{Leave: checkout.Go}, standing: checkout.GoOn}
	a := activity{journal, func(ctx context.Context, _ checkout.Order) (*operationv1.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	got, err := a.attempt(t.Context(), checkout.Attempt{})
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.LessOrEqual(t, journal.learned.Took, callBudget+time.Second)
}

// I7: another order under a known id is nothing to try again; a person must look.
func TestAKeyMetWithAnotherDigestCallsForAttentionAndIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	refuses := &refusingWarehouse{}
	_, handler := warehousev1connect.NewWarehouseServiceHandler(refuses)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	journal := &journal{pass: checkout.Pass{Leave: checkout.Go}, standing: checkout.GoOn}
	a := activity{journal, reserveStock(warehousev1connect.NewWarehouseServiceClient(server.Client(), server.URL))}

	got, err := a.attempt(t.Context(), checkout.Attempt{})
	require.NoError(t, err)
	require.Equal(t, saga.Unknown, got.Outcome)
	require.Equal(t, "the participant knows this order with other contents", journal.learned.Attention)
	require.Equal(t, 1, refuses.calls)
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
	require.Len(t, cut(strings.Repeat("x", 1000)), checkout.MaxDetail)
	require.Equal(t, "ab", cut("a\x00b\xff"))
	for n := range 4 {
		got := cut(strings.Repeat("x", n) + strings.Repeat("€", 100))
		require.LessOrEqual(t, len(got), checkout.MaxDetail)
		require.NotContains(t, got, "�")
	}
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

// journal answers as it is told to and keeps what was recorded.
type journal struct {
	pass      checkout.Pass
	fenceErr  error
	standing  checkout.Standing
	recordErr error
	learned   checkout.Learned
}

func (j *journal) Fence(context.Context, checkout.Attempt) (checkout.Pass, error) {
	return j.pass, j.fenceErr
}

func (j *journal) Record(_ context.Context, _ checkout.Attempt, l checkout.Learned) (checkout.Standing, error) {
	j.learned = l
	return j.standing, j.recordErr
}
