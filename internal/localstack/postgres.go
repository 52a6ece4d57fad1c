// Package localstack installs, starts and stops what the project runs on one machine: PostgreSQL, message brokers, and
// Dapr's runtime. The make targets and the tests start their parts through it, so both meet the same ones.
package localstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server on a loopback port.
type Postgres struct {
	dir  string
	port int
}

// PostgresOptions says how a server is run.
type PostgresOptions struct {
	// Throwaway gives up durability for speed; for tests whose databases nobody misses.
	Throwaway bool
	// Connections is how many connections the server takes; 0 means 800. Fewer are sooner used up.
	Connections int
}

// StartPostgres starts the server whose data lies in dir, or finds it running; it makes the data folder if there is none.
// The server goes on when this process ends. Several processes may call it at once.
func StartPostgres(ctx context.Context, dir string, opts PostgresOptions) (*Postgres, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	owner, err := postgresOwner()
	if err != nil {
		return nil, err
	}
	if dir, err = reachableBy(owner, dir); err != nil {
		return nil, err
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()

	p := &Postgres{dir: dir}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		if err := run(ctx, owner, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "postgres",
			"--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"); err != nil {
			return nil, fmt.Errorf("make PostgreSQL data folder: %w", err)
		}
	}
	if p.port, err = p.runningPort(ctx); err == nil {
		return p, nil
	}
	if p.port, err = FreePort(); err != nil {
		return nil, err
	}
	flags := fmt.Sprintf("-c listen_addresses=127.0.0.1 -p %d -k %s -c max_connections=%d -c shared_buffers=256MB", p.port, data, cmp.Or(opts.Connections, 800))
	if opts.Throwaway {
		flags += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
	}
	if err := run(ctx, owner, filepath.Join(bin, "pg_ctl"), "start", "--wait", "--timeout", "60", "--pgdata", data,
		"--log", filepath.Join(dir, "postgres.log"), "--options", flags); err != nil {
		return nil, fmt.Errorf("start PostgreSQL (its log: %s): %w", filepath.Join(dir, "postgres.log"), err)
	}
	return p, nil
}

// StopPostgres stops the server whose data lies in dir; one that does not run is fine.
func StopPostgres(ctx context.Context, dir string) error {
	owner, err := postgresOwner()
	if err != nil {
		return nil // No such user, so there was never a server.
	}
	if dir, err = reachableBy(owner, dir); err != nil {
		return err
	}
	p := &Postgres{dir: dir}
	if p.pid() == 0 {
		return nil
	}
	bin, err := postgresBinaries()
	if err != nil {
		return err
	}
	return run(ctx, owner, filepath.Join(bin, "pg_ctl"), "stop", "--wait", "--mode", "fast", "--pgdata", filepath.Join(dir, "data"))
}

// RemovePostgres removes the data of a stopped server.
func RemovePostgres(dir string) error {
	owner, err := postgresOwner()
	if err != nil {
		return nil
	}
	reachable, err := reachableBy(owner, dir)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(reachable), os.RemoveAll(dir), os.RemoveAll(dir+".lock"), os.RemoveAll(reachable+".lock"))
}

// URL is the connection string of one of the server's databases.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.port, database)
}

// EnsureDatabase makes a database unless it exists.
func (p *Postgres) EnsureDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&exists); err != nil {
		return fmt.Errorf("look for database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// runningPort is the port of the server that runs on the data folder, if one answers.
func (p *Postgres) runningPort(ctx context.Context) (int, error) {
	if p.pid() == 0 {
		return 0, errors.New("not running")
	}
	lines := p.pidFile()
	if len(lines) < 4 {
		return 0, errors.New("not running")
	}
	port, err := strconv.Atoi(lines[3])
	if err != nil {
		return 0, fmt.Errorf("read port of running PostgreSQL: %w", err)
	}
	probe := &Postgres{port: port}
	conn, err := pgx.Connect(ctx, probe.URL("postgres"))
	if err != nil {
		return 0, fmt.Errorf("reach running PostgreSQL: %w", err)
	}
	return port, conn.Close(ctx)
}

// pid is that of the running server, or 0.
func (p *Postgres) pid() int {
	lines := p.pidFile()
	if len(lines) == 0 {
		return 0
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil || syscall.Kill(pid, 0) == syscall.ESRCH {
		return 0
	}
	return pid
}

// pidFile is PostgreSQL's postmaster.pid: the process id first, the port fourth.
func (p *Postgres) pidFile() []string {
	text, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// postgresBinaries is the folder of the newest installed server; Debian keeps them out of PATH.
func postgresBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		sort.Slice(found, func(i, j int) bool { return postgresVersion(found[i]) < postgresVersion(found[j]) })
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("PostgreSQL is not installed; `make install` installs it")
}

func postgresVersion(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// postgresOwner is who runs the server: this user, or, because PostgreSQL refuses root, the user that its package made.
func postgresOwner() (*user.User, error) {
	if os.Geteuid() != 0 {
		return user.Current()
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("find user postgres, which PostgreSQL's package makes: %w", err)
	}
	return u, nil
}

// reachableBy makes dir for owner. Where owner cannot reach it, as below a root user's home, a folder in /var/tmp that is
// named for dir takes its place.
func reachableBy(owner *user.User, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if !canEnter(owner, filepath.Dir(dir)) {
		dir = filepath.Join("/var/tmp", "checkoutsaga"+strings.ReplaceAll(dir, "/", "-"))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return "", err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		err = os.Chown(dir, uid, gid)
	}
	return dir, err
}

func canEnter(owner *user.User, dir string) bool {
	cmd := exec.Command("test", "-x", dir)
	return as(cmd, owner) == nil && cmd.Run() == nil
}

// as makes cmd run as owner, in a folder that owner may enter.
func as(cmd *exec.Cmd, owner *user.User) error {
	if strconv.Itoa(os.Geteuid()) == owner.Uid {
		return nil
	}
	uid, err := strconv.ParseUint(owner.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(owner.Gid, 10, 32)
	if err != nil {
		return err
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return nil
}

// run runs a program as owner to its end; the error carries what it printed. Output goes through a file, because a
// server that a program leaves behind would hold a pipe open.
func run(ctx context.Context, owner *user.User, program string, args ...string) error {
	out, err := os.CreateTemp("", "localstack-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := as(cmd, owner); err != nil {
		return err
	}
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(string(text)))
	}
	return nil
}

// lockFile waits until this process alone holds the lock on path.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
