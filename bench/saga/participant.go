package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
)

// connections is how many each program here has to its database, as many as the engine's program has.
const connections = 30

// open makes a table where it is missing.
func open(ctx context.Context, databaseURL, table string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, table)
	return pool, err
}

// request and answer are those of saga.participant.v1, as far as they are used here.
type request struct {
	Definition     string `json:"definition"`
	Key            string `json:"key"`
	Step           string `json:"step"`
	Attempt        int    `json:"attempt"`
	IdempotencyKey string `json:"idempotency_key"`
	Digest         string `json:"digest"`
	Input          Order  `json:"input"`
}

type answer struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

const operations = `
	CREATE TABLE IF NOT EXISTS operations (
		definition text, key text, digest text NOT NULL, amount bigint NOT NULL, outcome text NOT NULL, reason text NOT NULL,
		asked int NOT NULL DEFAULT 1, PRIMARY KEY (definition, key))`

// decide decides, applies and answers in one statement: the row is the effect. Who asks again gets what is recorded.
const decide = `
	INSERT INTO operations (definition, key, digest, amount, outcome, reason)
	VALUES ($1, $2, $3, $4::bigint,
	        CASE WHEN $4 <= 100000 THEN 'OUTCOME_APPLIED' ELSE 'OUTCOME_REJECTED' END, CASE WHEN $4 <= 100000 THEN '' ELSE 'too_much' END)
	ON CONFLICT (definition, key) DO UPDATE SET asked = operations.asked + 1
	RETURNING digest, outcome, reason`

// newParticipant does one step by the contract. No saga here is undone, so it does not undo.
func newParticipant(ctx context.Context, databaseURL string) (http.Handler, error) {
	pool, err := open(ctx, databaseURL, operations)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+do, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var asked request
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			refuse(w, http.StatusBadRequest, "invalid_argument", err.Error())
			return
		}
		var digest string
		var a answer
		row := pool.QueryRow(r.Context(), decide, asked.Definition, asked.Key, asked.Digest, asked.Input.Amount)
		if err := row.Scan(&digest, &a.Outcome, &a.Reason); err != nil {
			refuse(w, http.StatusInternalServerError, "internal", err.Error())
			return
		}
		if digest != asked.Digest {
			refuse(w, http.StatusConflict, "already_exists", asked.Key+" was asked for with other content")
			return
		}
		_ = json.NewEncoder(w).Encode(a)
	})
	return mux, nil
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message})
}
