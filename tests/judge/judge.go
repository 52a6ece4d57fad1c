// Package judge says whether the system kept its promises. It asks by SQL of its own the databases of all processes and the sandbox
// gateway's charges. It shares no code with what it judges: it knows only their tables and the invariants of docs/design.md.
package judge

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/pg"
)

// Databases are the addresses of the databases, by process. Orchestrator, warehouse and payment are required. Without the others
// nobody hears events, and they are not judged.
type Databases map[string]string

// querier is a pool, or a transaction in which something was broken on purpose.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Judge reads the databases. Its methods may be called from many goroutines.
type Judge struct {
	databases                        map[string]querier
	orchestrator, warehouse, payment querier

	mu sync.Mutex
	// pieces are all pieces of an article, shipped ones included. Other articles have as many as the warehouse began with.
	pieces map[string]int64
}

// pieces0 is what the warehouse begins with, of each article.
const pieces0 = 1000

// New connects to databases whose tables exist.
func New(t testing.TB, d Databases) *Judge {
	t.Helper()
	databases := make(map[string]querier)
	for name, url := range d {
		pool, err := pg.Open(t.Context(), url, 3)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		databases[name] = pool
	}
	return of(databases)
}

func of(databases map[string]querier) *Judge {
	return &Judge{
		databases: databases, orchestrator: databases["orchestrator"], warehouse: databases["warehouse"], payment: databases["payment"],
		pieces: make(map[string]int64),
	}
}

// Pieces tells the judge how many pieces of an article there are now, shipped ones included.
func (j *Judge) Pieces(sku string, n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pieces[sku] = n
}

// Violation is one broken promise.
type Violation struct {
	Invariant string // "I1" to "I6"
	// Subject is the order, the article or the currency.
	Subject string
	What    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s broken for %s: %s", v.Invariant, v.Subject, v.What)
}

// Judge checks everything, at rest: no checkout under way, no call in hand, no event under way.
func (j *Judge) Judge(ctx context.Context) ([]Violation, error) {
	sums, err := j.Moment(ctx)
	if err != nil {
		return nil, err
	}
	e, err := j.evidence(ctx)
	if err != nil {
		return nil, err
	}
	found := append(sums, e.violations()...)
	if !j.hearsEvents() {
		return found, nil
	}
	told, err := j.events(ctx)
	if err != nil {
		return nil, err
	}
	return append(found, told.violations()...), nil
}

// Open counts the checkouts that are not final.
func (j *Judge) Open(ctx context.Context) (int, error) {
	var open int
	err := each(ctx, j.orchestrator, `SELECT count(*) FROM checkouts WHERE check_at IS NOT NULL`, func(row pgx.CollectableRow) error {
		return row.Scan(&open)
	})
	return open, err
}

// StillOpen describes a few checkouts that are not final.
func (j *Judge) StillOpen(ctx context.Context) (some []string, err error) {
	const query = `
		SELECT order_id || ' is ' || status || ', ' || coordination || ', at ' || coalesce((SELECT string_agg(name || ' ' || state, ', ')
			FROM steps WHERE steps.definition = 'checkout' AND steps.key = checkouts.order_id AND state NOT IN ('pending', 'done')), 'no step')
		FROM checkouts WHERE check_at IS NOT NULL ORDER BY started_at LIMIT 5`
	err = each(ctx, j.orchestrator, query, func(row pgx.CollectableRow) error {
		var line string
		err := row.Scan(&line)
		some = append(some, line)
		return err
	})
	return some, err
}

// Final counts the checkouts that are final, by status.
func (j *Judge) Final(ctx context.Context) (map[string]int, error) {
	final := make(map[string]int)
	err := each(ctx, j.orchestrator, `SELECT status, count(*) FROM checkouts WHERE phase = 'final' GROUP BY status`,
		func(row pgx.CollectableRow) error {
			var status string
			var n int
			err := row.Scan(&status, &n)
			final[status] = n
			return err
		})
	return final, err
}

// Failing counts the checkouts in which a step or a compensation has got no answer.
func (j *Judge) Failing(ctx context.Context) (int, error) {
	var failing int
	err := each(ctx, j.orchestrator, `SELECT count(DISTINCT (definition, key)) FROM steps WHERE state = 'failing' OR compensation = 'failing'`,
		func(row pgx.CollectableRow) error { return row.Scan(&failing) })
	return failing, err
}

// FirstProgress is when something first became known after a time: to the orchestrator about a step, or to a participant about an
// operation. Zero if nothing did.
func (j *Judge) FirstProgress(ctx context.Context, where string, since time.Time) (first time.Time, err error) {
	q, query := j.orchestrator, `SELECT min(at) FROM entries WHERE kind = 'attempt' AND outcome IN ('applied', 'rejected') AND at > $1`
	switch where {
	case "warehouse":
		q, query = j.warehouse, `SELECT min(updated_at) FROM operations WHERE updated_at > $1`
	case "payment":
		q, query = j.payment, `SELECT min(updated_at) FROM operations WHERE updated_at > $1`
	}
	err = each(ctx, q, query, func(row pgx.CollectableRow) error {
		var at *time.Time
		if err := row.Scan(&at); err != nil || at == nil {
			return err
		}
		first = *at
		return nil
	}, since)
	return first, err
}

// Knows lists the participants with a record of an order.
func (j *Judge) Knows(ctx context.Context, orderID string) (participants []string, err error) {
	for name, q := range map[string]querier{"warehouse": j.warehouse, "payment": j.payment} {
		known := false
		err := each(ctx, q, `SELECT FROM operations WHERE key = $1`, func(pgx.CollectableRow) error {
			known = true
			return nil
		}, orderID)
		if err != nil {
			return nil, err
		}
		if known {
			participants = append(participants, name)
		}
	}
	return participants, nil
}

// evidence reads what each side has written of each order.
func (j *Judge) evidence(ctx context.Context) (*evidence, error) {
	e := &evidence{}
	reading, ctx := errgroup.WithContext(ctx)
	reading.Go(func() error { return e.readCheckouts(ctx, j.orchestrator) })
	reading.Go(func() error { return e.readWarehouse(ctx, j.warehouse) })
	reading.Go(func() error { return e.readPayment(ctx, j.payment) })
	return e, reading.Wait()
}

// each gives the rows of a query to use.
func each(ctx context.Context, q querier, sql string, use func(pgx.CollectableRow) error, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := use(rows); err != nil {
			return fmt.Errorf("judge: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	return nil
}
