package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// The whole program as somebody types it: `trip dev` with a PostgreSQL of its own, and its command line.
func TestTripsAreBookedAndUndoneAndSurviveAKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	p := newProgram(t)
	out, err := exec.Command("go", "build", "-o", p.bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	p.dev()

	p.types(0, "saga", "start", "trip", "fine", "-f", p.input("lisbon", 3, "visa"), "--wait")
	p.types(10, "saga", "start", "trip", "declined", "-f", p.input("lisbon", 3, "declined"), "--wait")
	p.types(10, "saga", "start", "trip", "nowhere", "-f", p.input("nowhere", 3, "visa"), "--wait")
	p.types(2, "saga", "start", "trip", "no-nights", "-f", p.input("lisbon", 0, "visa"))

	// The hotel never answers for so long a stay, so the card is never charged.
	p.types(0, "saga", "start", "trip", "called-off", "-f", p.input("lisbon", 40, "visa"))
	require.Eventually(t, func() bool { return p.status("called-off").attempts("book-hotel") > 0 }, patience, 50*time.Millisecond)
	p.types(0, "saga", "cancel", "trip", "called-off", "--reason", "the traveller called")
	p.types(11, "saga", "wait", "trip", "called-off")

	// The card is charged and there is no ticket: a person decides.
	p.types(12, "saga", "start", "trip", "stuck", "-f", p.input("atlantis", 3, "visa"), "--wait")
	p.types(0, "saga", "resolve", "trip", "stuck", "--step", "issue-ticket", "--as", "refund", "--reason", "nobody gets to atlantis")
	p.types(11, "saga", "wait", "trip", "stuck")

	ends := p.killedUnderWay()
	for key, exit := range ends {
		p.types(exit, "saga", "wait", "trip", key, "--timeout", patience.String())
	}

	p.types(0, "saga", "audit")
	p.booksAgree(map[string]string{"fine": "CONFIRMED", "declined": "REJECTED", "nowhere": "REJECTED", "called-off": "CANCELLED", "stuck": "CANCELLED"}, ends)
	p.stop()
}

// killedUnderWay kills the process with trips at several of their steps, starts it again, and tells how each trip has to end.
func (p *program) killedUnderWay() (exits map[string]int) {
	ctx := p.t.Context()
	exits = make(map[string]int)
	start := func(key string) {
		card := "visa"
		if exits[key] = 0; len(exits)%3 == 0 {
			card, exits[key] = "declined", 10
		}
		p.types(0, "saga", "start", "trip", key, "-f", p.input("lisbon", 3, card))
	}
	for i := range 4 { // These are wherever they have got to.
		start(fmt.Sprintf("killed-%d", i))
	}
	// These stand where they enter something into the books, until the lock ends.
	books, err := pgx.Connect(ctx, p.env()["PARTICIPANTS_DATABASE_URL"])
	require.NoError(p.t, err)
	defer books.Close(context.WithoutCancel(ctx))
	tx, err := books.Begin(ctx)
	require.NoError(p.t, err)
	_, err = tx.Exec(ctx, `LOCK TABLE books IN ACCESS EXCLUSIVE MODE`)
	require.NoError(p.t, err)
	for i := range 4 {
		start(fmt.Sprintf("killed-at-work-%d", i))
	}
	require.Eventually(p.t, func() bool {
		var waiting int
		require.NoError(p.t, tx.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE relation = 'books'::regclass AND NOT granted`).Scan(&waiting))
		return waiting >= 2
	}, patience, 20*time.Millisecond, "trips are in the middle of a step")
	p.kill()
	require.NoError(p.t, tx.Rollback(ctx))
	p.dev()
	return exits
}

// booksAgree holds the participants' books to how trips ended: all six steps of one that is CONFIRMED, and the price once; nothing of others.
func (p *program) booksAgree(want map[string]string, killed map[string]int) {
	ctx := p.t.Context()
	for key, exit := range killed {
		want[key] = map[int]string{0: "CONFIRMED", 10: "REJECTED"}[exit]
	}
	conn, err := pgx.Connect(ctx, p.env()["PARTICIPANTS_DATABASE_URL"])
	require.NoError(p.t, err)
	defer conn.Close(context.WithoutCancel(ctx))
	type entry struct {
		Saga  string
		Steps int
		Units int64
	}
	rows, err := conn.Query(ctx, `SELECT saga, count(*) AS steps, sum(units) FILTER (WHERE step = 'charge-card') AS units FROM books GROUP BY saga`)
	require.NoError(p.t, err)
	entered, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
	require.NoError(p.t, err)
	var right []entry
	for key, status := range want {
		require.Equal(p.t, status, p.status(key).Status, key)
		if status == "CONFIRMED" {
			right = append(right, entry{key, 6, 48000})
		}
	}
	require.ElementsMatch(p.t, right, entered)
}

// patience is for a machine that does a lot else.
const patience = 2 * time.Minute

// program is the binary of the trip, in a folder that has nothing else.
type program struct {
	t        testing.TB
	bin, dir string
	running  *exec.Cmd
	ended    chan error
}

func newProgram(t testing.TB) *program {
	t.Helper()
	// The test's own temporary folders are closed to the user that PostgreSQL runs as, where this is root.
	dir, err := os.MkdirTemp("", "trip-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	p := &program{t: t, bin: filepath.Join(dir, "trip"), dir: dir}
	t.Cleanup(p.remove)
	return p
}

// command is one of the program, which knows nothing but its folder.
func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.bin, args...)
	cmd.Dir = p.dir
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); slices.Contains([]string{"PATH", "HOME", "USER", "TMPDIR", "GOPROXY", "GOFLAGS", "GOMODCACHE", "GOCACHE"}, name) {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	return cmd
}

// dev starts the process and returns when it serves.
func (p *program) dev() {
	p.t.Helper()
	p.running, p.ended = p.command("dev"), make(chan error, 1)
	p.running.Env = append(p.running.Env, "ORCHESTRATOR_LISTEN=127.0.0.1:0")
	log, err := p.running.StderrPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, p.running.Start())
	serves := make(chan bool, 1)
	go func(running *exec.Cmd, ended chan<- error) {
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"msg":"serving"`) {
				serves <- true
			}
			if strings.Contains(lines.Text(), `"level":"ERROR"`) {
				p.t.Log(lines.Text())
			}
		}
		close(serves)
		ended <- running.Wait()
	}(p.running, p.ended)
	select {
	case is := <-serves:
		require.True(p.t, is, "it ended before it served")
	case <-time.After(patience):
		p.t.Fatal("it does not serve")
	}
}

// stop has the process end as it should, its database with it.
func (p *program) stop() {
	p.t.Helper()
	require.NoError(p.t, p.running.Process.Signal(syscall.SIGTERM))
	require.NoError(p.t, <-p.ended)
	p.running = nil
	require.NoFileExists(p.t, filepath.Join(p.dir, ".local", "env"))
	require.Empty(p.t, p.databases(), "its PostgreSQL has ended")
}

// kill gives the process no chance.
func (p *program) kill() {
	p.t.Helper()
	require.NoError(p.t, p.running.Process.Kill())
	<-p.ended
	p.running = nil
}

// remove stops what a test that failed has left, and removes the folder.
func (p *program) remove() {
	if p.running != nil {
		_ = p.running.Process.Signal(syscall.SIGTERM)
		<-p.ended
	}
	for _, pid := range p.databases() {
		_ = syscall.Kill(pid, syscall.SIGINT)
	}
	require.Eventually(p.t, func() bool { return len(p.databases()) == 0 }, patience, 50*time.Millisecond)
	require.NoError(p.t, os.RemoveAll(p.dir))
}

// databases are the processes of the PostgreSQL of the folder: one or none.
func (p *program) databases() (pids []int) {
	for _, data := range []string{"data", "server/data"} {
		var pid int
		text, err := os.ReadFile(filepath.Join(p.dir, ".local/postgres", data, "postmaster.pid"))
		if _, isNone := fmt.Sscan(string(text), &pid); err == nil && isNone == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// types runs a command to its end, which is to have this exit status, and returns what it prints.
func (p *program) types(exit int, args ...string) string {
	p.t.Helper()
	cmd := p.command(args...)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	require.Equal(p.t, exit, cmd.ProcessState.ExitCode(), "trip %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), said.String())
	return out.String()
}

// input is the file of a trip.
func (p *program) input(to string, nights int, card string) string {
	p.t.Helper()
	name := fmt.Sprintf("%s-%d-%s.json", to, nights, card)
	text := fmt.Sprintf(`{"traveller": "ann", "to": %q, "nights": %d, "card": %q, "price": {"minor_units": 48000, "currency": "EUR"}}`, to, nights, card)
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600))
	return name
}

// standing is what the test reads of `saga status -o json`.
type standing struct {
	Status string
	Steps  []struct {
		Name     string
		Attempts int
	}
}

func (p *program) status(key string) (s standing) {
	p.t.Helper()
	require.NoError(p.t, json.Unmarshal([]byte(p.types(0, "saga", "status", "trip", key, "-o", "json")), &s))
	return s
}

func (s standing) attempts(step string) int {
	for _, x := range s.Steps {
		if x.Name == step {
			return x.Attempts
		}
	}
	return 0
}

// env is what dev says of where everything is.
func (p *program) env() map[string]string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, ".local", "env"))
	require.NoError(p.t, err)
	values := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	return values
}
