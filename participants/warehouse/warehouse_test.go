package warehouse

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	warehousev1 "github.com/checkoutsaga/orchestrator/gen/warehouse/v1"
	"github.com/checkoutsaga/orchestrator/gen/warehouse/v1/warehousev1connect"
	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
)

const (
	applied      = operationv1.Outcome_OUTCOME_APPLIED
	rejectedDone = operationv1.Outcome_OUTCOME_REJECTED
)

func TestReleaseWaitsForAReservationInFlightAndThenUndoesIt(t *testing.T) {
	t.Parallel()
	w := open(t)
	// The lock on the article stops the reservation in the middle of its transaction, its operation row inserted.
	tx := w.begin(t)
	_, err := tx.Exec(t.Context(), `SELECT FROM stock WHERE sku = 'CHAIR-OAK' FOR UPDATE`)
	require.NoError(t, err)

	reserved, released := make(chan *operationv1.Result, 1), make(chan *operationv1.Result, 1)
	go func() {
		r, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
		assert.NoError(t, err)
		reserved <- r
	}()
	w.requireWaitingForLocks(t, 1)
	go func() {
		r, err := w.release(t.Context(), "ord-1")
		assert.NoError(t, err)
		released <- r
	}()
	w.requireWaitingForLocks(t, 2)
	require.Empty(t, released, "the release answered while the reservation could still be made")
	require.NoError(t, tx.Rollback(t.Context()))

	require.Equal(t, applied, (<-reserved).Outcome)
	require.Equal(t, applied, (<-released).Outcome)
	require.Equal(t, "released CHAIR-OAK×2", w.effect(t, "ord-1"))
	require.Equal(t, stock{"CHAIR-OAK", 1000, 0, 0}, w.stock(t, "CHAIR-OAK"))
	op, err := w.get(t.Context(), "ord-1", stepReserve)
	require.NoError(t, err)
	require.Equal(t, []operationv1.Outcome{applied, applied}, []operationv1.Outcome{op.Do, op.Undo})
}

func TestReleaseInFlightMakesAReservationWaitAndBeRefused(t *testing.T) {
	t.Parallel()
	w := open(t)
	tx := w.begin(t)
	// A release of an order never heard of, not yet committed.
	_, err := doIn(t.Context(), tx, w.service.store.releasing(t.Context(), order("ord-1"), ""))
	require.NoError(t, err)
	reserved := make(chan *operationv1.Result, 1)
	go func() {
		r, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
		assert.NoError(t, err)
		reserved <- r
	}()
	w.requireWaitingForLocks(t, 1)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, operationv1.Outcome_OUTCOME_UNDONE_BEFORE, (<-reserved).Outcome)
	require.Equal(t, "holds nothing", w.effect(t, "ord-1"))
}

func TestArticlesAreLockedInTheOrderOfTheirNames(t *testing.T) {
	t.Parallel()
	w := open(t)
	first, second := w.begin(t), w.begin(t)
	_, err := first.Exec(t.Context(), `SELECT FROM stock WHERE sku = 'LAMP-BRASS' FOR UPDATE`)
	require.NoError(t, err)
	reserved := make(chan *operationv1.Result, 1)
	go func() {
		r, err := w.reserve(t.Context(), "ord-1", pieces("TABLE-OAK", 1), pieces("LAMP-BRASS", 1))
		assert.NoError(t, err)
		reserved <- r
	}()
	w.requireWaitingForLocks(t, 1)
	// It waits for the lamp, and must not hold the table meanwhile: an order that has the lamp may be waiting for that.
	_, err = second.Exec(t.Context(), `SELECT FROM stock WHERE sku = 'TABLE-OAK' FOR UPDATE NOWAIT`)
	require.NoError(t, err)
	require.NoError(t, second.Rollback(t.Context()))
	require.NoError(t, first.Rollback(t.Context()))
	require.Equal(t, applied, (<-reserved).Outcome)
}

func TestI4FiftyOrdersRacingForTheLastTenPiecesNeverOversell(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.setStock(t, "TABLE-OAK", 10)
	w.setStock(t, "CHAIR-OAK", 1000)
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 50 {
		// Half of them name the articles the other way round, which would deadlock if locks followed the request.
		lines := []*warehousev1.Line{pieces("TABLE-OAK", 1), pieces("CHAIR-OAK", 1)}
		if i%2 == 0 {
			lines[0], lines[1] = lines[1], lines[0]
		}
		all.Go(func() {
			r, err := w.reserve(t.Context(), fmt.Sprintf("ord-%d", i), lines...)
			if !assert.NoError(t, err) {
				return
			}
			if r.Outcome == applied {
				won.Add(1)
				return
			}
			assert.Equal(t, outOfStock, r.Reason)
		})
	}
	all.Wait()
	require.EqualValues(t, 10, won.Load())
	require.Equal(t, stock{"TABLE-OAK", 10, 10, 0}, w.stock(t, "TABLE-OAK"))
	require.Equal(t, stock{"CHAIR-OAK", 1000, 10, 0}, w.stock(t, "CHAIR-OAK"), "a refused order reserves none of its lines")
	w.requireBooksBalance(t)
}

func TestCommitAndReleaseAtOnceHaveOneWinner(t *testing.T) {
	t.Parallel()
	w := open(t)
	var wins [2]atomic.Int32
	var all sync.WaitGroup
	for i := range 40 {
		order := fmt.Sprintf("ord-%d", i)
		_, err := w.reserve(t.Context(), order, pieces("CHAIR-OAK", 1))
		require.NoError(t, err)
		var outcomes [2]*operationv1.Result
		var both sync.WaitGroup
		both.Go(func() { outcomes[0], _ = w.commit(t.Context(), order) })
		both.Go(func() { outcomes[1], _ = w.release(t.Context(), order) })
		all.Go(func() {
			both.Wait()
			if !assert.NotNil(t, outcomes[0]) || !assert.NotNil(t, outcomes[1]) {
				return
			}
			switch outcomes[0].Outcome {
			case applied:
				wins[0].Add(1)
				assert.Equal(t, alreadyCommitted, outcomes[1].Reason)
			default:
				wins[1].Add(1)
				assert.Equal(t, noReservation, outcomes[0].Reason)
				assert.Equal(t, applied, outcomes[1].Outcome)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 40, wins[0].Load()+wins[1].Load())
	require.Equal(t, stock{"CHAIR-OAK", 1000 - wins[0].Load(), 0, wins[0].Load()}, w.stock(t, "CHAIR-OAK"))
	w.requireBooksBalance(t)
}

func TestACommitTakesThePiecesOutOfTheBuilding(t *testing.T) {
	t.Parallel()
	w := open(t)
	_, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 3))
	require.NoError(t, err)
	require.Equal(t, stock{"CHAIR-OAK", 1000, 3, 0}, w.stock(t, "CHAIR-OAK"))
	_, err = w.commit(t.Context(), "ord-1")
	require.NoError(t, err)
	require.Equal(t, stock{"CHAIR-OAK", 997, 0, 3}, w.stock(t, "CHAIR-OAK"))

	r, err := w.release(t.Context(), "ord-1")
	require.NoError(t, err)
	require.Equal(t, rejectedDone, r.Outcome)
	require.Equal(t, alreadyCommitted, r.Reason)
	require.Equal(t, stock{"CHAIR-OAK", 997, 0, 3}, w.stock(t, "CHAIR-OAK"))
}

func TestTheSameLinesInAnotherOrderAreTheSameOrder(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, lines := range [][]*warehousev1.Line{
		{pieces("CHAIR-OAK", 2), pieces("LAMP-BRASS", 1)},
		{pieces("LAMP-BRASS", 1), pieces("CHAIR-OAK", 2)},
	} {
		r, err := w.reserve(t.Context(), "ord-1", lines...)
		require.NoError(t, err)
		require.Equal(t, applied, r.Outcome)
	}
	require.Equal(t, "reserved CHAIR-OAK×2 LAMP-BRASS×1", w.effect(t, "ord-1"))
}

func TestStockIsSetAndTold(t *testing.T) {
	t.Parallel()
	w := open(t)
	all, err := w.client.ListStock(t.Context(), connect.NewRequest(&warehousev1.ListStockRequest{}))
	require.NoError(t, err)
	require.Len(t, all.Msg.Stock, 20)
	for _, a := range all.Msg.Stock {
		require.EqualValues(t, 1000, a.OnHand, a.Sku)
	}

	w.setStock(t, "NEW-CHAIR", 0)
	require.Equal(t, stock{"NEW-CHAIR", 0, 0, 0}, w.stock(t, "NEW-CHAIR"))

	_, err = w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 7))
	require.NoError(t, err)
	_, err = w.client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: "CHAIR-OAK", OnHand: 6}))
	require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), err)
	w.setStock(t, "CHAIR-OAK", 7)
	require.Equal(t, stock{"CHAIR-OAK", 7, 7, 0}, w.stock(t, "CHAIR-OAK"))

	_, err = w.client.GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: "NO-SUCH-CHAIR"}))
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err), err)
}

func TestI4TheSchemaRefusesWhatNoCodeMayDo(t *testing.T) {
	t.Parallel()
	w := open(t)
	for name, change := range map[string]string{
		"promising more than there is": `UPDATE stock SET reserved = on_hand + 1`,
		"promising less than nothing":  `UPDATE stock SET reserved = -1`,
		"shipping less than nothing":   `UPDATE stock SET committed = -1`,
		"having less than nothing":     `UPDATE stock SET on_hand = -1`,
		"reserving no pieces":          `INSERT INTO reservation_lines VALUES ('o', 'CHAIR-OAK', 0)`,
		"a refusal without a reason":   `INSERT INTO operations (definition, key, step, digest, do_state) VALUES ('checkout', 'o', 's', 'd', 'rejected')`,
		"an outcome without a digest":  `INSERT INTO operations (definition, key, step, do_state) VALUES ('checkout', 'o', 's', 'applied')`,
	} {
		_, err := w.pool.Exec(t.Context(), change)
		require.ErrorContains(t, err, "violates check constraint", name)
	}
}

func TestI9BadInputIsRefusedWithTheNameOfTheField(t *testing.T) {
	t.Parallel()
	w := open(t)
	many := make([]*warehousev1.Line, 101)
	for i := range many {
		many[i] = pieces(fmt.Sprintf("A-%d", i), 1)
	}
	good := pieces("CHAIR-OAK", 1)
	for name, tc := range map[string]struct {
		order string
		lines []*warehousev1.Line
		field string
	}{
		"no order id":                    {"", []*warehousev1.Line{good}, "order_id:"},
		"an order id with a space":       {"ord 1", []*warehousev1.Line{good}, "order_id:"},
		"an order id that is too long":   {strings.Repeat("a", 65), []*warehousev1.Line{good}, "order_id:"},
		"an order id with a new line":    {"ord-1\n", []*warehousev1.Line{good}, "order_id:"},
		"no lines":                       {"ord-1", nil, "lines:"},
		"101 lines":                      {"ord-1", many, "lines:"},
		"quantity 0":                     {"ord-1", []*warehousev1.Line{good, pieces("LAMP-BRASS", 0)}, "lines[1].quantity:"},
		"a negative quantity":            {"ord-1", []*warehousev1.Line{pieces("LAMP-BRASS", -1)}, "lines[0].quantity:"},
		"quantity 10,001":                {"ord-1", []*warehousev1.Line{pieces("LAMP-BRASS", 10_001)}, "lines[0].quantity:"},
		"an article twice":               {"ord-1", []*warehousev1.Line{good, good}, "lines: CHAIR-OAK is in several lines"},
		"no article":                     {"ord-1", []*warehousev1.Line{pieces("", 1)}, "lines[0].sku:"},
		"an article with control signs":  {"ord-1", []*warehousev1.Line{pieces("A\x00B", 1)}, "lines[0].sku:"},
		"several things, all of it told": {"", []*warehousev1.Line{pieces("A", 0)}, "lines[0].quantity:"},
	} {
		_, err := w.reserve(t.Context(), tc.order, tc.lines...)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), name)
		require.ErrorContains(t, err, tc.field, name)
	}
	var operations int
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT count(*) FROM operations`).Scan(&operations))
	require.Zero(t, operations)

	r, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 10_000))
	require.NoError(t, err)
	require.Equal(t, outOfStock, r.Reason)
	require.Equal(t, "10000 of CHAIR-OAK are wanted and 1000 are free", r.Detail)
}

func TestOperationsAreListedPageByPage(t *testing.T) {
	t.Parallel()
	w := open(t)
	var orders []string
	for i := range 7 {
		orders = append(orders, fmt.Sprintf("ord-%d", i))
		_, err := w.reserve(t.Context(), orders[i], pieces("CHAIR-OAK", 1))
		require.NoError(t, err)
		_, err = w.commit(t.Context(), orders[i])
		require.NoError(t, err)
	}
	list := func(req *operationv1.ListOperationsRequest) (keys []string) {
		for {
			res, err := w.client.ListOperations(t.Context(), connect.NewRequest(req))
			require.NoError(t, err)
			require.LessOrEqual(t, len(res.Msg.Operations), 3)
			for _, op := range res.Msg.Operations {
				keys = append(keys, op.OrderId+" "+op.Step)
			}
			if res.Msg.NextPageToken == "" {
				return keys
			}
			req.PageToken = res.Msg.NextPageToken
		}
	}
	var byChange []string
	for _, o := range orders {
		byChange = append(byChange, o+" reserve-stock", o+" commit-stock")
	}
	require.Empty(t, cmp.Diff(byChange, list(&operationv1.ListOperationsRequest{PageSize: 3})))
	require.Empty(t, cmp.Diff([]string{"ord-2 commit-stock", "ord-2 reserve-stock", "ord-5 commit-stock", "ord-5 reserve-stock"},
		list(&operationv1.ListOperationsRequest{PageSize: 3, OrderIds: []string{"ord-5", "ord-2", "ord-99"}})))

	op, err := w.get(t.Context(), "ord-5", stepCommit)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff([]string{"ord-5 commit-stock", "ord-6 reserve-stock", "ord-6 commit-stock"},
		list(&operationv1.ListOperationsRequest{PageSize: 3, Since: op.UpdatedAt})))

	for _, bad := range []*operationv1.ListOperationsRequest{
		{PageSize: 1001}, {PageSize: -1}, {PageToken: "?"}, {PageToken: "YWJj"}, {OrderIds: make([]string, 1001)},
	} {
		_, err := w.client.ListOperations(t.Context(), connect.NewRequest(bad))
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), err)
	}
}

// fixture is a warehouse on a real server and a database of its own.
type fixture struct {
	service *Service
	client  warehousev1connect.WarehouseServiceClient
	pool    *pgxpool.Pool
}

func open(t *testing.T) *fixture {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := Open(t.Context(), Config{DatabaseURL: pgtest.URL(t)}, log)
	require.NoError(t, err)
	t.Cleanup(service.Close)
	server, err := rpcserver.Listen(rpcserver.Config{Address: "127.0.0.1:0", Ready: service.Ready, Log: log})
	require.NoError(t, err)
	service.Mount(server)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-served)
	})
	return &fixture{
		service: service, pool: service.store.pool,
		client: warehousev1connect.NewWarehouseServiceClient(http.DefaultClient, server.URL()),
	}
}

// begin begins a transaction of the test's own, which a failing test must not leave in the way of the service's end.
func (w *fixture) begin(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func pieces(sku string, quantity int32) *warehousev1.Line {
	return &warehousev1.Line{Sku: sku, Quantity: quantity}
}

func (w *fixture) reserve(ctx context.Context, order string, lines ...*warehousev1.Line) (*operationv1.Result, error) {
	res, err := w.client.Reserve(ctx, connect.NewRequest(&warehousev1.ReserveRequest{OrderId: order, Lines: lines}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func (w *fixture) release(ctx context.Context, order string) (*operationv1.Result, error) {
	res, err := w.client.Release(ctx, connect.NewRequest(&warehousev1.ReleaseRequest{OrderId: order}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func (w *fixture) commit(ctx context.Context, order string) (*operationv1.Result, error) {
	res, err := w.client.Commit(ctx, connect.NewRequest(&warehousev1.CommitRequest{OrderId: order}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Result, nil
}

func (w *fixture) get(ctx context.Context, order, step string) (*operationv1.Operation, error) {
	res, err := w.client.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{OrderId: order, Step: step}))
	if err != nil {
		return nil, err
	}
	return res.Msg.Operation, nil
}

func (w *fixture) effect(t *testing.T, order string) string {
	t.Helper()
	res, err := w.client.GetReservation(t.Context(), connect.NewRequest(&warehousev1.GetReservationRequest{OrderId: order}))
	require.NoError(t, err)
	if res.Msg.State == warehousev1.ReservationState_RESERVATION_STATE_UNSPECIFIED {
		return "holds nothing"
	}
	text := strings.ToLower(strings.TrimPrefix(res.Msg.State.String(), "RESERVATION_STATE_"))
	for _, l := range res.Msg.Lines {
		text += fmt.Sprintf(" %s×%d", l.Sku, l.Quantity)
	}
	return text
}

func (w *fixture) setStock(t *testing.T, sku string, onHand int32) {
	t.Helper()
	_, err := w.client.SetStock(t.Context(), connect.NewRequest(&warehousev1.SetStockRequest{Sku: sku, OnHand: onHand}))
	require.NoError(t, err)
}

func (w *fixture) stock(t *testing.T, sku string) stock {
	t.Helper()
	res, err := w.client.GetStock(t.Context(), connect.NewRequest(&warehousev1.GetStockRequest{Sku: sku}))
	require.NoError(t, err)
	return stock{res.Msg.Sku, res.Msg.OnHand, res.Msg.Reserved, res.Msg.Committed}
}

// requireBooksBalance compares the counts of every article with the sums over all reservations.
func (w *fixture) requireBooksBalance(t *testing.T) {
	t.Helper()
	const query = `
		SELECT count(*) FROM (
			SELECT s.sku
			FROM stock s LEFT JOIN reservation_lines l USING (sku) LEFT JOIN reservations r USING (order_id)
			GROUP BY s.sku, s.reserved, s.committed
			HAVING s.reserved <> coalesce(sum(l.quantity) FILTER (WHERE r.state = 'reserved'), 0)
			    OR s.committed <> coalesce(sum(l.quantity) FILTER (WHERE r.state = 'committed'), 0)
		) AS wrong`
	var wrong int
	require.NoError(t, w.pool.QueryRow(t.Context(), query).Scan(&wrong))
	require.Zero(t, wrong, "articles whose counts differ from their reservations")
}

// requireWaitingForLocks waits until so many connections to the test's database stand still at a lock, for longer than a shared
// transaction does: that would let go of its other locks soon.
func (w *fixture) requireWaitingForLocks(t *testing.T, connections int) {
	t.Helper()
	const query = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
		AND clock_timestamp() - xact_start > interval '150 milliseconds'`
	require.Eventually(t, func() bool {
		var waiting int
		return assert.NoError(t, w.pool.QueryRow(t.Context(), query).Scan(&waiting)) && waiting == connections
	}, 10*time.Second, 5*time.Millisecond, "%d connections never waited for a lock", connections)
}
