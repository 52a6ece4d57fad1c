package warehouse

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
)

func TestAnOrderIsForgottenOnceItHoldsNothingAndItsEventsAreOut(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, order := range []string{"held", "released", "shipped"} {
		_, err := w.reserve(t.Context(), order, pieces("CHAIR-OAK", 2))
		require.NoError(t, err)
	}
	_, err := w.release(t.Context(), "released")
	require.NoError(t, err)
	_, err = w.commit(t.Context(), "shipped")
	require.NoError(t, err)

	all := []string{"held", "released", "shipped", "never-heard-of"}
	require.Equal(t, []string{
		"held: its reservation is open", "released: an event about it is not published yet", "shipped: an event about it is not published yet",
	}, kept(w.forget(t, all...)))
	w.publishAll(t)
	res := w.forget(t, all...)
	require.ElementsMatch(t, []string{"released", "shipped", "never-heard-of"}, res.ForgottenOrderIds)
	require.Equal(t, []string{"held: its reservation is open"}, kept(res))

	// I4: what the stock adds up from is still there.
	w.requireBooksBalance(t)
	require.Empty(t, w.checkBooks(t))
	require.Equal(t, stock{"CHAIR-OAK", 998, 2, 2}, w.stock(t, "CHAIR-OAK"))
	_, err = w.reserve(t.Context(), "never-heard-of", pieces("CHAIR-OAK", 2))
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "what comes late for it is not new")
}

func TestI4BooksThatDifferFromTheReservationsAreToldWithBothFigures(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, order := range []string{"ord-1", "ord-2", "ord-3"} {
		_, err := w.reserve(t.Context(), order, pieces("CHAIR-OAK", 2), pieces("LAMP-BRASS", 1))
		require.NoError(t, err)
	}
	_, err := w.commit(t.Context(), "ord-2")
	require.NoError(t, err)
	_, err = w.release(t.Context(), "ord-3")
	require.NoError(t, err)
	require.Empty(t, w.checkBooks(t))

	for _, wrong := range []string{
		`UPDATE stock SET committed = committed + 2 WHERE sku = 'CHAIR-OAK'`, // shipped twice
		`UPDATE reservations SET state = 'released' WHERE order_id = 'ord-1'`,
	} {
		_, err := w.pool.Exec(t.Context(), wrong)
		require.NoError(t, err)
	}
	require.Empty(t, cmp.Diff([]*operationv1.Discrepancy{
		{About: "CHAIR-OAK", Figure: "committed", Stated: 4, Counted: 2},
		{About: "CHAIR-OAK", Figure: "reserved", Stated: 2, Counted: 0},
		{About: "LAMP-BRASS", Figure: "reserved", Stated: 1, Counted: 0},
	}, w.checkBooks(t), protocmp.Transform()))
}

func TestI4BooksAreRightAtEveryMomentOfTraffic(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var traffic sync.WaitGroup
	for i := range 4 {
		traffic.Go(func() {
			for n := range 25 {
				order := fmt.Sprintf("ord-%d-%d", i, n)
				_, err := w.reserve(ctx, order, pieces("CHAIR-OAK", 2), pieces("LAMP-BRASS", 1))
				assert.NoError(t, err)
				if n%2 == 0 {
					_, err = w.release(ctx, order)
				} else {
					_, err = w.commit(ctx, order)
				}
				assert.NoError(t, err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { traffic.Wait(); close(ended) }()
	for looks := 0; ; looks++ {
		require.Empty(t, w.checkBooks(t))
		select {
		case <-ended:
			t.Logf("looked %d times", looks)
			return
		default:
		}
	}
}

func TestReservationsAreListedByOrder(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, order := range []string{"ord-2", "ord-1"} {
		_, err := w.reserve(t.Context(), order, pieces("TABLE-OAK", 1), pieces("CHAIR-OAK", 2))
		require.NoError(t, err)
	}
	_, err := w.release(t.Context(), "ord-2")
	require.NoError(t, err)
	res, err := w.client.ListReservations(t.Context(), connect.NewRequest(&warehousev1.ListReservationsRequest{OrderIds: []string{"ord-2", "ord-9", "ord-1"}}))
	require.NoError(t, err)
	lines := []*warehousev1.Line{pieces("CHAIR-OAK", 2), pieces("TABLE-OAK", 1)}
	require.Empty(t, cmp.Diff([]*warehousev1.Reservation{
		{OrderId: "ord-1", State: warehousev1.ReservationState_RESERVATION_STATE_RESERVED, Lines: lines},
		{OrderId: "ord-2", State: warehousev1.ReservationState_RESERVATION_STATE_RELEASED, Lines: lines},
	}, res.Msg.Reservations, protocmp.Transform()))

	for says, ids := range map[string][]string{
		"order_ids: is missing":      nil,
		"order_ids: must be at most": make([]string, 1001),
		"order_ids[1]: must be":      {"ord-1", "not an id"},
	} {
		_, err := w.client.ListReservations(t.Context(), connect.NewRequest(&warehousev1.ListReservationsRequest{OrderIds: ids}))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), err)
		require.ErrorContains(t, err, says)
	}
}

func TestReleasingWhatNeverCameSaysThatItWasUnseen(t *testing.T) {
	t.Parallel()
	w := open(t)
	for range 2 {
		r, err := w.release(t.Context(), "ord-1")
		require.NoError(t, err)
		require.Equal(t, "unseen", r.Reason)
	}
}

func (w *fixture) forget(t *testing.T, orders ...string) *operationv1.ForgetOperationsResponse {
	t.Helper()
	res, err := w.client.ForgetOperations(t.Context(), connect.NewRequest(&operationv1.ForgetOperationsRequest{OrderIds: orders}))
	require.NoError(t, err)
	return res.Msg
}

func kept(res *operationv1.ForgetOperationsResponse) (all []string) {
	for _, k := range res.Kept {
		all = append(all, strings.Join([]string{k.OrderId, k.Why}, ": "))
	}
	return all
}

func (w *fixture) checkBooks(t *testing.T) []*operationv1.Discrepancy {
	t.Helper()
	res, err := w.client.CheckBooks(t.Context(), connect.NewRequest(&operationv1.CheckBooksRequest{}))
	require.NoError(t, err)
	return res.Msg.Discrepancies
}

// publishAll stands for a relay that has published all there is.
func (w *fixture) publishAll(t *testing.T) {
	t.Helper()
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox SET published_at = clock_timestamp() WHERE published_at IS NULL`)
	require.NoError(t, err)
}
