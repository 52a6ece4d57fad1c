// Package sandbox is a card network for machines without one: a gateway of its own, with its own tables and transactions and
// idempotency keys, so that its answers can be late or lost while its effects stay. How it answers goes by the payment method,
// and can be changed while it runs. It knows nothing of the payment service that calls it.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/commit"
)

// Kind is what the gateway is asked to do.
type Kind string

// The kinds.
const (
	Authorize Kind = "authorize"
	Capture   Kind = "capture"
	Void      Kind = "void"
	Refund    Kind = "refund"
)

// Behaviour is how the gateway answers one kind of request with one payment method.
type Behaviour string

// The behaviours, as they stand in rows.
const (
	Works   Behaviour = "works"
	Fails   Behaviour = "fails"   // an error, nothing applied
	Refused Behaviour = "refused" // a refusal, nothing applied
	// TimesOutAfter applies and then answers too late; the same key again is answered at once.
	TimesOutAfter Behaviour = "times_out_after"
	// TimesOutBefore answers too late and applies nothing.
	TimesOutBefore Behaviour = "times_out_before"
	// FailsTwice fails twice for each key, and then works.
	FailsTwice Behaviour = "fails_twice"
)

// maxSilence bounds how long the gateway keeps a caller waiting who does not hang up.
const maxSilence = 5 * time.Second

var (
	errDown = errors.New("the gateway failed")
	errLate = errors.New("the gateway did not answer")
	// errUnknownMethod: no behaviour is kept for the payment method.
	errUnknownMethod = errors.New("unknown payment method")
)

// Request is one effect that is asked for.
type Request struct {
	Kind Kind
	// Key makes a repeat of the request harmless.
	Key           string
	OrderID       string
	PaymentMethod string
	Currency      string
	MinorUnits    int64
}

// Gateway is the sandbox.
type Gateway struct {
	pool      *pgxpool.Pool
	committer *commit.Committer
	requests  *requests
}

// New is the gateway whose tables (schema sandbox) lie in the database of pool.
func New(pool *pgxpool.Pool) *Gateway {
	return &Gateway{pool: pool, committer: commit.New(pool), requests: &requests{}}
}

// Charge does what is asked, once for each key. It returns the reason of a refusal, or nothing if the effect is in place. An
// error says nothing about the effect: ask again with the same key.
func (g *Gateway) Charge(ctx context.Context, r Request) (refusal string, err error) {
	a := &answer{Request: r}
	if err := g.committer.Do(ctx, &commit.Change{Of: g.requests, What: a}); err != nil {
		return "", fmt.Errorf("charge %s: %w", r.Key, err)
	}
	if a.late {
		return "", stayAway(ctx)
	}
	return a.refusal, a.err
}

// stayAway is the gateway's silence: until the caller hangs up.
func stayAway(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxSilence)
	defer cancel()
	<-ctx.Done()
	return errLate
}

// behaviours is how a payment method behaves in every kind of request.
type behaviours struct{ authorize, capture, void, refund Behaviour }

// setBehaviours changes what is not empty and returns what is so then.
func (g *Gateway) setBehaviours(ctx context.Context, method string, b behaviours) (now behaviours, err error) {
	const query = `
		UPDATE sandbox.behaviours
		SET authorize = coalesce(nullif($2, ''), authorize),
		    capture   = coalesce(nullif($3, ''), capture),
		    void      = coalesce(nullif($4, ''), void),
		    refund    = coalesce(nullif($5, ''), refund)
		WHERE payment_method = $1
		RETURNING authorize, capture, void, refund`
	err = g.pool.QueryRow(ctx, query, method, b.authorize, b.capture, b.void, b.refund).
		Scan(&now.authorize, &now.capture, &now.void, &now.refund)
	if errors.Is(err, pgx.ErrNoRows) {
		return now, fmt.Errorf("set behaviour of %s: %w", method, errUnknownMethod)
	}
	if err != nil {
		return now, fmt.Errorf("set behaviour of %s: %w", method, err)
	}
	return now, nil
}

// charge is one effect that the gateway applied.
type charge struct {
	kind      Kind
	key       string
	currency  string
	units     int64
	createdAt time.Time
}

func (g *Gateway) charges(ctx context.Context, orderID string) ([]charge, error) {
	const query = `SELECT kind, idempotency_key, currency, minor_units, created_at FROM sandbox.charges WHERE order_id = $1 ORDER BY id`
	rows, err := g.pool.Query(ctx, query, orderID)
	if err != nil {
		return nil, fmt.Errorf("list charges of %s: %w", orderID, err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c charge, err error) {
		err = row.Scan(&c.kind, &c.key, &c.currency, &c.units, &c.createdAt)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("list charges of %s: %w", orderID, err)
	}
	return all, nil
}
