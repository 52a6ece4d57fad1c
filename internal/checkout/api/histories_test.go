package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"github.com/dapr/durabletask-go/api/protos"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout/api"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
)

// remembering is an engine that knows the histories of instances.
type remembering struct {
	*fakeEngine
	history func(id string) ([]*protos.HistoryEvent, error)
}

func (e remembering) History(_ context.Context, id string) ([]*protos.HistoryEvent, error) {
	return e.history(id)
}

func (f *fixture) openHistories(t *testing.T, history func(id string) ([]*protos.HistoryEvent, error)) []*checkoutv1.ListOpenHistoriesResponse {
	t.Helper()
	desk := checkouttest.Desk(f.store, remembering{f.engine, history}, f.warehouse, f.payment)
	service := api.New(api.Config{
		Store: f.store, Orders: checkouttest.Orders(f.pool), Pool: f.pool, Engine: remembering{f.engine, history}, Definition: checkouttest.Definition(), Warehouse: f.warehouse, Payment: f.payment,
		Desk: desk, Doctor: checkouttest.Doctor(t, f.pool, remembering{f.engine, history}, desk),
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	mux := http.NewServeMux()
	mux.Handle(checkoutv1connect.NewCheckoutServiceHandler(service))
	server := httptest.NewServer(mux)
	defer server.Close()
	stream, err := checkoutv1connect.NewCheckoutServiceClient(server.Client(), server.URL).
		ListOpenHistories(t.Context(), connect.NewRequest(&checkoutv1.ListOpenHistoriesRequest{}))
	require.NoError(t, err)
	var all []*checkoutv1.ListOpenHistoriesResponse
	for stream.Receive() {
		all = append(all, proto.CloneOf(stream.Msg()))
	}
	require.NoError(t, stream.Err())
	return all
}

func TestHistoriesOfAllOpenRunsAreSentAndOfNoOther(t *testing.T) {
	f := setup(t)
	const open = 120 // More than two pages.
	var want []string
	for n := range open {
		id := fmt.Sprintf("ord-%03d", n)
		want = append(want, "checkout."+id+"-1")
		f.start(t, order(withID(id)))
	}
	for _, other := range []string{"ended", "elsewhere", "waiting"} {
		f.start(t, order(withID(other)))
	}
	f.decline(t, "ended")
	_, err := f.pool.Exec(t.Context(), `UPDATE sagas SET engine = CASE key WHEN 'elsewhere' THEN 'dapr' ELSE engine END, elsewhere = key = 'waiting'`)
	require.NoError(t, err)

	event := &protos.HistoryEvent{EventId: 7, EventType: &protos.HistoryEvent_WorkflowStarted{WorkflowStarted: &protos.WorkflowStartedEvent{}}}
	all := f.openHistories(t, func(id string) ([]*protos.HistoryEvent, error) {
		switch id {
		case "checkout.ord-001-1":
			return nil, engine.ErrGone
		case "checkout.ord-002-1":
			return nil, errors.New("the engine\nsleeps")
		}
		return []*protos.HistoryEvent{event}, nil
	})
	var got []string
	for _, a := range all {
		got = append(got, a.InstanceId)
	}
	require.Equal(t, want, got)
	require.True(t, slices.IsSorted(got))
	require.Equal(t, "ord-000", all[0].OrderId)
	require.EqualValues(t, 1, all[0].Run)
	require.Equal(t, "reserve-stock", all[0].Step)
	var read protos.HistoryEvent
	require.Len(t, all[0].Events, 1)
	require.NoError(t, proto.Unmarshal(all[0].Events[0], &read))
	require.True(t, proto.Equal(event, &read))
	require.Empty(t, all[1].Events)
	require.Empty(t, all[1].Unreadable, "the engine may have lost it, or not begun it")
	require.Equal(t, "the engine sleeps", all[2].Unreadable)
}
