package warehouse

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/events/bus"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

func TestI4OrdersInOneTransactionNeverOversell(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.setStock(t, "TABLE-OAK", 10)
	results := make([]*operationv1.Result, 30)
	w.together(t, len(results), func(ctx context.Context, n int) {
		results[n] = w.call(ctx, t, fmt.Sprintf("ord-%02d", n), pieces("TABLE-OAK", 1), pieces("CHAIR-OAK", 2))
	})
	won := 0
	for _, r := range results {
		if r.Outcome == applied {
			won++
			continue
		}
		require.Equal(t, outOfStock, r.Reason)
		require.Equal(t, "1 of TABLE-OAK are wanted and 0 are free", r.Detail)
	}
	require.Equal(t, 10, won)
	require.Equal(t, 1, w.transactions(t))
	require.Equal(t, stock{"TABLE-OAK", 10, 10, 0}, w.stock(t, "TABLE-OAK"))
	require.Equal(t, stock{"CHAIR-OAK", 1000, 20, 0}, w.stock(t, "CHAIR-OAK"), "a refused order reserves none of its lines")
	w.requireBooksBalance(t)
}

// Every kind of operation goes through one transaction, each by what those before it have left.
func TestReservationsReleasesAndShipmentsShareATransaction(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.setStock(t, "TABLE-OAK", 3)
	for _, order := range []string{"to-release", "to-ship"} {
		w.call(t.Context(), t, order, pieces("TABLE-OAK", 1), pieces("LAMP-BRASS", 2))
	}
	requests := []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := w.service.Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: "to-release"}))
			return err
		},
		func(ctx context.Context) error {
			_, err := w.service.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: "to-ship"}))
			return err
		},
		func(ctx context.Context) error {
			w.call(ctx, t, "to-reserve", pieces("TABLE-OAK", 1), pieces("CHAIR-OAK", 1))
			return nil
		},
	}
	w.together(t, len(requests), func(ctx context.Context, n int) { assert.NoError(t, requests[n](ctx)) })
	require.Equal(t, 1, w.transactions(t))
	require.Equal(t, stock{"TABLE-OAK", 2, 1, 1}, w.stock(t, "TABLE-OAK"))
	require.Equal(t, stock{"LAMP-BRASS", 998, 0, 2}, w.stock(t, "LAMP-BRASS"))
	require.Equal(t, []string{"orchestrated reserved", "orchestrated released"}, w.told(t, "to-release"))
	require.Equal(t, []string{"orchestrated reserved", "orchestrated committed"}, w.told(t, "to-ship"))
	require.Equal(t, []string{"orchestrated reserved"}, w.told(t, "to-reserve"))
	w.requireBooksBalance(t)
}

// They are two operations, of which neither would see what the other makes of the reservation.
func TestI2AReleaseAndAShipmentOfOneOrderAreNotDecidedInOneTransaction(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.call(t.Context(), t, "ord-1", pieces("CHAIR-OAK", 1))
	w.call(t.Context(), t, "ord-2", pieces("CHAIR-OAK", 5)) // So that no count would come below zero.
	w.together(t, 2, func(ctx context.Context, n int) {
		var err error
		if n == 0 {
			_, err = w.service.Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: "ord-1"}))
		} else {
			_, err = w.service.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: "ord-1"}))
		}
		assert.NoError(t, err)
	})
	require.Len(t, w.told(t, "ord-1"), 2, "it is reserved, and then either released or shipped")
	w.requireBooksBalance(t)
}

func TestI2AReleaseAndAShipmentOfOneOrderAreNotDecidedInOneChangeEither(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.call(t.Context(), t, "ord-1", pieces("CHAIR-OAK", 1))
	w.call(t.Context(), t, "ord-2", pieces("CHAIR-OAK", 5)) // So that no count would come below zero.
	store := w.service.store
	release, ship := store.releasing(t.Context(), order("ord-1"), ""), store.committing(t.Context(), order("ord-1"), "")
	require.ErrorIs(t, pg.InTx(t.Context(), w.pool, func(tx pgx.Tx) error {
		return commit.In(t.Context(), tx, slices.Concat(release.changes, ship.changes)...)
	}), commit.ErrBusy)
	require.Equal(t, "reserved CHAIR-OAK×1", w.effect(t, "ord-1"))
	w.requireBooksBalance(t)
}

func TestAnOrderThatCannotBeWrittenFailsAlone(t *testing.T) {
	t.Parallel()
	w := open(t)
	// A reservation without its operation is none that any request makes.
	_, err := w.pool.Exec(t.Context(), `INSERT INTO reservations (order_id, state) VALUES ('ord-07', 'released')`)
	require.NoError(t, err)
	errs := make([]error, 20)
	w.together(t, len(errs), func(ctx context.Context, n int) {
		_, errs[n] = w.service.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{
			OrderId: fmt.Sprintf("ord-%02d", n), Lines: []*warehousev1.Line{pieces("CHAIR-OAK", 1)},
		}))
	})
	for n, err := range errs {
		if n == 7 {
			require.ErrorContains(t, err, "reservations_pkey")
			continue
		}
		require.NoError(t, err)
	}
	_, err = w.get(t.Context(), "ord-07", stepReserve)
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), err)
	require.Equal(t, stock{"CHAIR-OAK", 1000, 19, 0}, w.stock(t, "CHAIR-OAK"))
	w.requireBooksBalance(t)
}

// Two processes have one database. Orders come to both, by calls and by events, and some to both at once.
func TestI4ThreeHundredOrdersRacingThroughTwoProcessesForAHundredPiecesNeverOversell(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.setStock(t, "TABLE-OAK", 100)
	second, err := Open(t.Context(), Config{DatabaseURL: w.pool.Config().ConnString()}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	require.NoError(t, err)
	t.Cleanup(second.Close)
	both := []*fixture{w, {service: second, client: w.client, pool: w.pool}}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 300 {
		order, at := fmt.Sprintf("ord-%03d", i), both[i%2]
		lines := []*warehousev1.Line{pieces("TABLE-OAK", 1), pieces("CHAIR-OAK", 1)}
		if i%3 == 0 {
			all.Go(func() { assert.Equal(t, bus.Success, at.deliver(t, created(order, lines...))) })
			continue
		}
		all.Go(func() {
			r := at.call(t.Context(), t, order, lines...)
			if r.GetOutcome() == applied {
				won.Add(1)
				return
			}
			assert.Equal(t, outOfStock, r.GetReason())
		})
		if i%10 == 0 {
			all.Go(func() { both[1-i%2].call(t.Context(), t, order, lines...) })
		}
	}
	all.Wait()
	require.Equal(t, stock{"TABLE-OAK", 100, 100, 0}, w.stock(t, "TABLE-OAK"))
	require.Equal(t, stock{"CHAIR-OAK", 1000, 100, 0}, w.stock(t, "CHAIR-OAK"))
	require.LessOrEqual(t, won.Load(), int32(100))
	w.requireBooksBalance(t)
	require.Empty(t, w.checkBooks(t))
}

// call reserves without the wire between.
func (w *fixture) call(ctx context.Context, t *testing.T, order string, lines ...*warehousev1.Line) *operationv1.Result {
	t.Helper()
	res, err := w.service.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{OrderId: order, Lines: lines}))
	if !assert.NoError(t, err) {
		return nil
	}
	return res.Msg.Result
}

// transactions is how many have written the reservations as they are.
func (w *fixture) transactions(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT count(DISTINCT xmin::text) FROM reservations`).Scan(&n))
	return n
}

// together makes calls that are all committed in one transaction, if they can be: another one holds up the committer until all wait. Each
// must be one operation, and go on with the context that it is given.
func (w *fixture) together(t *testing.T, calls int, call func(ctx context.Context, n int)) {
	t.Helper()
	deciding, goOn := make(chan struct{}), make(chan struct{})
	hold := &holding{func() { close(deciding); <-goOn }}
	var all, waiting sync.WaitGroup
	all.Go(func() {
		assert.NoError(t, w.service.store.committer.Do(context.Background(), &commit.Change{Of: hold}))
	})
	<-deciding
	waiting.Add(calls)
	for n := range calls {
		all.Go(func() { call(&watched{t.Context(), sync.OnceFunc(waiting.Done)}, n) })
	}
	waiting.Wait()
	close(goOn)
	all.Wait()
}

// watched is a context that tells when somebody waits for its end: a committer does as long as the transaction is yet to come.
type watched struct {
	context.Context
	waits func()
}

func (w *watched) Done() <-chan struct{} {
	w.waits()
	return w.Context.Done()
}

// holding is a table that reads and writes nothing, and decides by a function.
type holding struct{ decide func() }

func (h *holding) Read(*pgx.Batch, []*commit.Change, bool) {}

func (h *holding) Decide([]*commit.Change) { h.decide() }

func (h *holding) Write(context.Context, *pgx.Batch, []*commit.Change) error { return nil }
