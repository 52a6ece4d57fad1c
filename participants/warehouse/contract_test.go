package warehouse

import (
	"context"
	"encoding/json"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger/ledgertest"
	"github.com/checkoutsaga/orchestrator/saga/participant/participanttest"
)

// wire calls the process where it serves now: it has another address each time that it is started.
type wire struct{ killable }

func (w wire) Do(ctx context.Context, r participant.Request) (participant.Result, error) {
	return participant.Client(nil, w.URL()).Do(ctx, r)
}

func (w wire) Undo(ctx context.Context, r participant.Request) (participant.Result, error) {
	return participant.Client(nil, w.URL()).Undo(ctx, r)
}

func (w wire) Get(ctx context.Context, id participant.ID) (participant.Operation, error) {
	return participant.Client(nil, w.URL()).Get(ctx, id)
}

// contracted is the kit's adapter of a step, for sagas of a definition of the kit's own. What is in effect it reads from the reservations.
func (p killable) contracted(s participanttest.Samples) participanttest.Adapter {
	a := participanttest.Of(wire{p}, s)
	a.State = func(ctx context.Context, key string) (state string, err error) {
		const query = `
			SELECT format('%s reserved, %s shipped', coalesce(sum(quantity) FILTER (WHERE state = 'reserved'), 0),
			              coalesce(sum(quantity) FILTER (WHERE state = 'committed'), 0))
			FROM reservations JOIN reservation_lines USING (order_id) WHERE order_id = 'kit/' || $1`
		err = p.pool.QueryRow(ctx, query, key).Scan(&state)
		return state, err
	}
	a.FailCommits, a.Crash, a.Restart, a.NotProven = ledgertest.FailCommits(p.pool), p.Kill, p.Start, nil
	return a
}

func TestReservingStockKeepsEveryPromiseOfTheContract(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.contracted(participanttest.Samples{
		Step: stepReserve, Done: json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 2}]}`),
		Other:   json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 3}]}`),
		Refused: json.RawMessage(`{"lines": [{"sku": "LAMP-BRASS", "quantity": 2000}]}`),
	})
	a.None, a.Done, a.Undone = "0 reserved, 0 shipped", "2 reserved, 0 shipped", "0 reserved, 0 shipped"
	require.Equal(t, 13, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBooksBalance(t)
}

func TestShippingStockKeepsEveryPromiseOfTheContract(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.contracted(participanttest.Samples{Step: stepCommit, Done: json.RawMessage(`{}`), Refused: json.RawMessage(`{}`), NothingUndoes: true})
	a.Prepare = func(ctx context.Context, key string, v participanttest.Variant) error {
		if v == participanttest.Refused {
			return nil // Where nothing is reserved, nothing can be shipped.
		}
		_, err := wire{p}.Do(ctx, participant.Request{Definition: "kit", Key: key, Step: stepReserve, Input: json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 2}]}`)})
		return err
	}
	a.None, a.Done = "2 reserved, 0 shipped", "0 reserved, 2 shipped"
	require.Equal(t, 7, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBooksBalance(t)
}

func TestI2SagasOfTwoDefinitionsWithTheSameKeyAreTwo(t *testing.T) {
	t.Parallel()
	w := open(t)
	chairs := participant.Request{Definition: "trip", Key: "ord-1", Step: stepReserve, Input: json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 3}]}`)}
	_, err := w.reserve(t.Context(), "ord-1", pieces("CHAIR-OAK", 2))
	require.NoError(t, err)
	answer, err := w.service.Do(t.Context(), chairs)
	require.NoError(t, err)
	require.Equal(t, participant.Result{Outcome: participant.Applied, Reference: "rsv-trip/ord-1"}, answer)
	require.Equal(t, stock{"CHAIR-OAK", 1000, 5, 0}, w.stock(t, "CHAIR-OAK"))
	require.Equal(t, []string{"orchestrated reserved"}, w.told(t, "ord-1"), "events tell of orders alone")

	done, err := w.service.Forget(t.Context(), "trip", []string{"ord-1"})
	require.NoError(t, err)
	require.Equal(t, []participant.Kept{{Key: "ord-1", Why: "its reservation is open"}}, done.Kept)
	answer, err = w.service.Undo(t.Context(), chairs)
	require.NoError(t, err)
	require.Equal(t, participant.Applied, answer.Outcome)
	require.Equal(t, "reserved CHAIR-OAK×2", w.effect(t, "ord-1"))
	require.Equal(t, stock{"CHAIR-OAK", 1000, 2, 0}, w.stock(t, "CHAIR-OAK"))

	listed, err := w.service.List(t.Context(), participant.Query{})
	require.NoError(t, err)
	require.Len(t, listed.Operations, 2)
	typed, err := w.client.ListOperations(t.Context(), connect.NewRequest(&operationv1.ListOperationsRequest{}))
	require.NoError(t, err)
	require.Len(t, typed.Msg.Operations, 1)
	done, err = w.service.Forget(t.Context(), "trip", []string{"ord-1"})
	require.NoError(t, err)
	require.Equal(t, []string{"ord-1"}, done.Keys)
	_, err = w.service.Do(t.Context(), chairs)
	require.ErrorIs(t, err, participant.ErrForgotten)
	_, err = w.commit(t.Context(), "ord-1")
	require.NoError(t, err, "the order is not forgotten")
	w.requireBooksBalance(t)
}

// A checkout may begin by the contract and be asked for by a typed call, and the other way round.
func TestI7TheTypedCallAndTheContractAskForTheSame(t *testing.T) {
	t.Parallel()
	w := open(t)
	_, err := w.reserve(t.Context(), "ord-1", pieces("LAMP-BRASS", 1), pieces("CHAIR-OAK", 2))
	require.NoError(t, err)
	request := participant.Request{Definition: "checkout", Key: "ord-1", Step: stepReserve, Input: json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 2}, {"sku": "LAMP-BRASS", "quantity": 1}]}`)}
	answer, err := w.service.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, participant.Result{Outcome: participant.Applied, Reference: "rsv-ord-1"}, answer)
	request.Input = json.RawMessage(`{"lines": [{"sku": "CHAIR-OAK", "quantity": 1}]}`)
	_, err = w.service.Do(t.Context(), request)
	require.ErrorIs(t, err, participant.ErrConflict)
	require.Equal(t, stock{"CHAIR-OAK", 1000, 2, 0}, w.stock(t, "CHAIR-OAK"))
}

func TestI9AnInputThatIsNoneIsRefusedByItsPlaceAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	w := open(t)
	for name, c := range map[string]struct{ step, input, want string }{
		"no lines":                    {stepReserve, `{}`, "input.lines: is missing"},
		"no input":                    {stepReserve, ``, "input.lines: is missing"},
		"a field that there is not":   {stepReserve, `{"lines": [{"sku": "A", "quantity": 1}], "price": 3}`, `input: unknown field "price"`},
		"one in a line":               {stepReserve, `{"lines": [{"sku": "A", "pieces": 1}]}`, `input: unknown field "pieces"`},
		"a text for a number":         {stepReserve, `{"lines": [{"sku": "A", "quantity": "1"}]}`, "input.lines.quantity: must be int32, not string"},
		"half a piece":                {stepReserve, `{"lines": [{"sku": "A", "quantity": 0.5}]}`, "input.lines.quantity: must be int32, not number 0.5"},
		"a list for an object":        {stepReserve, `[]`, "input: must be struct, not array"},
		"no pieces":                   {stepReserve, `{"lines": [{"sku": "A", "quantity": 0}]}`, "input.lines[0].quantity: must be 1 to 10000, not 0"},
		"an article twice":            {stepReserve, `{"lines": [{"sku": "A", "quantity": 1}, {"sku": "A", "quantity": 1}]}`, "input.lines: A is in several lines"},
		"a shipment that says more":   {stepCommit, `{"lines": []}`, `input: unknown field "lines"`},
		"a step of somebody else's":   {"capture-payment", `{}`, "there is no step capture-payment here"},
		"a name that is not one step": {"reserve stock", `{}`, "step: must be 1 to 64 bytes without spaces"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.service.Do(t.Context(), participant.Request{Definition: "trip", Key: "t-1", Step: c.step, Input: json.RawMessage(c.input)})
			require.ErrorIs(t, err, participant.ErrBadRequest)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := w.service.Undo(t.Context(), participant.Request{Definition: "trip", Key: "t-1", Step: stepCommit})
	require.ErrorIs(t, err, participant.ErrBadRequest)
	listed, err := w.service.List(t.Context(), participant.Query{})
	require.NoError(t, err)
	require.Empty(t, listed.Operations)
}
