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
type Gateway struct{ pool *pgxpool.Pool }

// New is the gateway whose tables (schema sandbox) lie in the database of pool.
func New(pool *pgxpool.Pool) *Gateway { return &Gateway{pool: pool} }

// Charge does what is asked, once for each key. It returns the reason of a refusal, or nothing if the effect is in place. An
// error says nothing about the effect: ask again with the same key.
func (g *Gateway) Charge(ctx context.Context, r Request) (refusal string, err error) {
	answered, refusal, err := g.answered(ctx, r.Key)
	if err != nil || answered {
		return refusal, err
	}
	b, decline, err := g.behaviour(ctx, r.PaymentMethod, r.Kind)
	if errors.Is(err, errUnknownMethod) {
		return "unknown_payment_method", nil
	}
	if err != nil {
		return "", err
	}
	switch b {
	case Refused:
		return g.refuse(ctx, r, refusalOf(r.Kind, decline))
	case Fails:
		return "", errDown
	case FailsTwice:
		times, err := g.countFailure(ctx, r.Key)
		if err != nil {
			return "", err
		}
		if times <= 2 {
			return "", errDown
		}
		return "", g.apply(ctx, r)
	case TimesOutBefore:
		return "", stayAway(ctx)
	case TimesOutAfter:
		if err := g.apply(ctx, r); err != nil {
			return "", err
		}
		return "", stayAway(ctx)
	default:
		return "", g.apply(ctx, r)
	}
}

func refusalOf(kind Kind, decline string) string {
	switch kind {
	case Authorize:
		return decline
	case Capture:
		return "authorization_expired" // a network refuses to capture for no other reason
	default:
		return string(kind) + "_refused"
	}
}

// stayAway is the gateway's silence: until the caller hangs up.
func stayAway(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxSilence)
	defer cancel()
	<-ctx.Done()
	return errLate
}

// answered tells whether a key was answered for good, and how: an empty refusal means that the effect is in place.
func (g *Gateway) answered(ctx context.Context, key string) (answered bool, refusal string, err error) {
	const query = `
		SELECT '' FROM sandbox.charges WHERE idempotency_key = $1
		UNION ALL
		SELECT reason FROM sandbox.refusals WHERE idempotency_key = $1`
	err = g.pool.QueryRow(ctx, query, key).Scan(&refusal)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, "", nil
	}
	if err != nil {
		return false, "", fmt.Errorf("look for charge %s: %w", key, err)
	}
	return true, refusal, nil
}

// refuse refuses, for good where a network does: to void or refund may be tried again.
func (g *Gateway) refuse(ctx context.Context, r Request, reason string) (refusal string, err error) {
	if r.Kind == Void || r.Kind == Refund {
		return reason, nil
	}
	const query = `INSERT INTO sandbox.refusals (idempotency_key, reason) VALUES ($1, $2) ON CONFLICT (idempotency_key) DO NOTHING`
	if _, err := g.pool.Exec(ctx, query, r.Key, reason); err != nil {
		return "", fmt.Errorf("refuse %s: %w", r.Key, err)
	}
	return reason, nil
}

func (g *Gateway) apply(ctx context.Context, r Request) error {
	const query = `
		INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (idempotency_key) DO NOTHING`
	if _, err := g.pool.Exec(ctx, query, r.Key, r.OrderID, r.Kind, r.PaymentMethod, r.Currency, r.MinorUnits); err != nil {
		return fmt.Errorf("charge %s: %w", r.Key, err)
	}
	return nil
}

func (g *Gateway) countFailure(ctx context.Context, key string) (times int, err error) {
	const query = `
		INSERT INTO sandbox.failures AS f (idempotency_key, times) VALUES ($1, 1)
		ON CONFLICT (idempotency_key) DO UPDATE SET times = f.times + 1
		RETURNING times`
	if err := g.pool.QueryRow(ctx, query, key).Scan(&times); err != nil {
		return 0, fmt.Errorf("count failures of %s: %w", key, err)
	}
	return times, nil
}

func (g *Gateway) behaviour(ctx context.Context, method string, kind Kind) (b Behaviour, decline string, err error) {
	const query = `
		SELECT CASE $2 WHEN 'authorize' THEN authorize WHEN 'capture' THEN capture WHEN 'void' THEN void ELSE refund END, decline
		FROM sandbox.behaviours WHERE payment_method = $1`
	err = g.pool.QueryRow(ctx, query, method, kind).Scan(&b, &decline)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", errUnknownMethod
	}
	if err != nil {
		return "", "", fmt.Errorf("read behaviour of %s: %w", method, err)
	}
	return b, decline, nil
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
