package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// clockTick is the unit of /proc/<pid>/stat; Linux has fixed it at 100 a second for programs.
const clockTick = 10 * time.Millisecond

// usage is how much CPU time each kind of process has used so far.
type usage map[string]time.Duration

func (u usage) since(before usage) usage {
	d := usage{}
	for kind, used := range u {
		d[kind] = used - before[kind]
	}
	return d
}

// cpu reads what the processes below this one and PostgreSQL's have used. A system that stands idle while another is
// measured uses next to nothing, so all of them are counted.
func (g *ground) cpu() (usage, error) {
	own, err := children(os.Getpid())
	if err != nil {
		return nil, err
	}
	postmaster, err := readProcess(g.postmaster)
	if err != nil {
		return nil, err
	}
	server, err := children(postmaster.pid)
	if err != nil {
		return nil, err
	}
	u := usage{}
	if g.countsItself {
		self, err := readProcess(os.Getpid())
		if err != nil {
			return nil, err
		}
		u[self.name] = self.used
	}
	for _, p := range own {
		u[p.name] += p.used
	}
	// Connections that were closed meanwhile are in the server's own sum of its ended children.
	u["postgres"] = postmaster.used + postmaster.usedByEnded
	for _, p := range server {
		u[p.ofPostgres()] += p.used
	}
	return u, nil
}

// postmasterOf finds the process that is the parent of all of PostgreSQL's.
func postmasterOf(ctx context.Context, url string) (int, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
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
}

// ofPostgres tells for which of our databases a process of PostgreSQL works, by the title that it gives itself:
// "postgres: user database address(port) command". Those of the server as a whole are "postgres".
func (p process) ofPostgres() string {
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil {
		return "postgres"
	}
	words := strings.Fields(string(title))
	if len(words) < 4 || !strings.Contains(words[3], "(") {
		return "postgres"
	}
	_, database, _ := strings.Cut(words[2], "_")
	return "postgres/" + database
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
	}, nil
}
