package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Watched is a pool of one connection that reports how PostgreSQL really carried out its queries, however they were sent and
// prepared, by auto_explain.
type Watched struct {
	*pgxpool.Pool
	told []string
}

// Watch opens a watched pool. It needs a superuser.
func Watch(ctx context.Context, url string) (*Watched, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("parse database url: not a PostgreSQL connection string")
	}
	w := &Watched{}
	config.MaxConns = 1
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if _, plan, found := strings.Cut(notice.Message, "plan:\n"); found {
			w.told = append(w.told, plan)
		}
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
			SET auto_explain.log_buffers = on; SET client_min_messages = log`)
		return err
	}
	if w.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("open watched database: %w", err)
	}
	return w, nil
}

// Plans runs ask and returns how its queries were carried out, for people to read.
func (w *Watched) Plans(ctx context.Context, ask func() error) ([]string, error) {
	return w.explain(ctx, "text", ask)
}

// Reads runs ask and sums up how its queries were carried out.
func (w *Watched) Reads(ctx context.Context, ask func() error) ([]Read, error) {
	plans, err := w.explain(ctx, "json", ask)
	if err != nil {
		return nil, err
	}
	var reads []Read
	for _, text := range plans {
		var explained struct {
			Plan node `json:"Plan"`
		}
		if err := json.Unmarshal([]byte(text), &explained); err != nil {
			return nil, fmt.Errorf("decode plan: %w", err)
		}
		var r Read
		explained.Plan.sumInto(&r)
		reads = append(reads, r)
	}
	return reads, nil
}

func (w *Watched) explain(ctx context.Context, format string, ask func() error) ([]string, error) {
	if _, err := w.Exec(ctx, `SET auto_explain.log_format = `+format); err != nil {
		return nil, fmt.Errorf("have plans explained: %w", err)
	}
	w.told = nil
	if err := ask(); err != nil {
		return nil, err
	}
	return w.told, nil
}

// Read sums up how a query was carried out.
type Read struct {
	// Scans are the indexes that were used, or "sequential" for a table that was read as a whole.
	Scans []string
	// Rows is how many rows or index entries were read, including those then left out.
	Rows int
	// Buffers is how many pages of 8 KB were read.
	Buffers int
}

// Whole stands among the Scans of a Read for a table that was read as a whole.
const Whole = "sequential"

// node is a node of a plan.
type node struct {
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Type     string  `json:"Node Type"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Recheck  float64 `json:"Rows Removed by Index Recheck"`
	Hit      int     `json:"Shared Hit Blocks"`
	Fetched  int     `json:"Shared Read Blocks"`
	Plans    []node  `json:"Plans"`
}

func (n node) sumInto(r *Read) {
	r.Buffers = max(r.Buffers, n.Hit+n.Fetched) // A node's buffers include those of the nodes below it.
	switch {
	case n.Index != "":
		r.scan(n.Index)
	case n.Type == "Seq Scan":
		r.scan(Whole)
	}
	if n.Index != "" || n.Relation != "" {
		r.Rows += int((n.Rows + n.Filtered + n.Recheck) * n.Loops)
	}
	for _, below := range n.Plans {
		below.sumInto(r)
	}
}

func (r *Read) scan(what string) {
	if !slices.Contains(r.Scans, what) {
		r.Scans = append(r.Scans, what)
	}
}
