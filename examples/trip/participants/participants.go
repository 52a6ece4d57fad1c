// Package participants are those of a trip: an airline, a travel agency and a bank. What each step does is a row of its books; that it
// is done once, undone once, and remembered, the ledger sees to.
package participants

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// Flight is what the airline is asked with.
type Flight struct {
	Traveller string `json:"traveller"`
	To        string `json:"to"`
}

// Charge is what the bank is asked with.
type Charge struct {
	Card   string     `json:"card"`
	Amount saga.Money `json:"amount"`
}

// Open makes all three on one database, whose tables it makes where they are missing.
func Open(ctx context.Context, databaseURL string) (map[string]participant.Participant, func(), error) {
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return nil, nil, err
	}
	if err := ledger.Migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, nil, err
	}
	const books = `CREATE TABLE IF NOT EXISTS books (saga text, step text, units bigint NOT NULL, PRIMARY KEY (saga, step))`
	if _, err := pool.Exec(ctx, books); err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("make the books: %w", err)
	}
	return map[string]participant.Participant{
		"airline": ledger.New(pool, map[string]ledger.Step{"book-flight": flight, "issue-ticket": ticket}),
		"agency":  ledger.New(pool, map[string]ledger.Step{"book-hotel": hotel, "rent-car": one, "send-vouchers": one}),
		"bank":    ledger.New(pool, map[string]ledger.Step{"charge-card": charge}),
	}, pool.Close, nil
}

// one puts one thing into the books, whatever it is.
var one = ledger.Step{
	Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		return enter(ctx, tx, r, 1)
	},
	Undo: strike,
}

// flight is one, but for where nobody flies.
var flight = ledger.Step{
	Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		var f Flight
		if err := json.Unmarshal(r.Input, &f); err != nil {
			return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
		}
		if f.To == "nowhere" {
			return participant.Reject("sold_out", "no flight to "+f.To+" has a seat"), nil
		}
		return enter(ctx, tx, r, 1)
	},
	Undo: strike,
}

// hotel is one, but for long stays: the hotel answers those by mail, and has not yet. Whoever asks is told to ask again.
var hotel = ledger.Step{
	Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		var stay struct{ Nights int }
		if err := json.Unmarshal(r.Input, &stay); err != nil {
			return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
		}
		if stay.Nights > 30 {
			return participant.Result{Outcome: participant.NotKnown, Reason: "asked_by_mail", Detail: "the hotel has not answered yet"}, nil
		}
		return enter(ctx, tx, r, 1)
	},
	Undo: strike,
}

// ticket is one, but for an island whose flights are sold and whose tickets cannot be printed. By then the card is charged, so it is for a
// person to decide.
var ticket = ledger.Step{Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
	var f Flight
	if err := json.Unmarshal(r.Input, &f); err != nil {
		return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
	}
	if f.To == "atlantis" {
		return participant.Reject("no_ticket", "no ticket to "+f.To+" can be printed"), nil
	}
	return enter(ctx, tx, r, 1)
}}

// charge takes the money.
var charge = ledger.Step{
	Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
		var c Charge
		if err := json.Unmarshal(r.Input, &c); err != nil {
			return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
		}
		if c.Card == "declined" {
			return participant.Reject("card_declined", "the bank declines the card"), nil
		}
		return enter(ctx, tx, r, c.Amount.MinorUnits)
	},
	Undo: strike,
}

func enter(ctx context.Context, tx pgx.Tx, r participant.Request, units int64) (participant.Result, error) {
	_, err := tx.Exec(ctx, `INSERT INTO books VALUES ($1, $2, $3)`, r.Key, r.Step, units)
	return participant.Result{Outcome: participant.Applied, Reference: r.Step + "/" + r.Key}, err
}

func strike(ctx context.Context, tx pgx.Tx, r participant.Request) error {
	_, err := tx.Exec(ctx, `DELETE FROM books WHERE saga = $1 AND step = $2`, r.Key, r.Step)
	return err
}
