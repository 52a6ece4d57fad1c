package api_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

func (f *fixture) get(t *testing.T, orderID string) *checkoutv1.Checkout {
	t.Helper()
	answer, err := f.api.Get(t.Context(), connect.NewRequest(&checkoutv1.GetRequest{OrderId: orderID}))
	require.NoError(t, err)
	return answer.Msg.Checkout
}

func (f *fixture) cancel(t *testing.T, req *checkoutv1.CancelRequest) (*checkoutv1.CancelResponse, error) {
	t.Helper()
	answer, err := f.api.Cancel(t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return answer.Msg, nil
}

func TestHeldFollowsTheCheckout(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	money := &operationv1.Money{Currency: "EUR", MinorUnits: 12997}
	stock := order().Items
	for _, c := range []struct {
		step string
		want *checkoutv1.Held
	}{
		{checkout.ReserveStock, &checkoutv1.Held{Stock: stock}},
		{checkout.AuthorizePayment, &checkoutv1.Held{Stock: stock, Authorized: money}},
		{checkout.CapturePayment, &checkoutv1.Held{Stock: stock, Captured: money}},
		{checkout.CommitStock, &checkoutv1.Held{Stock: stock, Captured: money}},
	} {
		f.do(t, "ord-1", c.step, false, saga.Applied, "")
		require.Empty(t, cmp.Diff(c.want, f.get(t, "ord-1").Held, protocmp.Transform()), "after %s", c.step)
	}

	f.start(t, order(withID("ord-2")))
	f.decline(t, "ord-2")
	require.Empty(t, cmp.Diff(&checkoutv1.Held{}, f.get(t, "ord-2").Held, protocmp.Transform()), "nothing is held in the end")
}

func TestAnUnknownOrderIsNotFound(t *testing.T) {
	f := setup(t)
	_, get := f.api.Get(t.Context(), connect.NewRequest(&checkoutv1.GetRequest{OrderId: "nope"}))
	_, history := f.api.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: "nope"}))
	_, cancel := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "nope", Reason: "r"})
	_, dryRun := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "nope", Reason: "r", DryRun: true})
	stream, err := f.api.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "nope"}))
	require.NoError(t, err)
	require.False(t, stream.Receive())
	for _, err := range []error{get, history, cancel, dryRun, stream.Err()} {
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), "%v", err)
		require.ErrorContains(t, err, `"nope"`)
	}
}

func TestListPagesThroughAllNewestFirst(t *testing.T) {
	f := setup(t)
	for i := range 5 {
		f.start(t, order(withID(fmt.Sprintf("ord-%d", i))))
	}
	var ids []string
	req := &checkoutv1.ListRequest{Limit: 2}
	for pages := 0; pages < 4; pages++ {
		answer, err := f.api.List(t.Context(), connect.NewRequest(req))
		require.NoError(t, err)
		for _, c := range answer.Msg.Checkouts {
			ids = append(ids, c.OrderId)
		}
		if req.PageToken = answer.Msg.NextPageToken; req.PageToken == "" {
			break
		}
	}
	require.Equal(t, []string{"ord-4", "ord-3", "ord-2", "ord-1", "ord-0"}, ids)
}

func TestI9BadFiltersAreToldByField(t *testing.T) {
	f := setup(t)
	_, err := f.api.List(t.Context(), connect.NewRequest(&checkoutv1.ListRequest{
		Statuses: []checkoutv1.Status{99}, Step: "juggle", AmountOver: -1, OlderThan: durationpb.New(-time.Second), Limit: 1001,
	}))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.Equal(t, []string{
		"statuses[0]: must be STATUS_RUNNING, STATUS_AWAITING_APPROVAL, STATUS_COMPENSATING, STATUS_NEEDS_ATTENTION, STATUS_CONFIRMED, " +
			"STATUS_REJECTED, STATUS_CANCELLED or STATUS_EXPIRED",
		"amount_over: must not be negative", "older_than: must not be negative", "limit: must be 0 to 1000, not 1001",
	}, badFields(t, err))
	_, err = f.api.List(t.Context(), connect.NewRequest(&checkoutv1.ListRequest{Step: "juggle"}))
	require.Equal(t, []string{`step: is neither a step nor a compensation: "juggle"`}, badFields(t, err))
	_, err = f.api.List(t.Context(), connect.NewRequest(&checkoutv1.ListRequest{PageToken: "!"}))
	require.Equal(t, []string{"page_token: must be one that a page ended with"}, badFields(t, err))
}

func TestWatchEndsWithTheFinalState(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	stream, err := f.api.Watch(ctx, connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	require.True(t, stream.Receive(), "it begins with what is so now")
	require.Equal(t, checkoutv1.Status_STATUS_RUNNING, stream.Msg().Checkout.Status)

	began := time.Now()
	f.confirm(t, "ord-1")
	var last *checkoutv1.Checkout
	for stream.Receive() {
		last = stream.Msg().Checkout
	}
	require.NoError(t, stream.Err())
	require.Equal(t, checkoutv1.Status_STATUS_CONFIRMED, last.Status)
	require.Less(t, time.Since(began), 4*time.Second, "a change wakes the watcher; it does not wait for the next look")
}

func TestWhoWaitsForTheEndAloneIsSentHowItStandsAndTheEnd(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	stream, err := f.api.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "ord-1", OnlySettled: true}))
	require.NoError(t, err)
	require.True(t, stream.Receive())
	f.confirm(t, "ord-1")
	require.True(t, stream.Receive())
	require.Equal(t, checkoutv1.Status_STATUS_CONFIRMED, stream.Msg().Checkout.Status)
	require.False(t, stream.Receive())
	require.NoError(t, stream.Err())
}

func TestWatchUntilSettledEndsWithAttention(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	attempt := journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: "ord-1", Run: 1, Step: checkout.ReserveStock, Round: 12, Stuck: true}}
	_, err := f.store.Fence(t.Context(), attempt)
	require.NoError(t, err)
	_, err = f.store.Record(t.Context(), attempt, journal.Learned{Outcome: saga.Unknown, Detail: "no answer"}, nil)
	require.NoError(t, err)
	stream, err := f.api.Watch(t.Context(), connect.NewRequest(&checkoutv1.WatchRequest{OrderId: "ord-1", UntilSettled: true}))
	require.NoError(t, err)
	require.True(t, stream.Receive())
	require.Equal(t, "reserve-stock", stream.Msg().Checkout.Attention.Step)
	require.False(t, stream.Receive())
	require.NoError(t, stream.Err())
}

func TestCancelTellsWhatIsUndoneAndWakesTheRun(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	f.do(t, "ord-1", checkout.ReserveStock, false, saga.Applied, "")

	wish := &checkoutv1.CancelRequest{OrderId: "ord-1", Reason: "changed my mind", Actor: "ann", DryRun: true}
	before := f.rows(t)
	answer, err := f.cancel(t, wish)
	require.NoError(t, err)
	require.Contains(t, answer.ToUndo, checkout.ReserveStock)
	require.Equal(t, before, f.rows(t), "a dry run writes nothing")
	require.Empty(t, f.engine.raised)

	wish.DryRun = false
	answer, err = f.cancel(t, wish)
	require.NoError(t, err)
	require.Contains(t, answer.ToUndo, checkout.ReserveStock)
	require.Empty(t, answer.Undone)
	require.Equal(t, []string{"checkout.ord-1-1 cancel"}, f.engine.raised)

	_, err = f.store.Fence(t.Context(), journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: "ord-1", Run: 1, Step: checkout.AuthorizePayment, Round: 1}})
	require.NoError(t, err)
	for _, step := range []string{checkout.AuthorizePayment, checkout.ReserveStock} {
		f.do(t, "ord-1", step, true, saga.Applied, "")
	}
	answer, err = f.cancel(t, wish)
	require.NoError(t, err, "a cancelled checkout may be cancelled again")
	require.Equal(t, checkoutv1.Status_STATUS_CANCELLED, answer.Checkout.Status)
	require.Contains(t, answer.Undone, checkout.ReserveStock)
	require.Empty(t, answer.ToUndo)

	history, err := f.api.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	var commands []string
	for _, e := range history.Msg.Entries {
		if e.Kind == "command" {
			commands = append(commands, e.Actor+": "+e.Reason)
		}
	}
	require.Equal(t, []string{"ann: changed my mind", "ann: changed my mind"}, commands, "who asked, and why, is kept")
}

func TestCancelOfWhatNobodyWasAskedForEndsItAtOnce(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	answer, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "ord-1", Reason: "typo"})
	require.NoError(t, err)
	require.Equal(t, checkoutv1.Status_STATUS_CANCELLED, answer.Checkout.Status)
	require.Empty(t, answer.ToUndo)
	require.Empty(t, f.engine.raised)
}

func TestACancelThatIsTooLateSaysWhatIsSo(t *testing.T) {
	f := setup(t)
	f.start(t, order(withID("confirmed")))
	f.confirm(t, "confirmed")
	f.start(t, order(withID("rejected")))
	f.decline(t, "rejected")
	f.start(t, order(withID("captured")))
	f.start(t, order(withID("capturing")))
	for _, id := range []string{"captured", "capturing"} {
		f.do(t, id, checkout.ReserveStock, false, saga.Applied, "")
		f.do(t, id, checkout.AuthorizePayment, false, saga.Applied, "")
	}
	f.do(t, "captured", checkout.CapturePayment, false, saga.Applied, "")
	f.do(t, "capturing", checkout.CapturePayment, false, saga.Unknown, "started")

	for orderID, want := range map[string]string{
		"confirmed": "it is CONFIRMED",
		"rejected":  "it ended REJECTED",
		"captured":  "was captured, so it goes forward",
		"capturing": "the capture of 129.97 EUR is under way",
	} {
		for _, dryRun := range []bool{true, false} {
			_, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: orderID, Reason: "late", DryRun: dryRun})
			require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "%s: %v", orderID, err)
			require.ErrorContains(t, err, want)
		}
	}
	require.Empty(t, f.engine.raised)
}

func TestI9ACancelNeedsAReason(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	before := f.rows(t)
	_, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "ord-1"})
	require.Equal(t, []string{"reason: is missing"}, badFields(t, err))
	require.Equal(t, before, f.rows(t))
}

func TestHistoryTellsTheRequestThePricesAndTheParticipantsRecords(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	f.confirm(t, "ord-1")
	answer, err := f.api.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: "ord-1"}))
	require.NoError(t, err)
	h := answer.Msg
	require.Empty(t, cmp.Diff(order(), h.Request, protocmp.Transform()))
	require.EqualValues(t, 4999, h.Prices[0].UnitPrice.MinorUnits)
	require.Len(t, h.Operations, 4)
	require.Equal(t, "applied", h.Operations[3].Do)

	f.warehouse.down = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))
	answer, err = f.api.History(t.Context(), connect.NewRequest(&checkoutv1.HistoryRequest{OrderId: "ord-1"}))
	require.NoError(t, err, "a participant that is down costs its own lines only")
	require.Contains(t, answer.Msg.Operations[0].Do, "warehouse cannot be asked")
	require.Equal(t, "applied", answer.Msg.Operations[1].Do)
}

func TestDoctorNamesWhatIsWrongAndHowToMendIt(t *testing.T) {
	f := setup(t)
	findings := func() map[string]*checkoutv1.Finding {
		answer, err := f.api.Doctor(t.Context(), connect.NewRequest(&checkoutv1.DoctorRequest{}))
		require.NoError(t, err)
		require.Equal(t, "ORCHESTRATOR_LISTEN", answer.Msg.Settings[0].Name)
		found := make(map[string]*checkoutv1.Finding)
		for _, finding := range answer.Msg.Findings {
			found[finding.Check] = finding
		}
		return found
	}
	for check, finding := range findings() {
		require.True(t, finding.Ok, "%s: %s", check, finding.Detail)
		require.Empty(t, finding.Mend)
	}

	f.engine.checkErr = errors.New("no worker is connected")
	f.warehouse.down = errors.New("connection refused")
	f.start(t, order())
	_, err := f.pool.Exec(t.Context(), `UPDATE checkouts SET engine = 'dapr'`)
	require.NoError(t, err)
	_, err = f.pool.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id > 0`)
	require.NoError(t, err)
	found := findings()
	for _, check := range []string{"engine embedded", "participant warehouse", "checkouts of another engine", "migrations"} {
		require.False(t, found[check].Ok, check)
		require.NotEmpty(t, found[check].Mend, check)
	}
	require.True(t, found["participant payment"].Ok)
	require.True(t, found["database"].Ok)
}

func (f *fixture) resolveDone(t *testing.T, step string, withoutProof bool) error {
	t.Helper()
	_, err := f.api.Resolve(t.Context(), connect.NewRequest(&checkoutv1.ResolveRequest{
		OrderId: "ord-1", Step: step, As: checkoutv1.Resolution_RESOLUTION_DONE, Reason: "looked it up", WithoutProof: withoutProof,
	}))
	return err
}

func TestTheRecordOfWhoeverForgotProvesNothing(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	f.do(t, "ord-1", checkout.ReserveStock, false, saga.Applied, "")
	f.do(t, "ord-1", checkout.AuthorizePayment, false, saga.Applied, "")
	_, err := f.cancel(t, &checkoutv1.CancelRequest{OrderId: "ord-1", Reason: "called"})
	require.NoError(t, err)
	pass, err := f.store.Fence(t.Context(), journal.Attempt{Call: saga.Call{Definition: checkout.Definition, Key: "ord-1", Run: 1, Step: checkout.CapturePayment, Round: 1}})
	require.NoError(t, err)
	require.Equal(t, journal.TurnBack, pass.Leave)
	require.Equal(t, saga.Reply{Step: checkout.AuthorizePayment, Outcome: saga.Unknown, Reason: "unseen"}, f.do(t, "ord-1", checkout.AuthorizePayment, true, saga.Applied, "unseen"))
	c := f.get(t, "ord-1")
	require.Equal(t, "forgotten", c.Attention.Code)
	require.Contains(t, c.Attention.Advice, "--as done --without-proof")

	err = f.resolveDone(t, checkout.VoidAuthorization, false)
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err))
	require.ErrorContains(t, err, "its record proves nothing")
	require.NoError(t, f.resolveDone(t, checkout.VoidAuthorization, true))
	require.Equal(t, checkoutv1.Status_STATUS_COMPENSATING, f.get(t, "ord-1").Status)
}

func TestAParticipantThatCannotBeAskedProvesNothing(t *testing.T) {
	f := setup(t)
	f.start(t, order())
	f.do(t, "ord-1", checkout.ReserveStock, false, saga.Unknown, "")
	f.warehouse.down = connect.NewError(connect.CodeUnavailable, errors.New("away"))
	err := f.resolveDone(t, checkout.ReserveStock, false)
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
	require.ErrorContains(t, err, "warehouse cannot be asked for its record")
}
