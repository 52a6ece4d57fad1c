package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/gen/checkout/v1/checkoutv1connect"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store"
	"github.com/checkoutsaga/orchestrator/internal/sagas/store/storetest"
	"github.com/checkoutsaga/orchestrator/internal/testing/checkouttest"
	"github.com/checkoutsaga/orchestrator/saga/journal"
	"github.com/checkoutsaga/orchestrator/tests/dapr/stack"
)

// The section million measures how long it takes to find checkouts among a million: each filter of `checkout list`, its first page
// and one deep in it; what the sweeper and the audit look for; `checkout status`; and `audit --since` an hour ago. Each is asked
// many times, because PostgreSQL may plan a statement that it knows differently from the sixth time on. The plan of the twelfth is
// the one that is told: in the table in a line, and as a whole in bench/out/million-plans.txt.

const (
	// millionCheckouts is how many there are; participants have booked the newest bookedOrders of them, because to book them
	// all takes longer than everything else.
	millionCheckouts, bookedOrders = 1_000_000, 200_000
	// recentCheckouts run through the real system just before the audit, recentAtOnce at a time.
	recentCheckouts, recentAtOnce = 500, 8
	// asked is how often each query is asked, toldOf the time whose plan is told.
	asked, toldOf = 200, 12
	// deepAt is how old what begins the deep pages is.
	deepAt = 70 * 24 * time.Hour
	// allowed is what a page may take.
	allowed = 50 * time.Millisecond
)

// millionReport is what bench/out/million.json holds.
type millionReport struct {
	At        time.Time    `json:"at"`
	Machine   string       `json:"machine"`
	Checkouts int          `json:"checkouts"`
	Booked    int          `json:"orders_at_participants"`
	Seconds   float64      `json:"seconds_to_seed"`
	Rows      []millionRow `json:"rows"`
	Audit     auditRow     `json:"audit_since_an_hour_ago"`
}

// millionRow is one query.
type millionRow struct {
	Name  string  `json:"name"`
	Found int     `json:"found"`
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
	// Scans, RowsRead and Buffers are of all that was asked for it, as PostgreSQL carried it out.
	Scans    []string `json:"scans,omitempty"`
	RowsRead int      `json:"rows_read,omitempty"`
	Buffers  int      `json:"buffers,omitempty"`
}

type auditRow struct {
	Checked    int64   `json:"checked"`
	Violations int     `json:"violations"`
	Seconds    float64 `json:"seconds"`
}

// measureMillion runs the section million and writes the plans to a file.
func measureMillion(ctx context.Context, g *ground, plansFile string) (millionReport, error) {
	r := millionReport{At: time.Now().UTC().Truncate(time.Second), Machine: machine(), Checkouts: millionCheckouts, Booked: bookedOrders}
	const owner = "million"
	// Started once for its migrations, and stopped, so that nobody looks for checkouts while the indexes are away.
	s, _, err := startInOneProcess(ctx, g, owner)
	if err != nil {
		return r, err
	}
	s.stop()
	fmt.Fprintln(os.Stderr, "seeding a million checkouts ...")
	began := time.Now()
	url := func(name string) string { return g.postgres.SuperuserURL(owner + "_" + name) }
	if err := g.hurried(ctx, func() error {
		seeding, ctx := errgroup.WithContext(ctx)
		seeding.Go(func() error { return seedCheckouts(ctx, url(stack.Orchestrator)) })
		seeding.Go(func() error {
			if err := seedBooks(ctx, url(stack.Warehouse), warehouseBooks); err != nil {
				return err
			}
			return seedBooks(ctx, url(stack.Payment), paymentBooks)
		})
		return seeding.Wait()
	}); err != nil {
		return r, err
	}
	r.Seconds = time.Since(began).Seconds()

	if r.Rows, err = measureQueries(ctx, url(stack.Orchestrator), plansFile); err != nil {
		return r, err
	}
	s, server, err := startInOneProcess(ctx, g, owner)
	if err != nil {
		return r, err
	}
	defer s.stop()
	status, err := measureStatus(ctx, server)
	if err != nil {
		return r, err
	}
	r.Rows = append(r.Rows, status)
	r.Audit, err = measureAudit(ctx, s, server)
	return r, err
}

// hurried runs fill while PostgreSQL does not wait for its disk, and leaves it as it was, with everything on disk.
func (g *ground) hurried(ctx context.Context, fill func() error) error {
	conn, err := pgx.Connect(ctx, g.postgres.SuperuserURL("postgres"))
	if err != nil {
		return fmt.Errorf("reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	set := func(statements ...string) error {
		for _, sql := range append(statements, `SELECT pg_reload_conf()`) {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	}
	if err := set(`ALTER SYSTEM SET fsync = off`, `ALTER SYSTEM SET full_page_writes = off`, `ALTER SYSTEM SET max_wal_size = '16GB'`,
		`ALTER SYSTEM SET maintenance_work_mem = '512MB'`); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	return set(`ALTER SYSTEM RESET ALL`, `CHECKPOINT`)
}

func seedCheckouts(ctx context.Context, url string) error {
	pool, err := pg.Open(ctx, url, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := storetest.WithoutIndexes(ctx, pool, "sagas", func() error {
		return storetest.Seed(ctx, pool, millionCheckouts)
	}); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `VACUUM ANALYZE sagas`)
	return err
}

// What the participants booked of seeded orders: those that were confirmed or are open beyond the pivot are booked as confirmed, those
// before it not at all, and of the others nothing is in place. Foreign keys and triggers are left out, as they would only confirm it.
var (
	warehouseBooks = []string{
		`INSERT INTO reservations (order_id, state, created_at, updated_at)
		 SELECT order_id, CASE WHEN kept THEN 'committed' ELSE 'released' END, started_at, started_at FROM booked`,
		`INSERT INTO reservation_lines (order_id, sku, quantity)
		 SELECT order_id, sku, 1 FROM booked, unnest(ARRAY['CHAIR-OAK', 'LAMP-BRASS']) AS sku`,
		`UPDATE stock SET committed = (SELECT count(*) FROM booked WHERE kept) WHERE sku IN ('CHAIR-OAK', 'LAMP-BRASS')`,
		bookOperations("reserve-stock", "NOT kept"), bookOperations("commit-stock", "false") + ` WHERE kept`,
		`VACUUM ANALYZE reservations`, `VACUUM ANALYZE reservation_lines`, `VACUUM ANALYZE operations`,
	}
	paymentBooks = []string{
		`INSERT INTO payments (order_id, state, customer_id, payment_method, currency, minor_units, authorized_until, created_at, updated_at)
		 SELECT order_id, CASE WHEN kept THEN 'captured' ELSE 'voided' END, customer_id, 'tok_visa', 'EUR', amount, started_at + interval '7 days',
		        started_at, started_at FROM booked`,
		`INSERT INTO entries (order_id, movement, account, currency, minor_units, created_at)
		 SELECT order_id, movement, account, 'EUR', sign * amount, started_at
		 FROM booked, (VALUES ('authorize', 'customer', -1), ('authorize', 'held', 1), ('capture', 'held', -1), ('capture', 'merchant', 1),
		                      ('void', 'held', -1), ('void', 'customer', 1)) AS moved (movement, account, sign)
		 WHERE movement <> CASE WHEN kept THEN 'void' ELSE 'capture' END`,
		bookOperations("authorize-payment", "NOT kept"), bookOperations("capture-payment", "false") + ` WHERE kept`,
		`VACUUM ANALYZE payments`, `VACUUM ANALYZE entries`, `VACUUM ANALYZE operations`,
	}
)

func bookOperations(step, undone string) string {
	return fmt.Sprintf(`
		INSERT INTO operations (definition, key, step, digest, do_state, do_reference, undo_state, currency, minor_units, created_at, updated_at)
		SELECT 'checkout', order_id, '%s', md5(order_id), 'applied', 'ref-' || i, CASE WHEN %s THEN 'applied' ELSE 'none' END, 'EUR', amount, started_at, started_at
		FROM booked`, step, undone)
}

func seedBooks(ctx context.Context, url string, books []string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	if err := storetest.SeedOrders(ctx, conn, millionCheckouts); err != nil {
		return err
	}
	for _, sql := range append([]string{
		`SET session_replication_role = replica`,
		fmt.Sprintf(`CREATE TEMP VIEW booked AS SELECT *, fate < 0.925 OR fate >= 1.55 AS kept FROM seeded
			WHERE i > %d AND (fate < 1 OR fate >= 1.55)`, millionCheckouts-bookedOrders),
	}, books...) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("book seeded orders: %s: %w", sql, err)
		}
	}
	return nil
}

// query is something that is asked of the store; it tells how many it found.
type query struct {
	name string
	ask  func(context.Context, *store.Store) (found int, err error)
}

func queries() []query {
	var all []query
	for _, of := range []struct {
		name   string
		filter store.Filter
	}{
		{"all", store.Filter{}},
		{"status CONFIRMED", statuses(journal.Confirmed)},
		{"status RUNNING", statuses(journal.Running)},
		{"status EXPIRED", statuses(journal.Expired)},
		{"status AWAITING_APPROVAL", statuses(journal.AwaitingApproval)},
		{"status EXPIRED, CONFIRMED", statuses(journal.Expired, journal.Confirmed)},
		{"status of all open", statuses(journal.Running, journal.AwaitingApproval, journal.Compensating, journal.NeedsAttention)},
		{"attention", store.Filter{Attention: true}},
		{"step authorize-payment", store.Filter{Step: checkout.AuthorizePayment}},
		{"step void-authorization", store.Filter{Step: checkout.VoidAuthorization}},
		{"step at which none is", store.Filter{Step: checkout.RefundPayment}},
		{"step, older than 1h", store.Filter{Step: checkout.CommitStock, OlderThan: time.Hour}},
		{"customer of 20,000 orders", store.Filter{About: storetest.BigCustomer}},
		{"customer of 20 orders", store.Filter{About: "cus-4711"}},
		{"customer without orders", store.Filter{About: "cus-none"}},
		{"big customer, EXPIRED", store.Filter{About: storetest.BigCustomer, Statuses: []journal.Status{journal.Expired}}},
		{"big customer, attention", store.Filter{About: storetest.BigCustomer, Attention: true}},
		{"big customer, amount over 100,000", store.Filter{About: storetest.BigCustomer, AmountOver: 100_000}},
		{"older than 50 days", store.Filter{OlderThan: 50 * 24 * time.Hour}},
		{"RUNNING, older than 10m", store.Filter{Statuses: []journal.Status{journal.Running}, OlderThan: 10 * time.Minute}},
		{"REJECTED since a day ago", store.Filter{Statuses: []journal.Status{journal.Rejected}, Since: time.Now().AddDate(0, 0, -1)}},
		{"since now", store.Filter{Since: time.Now()}},
		{"amount over 1,000", store.Filter{AmountOver: 1_000}},
		{"amount over 40,000", store.Filter{AmountOver: 40_000}},
		{"amount over 50,000", store.Filter{AmountOver: 50_000}},
		{"amount over 250,000", store.Filter{AmountOver: 250_000}},
		{"amount that none exceeds", store.Filter{AmountOver: 1 << 40}},
		{"CONFIRMED, amount over 40,000", store.Filter{Statuses: []journal.Status{journal.Confirmed}, AmountOver: 40_000}},
		{"EXPIRED, amount over 40,000", store.Filter{Statuses: []journal.Status{journal.Expired}, AmountOver: 40_000}},
		{"EXPIRED, amount over 250,000", store.Filter{Statuses: []journal.Status{journal.Expired}, AmountOver: 250_000}},
		{"reason card_declined", store.Filter{ReasonCode: "card_declined"}},
		{"reason refunded", store.Filter{ReasonCode: "refunded"}},
		{"reason that none has", store.Filter{ReasonCode: "none"}},
		{"reason deadline, big customer", store.Filter{ReasonCode: "deadline", About: storetest.BigCustomer}},
		{"reason card_declined, amount over 40,000", store.Filter{ReasonCode: "card_declined", AmountOver: 40_000}},
	} {
		first := of.filter
		first.Definition, first.Limit = checkout.Definition, 50 // As the API asks.
		all = append(all, query{of.name, func(ctx context.Context, s *store.Store) (int, error) {
			page, _, err := s.List(ctx, first)
			return len(page), err
		}})
	}
	for _, of := range []struct {
		name   string
		filter store.Filter
	}{
		{"all", store.Filter{}},
		{"status CONFIRMED", statuses(journal.Confirmed)},
		{"status EXPIRED, REJECTED", statuses(journal.Expired, journal.Rejected)},
		{"customer of 20,000 orders", store.Filter{About: storetest.BigCustomer}},
		{"amount over 40,000", store.Filter{AmountOver: 40_000}},
		{"amount over 100,000", store.Filter{AmountOver: 100_000}},
		{"reason card_declined", store.Filter{ReasonCode: "card_declined"}},
	} {
		var deep store.Filter // Once it was found where it begins.
		all = append(all, query{of.name + ", 70 days deep", func(ctx context.Context, s *store.Store) (int, error) {
			of.filter.Definition = checkout.Definition
			if deep.PageToken == "" {
				deep = of.filter
				deep.OlderThan, deep.Limit = deepAt, 1
				_, token, err := s.List(ctx, deep)
				if err != nil {
					return 0, err
				}
				deep = of.filter
				deep.Limit, deep.PageToken = 50, token
			}
			page, _, err := s.List(ctx, deep)
			return len(page), err
		}})
	}
	hourAgo := time.Now().Add(-2 * time.Hour)
	return append(all,
		query{"a page of 1,000, all", func(ctx context.Context, s *store.Store) (int, error) {
			page, _, err := s.List(ctx, store.Filter{Definition: checkout.Definition, Limit: 1000})
			return len(page), err
		}},
		query{"one checkout by its id", func(ctx context.Context, s *store.Store) (int, error) {
			_, err := s.Saga(ctx, checkout.Saga(fmt.Sprintf("%s%08d", storetest.SeedPrefix, millionCheckouts/2)))
			return 1, err
		}},
		query{"audit: 200 that ended since", func(ctx context.Context, s *store.Store) (int, error) {
			page, err := s.Finals(ctx, checkout.Definition, store.Ended{At: hourAgo}, 200)
			return len(page), err
		}},
		query{"audit: 200 of all that ended", func(ctx context.Context, s *store.Store) (int, error) {
			page, err := s.Finals(ctx, checkout.Definition, store.Ended{At: time.Now().Add(-deepAt), Key: "seed"}, 200)
			return len(page), err
		}},
		query{"audit: 200 that are open", func(ctx context.Context, s *store.Store) (int, error) {
			page, err := s.Open(ctx, checkout.Definition, "", 200)
			return len(page), err
		}},
		query{"sweeper: those that are due", func(ctx context.Context, s *store.Store) (int, error) {
			due, err := s.Overdue(ctx, "dapr", 100)
			return len(due), err
		}},
		query{"doctor: how the open ones stand", func(ctx context.Context, s *store.Store) (int, error) {
			open, err := s.OpenGroups(ctx)
			return len(open), err
		}},
	)
}

func statuses(of ...journal.Status) store.Filter { return store.Filter{Statuses: of} }

// measureQueries asks each query, and then on another connection has its plan told.
func measureQueries(ctx context.Context, url, plansFile string) ([]millionRow, error) {
	pool, err := pg.Open(ctx, url, 1) // One connection, which remembers its statements.
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	watched, err := storetest.Watch(ctx, url)
	if err != nil {
		return nil, err
	}
	defer watched.Close()
	measured := checkouttest.Store(pool)
	explained := checkouttest.Store(watched.Pool)

	var rows []millionRow
	var plans strings.Builder
	for _, q := range queries() {
		row := millionRow{Name: q.name}
		var took []time.Duration
		for range asked {
			start := time.Now()
			if row.Found, err = q.ask(ctx, measured); err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
			took = append(took, time.Since(start))
		}
		row.P50MS, row.P99MS, row.MaxMS = milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99)), milliseconds(slices.Max(took))

		again := func() error { _, err := q.ask(ctx, explained); return err }
		for range toldOf - 1 {
			if err := again(); err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
		}
		texts, err := watched.Plans(ctx, again)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.name, err)
		}
		fmt.Fprintf(&plans, "== %s\n\n%s\n\n", q.name, strings.Join(texts, "\n\n"))
		reads, err := watched.Reads(ctx, again)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.name, err)
		}
		for _, read := range reads {
			for _, scan := range read.Scans {
				if !slices.Contains(row.Scans, scan) {
					row.Scans = append(row.Scans, scan)
				}
			}
			row.RowsRead += read.Rows
			row.Buffers += read.Buffers
		}
		rows = append(rows, row)
	}
	if err := os.MkdirAll(filepath.Dir(plansFile), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(plansFile, []byte(plans.String()), 0o644); err != nil {
		return nil, fmt.Errorf("write plans: %w", err)
	}
	fmt.Fprintln(os.Stderr, "written to", plansFile)
	return rows, nil
}

// measureStatus asks the API what `checkout status` asks.
func measureStatus(ctx context.Context, server string) (millionRow, error) {
	checkouts := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, server)
	var took []time.Duration
	for n := range asked {
		start := time.Now()
		id := fmt.Sprintf("%s%08d", storetest.SeedPrefix, 1+n*(millionCheckouts/asked))
		if _, err := checkouts.Get(ctx, connect.NewRequest(&checkoutv1.GetRequest{OrderId: id})); err != nil {
			return millionRow{}, fmt.Errorf("get %s: %w", id, err)
		}
		took = append(took, time.Since(start))
	}
	return millionRow{
		Name: "checkout status, through the API", Found: 1, P50MS: milliseconds(quantile(took, 0.5)), P99MS: milliseconds(quantile(took, 0.99)),
		MaxMS: milliseconds(slices.Max(took)),
	}, nil
}

// measureAudit runs checkouts through the real system and audits the last hour, in which there were no others.
func measureAudit(ctx context.Context, s *system, server string) (auditRow, error) {
	running, runCtx := errgroup.WithContext(ctx)
	running.SetLimit(recentAtOnce)
	for n := range recentCheckouts {
		running.Go(func() error { return s.one(runCtx, fmt.Sprintf("recent-%d", n)) })
	}
	if err := running.Wait(); err != nil {
		return auditRow{}, err
	}
	start := time.Now()
	stream, err := checkoutv1connect.NewCheckoutServiceClient(http.DefaultClient, server).Audit(ctx,
		connect.NewRequest(&checkoutv1.AuditRequest{Since: timestamppb.New(start.Add(-time.Hour))}))
	if err != nil {
		return auditRow{}, fmt.Errorf("audit: %w", err)
	}
	defer stream.Close()
	var row auditRow
	var first *checkoutv1.Violation
	for stream.Receive() {
		row.Checked = stream.Msg().Checked
		row.Violations += len(stream.Msg().Violations)
		if first == nil && len(stream.Msg().Violations) > 0 {
			first = stream.Msg().Violations[0]
		}
	}
	if err := stream.Err(); err != nil {
		return row, fmt.Errorf("audit: %w", err)
	}
	row.Seconds = time.Since(start).Seconds()
	if row.Checked < recentCheckouts {
		return row, fmt.Errorf("audit: checked %d of %d checkouts", row.Checked, recentCheckouts)
	}
	if first != nil {
		return row, fmt.Errorf("audit: %d violations, the first: %s: %s", row.Violations, first.OrderId, first.What)
	}
	return row, nil
}

func (r millionReport) print(to io.Writer) {
	fmt.Fprintf(to, "\nfound among %d checkouts (seeded in %.0f s); each asked %d times; plans as of the %dth time\n\n", r.Checkouts, r.Seconds, asked, toldOf)
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "what\tfound\tp50 ms\tp99 ms\tmax ms\trows read\tpages read\tby")
	slow := 0
	for _, row := range r.Rows {
		by := strings.ReplaceAll(strings.Join(row.Scans, ", "), "checkouts_", "")
		if row.P99MS > milliseconds(allowed) {
			by += "  SLOW"
			slow++
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\t%d\t%d\t%s\n", row.Name, row.Found, row.P50MS, row.P99MS, row.MaxMS, row.RowsRead, row.Buffers, by)
	}
	w.Flush()
	fmt.Fprintf(to, "\n%d of %d took %v or longer (p99)\naudit --since 1h: %d checkouts compared in %.2f s, %d violations; participants hold %d orders\n",
		slow, len(r.Rows), allowed, r.Audit.Checked, r.Audit.Seconds, r.Audit.Violations, r.Booked+recentCheckouts)
}
