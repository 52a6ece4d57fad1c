package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	checkoutv1 "github.com/checkoutsaga/orchestrator/gen/checkout/v1"
	"github.com/checkoutsaga/orchestrator/internal/checkout"
	"github.com/checkoutsaga/orchestrator/internal/contract"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Checkout reads one checkout. ErrNotFound.
func (s *Store) Checkout(ctx context.Context, orderID string) (Checkout, error) {
	r, err := s.read(ctx, orderID)
	if err != nil {
		return Checkout{}, err
	}
	return r.checkout(), nil
}

// Filter says which checkouts List returns; what is zero does not filter.
type Filter struct {
	Statuses   []journal.Status
	CustomerID string
	// Step is the step, or the compensation, that a checkout is at.
	Step       string
	AmountOver int64
	OlderThan  time.Duration
	Since      time.Time
	Attention  bool
	// ReasonCode is the word of the reason.
	ReasonCode string
	// Limit is the size of a page: 1 to 1,000.
	Limit     int
	PageToken string
}

// List returns a page of checkouts, newest first, and the token of the next page, empty on the last.
func (s *Store) List(ctx context.Context, f Filter) (page []Checkout, nextToken string, err error) {
	few, err := s.fewExceed(ctx, f.AmountOver)
	if err != nil {
		return nil, "", err
	}
	sql, args, err := listQuery(f, few)
	if err != nil {
		return nil, "", err
	}
	page, err = s.readMany(ctx, sql, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list checkouts: %w", err)
	}
	if len(page) <= f.Limit {
		return page, "", nil
	}
	page = page[:f.Limit]
	last := page[f.Limit-1]
	return page, pageToken{last.StartedAt, last.Key}.String(), nil
}

// fewAmounts is up to how many checkouts above an amount are sorted for a page; beyond that, one looks through the newest for it.
const fewAmounts = 20_000

// fewExceed tells whether few checkouts are above an amount. It counts them, as far as need be, because PostgreSQL's statistics
// say least of the largest amounts: looking for the newest of 300 it was seen to read 177,000 others.
func (s *Store) fewExceed(ctx context.Context, amount int64) (few bool, err error) {
	if amount <= 0 {
		return false, nil
	}
	if err := s.pool.QueryRow(ctx, `
		SELECT count(*) <= $2 FROM (SELECT FROM checkouts WHERE amount > $1 LIMIT $2 + 1) AS counted`,
		pgx.QueryExecModeCacheDescribe, amount, fewAmounts).Scan(&few); err != nil {
		return false, fmt.Errorf("count amounts above %d: %w", amount, err)
	}
	return few, nil
}

// listQuery selects the ids of one page and one more, which tells whether there is a next page. fewExceed says that few
// checkouts are above the filter's amount.
func listQuery(f Filter, fewExceed bool) (sql string, args []any, err error) {
	var where []string
	arg := func(value any) string {
		args = append(args, value)
		return fmt.Sprintf("$%d", len(args))
	}
	and := func(condition string, values ...any) {
		for _, v := range values {
			condition = strings.Replace(condition, "?", arg(v), 1)
		}
		where = append(where, condition)
	}
	if f.CustomerID != "" {
		and("customer_id = ?", f.CustomerID)
	}
	if f.Step != "" {
		and("ended_at IS NULL AND at_step = ?", f.Step)
	}
	if f.ReasonCode != "" {
		// The second is for the planner: the index leaves out those without.
		and("reason_code = ? AND reason_code <> ''", f.ReasonCode)
	}
	if f.AmountOver > 0 {
		and("amount > ?", f.AmountOver)
	}
	if f.OlderThan > 0 {
		and("started_at < now() - ?::interval", f.OlderThan)
	}
	if !f.Since.IsZero() {
		and("started_at >= ?", f.Since)
	}
	if f.Attention {
		and("status = 'NEEDS_ATTENTION'")
	}
	if f.PageToken != "" {
		after, err := parsePageToken(f.PageToken)
		if err != nil {
			return "", nil, err
		}
		and("(started_at, order_id) < (?, ?)", after.startedAt, after.orderID)
	}
	limit := arg(f.Limit + 1)
	const newestFirst = " ORDER BY started_at DESC, order_id DESC LIMIT "
	matching := func(where []string) string {
		return "SELECT started_at, order_id FROM checkouts WHERE " + strings.Join(append(where, "true"), " AND ")
	}

	statuses := slices.Compact(slices.Sorted(slices.Values(f.Statuses)))
	if len(statuses) > 1 && !fewExceed && f.CustomerID == "" && f.Step == "" && f.ReasonCode == "" {
		// The index holds each status in the order of the page, but not several of them. Asked for together, those that all
		// ended in one bad week of last year would be looked for among everything since.
		var each []string
		for _, status := range statuses {
			each = append(each, "("+matching(append(slices.Clone(where), "status = "+arg(status)))+newestFirst+limit+")")
		}
		return "SELECT order_id FROM (" + strings.Join(each, " UNION ALL ") + ") AS each_status" + newestFirst + limit, args, nil
	}
	switch {
	case len(statuses) == 1:
		and("status = ?", statuses[0])
	case len(statuses) > 1:
		and("status = ANY(?)", statuses)
	}
	if fewExceed {
		// Materialized: all that match are found first, and then sorted.
		return "WITH matching AS MATERIALIZED (" + matching(where) + ") SELECT order_id FROM matching" + newestFirst + limit, args, nil
	}
	return "SELECT order_id FROM (" + matching(where) + ") AS matching" + newestFirst + limit, args, nil
}

// Ended is a place in the order in which checkouts end.
type Ended struct {
	At      time.Time
	OrderID string
}

// Finals returns checkouts in the order in which they ended, beginning after a place; for the audit. Those that ended at the
// very time come after a place without an order id.
func (s *Store) Finals(ctx context.Context, after Ended, limit int) ([]Checkout, error) {
	page, err := s.readMany(ctx, `
		SELECT order_id FROM checkouts
		WHERE ended_at IS NOT NULL AND (ended_at, order_id) > ($1, $2)
		ORDER BY ended_at, order_id LIMIT $3`, after.At, after.OrderID, limit)
	if err != nil {
		return nil, fmt.Errorf("read final checkouts: %w", err)
	}
	return page, nil
}

// readMany reads the checkouts whose ids a query selects, in its order, with two queries however many they are.
func (s *Store) readMany(ctx context.Context, idQuery string, args ...any) ([]Checkout, error) {
	// Planned anew each time, for the very values: of a prepared statement PostgreSQL may keep one plan for all values, and what
	// finds an amount that half of all orders exceed reads every row to find one that none does.
	rows, err := s.pool.Query(ctx, idQuery, slices.Insert(args, 0, any(pgx.QueryExecModeCacheDescribe))...)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return nil, err
	}

	if rows, err = s.pool.Query(ctx, selectCheckouts+` WHERE order_id = ANY($1)`, ids); err != nil {
		return nil, err
	}
	read, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (Checkout, error) {
		r, err := scanCheckout(from)
		if err != nil {
			return Checkout{}, err
		}
		return r.checkout(), nil
	})
	if err != nil {
		return nil, err
	}
	place := make(map[string]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(read, func(a, b Checkout) int { return place[a.Key] - place[b.Key] })
	return read, nil
}

// History is all that the orchestrator's database tells of one checkout.
type History struct {
	// Request is as the client sent it.
	Request []byte
	Prices  []Price
	// Entries are in order of time.
	Entries []journal.Entry
}

const selectEntries = `
	SELECT at, kind, step, attempt, actor, reason, duration_ms, outcome, error FROM (
	    SELECT at, id, kind, step, attempt, actor, reason, duration_ms, outcome, error FROM entries WHERE order_id = $1
	    UNION ALL
	    SELECT at, 0, 'command', step, 0, actor, reason, 0, kind || ' ' || split_part(outcome, ': ', 1),
	           CASE WHEN outcome LIKE 'refused: %' THEN substr(outcome, length('refused: ') + 1) ELSE '' END FROM commands WHERE order_id = $1
	) AS all_entries ORDER BY at, id`

// History reads what happened to a checkout. ErrNotFound.
func (s *Store) History(ctx context.Context, orderID string) (History, error) {
	var h History
	var currency string
	var items []byte
	err := s.pool.QueryRow(ctx, `SELECT request, currency, items FROM checkouts WHERE order_id = $1`, orderID).
		Scan(&h.Request, &currency, &items)
	if errors.Is(err, pgx.ErrNoRows) {
		return History{}, fmt.Errorf("%w: %s", ErrNotFound, orderID)
	}
	if err != nil {
		return History{}, fmt.Errorf("read request of %s: %w", orderID, err)
	}
	var priced []pricedItem
	if err := json.Unmarshal(items, &priced); err != nil {
		return History{}, fmt.Errorf("read prices of %s: %w", orderID, err)
	}
	for _, item := range priced {
		h.Prices = append(h.Prices, Price{SKU: item.SKU, Unit: checkout.Money{Currency: currency, MinorUnits: item.UnitPrice}})
	}
	rows, err := s.pool.Query(ctx, selectEntries, orderID)
	if err != nil {
		return History{}, fmt.Errorf("read entries of %s: %w", orderID, err)
	}
	h.Entries, err = pgx.CollectRows(rows, func(from pgx.CollectableRow) (journal.Entry, error) {
		var e journal.Entry
		var ms int64
		err := from.Scan(&e.At, &e.Kind, &e.Step, &e.Attempt, &e.Actor, &e.Reason, &ms, &e.Outcome, &e.Error)
		e.Duration = time.Duration(ms) * time.Millisecond
		return e, err
	})
	if err != nil {
		return History{}, fmt.Errorf("read entries of %s: %w", orderID, err)
	}
	return h, nil
}

// pageToken is where a page ended. It is opaque to clients.
type pageToken struct {
	startedAt time.Time
	orderID   string
}

func (t pageToken) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(t.startedAt.UTC().Format(time.RFC3339Nano) + " " + t.orderID))
}

func parsePageToken(text string) (pageToken, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return pageToken{}, fmt.Errorf("%w: %q", ErrBadPageToken, text)
	}
	at, orderID, found := strings.Cut(string(raw), " ")
	startedAt, err := time.Parse(time.RFC3339Nano, at)
	if !found || err != nil || len(contract.Check(&checkoutv1.GetRequest{OrderId: orderID})) > 0 {
		return pageToken{}, fmt.Errorf("%w: %q", ErrBadPageToken, text)
	}
	return pageToken{startedAt, orderID}, nil
}
