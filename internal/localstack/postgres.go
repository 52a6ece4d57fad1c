// Package localstack installs, starts and stops what the project runs on one machine: PostgreSQL, message brokers, and
// Dapr's runtime. The make targets and the tests start their parts through it, so both meet the same ones.
package localstack

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private PostgreSQL server on a loopback port. Nobody gets in without a password. The superuser's is in a file of
// the server's folder. Each application has a role that owns its database and may do nothing else.
type Postgres struct {
	postgresPlace
	bin      string
	port     int
	password string // the superuser's
}

// PostgresOptions says how to run a server.
type PostgresOptions struct {
	// Throwaway gives up durability for speed, for tests.
	Throwaway bool
	// Connections is how many connections the server takes; 0 means 800.
	Connections int
}

// auth is how the server checks passwords. SCRAM costs some 5 ms of processor time for each connection, and tests open tens of
// thousands.
func (o PostgresOptions) auth() string {
	if o.Throwaway {
		return "md5"
	}
	return "scram-sha-256"
}

// StartPostgres starts the server of dir, or finds it running. It makes its data if there are none. The server goes on when this
// process ends. Several processes may call it at once.
func StartPostgres(ctx context.Context, dir string, opts PostgresOptions) (*Postgres, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { // Whether it can be entered decides on the place.
		return nil, err
	}
	place, err := placeOf(dir)
	if err != nil {
		return nil, err
	}
	unlock, err := lockFile(place.dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()

	p := &Postgres{postgresPlace: place, bin: bin}
	if err := p.retireOlderForm(ctx, opts.Throwaway); err != nil {
		return nil, err
	}
	if err := p.makePlace(); err != nil {
		return nil, fmt.Errorf("make folder of PostgreSQL: %w", err)
	}
	if err := p.makeData(ctx, opts.auth()); err != nil {
		return nil, fmt.Errorf("make PostgreSQL data folder: %w", err)
	}
	if p.password, err = readPassword(p.passwordFile()); err != nil {
		return nil, err
	}
	if p.port, err = p.runningPort(ctx); err == nil {
		return p, nil
	}
	if p.port, err = FreePort(); err != nil {
		return nil, err
	}
	// No socket in the file system: loopback's TCP is the only way in.
	flags := fmt.Sprintf("-c listen_addresses=127.0.0.1 -p %d -c unix_socket_directories= -c max_connections=%d -c shared_buffers=256MB",
		p.port, cmp.Or(opts.Connections, 800))
	if opts.Throwaway {
		flags += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
	}
	if err := run(ctx, place.owner, filepath.Join(bin, "pg_ctl"), "start", "--wait", "--timeout", "60", "--pgdata", p.data(),
		"--log", p.logFile(), "--options", flags); err != nil {
		return nil, fmt.Errorf("start PostgreSQL (its log: %s): %w", p.logFile(), err)
	}
	// Otherwise each role could look into these, and leave things in the template of new databases.
	if err := p.exec(ctx, `REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC`); err != nil {
		return nil, err
	}
	return p, nil
}

// StopPostgres stops the server of dir. It is no error if none runs.
func StopPostgres(ctx context.Context, dir string) error {
	place, err := placeOf(dir)
	if err != nil {
		return nil // No such user, so there was never a server.
	}
	for _, home := range append(place.olderHomes(), place.home) {
		place.home = home
		if err := place.stop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// RemovePostgres removes the data of a stopped server.
func RemovePostgres(dir string) error {
	place, err := placeOf(dir)
	if err != nil {
		return nil
	}
	var errs []error
	for _, home := range append(place.olderHomes(), place.home, place.dir, place.dir+".lock") {
		errs = append(errs, os.RemoveAll(home)) // If home is a link, only the link.
	}
	return errors.Join(errs...)
}

// SuperuserURL is a superuser's connection string for one of the server's databases. Applications get EnsureDatabase's.
func (p *Postgres) SuperuserURL(database string) string {
	return p.url(superuser, p.password, database)
}

const superuser = "postgres"

func (p *Postgres) url(role, password, database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(role, password), Host: address(p.port), Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

// EnsureDatabase makes a database unless it exists, with a role of the same name that owns it, and returns the role's connection
// string. The role can do all in its database. It cannot connect to another one or reach the machine.
func (p *Postgres) EnsureDatabase(ctx context.Context, name string) (url string, err error) {
	conn, err := pgx.Connect(ctx, p.SuperuserURL(superuser))
	if err != nil {
		return "", fmt.Errorf("reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	secret, quoted := p.rolePassword(name), pgx.Identifier{name}.Sanitize()
	for _, step := range []struct{ unless, sql string }{
		// The password has letters and digits only. A failed statement stands in the server's log, which nobody else can read.
		{`SELECT FROM pg_roles WHERE rolname = $1`, `CREATE ROLE ` + quoted + ` LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD '` + secret + `'`},
		{`SELECT FROM pg_database WHERE datname = $1`, `CREATE DATABASE ` + quoted + ` OWNER ` + quoted},
		{`SELECT FROM pg_database WHERE datname = $1 AND NOT has_database_privilege('public', oid, 'CONNECT')`, `REVOKE ALL ON DATABASE ` + quoted + ` FROM PUBLIC`},
	} {
		var done bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (`+step.unless+`)`, name).Scan(&done); err != nil {
			return "", fmt.Errorf("look for database %s: %w", name, err)
		}
		if done {
			continue
		}
		if _, err := conn.Exec(ctx, step.sql); err != nil {
			return "", fmt.Errorf("make database %s: %w", name, err)
		}
	}
	return p.url(name, secret, name), nil
}

// rolePassword is made from the superuser's, so that it need not be kept. It does not reveal another role's.
func (p *Postgres) rolePassword(role string) string {
	mac := hmac.New(sha256.New, []byte(p.password))
	mac.Write([]byte(role))
	return hex.EncodeToString(mac.Sum(nil))
}

func (p *Postgres) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.SuperuserURL(superuser))
	if err != nil {
		return fmt.Errorf("reach PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// makeData makes the data folder unless it exists. It appears whole and after its password, or not at all.
func (p *Postgres) makeData(ctx context.Context, auth string) error {
	if _, err := os.Stat(p.data()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	begun := p.data() + ".new"
	if err := os.RemoveAll(begun); err != nil {
		return err
	}
	secret := rand.Text()
	file, err := p.fileForOwner(secret)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	if err := run(ctx, p.owner, filepath.Join(p.bin, "initdb"), "--pgdata", begun, "--username", superuser,
		"--auth", auth, "--pwfile", file, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"); err != nil {
		return err
	}
	if err := writePassword(p.passwordFile(), secret); err != nil {
		return err
	}
	return os.Rename(begun, p.data())
}

// fileForOwner is a new file that only the server's user can read. It follows no link.
func (p postgresPlace) fileForOwner(text string) (path string, err error) {
	file, err := os.CreateTemp(p.home, ".password-") // Of mode 0600.
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text + "\n")
	if err == nil && p.home != p.dir {
		err = file.Chown(uidOf(p.owner), gidOf(p.owner))
	}
	return file.Name(), errors.Join(err, file.Close())
}

// retireOlderForm stops a server that may let everybody in. It removes the data if they are throwaway; other data are their owner's
// to remove.
func (p *Postgres) retireOlderForm(ctx context.Context, throwaway bool) error {
	older := p.olderHomes()
	if len(older) == 0 {
		return nil
	}
	if err := StopPostgres(ctx, p.dir); err != nil {
		return fmt.Errorf("stop PostgreSQL of an older form: %w", err)
	}
	if throwaway {
		for _, home := range older {
			if err := os.RemoveAll(home); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("the PostgreSQL data in %s have no password in %s: they were left by a folder that is gone, or are of an older form that lets every user of this machine in; "+
		"`make clean` removes them, and the next start makes new ones", strings.Join(older, " and "), p.passwordFile())
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
	probe := &Postgres{port: port, password: p.password}
	conn, err := pgx.Connect(ctx, probe.SuperuserURL(superuser))
	if err != nil {
		return 0, fmt.Errorf("reach running PostgreSQL: %w", err)
	}
	return port, conn.Close(ctx)
}

// stop ends the sessions of the running server, if there is one, and then the server. It does not use pg_ctl, which cannot reach
// the data of a server of the older form once the folder above is closed. pg_ctl sends SIGINT for the same
// (https://www.postgresql.org/docs/current/server-shutdown.html).
func (p postgresPlace) stop(ctx context.Context) error {
	pid := p.pid()
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return WaitFor(ctx, "PostgreSQL to end", func(context.Context) error {
		if p.pid() == pid {
			return fmt.Errorf("process %d still runs (its log: %s)", pid, p.logFile())
		}
		return nil
	})
}

// pid is the running server's process id, or 0. Process ids are used again, and the server writes the file: a process of another
// program or user is not the server.
func (p postgresPlace) pid() int {
	lines := p.pidFile()
	if len(lines) == 0 {
		return 0
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil {
		return 0
	}
	process := fmt.Sprintf("/proc/%d", pid)
	info, err := os.Stat(process)
	if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != uidOf(p.owner) {
		return 0
	}
	program, err := os.Readlink(filepath.Join(process, "exe"))
	if err != nil || filepath.Base(strings.TrimSuffix(program, " (deleted)")) != "postgres" {
		return 0
	}
	return pid
}

// pidFile is PostgreSQL's postmaster.pid: the process id first, the port fourth.
func (p postgresPlace) pidFile() []string {
	text, err := os.ReadFile(filepath.Join(p.data(), "postmaster.pid"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
