package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/saga/participant"
	"github.com/checkoutsaga/orchestrator/saga/participant/ledger"
)

// A participant that books flights, and serves whoever asks.
func ExampleNew() {
	var pool *pgxpool.Pool // of its own database, in which ledger.Migrate has made the ledger's tables

	airline := ledger.New(pool, map[string]ledger.Step{"book-flight": {
		Do: func(ctx context.Context, tx pgx.Tx, r participant.Request) (participant.Result, error) {
			var wish struct{ Seats int }
			if err := json.Unmarshal(r.Input, &wish); err != nil {
				return participant.Result{}, fmt.Errorf("%w: %w", participant.ErrBadRequest, err)
			}
			if wish.Seats > 9 {
				return participant.Reject("sold_out", "the aircraft has 9 seats"), nil
			}
			_, err := tx.Exec(ctx, `INSERT INTO bookings (trip, seats) VALUES ($1, $2)`, r.Key, wish.Seats)
			return participant.Result{Outcome: participant.Applied, Reference: "PNR-" + r.Key}, err
		},
		Undo: func(ctx context.Context, tx pgx.Tx, r participant.Request) error {
			_, err := tx.Exec(ctx, `DELETE FROM bookings WHERE trip = $1`, r.Key)
			return err
		},
	}})
	http.Handle(participant.Handler(airline))
}
