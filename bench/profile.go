package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// With -profile the programs serve Go's CPU profiles and PostgreSQL counts statements. Both take time of their own, so nothing is
// compared then. What is read lies in bench/out: `go tool pprof -top bench/out/saga-64.pprof`.

// profileAt is the environment that has a program serve its profile at a port, and where that is.
func (g *ground) profileAt(port int) (env []string, url string) {
	if !g.profiled {
		return nil, ""
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	return []string{"BENCH_PPROF=" + address}, "http://" + address + "/debug/pprof/profile"
}

// profileOverlay has the compiler see the file that serves a profile among those of the orchestrator, too.
func (g *ground) profileOverlay() (file string, err error) {
	file = filepath.Join(g.dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(g.root, "cmd", "orchestrator", "profile.go"): filepath.Join(g.root, "bench", "saga", "profile.go"),
	}})
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file, text, 0o600)
}

// countStatements has PostgreSQL count its statements, for which it is started again.
func (g *ground) countStatements(ctx context.Context) (err error) {
	if _, err := g.server.Exec(ctx, `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`); err != nil {
		return err
	}
	_ = g.server.Close(ctx)
	if err := localstack.StopPostgres(ctx, g.postgresDir()); err != nil {
		return err
	}
	if g.postgres, err = localstack.StartPostgres(ctx, g.postgresDir(), localstack.PostgresOptions{}); err != nil {
		return err
	}
	if g.server, err = pgx.Connect(ctx, g.postgres.SuperuserURL("postgres")); err != nil {
		return err
	}
	for _, statement := range []string{
		`CREATE EXTENSION pg_stat_statements`, `ALTER SYSTEM SET pg_stat_statements.track_planning = on`, `SELECT pg_reload_conf()`,
	} {
		if _, err := g.server.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// profileAll gives each program that tells of itself one turn at each concurrency.
func (g *ground) profileAll(ctx context.Context, systems []*system, concurrencies []int, o options) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	for _, s := range systems {
		for _, inFlight := range concurrencies {
			if s.profile == "" {
				continue
			}
			file := filepath.Join(o.out, fmt.Sprintf("%s-%d", s.name, inFlight))
			if err := g.profile(ctx, s, inFlight, o.length(), file); err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "written to %s.pprof and %[1]s-statements.txt\n", file)
		}
	}
	return nil
}

func (g *ground) profile(ctx context.Context, s *system, inFlight int, length time.Duration, file string) error {
	if _, err := g.server.Exec(ctx, `SELECT pg_stat_statements_reset()`); err != nil {
		return err
	}
	saved := make(chan error, 1)
	go func() {
		saved <- download(ctx, fmt.Sprintf("%s?seconds=%.0f", s.profile, (warmUp+length).Seconds()), file+".pprof")
	}()
	t, err := g.measure(ctx, s, inFlight, length, fmt.Sprintf("%s-%d-profile", s.name, inFlight))
	if err := errors.Join(err, <-saved); err != nil {
		return err
	}
	statements, err := os.Create(file + "-statements.txt")
	if err != nil {
		return err
	}
	defer statements.Close()
	fmt.Fprintf(statements, "%s, %d in flight: %.0f/s, CPU seconds per 1,000:%s\n\n", s.name, inFlight, t.PerSecond, byProcess(t.CPUPer1000))
	return g.tellStatements(ctx, s, t.all, statements)
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o644)
}

// tellStatements tells of the statements that came to the system's databases for each of n sagas, those that took the most first.
func (g *ground) tellStatements(ctx context.Context, s *system, n int, to io.Writer) error {
	rows, err := g.server.Query(ctx, `
		SELECT datname, query, calls::float8 / $2, rows::float8 / $2, total_exec_time * 1000 / $2, total_plan_time * 1000 / $2, wal_bytes::float8 / $2
		FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
		WHERE split_part(datname, '_', 1) = ANY ($1) AND calls * 100 >= $2
		ORDER BY total_exec_time + total_plan_time DESC`, s.owners, n)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "database\tcalls each\trows each\tmicroseconds each\tplanning\tWAL bytes each\tstatement")
	var database, query string
	var calls, touched, micros, planning, bytes float64
	if _, err := pgx.ForEachRow(rows, []any{&database, &query, &calls, &touched, &micros, &planning, &bytes}, func() error {
		text := strings.Join(strings.Fields(query), " ")
		_, err := fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%s\n", database, calls, touched, micros, planning, bytes, text[:min(len(text), 160)])
		return err
	}); err != nil {
		return err
	}
	return w.Flush()
}
