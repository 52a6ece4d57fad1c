package activities_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/checkoutsaga/orchestrator/activities"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/gen/payment/v1/paymentv1connect"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func TestEachStepAndCompensationCallsItsMethod(t *testing.T) {
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code":"failed_precondition"}`))
	}))
	t.Cleanup(server.Close)
	participants := map[string]activities.Participant{
		checkout.Warehouse: activities.Warehouse(warehousev1connect.NewWarehouseServiceClient(server.Client(), server.URL)),
		checkout.Payment:   activities.Payment(paymentv1connect.NewPaymentServiceClient(server.Client(), server.URL)),
	}
	got := make(map[string]string)
	for _, step := range checkouttest.Plan().Steps {
		r := participant.Request{Definition: checkout.Definition, Key: "ord-1", Step: step.Name, Input: checkout.Order{}.Input()}
		_, err := participants[step.Participant].Do(t.Context(), r)
		require.ErrorIs(t, err, participant.ErrForgotten)
		got[step.Name] = asked
		if step.Compensation != "" {
			_, err = participants[step.Participant].Undo(t.Context(), r)
			require.ErrorIs(t, err, participant.ErrForgotten)
			got[step.Compensation] = asked
		}
	}
	require.Empty(t, cmp.Diff(map[string]string{
		checkout.ReserveStock:      warehousev1connect.WarehouseServiceReserveProcedure,
		checkout.ReleaseStock:      warehousev1connect.WarehouseServiceReleaseProcedure,
		checkout.CommitStock:       warehousev1connect.WarehouseServiceCommitProcedure,
		checkout.AuthorizePayment:  paymentv1connect.PaymentServiceAuthorizeProcedure,
		checkout.VoidAuthorization: paymentv1connect.PaymentServiceVoidProcedure,
		checkout.CapturePayment:    paymentv1connect.PaymentServiceCaptureProcedure,
		checkout.RefundPayment:     paymentv1connect.PaymentServiceRefundProcedure,
	}, got))
}

// warehouse answers as it is told to.
type warehouse struct {
	warehousev1connect.UnimplementedWarehouseServiceHandler
	result *operationv1.Result
	err    error
	lines  []*warehousev1.Line
}

func (w *warehouse) Reserve(_ context.Context, r *connect.Request[warehousev1.ReserveRequest]) (*connect.Response[warehousev1.ReserveResponse], error) {
	w.lines = r.Msg.Lines
	return connect.NewResponse(&warehousev1.ReserveResponse{Result: w.result}), w.err
}

func (w *warehouse) serve(t *testing.T) activities.Participant {
	t.Helper()
	_, handler := warehousev1connect.NewWarehouseServiceHandler(w)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return activities.Warehouse(warehousev1connect.NewWarehouseServiceClient(server.Client(), server.URL))
}

var reserve = participant.Request{
	Definition: checkout.Definition, Key: "ord-1", Step: checkout.ReserveStock,
	Input: checkout.Order{Items: []checkout.Item{{SKU: "CHAIR-OAK", Quantity: 2, UnitPrice: 4999}}}.Input(),
}

func TestAnAnswerIsPassedOnWhole(t *testing.T) {
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	w := &warehouse{result: &operationv1.Result{
		Outcome: operationv1.Outcome_OUTCOME_APPLIED, Reason: "unseen", Detail: "nothing there", Reference: "auth-1", ValidUntil: timestamppb.New(until),
	}}
	p := w.serve(t)
	got, err := p.Do(t.Context(), reserve)
	require.NoError(t, err)
	require.Equal(t, participant.Result{
		Outcome: participant.Applied, Reason: "unseen", Detail: "nothing there", Reference: "auth-1", ValidUntil: until,
	}, got)
	require.Len(t, w.lines, 1)
	require.Equal(t, int32(2), w.lines[0].Quantity)

	w.result.ValidUntil = nil
	got, err = p.Do(t.Context(), reserve)
	require.NoError(t, err)
	require.Zero(t, got.ValidUntil)
}

func TestAnErrorOfTheServiceHasItsMeaning(t *testing.T) {
	for code, want := range map[connect.Code]error{
		connect.CodeAlreadyExists:      participant.ErrConflict,
		connect.CodeInvalidArgument:    participant.ErrBadRequest,
		connect.CodeFailedPrecondition: participant.ErrForgotten,
		connect.CodeUnavailable:        nil,
		connect.CodeInternal:           nil,
	} {
		_, err := (&warehouse{err: connect.NewError(code, errors.New("order ord-1 has other lines"))}).serve(t).Do(t.Context(), reserve)
		require.EqualError(t, err, code.String()+": order ord-1 has other lines", "in its own words")
		for _, meaning := range []error{participant.ErrConflict, participant.ErrBadRequest, participant.ErrForgotten, participant.ErrBadAnswer} {
			require.Equal(t, meaning == want, errors.Is(err, meaning), "%s: %s", code, meaning)
		}
	}
}

// A trip may have the key of an order. Nothing of the order may change with it, least of all be forgotten.
func TestTheServiceKnowsNothingOfSagasOfOtherDefinitions(t *testing.T) {
	p := (&warehouse{}).serve(t) // It implements no records: to be asked would be an error.
	op, err := p.Get(t.Context(), participant.ID{Definition: "trip", Key: "ord-1", Step: checkout.ReserveStock})
	require.NoError(t, err)
	require.Empty(t, op)
	page, err := p.List(t.Context(), participant.Query{Definition: "trip", Keys: []string{"ord-1"}})
	require.NoError(t, err)
	require.Empty(t, page)
	forgotten, err := p.Forget(t.Context(), "trip", []string{"ord-1"})
	require.NoError(t, err)
	require.Equal(t, participant.Forgotten{Keys: []string{"ord-1"}}, forgotten)
	_, err = p.Forget(t.Context(), checkout.Definition, []string{"ord-1"})
	require.Error(t, err, "of a checkout it is asked")
}

func TestWhatTheServiceDoesNotDoIsRefused(t *testing.T) {
	p := (&warehouse{}).serve(t)
	for name, r := range map[string]participant.Request{
		"a saga of another kind":    {Definition: "trip", Key: "ord-1", Step: checkout.ReserveStock, Input: reserve.Input},
		"a step of somebody else's": {Definition: checkout.Definition, Key: "ord-1", Step: checkout.CapturePayment, Input: reserve.Input},
		"no order":                  {Definition: checkout.Definition, Key: "ord-1", Step: checkout.ReserveStock, Input: []byte(`[]`)},
	} {
		_, err := p.Do(t.Context(), r)
		require.ErrorIs(t, err, participant.ErrBadRequest, name)
	}
}
