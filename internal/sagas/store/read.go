package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/saga"
	"github.com/checkoutsaga/orchestrator/saga/journal"
)

// Saga reads one saga, or returns ErrNotFound.
func (s *Store) Saga(ctx context.Context, id saga.ID) (Saga, error) {
	r, err := s.read(ctx, id)
	if err != nil {
		return Saga{}, err
	}
	return r.saga(), nil
}

// Filter says which sagas List returns; zero fields do not filter.
type Filter struct {
	Definition string
	Statuses   []journal.Status
	// About is whom or what a saga is about.
	About string
	// Step is the step, or the compensation, that a saga is at.
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

// List returns a page of sagas, newest first, and the token of the next page, empty on the last.
func (s *Store) List(ctx context.Context, f Filter) (page []Saga, nextToken string, err error) {
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
		return nil, "", fmt.Errorf("list sagas: %w", err)
	}
	if len(page) <= f.Limit {
		return page, "", nil
	}
	page = page[:f.Limit]
	last := page[f.Limit-1]
	return page, pageToken{last.StartedAt, last.ID()}.String(), nil
}

// fewAmounts is the most sagas above an amount that are sorted for a page. If there are more, one of the newest is likely to be
// among them.
const fewAmounts = 20_000

// fewExceed tells whether few sagas are above an amount. It counts them, up to the limit, because PostgreSQL's statistics are worst
// for the largest amounts: looking for the newest of 300 it once read 177,000 others.
func (s *Store) fewExceed(ctx context.Context, amount int64) (few bool, err error) {
	if amount <= 0 {
		return false, nil
	}
	if err := s.pool.QueryRow(ctx, `
		SELECT count(*) <= $2 FROM (SELECT FROM sagas WHERE amount > $1 LIMIT $2 + 1) AS counted`,
		pgx.QueryExecModeCacheDescribe, amount, fewAmounts).Scan(&few); err != nil {
		return false, fmt.Errorf("count amounts above %d: %w", amount, err)
	}
	return few, nil
}

// listQuery selects the ids of one page and one more, which tells whether there is a next page. fewExceed says that few sagas are
// above the filter's amount.
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
	if f.Definition != "" {
		and("definition = ?", f.Definition)
	}
	if f.About != "" {
		// The second condition is for the planner: the index leaves out sagas about nobody.
		and("about = ? AND about <> ''", f.About)
	}
	if f.Step != "" {
		and("ended_at IS NULL AND at_step = ?", f.Step)
	}
	if f.ReasonCode != "" {
		// The second condition is for the planner: the index leaves out sagas without one.
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
		and("(started_at, key, definition) < (?, ?, ?)", after.startedAt, after.id.Key, after.id.Definition)
	}
	limit := arg(f.Limit + 1)
	const newestFirst = " ORDER BY started_at DESC, key DESC, definition DESC LIMIT "
	matching := func(where []string) string {
		return "SELECT started_at, key, definition FROM sagas WHERE " + strings.Join(append(where, "true"), " AND ")
	}

	statuses := slices.Compact(slices.Sorted(slices.Values(f.Statuses)))
	if len(statuses) > 1 && !fewExceed && f.About == "" && f.Step == "" && f.ReasonCode == "" {
		// The index has each status in the order of the page, but not several of them. Asked for together, sagas that all ended in
		// one bad week of last year would be looked for among everything since.
		var each []string
		for _, status := range statuses {
			each = append(each, "("+matching(append(slices.Clone(where), "status = "+arg(status)))+newestFirst+limit+")")
		}
		return "SELECT definition, key FROM (" + strings.Join(each, " UNION ALL ") + ") AS each_status" + newestFirst + limit, args, nil
	}
	switch {
	case len(statuses) == 1:
		and("status = ?", statuses[0])
	case len(statuses) > 1:
		and("status = ANY(?)", statuses)
	}
	if fewExceed {
		// Materialized: all matches are found first, and then sorted.
		return "WITH matching AS MATERIALIZED (" + matching(where) + ") SELECT definition, key FROM matching" + newestFirst + limit, args, nil
	}
	return "SELECT definition, key FROM (" + matching(where) + ") AS matching" + newestFirst + limit, args, nil
}

// Ended is a place in the order of sagas' ends.
type Ended struct {
	At  time.Time
	Key string
}

// Finals returns a definition's sagas in the order of their ends, after a place; for the audit. Sagas that ended at that very time
// come after a place without a key.
func (s *Store) Finals(ctx context.Context, definition string, after Ended, limit int) ([]Saga, error) {
	page, err := s.readMany(ctx, `
		SELECT definition, key FROM sagas
		WHERE definition = $1 AND ended_at IS NOT NULL AND (ended_at, key) > ($2, $3)
		ORDER BY ended_at, key LIMIT $4`, definition, after.At, after.Key, limit)
	if err != nil {
		return nil, fmt.Errorf("read final sagas: %w", err)
	}
	return page, nil
}

// readMany reads the sagas whose ids a query selects, in its order, with two queries in all.
func (s *Store) readMany(ctx context.Context, idQuery string, args ...any) ([]Saga, error) {
	// Planned anew each time, for these values. For a prepared statement PostgreSQL may keep one plan for all values, and the plan
	// for an amount that half of all orders exceed reads every row to find one that none exceeds.
	rows, err := s.pool.Query(ctx, idQuery, slices.Insert(args, 0, any(pgx.QueryExecModeCacheDescribe))...)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowToStructByPos[saga.ID])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	definitions, keys := make([]string, len(ids)), make([]string, len(ids))
	for i, id := range ids {
		definitions[i], keys[i] = id.Definition, id.Key
	}
	if rows, err = s.pool.Query(ctx, selectSagas+` WHERE (definition, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))`, definitions, keys); err != nil {
		return nil, err
	}
	read, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (Saga, error) {
		r, err := scanSaga(from)
		if err != nil {
			return Saga{}, err
		}
		return r.saga(), nil
	})
	if err != nil {
		return nil, err
	}
	place := make(map[saga.ID]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(read, func(a, b Saga) int { return place[a.ID()] - place[b.ID()] })
	return read, nil
}

// History is what the orchestrator's database has of one saga beside its row.
type History struct {
	// Request is as the client sent it.
	Request []byte
	// Entries are in order of time.
	Entries []journal.Entry
}

const selectEntries = `
	SELECT at, kind, step, attempt, actor, reason, duration_ms, outcome, error FROM (
	    SELECT at, id, kind, step, attempt, actor, reason, duration_ms, outcome, error FROM entries WHERE definition = $1 AND key = $2
	    UNION ALL
	    SELECT at, 0, 'command', step, 0, actor, reason, 0, kind || ' ' || split_part(outcome, ': ', 1),
	           CASE WHEN outcome LIKE 'refused: %' THEN substr(outcome, length('refused: ') + 1) ELSE '' END
	    FROM commands WHERE definition = $1 AND key = $2
	) AS all_entries ORDER BY at, id`

// History reads what happened to a saga, or returns ErrNotFound.
func (s *Store) History(ctx context.Context, id saga.ID) (History, error) {
	var h History
	err := s.pool.QueryRow(ctx, `SELECT request FROM sagas WHERE definition = $1 AND key = $2`, id.Definition, id.Key).Scan(&h.Request)
	if err != nil {
		return History{}, notFound(err, id)
	}
	rows, err := s.pool.Query(ctx, selectEntries, id.Definition, id.Key)
	if err != nil {
		return History{}, fmt.Errorf("read entries of %s: %w", id, err)
	}
	h.Entries, err = pgx.CollectRows(rows, func(from pgx.CollectableRow) (journal.Entry, error) {
		var e journal.Entry
		var ms int64
		err := from.Scan(&e.At, &e.Kind, &e.Step, &e.Attempt, &e.Actor, &e.Reason, &ms, &e.Outcome, &e.Error)
		e.Duration = time.Duration(ms) * time.Millisecond
		return e, err
	})
	if err != nil {
		return History{}, fmt.Errorf("read entries of %s: %w", id, err)
	}
	return h, nil
}

// pageToken is where a page ended. It is opaque to clients.
type pageToken struct {
	startedAt time.Time
	id        saga.ID
}

func (t pageToken) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(t.startedAt.UTC().Format(time.RFC3339Nano) + " " + t.id.String()))
}

func parsePageToken(text string) (pageToken, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return pageToken{}, fmt.Errorf("%w: %q", ErrBadPageToken, text)
	}
	parts := strings.Split(string(raw), " ")
	if len(parts) != 3 || !utf8.Valid(raw) || strings.Contains(string(raw), "\x00") {
		return pageToken{}, fmt.Errorf("%w: %q", ErrBadPageToken, text)
	}
	startedAt, err := time.Parse(time.RFC3339Nano, parts[0])
	if err != nil {
		return pageToken{}, fmt.Errorf("%w: %q", ErrBadPageToken, text)
	}
	return pageToken{startedAt, saga.ID{Definition: parts[1], Key: parts[2]}}, nil
}
