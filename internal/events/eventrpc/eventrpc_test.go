package eventrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/checkoutsaga/orchestrator/gen/event/v1"
	"github.com/checkoutsaga/orchestrator/gen/event/v1/eventv1connect"
	ordersv1 "github.com/checkoutsaga/orchestrator/gen/orders/v1"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/events/event"
	"github.com/checkoutsaga/orchestrator/internal/events/inbox"
	"github.com/checkoutsaga/orchestrator/internal/events/outbox"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

func TestEventsAreListedPageByPage(t *testing.T) {
	t.Parallel()
	s := Service{Outbox: written(t, 5)}
	var got []string
	token := ""
	for pages := 1; ; pages++ {
		res, err := s.ListEvents(t.Context(), connect.NewRequest(&eventv1.ListEventsRequest{PageSize: 2, PageToken: token}))
		require.NoError(t, err)
		for _, e := range res.Msg.Events {
			got = append(got, e.Header.EventId)
			require.Nil(t, e.PublishedAt)
			m, err := event.Decode("orders.order.status_changed", []byte(e.Data))
			require.NoError(t, err)
			require.Equal(t, e.Header.EventId, m.GetHeader().EventId)
		}
		if token = res.Msg.NextPageToken; token == "" {
			require.Equal(t, 3, pages)
			break
		}
	}
	var want []string
	for n := range 5 {
		want = append(want, fmt.Sprintf("orders:order:ord-%d:1", n))
	}
	require.Equal(t, want, got)

	all, err := s.ListEvents(t.Context(), connect.NewRequest(&eventv1.ListEventsRequest{PageSize: 5}))
	require.NoError(t, err)
	require.Len(t, all.Msg.Events, 5)
	require.Empty(t, all.Msg.NextPageToken, "a page that is full to the last is the last")
}

func TestADryRunOnlyCounts(t *testing.T) {
	t.Parallel()
	o := written(t, 3)
	s := Service{Outbox: o}
	republish := func(dryRun bool) int64 {
		res, err := s.Republish(t.Context(), connect.NewRequest(&eventv1.RepublishRequest{
			Selection: &eventv1.Selection{OrderIds: []string{"ord-0", "ord-2"}}, DryRun: dryRun}))
		require.NoError(t, err)
		return res.Msg.Events
	}
	unpublished := func() int64 {
		backlog, err := o.Backlog(t.Context())
		require.NoError(t, err)
		return backlog.Events
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- o.Relay(ctx, takesAll{}) }()
	require.Eventually(t, func() bool { return unpublished() == 0 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)

	require.EqualValues(t, 2, republish(true))
	require.Zero(t, unpublished())
	require.EqualValues(t, 2, republish(false))
	require.EqualValues(t, 2, unpublished())
}

func TestWhatWasReceivedAndWhatFailedCanBeAsked(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, inbox.Migrations()))
	in := inbox.New("notification", pool, slog.New(slog.DiscardHandler))
	inbox.On(in, func(_ context.Context, _ pgx.Tx, m *ordersv1.OrderStatusChanged) (inbox.Result, error) {
		if m.Header.OrderId == "ord-1" {
			return inbox.Result{}, errors.New("not now")
		}
		return inbox.Late, nil
	})
	subscriptions, err := in.Subscriptions()
	require.NoError(t, err)
	listed, err := written(t, 2).List(t.Context(), outbox.Selection{}, 0, 2)
	require.NoError(t, err)
	ids := []string{"unknown"}
	for _, e := range listed {
		ids = append(ids, e.Header.EventId)
		subscriptions[0].Handle(t.Context(), bus.Delivery{Topic: e.Header.Topic, ID: e.Header.EventId, Data: e.Data})
	}

	s := Service{Inbox: in}
	received, err := s.CheckReceived(t.Context(), connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: ids}))
	require.NoError(t, err)
	require.Len(t, received.Msg.Receipts, 1)
	require.Equal(t, "orders:order:ord-0:1", received.Msg.Receipts[0].EventId)
	require.Equal(t, "late", received.Msg.Receipts[0].Outcome)

	failures, err := s.ListFailures(t.Context(), connect.NewRequest(&eventv1.ListFailuresRequest{MessageIds: ids}))
	require.NoError(t, err)
	require.Len(t, failures.Msg.Failures, 1)
	f := failures.Msg.Failures[0]
	require.Equal(t, "orders:order:ord-1:1", f.MessageId)
	require.Equal(t, "notification", f.Consumer)
	require.Equal(t, "not now", f.Error)
	require.EqualValues(t, 1, f.Attempts)
}

func TestI9BadInputIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	many := slices.Repeat([]string{"ord-1"}, maxPage+1)
	ctx, s := t.Context(), served(t)
	list := func(req *eventv1.ListEventsRequest) error {
		_, err := s.ListEvents(ctx, connect.NewRequest(req))
		return err
	}
	republish := func(selection *eventv1.Selection) error {
		_, err := s.Republish(ctx, connect.NewRequest(&eventv1.RepublishRequest{Selection: selection}))
		return err
	}
	_, received := s.CheckReceived(ctx, connect.NewRequest(&eventv1.CheckReceivedRequest{EventIds: []string{"a\x00"}}))
	_, failures := s.ListFailures(ctx, connect.NewRequest(&eventv1.ListFailuresRequest{MessageIds: many}))
	for want, err := range map[string]error{
		"page_size: must be 0 to 1000":                   list(&eventv1.ListEventsRequest{PageSize: maxPage + 1}),
		"page_size: must be":                             list(&eventv1.ListEventsRequest{PageSize: -1}),
		"page_token: must be one that a page ended with": list(&eventv1.ListEventsRequest{PageToken: "x"}),
		"selection.order_ids: must be at most 1000":      republish(&eventv1.Selection{OrderIds: many}),
		"selection.topic: must not contain spaces":       republish(&eventv1.Selection{Topic: "\x00"}),
		"selection.since: must be a time":                republish(&eventv1.Selection{Since: &timestamppb.Timestamp{Seconds: -1 << 60}}),
		"event_ids[0]: must be at most 4096 bytes":       received,
		"message_ids: must be at most 1000":              failures,
	} {
		require.ErrorContains(t, err, want)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	}
}

func TestAProcessWithoutAPartAnswersWithNothing(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), Service{}
	events, err := s.ListEvents(ctx, connect.NewRequest(&eventv1.ListEventsRequest{}))
	require.NoError(t, err)
	require.Empty(t, events.Msg.Events)
	republished, err := s.Republish(ctx, connect.NewRequest(&eventv1.RepublishRequest{}))
	require.NoError(t, err)
	require.Zero(t, republished.Msg.Events)
	failures, err := s.ListFailures(ctx, connect.NewRequest(&eventv1.ListFailuresRequest{}))
	require.NoError(t, err)
	require.Empty(t, failures.Msg.Failures)
}

// served is a client of a service with nothing, which answers as a process does.
func served(t *testing.T) eventv1connect.EventServiceClient {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(eventv1connect.NewEventServiceHandler(Service{}, connect.WithInterceptors(contract.Interceptor{})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return eventv1connect.NewEventServiceClient(server.Client(), server.URL)
}

// written is an outbox with an event about each of so many orders.
func written(t *testing.T, orders int) *outbox.Outbox {
	t.Helper()
	pool := pgtest.Pool(t)
	require.NoError(t, pg.Migrate(t.Context(), pool, outbox.Migrations()))
	o := outbox.New("orders", pool, slog.New(slog.DiscardHandler))
	require.NoError(t, pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		for n := range orders {
			order := outbox.Order(fmt.Sprint("ord-", n), event.Orchestrated)
			if err := o.Write(t.Context(), tx, order, &ordersv1.OrderStatusChanged{CustomerId: "cus-1", Status: "placed"}); err != nil {
				return err
			}
		}
		return nil
	}))
	return o
}

// takesAll is a bus that takes every event.
type takesAll struct{}

func (takesAll) Publish(_ context.Context, events []bus.Event) []error {
	return make([]error, len(events))
}
func (takesAll) PublishRaw(context.Context, string, []byte) error { return nil }
