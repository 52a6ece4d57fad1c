package payment

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	operationv1 "github.com/checkoutsaga/orchestrator/gen/operation/v1"
	"github.com/checkoutsaga/orchestrator/internal/testing/pgtest"
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

// asking is the input of authorize-payment.
func asking(method string, minorUnits int64) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"customer_id": "cus-1", "payment_method": %q, "amount": {"currency": "EUR", "minor_units": %d}}`, method, minorUnits))
}

// contracted is the kit's adapter of a step, for sagas of a definition of the kit's own. Of these the book is read, and what the
// network did.
func (p killable) contracted(s participanttest.Samples, does, undoes string) participanttest.Adapter {
	a, typed := participanttest.Of(wire{p}, s), p.adapter(s.Step, does, undoes)
	a.State = func(ctx context.Context, key string) (string, error) { return typed.State(ctx, "kit/"+key) }
	a.Outer = func(ctx context.Context, key string) (effects []participanttest.OuterEffect, err error) {
		rows, err := p.pool.Query(ctx, `SELECT kind, idempotency_key FROM sandbox.charges WHERE order_id = 'kit/' || $1`, key)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var kind, charged string
			if err := rows.Scan(&kind, &charged); err != nil {
				return nil, err
			}
			if kind == does || kind == undoes {
				effects = append(effects, participanttest.OuterEffect{Undoes: kind == undoes, Key: charged})
			}
		}
		return effects, rows.Err()
	}
	a.FailCommits, a.Crash, a.Restart, a.NotProven = ledgertest.FailCommits(p.pool), p.Kill, p.Start, nil
	return a
}

func TestAuthorizingAPaymentKeepsEveryPromiseOfTheContract(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.contracted(participanttest.Samples{
		Step: stepAuthorize, Done: asking("tok_visa", 4999), Other: asking("tok_visa", 5000), Refused: asking("tok_declined", 4999),
	}, "authorize", "void")
	a.None, a.Done, a.Undone = "0 held, 0 taken, 0 movements", "4999 held, 0 taken, 1 movements", "0 held, 0 taken, 2 movements"
	require.Equal(t, 13, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBookBalances(t)
}

func TestCapturingAPaymentKeepsEveryPromiseOfTheContract(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	a := p.contracted(participanttest.Samples{
		Step: stepCapture, Done: json.RawMessage(`{"amount": {"currency": "EUR", "minor_units": 4999}}`),
		Other:   json.RawMessage(`{"amount": {"currency": "EUR", "minor_units": 5000}}`),
		Refused: json.RawMessage(`{"amount": {"currency": "EUR", "minor_units": 4999}}`),
	}, "capture", "refund")
	a.Prepare = func(ctx context.Context, key string, v participanttest.Variant) error {
		method := "tok_visa"
		if v == participanttest.Refused {
			method = "tok_expires"
		}
		r, err := wire{p}.Do(ctx, participant.Request{Definition: "kit", Key: key, Step: stepAuthorize, Input: asking(method, 4999)})
		if err == nil && r.Outcome != participant.Applied {
			err = fmt.Errorf("authorization: %s", r.Detail)
		}
		return err
	}
	a.None, a.Done, a.Undone = "4999 held, 0 taken, 1 movements", "0 held, 4999 taken, 2 movements", "0 held, 0 taken, 3 movements"
	require.Equal(t, 13, participanttest.Prove(t, a).Count(participanttest.Passed), "rules that this step can be tried by")
	(&fixture{pool: p.pool}).requireBookBalances(t)
}

func TestI2SagasOfTwoDefinitionsWithTheSameKeyAreTwo(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, applied, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
	hotel := participant.Request{Definition: "trip", Key: "ord-1", Step: stepAuthorize, Input: asking("tok_visa", 300)}
	answer, err := p.service.Do(t.Context(), hotel)
	require.NoError(t, err)
	require.Equal(t, "authorize-trip/ord-1", answer.Reference)
	require.WithinDuration(t, time.Now().Add(authorizationHolds), answer.ValidUntil, time.Minute)
	require.Equal(t, []string{"orchestrated authorized"}, p.told(t, "ord-1"), "events tell of orders alone")

	done, err := p.service.Forget(t.Context(), "trip", []string{"ord-1"})
	require.NoError(t, err)
	require.Equal(t, []participant.Kept{{Key: "ord-1", Why: "its payment is authorized"}}, done.Kept)
	capture := participant.Request{Definition: "trip", Key: "ord-1", Step: stepCapture, Input: json.RawMessage(`{"amount": {"currency": "EUR", "minor_units": 301}}`)}
	_, err = p.service.Do(t.Context(), capture)
	require.ErrorIs(t, err, participant.ErrBadRequest)
	require.ErrorContains(t, err, "amount: must be the amount that was authorized")
	capture.Input = json.RawMessage(`{"amount": {"currency": "EUR", "minor_units": 300}}`)
	answer, err = p.service.Do(t.Context(), capture)
	require.NoError(t, err)
	require.Equal(t, participant.Applied, answer.Outcome)
	answer, err = p.service.Undo(t.Context(), hotel)
	require.NoError(t, err)
	require.Equal(t, alreadyCaptured, answer.Reason)
	require.Equal(t, applied, p.void(t, "ord-1").Outcome, "the order's money is another")

	listed, err := p.service.List(t.Context(), participant.Query{})
	require.NoError(t, err)
	require.Len(t, listed.Operations, 3)
	books, err := p.service.CheckBooks(t.Context(), connect.NewRequest(&operationv1.CheckBooksRequest{}))
	require.NoError(t, err)
	require.Empty(t, books.Msg.Discrepancies)
	done, err = p.service.Forget(t.Context(), "trip", []string{"ord-1"})
	require.NoError(t, err)
	require.Equal(t, []string{"ord-1"}, done.Keys)
	_, err = p.service.Do(t.Context(), hotel)
	require.ErrorIs(t, err, participant.ErrForgotten)
	_, err = p.get(t.Context(), "ord-1", stepAuthorize)
	require.NoError(t, err, "the order is not forgotten")
	books, err = p.service.CheckBooks(t.Context(), connect.NewRequest(&operationv1.CheckBooksRequest{}))
	require.NoError(t, err)
	require.Empty(t, books.Msg.Discrepancies)
}

// A checkout may begin by the contract and be asked for by a typed call, and the other way round.
func TestI7TheTypedCallAndTheContractAskForTheSame(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	require.Equal(t, applied, p.authorize(t, "ord-1", "tok_visa", 100).Outcome)
	request := participant.Request{Definition: "checkout", Key: "ord-1", Step: stepAuthorize, Input: asking("tok_visa", 100)}
	answer, err := p.service.Do(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, participant.Applied, answer.Outcome)
	request.Input = asking("tok_visa", 101)
	_, err = p.service.Do(t.Context(), request)
	require.ErrorIs(t, err, participant.ErrConflict)
}

func TestI9AnInputThatIsNoneIsRefusedByItsPlaceAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	p := start(t, pgtest.URL(t), nil)
	for name, c := range map[string]struct{ step, input, want string }{
		"no input":                    {stepAuthorize, ``, "input.customer_id: is missing; amount.currency: is missing"},
		"no method":                   {stepAuthorize, `{"customer_id": "c", "amount": {"currency": "EUR", "minor_units": 1}}`, "input.payment_method: is missing"},
		"a field that there is not":   {stepAuthorize, `{"card": "4111"}`, `input: unknown field "card"`},
		"a text for a number":         {stepCapture, `{"amount": {"currency": "EUR", "minor_units": "1"}}`, "input.amount.minor_units: must be int64, not string"},
		"nothing to take":             {stepCapture, `{"amount": {"currency": "EUR", "minor_units": 0}}`, "input.amount.minor_units: must be 1 to 1000000000000, not 0"},
		"no currency":                 {stepCapture, `{"amount": {"currency": "euro", "minor_units": 1}}`, "input.amount.currency: must be a currency's three letters"},
		"a step of somebody else's":   {"commit-stock", `{}`, "there is no step commit-stock here"},
		"a customer beside a capture": {stepCapture, `{"customer_id": "c"}`, `input: unknown field "customer_id"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.service.Do(t.Context(), participant.Request{Definition: "trip", Key: "t-1", Step: c.step, Input: json.RawMessage(c.input)})
			require.ErrorIs(t, err, participant.ErrBadRequest)
			require.ErrorContains(t, err, c.want)
		})
	}
	listed, err := p.service.List(t.Context(), participant.Query{})
	require.NoError(t, err)
	require.Empty(t, listed.Operations)
}
