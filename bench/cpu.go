package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// clockTick is the unit of /proc/<pid>/stat; Linux has fixed it at 100 a second for programs.
const clockTick = 10 * time.Millisecond

// kind is a kind of process: whose it is, and what. The server's own processes are nobody's, so everybody's.
type kind struct{ owner, name string }

// used is what all processes of a kind have used of the CPU so far, and what they have in memory now.
type used struct {
	cpu    time.Duration
	memory int64
}

// usage is what was used until a moment.
type usage struct {
	processes map[kind]used
	// commits is how many transactions of the server have written something, wal how many bytes of log. Unlike pg_stat_database, which
	// hears of a transaction up to ten seconds later, both are exact at once.
	commits, wal int64
}

func (u usage) add(k kind, cpu time.Duration, memory int64) {
	sum := u.processes[k]
	u.processes[k] = used{sum.cpu + cpu, sum.memory + memory}
}

// since is how much CPU time was used since before, by what the processes are. Those of other owners are left out: they stand idle.
// With no owners named, all count.
func (u usage) since(before usage, owners []string) map[string]time.Duration {
	took := map[string]time.Duration{}
	for k, now := range u.processes {
		if k.owner == "" || len(owners) == 0 || slices.Contains(owners, k.owner) {
			took[k.name] += now.cpu - before.processes[k].cpu
		}
	}
	return took
}

// usage reads what the processes below this one and PostgreSQL's use. Those that nobody has named are Dapr's, and what runs beside it.
func (g *ground) usage(ctx context.Context) (usage, error) {
	u := usage{processes: map[kind]used{}}
	const written = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint`
	if err := g.server.QueryRow(ctx, written).Scan(&u.commits, &u.wal); err != nil {
		return u, fmt.Errorf("ask PostgreSQL what was written: %w", err)
	}
	own, err := children(os.Getpid())
	if err != nil {
		return u, err
	}
	postmaster, err := readProcess(g.postmaster)
	if err != nil {
		return u, err
	}
	server, err := children(postmaster.pid)
	if err != nil {
		return u, err
	}
	if g.countsItself {
		self, err := readProcess(os.Getpid())
		if err != nil {
			return u, err
		}
		u.add(kind{"", self.name}, self.used, self.memory)
	}
	for _, p := range own {
		k, named := g.programs[p.pid]
		if !named {
			k = kind{onDapr, p.name}
		}
		u.add(k, p.used, p.memory)
	}
	// Connections that were closed meanwhile are in the server's own sum of its ended children.
	u.add(kind{"", "postgres"}, postmaster.used+postmaster.usedByEnded, 0)
	for _, p := range server {
		u.add(p.ofPostgres(), p.used, 0) // Its memory is shared.
	}
	return u, nil
}

// postmasterOf finds the process that is the parent of all of PostgreSQL's.
func postmasterOf(ctx context.Context, conn *pgx.Conn) (int, error) {
	var pid int
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return 0, err
	}
	p, err := readProcess(pid)
	return p.parent, err
}

// process is one of /proc.
type process struct {
	pid, parent       int
	name              string
	used, usedByEnded time.Duration // itself; its children that have ended
	memory            int64         // resident
}

// ofPostgres tells for which of our databases, whose names are owner_name, a process of PostgreSQL works, by the title that it gives
// itself: "postgres: user database address(port) command".
func (p process) ofPostgres() kind {
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil {
		return kind{"", "postgres"}
	}
	words := strings.Fields(string(title))
	if len(words) < 4 || !strings.Contains(words[3], "(") {
		return kind{"", "postgres"}
	}
	owner, database, _ := strings.Cut(words[2], "_")
	return kind{owner, "postgres/" + database}
}

func children(parent int) ([]process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil && p.parent == parent { // An error: it ended meanwhile.
			found = append(found, p)
		}
	}
	return found, nil
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// pid (name) state parent ...; the name may hold anything, so fields are counted from its end.
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	number := func(i int) int64 { // i as in proc(5)
		n, _ := strconv.ParseInt(fields[i-3], 10, 64)
		return n
	}
	return process{
		pid: pid, parent: int(number(4)), name: string(text[open+1 : end]),
		used:        time.Duration(number(14)+number(15)) * clockTick,
		usedByEnded: time.Duration(number(16)+number(17)) * clockTick,
		memory:      number(24) * int64(os.Getpagesize()),
	}, nil
}
