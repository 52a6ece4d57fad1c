// Package storetest fills an orchestrator's database as months of traffic would, and tells how PostgreSQL carries out the store's
// queries. It is for the store's tests and for bench.
package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
)

const (
	// BigCustomer has one in fifty of all orders; the others are spread over 50,000 customers.
	BigCustomer = "cus-big"
	// Days is the number of days over which the orders are spread, evenly. The newest began 65 minutes ago.
	Days = 100
	// SeedPrefix begins the order ids.
	SeedPrefix = "seed-"
)

// fates are the ways a checkout can end or stand, with its row's contents. No sweeper looks at the open ones today.
const fates = `
	CREATE TEMP TABLE fates (fate, until, phase, status, verdict, reason, reason_code, at_step, reserve, authorize, capture, commit, release, void) AS VALUES
	    -- How it ended, up to which share of those that have.
	    ('confirmed',  0.925, 'final',   'CONFIRMED',  NULL,        '', '', '', 'done', 'done', 'done', 'done', 'not-needed', 'not-needed'),
	    ('refused',    0.945, 'final',   'REJECTED',   'REJECTED',  'reserve-stock: out_of_stock', 'out_of_stock', '', 'rejected', 'skipped', 'skipped', 'skipped', 'not-needed', 'not-needed'),
	    ('declined',   0.970, 'final',   'REJECTED',   'REJECTED',  'authorize-payment: card_declined', 'card_declined', '', 'done', 'rejected', 'skipped', 'skipped', 'done', 'not-needed'),
	    ('no-funds',   0.975, 'final',   'REJECTED',   'REJECTED',  'authorize-payment: insufficient_funds', 'insufficient_funds', '', 'done', 'rejected', 'skipped', 'skipped', 'done', 'not-needed'),
	    ('cancelled',  0.995, 'final',   'CANCELLED',  'CANCELLED', 'cancelled: the customer changed their mind', 'cancelled', '', 'done', 'done', 'skipped', 'skipped', 'done', 'done'),
	    ('refunded',   0.9952, 'final',  'CANCELLED',  'CANCELLED', 'refunded: nothing left in the warehouse', 'refunded', '', 'done', 'done', 'done', 'skipped', 'done', 'not-needed'),
	    ('expired',    1.000, 'final',   'EXPIRED',    'EXPIRED',   'the deadline has passed', 'deadline', '', 'done', 'unknown', 'skipped', 'skipped', 'done', 'done'),
	    -- Where it is, up to which share of those that are open.
	    ('reserving',   1.10, 'forward', 'RUNNING',    NULL,        '', '', 'reserve-stock', 'running', 'pending', 'pending', 'pending', 'not-needed', 'not-needed'),
	    ('authorizing', 1.40, 'forward', 'RUNNING',    NULL,        '', '', 'authorize-payment', 'done', 'failing', 'pending', 'pending', 'not-needed', 'not-needed'),
	    ('approval',    1.55, 'forward', 'AWAITING_APPROVAL', NULL, '', '', 'approval', 'done', 'done', 'pending', 'pending', 'not-needed', 'not-needed'),
	    ('capturing',   1.65, 'pivoted', 'RUNNING',    NULL,        '', '', 'capture-payment', 'done', 'done', 'unknown', 'pending', 'not-needed', 'not-needed'),
	    ('committing',  1.85, 'pivoted', 'RUNNING',    NULL,        '', '', 'commit-stock', 'done', 'done', 'done', 'failing', 'not-needed', 'not-needed'),
	    ('releasing',   1.95, 'undoing', 'COMPENSATING', 'REJECTED', 'authorize-payment: card_declined', 'card_declined', 'release-stock', 'done', 'rejected', 'skipped', 'skipped', 'running', 'not-needed'),
	    ('stuck',       2.00, 'undoing', 'NEEDS_ATTENTION', 'CANCELLED', 'cancelled: ordered twice', 'cancelled', 'void-authorization', 'done', 'done', 'skipped', 'skipped', 'pending', 'failing')`

// seeded draws who ordered what and when, and its fate: most amounts are small, few are large; one in two hundred is still open,
// most of them among the newest.
// most of them among the newest.
const seeded = `
	CREATE TEMP TABLE seeded AS
	SELECT i, '` + SeedPrefix + `' || lpad(i::text, 8, '0') AS order_id,
	       CASE WHEN random() < 0.02 THEN '` + BigCustomer + `' ELSE 'cus-' || floor(random() * 50000)::integer END AS customer_id,
	       (1000 - 4000 * ln(1 - random()) * CASE WHEN random() < 0.05 THEN 12 ELSE 1 END)::bigint AS amount,
	       now() - interval '65 minutes' - (%[1]d - i) * (interval '%[2]d days' / %[1]d) AS started_at,
	       random() + CASE WHEN random() < CASE WHEN i > 0.96 * %[1]d THEN 0.1 ELSE 0.001 END THEN 1 ELSE 0 END AS fate
	FROM generate_series(1, %[1]d) AS i`

// withProgress adds the steps as such a row has them, made once for each fate: making them a million times takes minutes.
const withProgress = `
	CREATE TEMP TABLE fates_with_progress AS
	SELECT *, coalesce(lag(until) OVER (ORDER BY until), 0) AS above,
	       (SELECT jsonb_agg(jsonb_build_object('name', name, 'state', state, 'attempts', 1, 'started_at', '2026-01-02T03:04:05.123456Z',
	               'ended_at', '2026-01-02T03:04:05.234567Z', 'error', '', 'reference', 'ref-0123456789', 'compensation', compensation,
	               'compensation_tries', 0) ORDER BY position)
	        FROM (VALUES (1, 'reserve-stock', reserve, release), (2, 'authorize-payment', authorize, void),
	                     (3, 'capture-payment', capture, 'not-needed'), (4, 'commit-stock', commit, 'not-needed'))
	             AS steps (position, name, state, compensation)) AS progress
	FROM fates`

// planHere is where the plan goes in insertSeeded.
const planHere = "{{plan}}"

const insertSeeded = `
	INSERT INTO sagas (definition, key, idempotency_key, digest, request, about, currency, amount, input, engine,
	                   started_run, phase, status, verdict, reason, reason_code, at_step, touched_at, deadline, check_at, attention,
	                   plan, progress, started_at, updated_at, ended_at)
	SELECT 'checkout', order_id, order_id, 'v1:' || md5(order_id),
	       convert_to('{"orderId":"' || order_id || '","customerId":"' || customer_id || '","currency":"EUR","paymentMethod":"tok_visa","items":[{"sku":"CHAIR-OAK","quantity":1},{"sku":"LAMP-BRASS","quantity":1}]}', 'UTF8'),
	       customer_id, 'EUR', amount,
	       jsonb_build_object('customer_id', customer_id, 'payment_method', 'tok_visa',
	           'amount', jsonb_build_object('currency', 'EUR', 'minor_units', amount),
	           'items', '[{"sku": "CHAIR-OAK", "quantity": 1, "unit_price": 4999}, {"sku": "LAMP-BRASS", "quantity": 1, "unit_price": 2999}]'::jsonb),
	       'dapr', 1, phase, status, verdict, reason, reason_code, at_step, started_at, started_at + interval '15 minutes',
	       CASE WHEN phase <> 'final' THEN now() + interval '1 day' END,
	       CASE WHEN status = 'NEEDS_ATTENTION' THEN jsonb_build_object('step', at_step, 'code', 'failing', 'cause', 'tried for long without an answer',
	           'since', to_char(started_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'attempts', 12, 'last_error', 'unavailable',
	           'next', to_char(now() + interval '1 day', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END,
	       '` + planHere + `', progress,
	       started_at, CASE WHEN phase = 'final' THEN started_at + interval '1 second' ELSE now() END,
	       CASE WHEN phase = 'final' THEN started_at + interval '1 second' * (1 + s.fate) END
	FROM seeded AS s
	JOIN fates_with_progress AS f ON s.fate >= f.above AND s.fate < f.until
	ORDER BY i`

// SeedOrders draws count orders into the session's table "seeded" (i, order_id, customer_id, amount, started_at, fate), the same in
// each database. fate is below 0.925 if the order was confirmed, 1 or more if it is still open, and 1.55 or more if it is beyond
// the pivot or on its way back.
func SeedOrders(ctx context.Context, conn *pgx.Conn, count int) error {
	for _, sql := range []string{`SELECT setseed(0.5)`, fmt.Sprintf(seeded, count, Days)} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("draw orders: %w", err)
		}
	}
	return nil
}

// Seed puts count checkouts into a migrated database, with indexes and statistics as autovacuum would leave them.
func Seed(ctx context.Context, pool *pgxpool.Pool, count int) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("seed checkouts: %w", err)
	}
	defer conn.Release()
	if err := SeedOrders(ctx, conn.Conn(), count); err != nil {
		return err
	}
	plan, err := json.Marshal(checkouttest.Plan())
	if err != nil {
		return fmt.Errorf("seed checkouts: %w", err)
	}
	for _, sql := range []string{
		fates, withProgress, strings.ReplaceAll(insertSeeded, planHere, string(plan)),
		`INSERT INTO entries (definition, key, at, kind, step, attempt, duration_ms, outcome)
		 SELECT 'checkout', order_id, started_at, 'attempt', step, 1, 12, 'applied'
		 FROM seeded, unnest(ARRAY['reserve-stock', 'authorize-payment', 'capture-payment', 'commit-stock']) AS step WHERE i % 50 = 0`,
		`DROP TABLE fates, fates_with_progress, seeded`,
		`VACUUM ANALYZE sagas`, `VACUUM ANALYZE entries`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("seed checkouts: %s: %w", strings.TrimSpace(sql)[:20], err)
		}
	}
	return nil
}

// WithoutIndexes runs fill while a table has only the indexes of its constraints, and then makes the others again: sorted at the
// end they are made several times as fast as row by row.
func WithoutIndexes(ctx context.Context, pool *pgxpool.Pool, table string, fill func() error) error {
	rows, err := pool.Query(ctx, `
		SELECT indexname, indexdef FROM pg_indexes
		WHERE schemaname = 'public' AND tablename = $1 AND indexname NOT IN (SELECT conname FROM pg_constraint)`, table)
	if err != nil {
		return fmt.Errorf("read indexes of %s: %w", table, err)
	}
	type index struct{ Name, Definition string }
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return fmt.Errorf("read indexes of %s: %w", table, err)
	}
	for _, i := range indexes {
		if _, err := pool.Exec(ctx, `DROP INDEX `+pgx.Identifier{i.Name}.Sanitize()); err != nil {
			return fmt.Errorf("drop index %s: %w", i.Name, err)
		}
	}
	if err := fill(); err != nil {
		return err
	}
	for _, i := range indexes {
		if _, err := pool.Exec(ctx, i.Definition); err != nil {
			return fmt.Errorf("make index %s again: %w", i.Name, err)
		}
	}
	return nil
}
