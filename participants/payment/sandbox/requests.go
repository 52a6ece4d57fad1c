package sandbox

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// requests are what the gateway is asked as a table of shared transactions (package commit). A real network costs its caller no work
// of its own; this one shares the caller's database and is to cost as little as it can.
type requests struct{}

// answer is a request, and what becomes of it.
type answer struct {
	Request

	// What is read: whether the key was answered for good before, and with which refusal; how the payment method behaves, which is
	// empty for an unknown one, and what it says when it declines; how often it has failed for the key.
	known     bool
	reason    string
	behaviour Behaviour
	decline   string
	failures  int

	// What is decided: a refusal, which may be for good; or that the effect is put in place; or a failure that is counted; and what the
	// caller gets: an error, or no answer in time.
	refusal string
	forGood bool
	applies bool
	counts  bool
	err     error
	late    bool
}

// Read implements commit.Table. It locks nothing: what is asked for at once with one key is applied once by the key's uniqueness.
func (t *requests) Read(batch *pgx.Batch, changes []*commit.Change, _ bool) {
	const query = `
		SELECT n, c.idempotency_key IS NOT NULL OR r.idempotency_key IS NOT NULL,
		       CASE WHEN c.idempotency_key IS NULL THEN coalesce(r.reason, '') ELSE '' END,
		       coalesce(CASE kind_asked WHEN 'authorize' THEN b.authorize WHEN 'capture' THEN b.capture WHEN 'void' THEN b.void ELSE b.refund END, ''),
		       coalesce(b.decline, ''), coalesce(f.times, 0)
		FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (key_asked, kind_asked, method_asked, n)
		     LEFT JOIN sandbox.charges    AS c ON c.idempotency_key = key_asked
		     LEFT JOIN sandbox.refusals   AS r ON r.idempotency_key = key_asked
		     LEFT JOIN sandbox.failures   AS f ON f.idempotency_key = key_asked
		     LEFT JOIN sandbox.behaviours AS b ON b.payment_method = method_asked`
	seen := make(map[string]bool, len(changes))
	for _, c := range changes {
		a := c.What.(*answer)
		if seen[a.Key] {
			c.Err = commit.ErrBusy // One key is answered once in a transaction.
		}
		seen[a.Key] = true
	}
	answers := answersOf(commit.WithoutError(changes))
	batch.Queue(query,
		pg.Column(answers, func(a *answer) string { return a.Key }),
		pg.Column(answers, func(a *answer) string { return string(a.Kind) }),
		pg.Column(answers, func(a *answer) string { return a.PaymentMethod }),
	).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var n int
			var read answer
			if err := rows.Scan(&n, &read.known, &read.reason, &read.behaviour, &read.decline, &read.failures); err != nil {
				return fmt.Errorf("read requests: %w", err)
			}
			read.Request = answers[n-1].Request
			*answers[n-1] = read
		}
		return rows.Err()
	})
}

// Decide implements commit.Table.
func (t *requests) Decide(changes []*commit.Change) {
	for _, a := range answersOf(changes) {
		a.decide()
	}
}

// decide answers as the payment method behaves. An answered key is answered so again, however the method behaves by now.
func (a *answer) decide() {
	if a.known {
		a.refusal = a.reason
		return
	}
	switch a.behaviour {
	case "":
		a.refusal = "unknown_payment_method"
	case Refused:
		a.refusal = refusalOf(a.Kind, a.decline)
		a.forGood = a.Kind == Authorize || a.Kind == Capture // To void or refund may be tried again.
	case Fails:
		a.err = errDown
	case FailsTwice:
		if a.failures < 2 {
			a.counts, a.err = true, errDown
			return
		}
		a.applies = true
	case TimesOutBefore:
		a.late = true
	case TimesOutAfter:
		a.applies, a.late = true, true
	default:
		a.applies = true
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

// Write implements commit.Table.
func (t *requests) Write(_ context.Context, batch *pgx.Batch, changes []*commit.Change) error {
	const (
		apply = `
			INSERT INTO sandbox.charges (idempotency_key, order_id, kind, payment_method, currency, minor_units)
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
			ON CONFLICT (idempotency_key) DO NOTHING`
		refuse = `
			INSERT INTO sandbox.refusals (idempotency_key, reason) SELECT * FROM unnest($1::text[], $2::text[])
			ON CONFLICT (idempotency_key) DO NOTHING`
		count = `
			INSERT INTO sandbox.failures AS f (idempotency_key, times) SELECT key, 1 FROM unnest($1::text[]) AS failed (key)
			ON CONFLICT (idempotency_key) DO UPDATE SET times = f.times + 1`
	)
	answers := answersOf(changes)
	// Sorted, so that no two transactions that insert the same keys wait for each other.
	slices.SortFunc(answers, func(a, b *answer) int { return strings.Compare(a.Key, b.Key) })
	var applied, refused, failed []*answer
	for _, a := range answers {
		switch {
		case a.applies:
			applied = append(applied, a)
		case a.forGood:
			refused = append(refused, a)
		case a.counts:
			failed = append(failed, a)
		}
	}
	key := func(a *answer) string { return a.Key }
	if len(applied) > 0 {
		batch.Queue(apply, pg.Column(applied, key),
			pg.Column(applied, func(a *answer) string { return a.OrderID }),
			pg.Column(applied, func(a *answer) string { return string(a.Kind) }),
			pg.Column(applied, func(a *answer) string { return a.PaymentMethod }),
			pg.Column(applied, func(a *answer) string { return a.Currency }),
			pg.Column(applied, func(a *answer) int64 { return a.MinorUnits }))
	}
	if len(refused) > 0 {
		batch.Queue(refuse, pg.Column(refused, key), pg.Column(refused, func(a *answer) string { return a.refusal }))
	}
	if len(failed) > 0 {
		batch.Queue(count, pg.Column(failed, key))
	}
	return nil
}

func answersOf(changes []*commit.Change) []*answer {
	return pg.Column(changes, func(c *commit.Change) *answer { return c.What.(*answer) })
}
