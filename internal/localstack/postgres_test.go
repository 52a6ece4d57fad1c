package localstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// SQLSTATEs (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const (
	invalidPassword       = "28P01"
	insufficientPrivilege = "42501"
)

func TestPostgresLetsInRolesByPasswordEachToItsOwnDatabaseAndNothingElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "postgres")
	p := startPostgres(t, dir)
	warehouse, err := p.EnsureDatabase(t.Context(), "warehouse")
	require.NoError(t, err)
	payment, err := p.EnsureDatabase(t.Context(), "payment")
	require.NoError(t, err)

	t.Run("who has no password, or a wrong one, stays out", func(t *testing.T) {
		for _, role := range []string{"postgres", "warehouse", "nobody"} {
			for _, secret := range []string{"", "guess", passwordOf(t, payment)} {
				require.Equal(t, invalidPassword, stateOf(connectAs(t, warehouse, role, secret, "warehouse")), "%s with %q", role, secret)
			}
		}
	})
	t.Run("there is no way past the password", func(t *testing.T) {
		conn := connect(t, p.SuperuserURL("postgres"))
		var rules, byPassword int
		var sockets string
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE auth_method = 'scram-sha-256') FROM pg_hba_file_rules`).Scan(&rules, &byPassword))
		require.NotZero(t, rules)
		require.Equal(t, rules, byPassword)
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT current_setting('unix_socket_directories')`).Scan(&sockets))
		require.Empty(t, sockets)
	})
	t.Run("a role can neither connect to another database nor read what is the server's", func(t *testing.T) {
		for _, database := range []string{"payment", "postgres", "template1"} {
			require.Equal(t, insufficientPrivilege, stateOf(connectAs(t, warehouse, "warehouse", passwordOf(t, warehouse), database)), database)
		}
	})
	t.Run("a role has no power over the server and the machine", func(t *testing.T) {
		conn := connect(t, warehouse)
		for _, sql := range []string{
			`CREATE ROLE intruder LOGIN SUPERUSER`, `CREATE DATABASE more`, `ALTER ROLE warehouse SUPERUSER`, `ALTER SYSTEM SET fsync = off`,
			`CREATE TABLE out (line text); COPY out FROM PROGRAM 'id'`, `COPY (SELECT 1) TO '/tmp/written'`, `SELECT pg_read_file('PG_VERSION')`,
			`SELECT lo_export(1, '/tmp/written')`, `SELECT rolpassword FROM pg_authid`, `DROP DATABASE payment`, `SET ROLE payment`,
		} {
			_, err := conn.Exec(t.Context(), sql)
			require.Equal(t, insufficientPrivilege, stateOf(err), "%s: %v", sql, err)
		}
	})
	t.Run("a role does what it likes in its own database", func(t *testing.T) {
		conn := connect(t, warehouse)
		for _, sql := range []string{
			`CREATE SCHEMA engine`, `CREATE TABLE engine.t (id int)`, `CREATE TABLE t (id int)`, `CREATE TEMP TABLE u (id int)`, `LISTEN x`, `NOTIFY x`,
			`SELECT pg_advisory_lock(1)`, `SELECT pid FROM pg_locks`,
		} {
			_, err := conn.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
		}
	})
	t.Run("no other user can read a password from a file or a command line", func(t *testing.T) {
		for path, mode := range map[string]fs.FileMode{
			p.passwordFile(): 0o600, dir: fs.ModeDir | 0o700, p.home: fs.ModeDir | 0o700, p.data(): fs.ModeDir | 0o700, p.logFile(): 0o600,
		} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, mode, info.Mode(), path)
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid()))
		require.NoError(t, err)
		require.NotContains(t, string(command), p.password)
		left, err := filepath.Glob(filepath.Join(p.home, ".password-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	})
	t.Run("addresses outlive a crash and a second start", func(t *testing.T) {
		require.NoError(t, p.Halt(t.Context()))
		require.NoError(t, p.Restart(t.Context()))
		connect(t, warehouse)
		again, err := StartPostgres(t.Context(), dir, PostgresOptions{})
		require.NoError(t, err)
		require.Equal(t, p.SuperuserURL("x"), again.SuperuserURL("x"))
		url, err := again.EnsureDatabase(t.Context(), "warehouse")
		require.NoError(t, err)
		require.Equal(t, warehouse, url)
	})
}

func TestPostgresDataThatLetEverybodyInAreNotUsed(t *testing.T) {
	p, err := placeOf(filepath.Join(t.TempDir(), "postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, RemovePostgres(p.dir)) })
	homes := map[string]bool{p.home: true, p.dir: true}
	if p.home != p.dir {
		require.NoError(t, os.MkdirAll(rootsPlace, 0o755))
	}
	for home := range homes {
		t.Run(strings.TrimPrefix(home, filepath.Dir(p.dir)), func(t *testing.T) {
			version := filepath.Join(home, "data", "PG_VERSION")
			require.NoError(t, os.MkdirAll(filepath.Dir(version), 0o700))
			require.NoError(t, os.WriteFile(version, []byte("15\n"), 0o600))
			require.NoError(t, os.Chown(home, uidOf(p.owner), gidOf(p.owner)))

			_, err := StartPostgres(t.Context(), p.dir, PostgresOptions{})
			require.ErrorContains(t, err, "the PostgreSQL data in "+home+" have no password")
			require.ErrorContains(t, err, "`make clean` removes them")
			require.FileExists(t, version)
			require.NoError(t, RemovePostgres(p.dir))
			require.NoFileExists(t, version)
		})
	}
}

// Another user of the machine cannot make what is made here lead elsewhere, or lie in wait.
func TestFoldersThatSomebodyElseMayHaveMadeAreRefused(t *testing.T) {
	const nobody = 65534
	for name, c := range map[string]struct {
		plant func(path, target string) error
		says  string
		root  bool
	}{
		"a link":           {func(path, target string) error { return os.Symlink(target, path) }, "is no folder of its own", false},
		"a file":           {func(path, _ string) error { return os.WriteFile(path, nil, 0o600) }, "is no folder of its own", false},
		"another's folder": {func(path, _ string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chown(path, nobody, nobody)) }, "belongs to another user (uid 65534)", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("only root can give a folder to another user")
			}
			target := t.TempDir()
			require.NoError(t, os.Chmod(target, 0o755))
			before, err := os.Stat(target)
			require.NoError(t, err)
			root := t.TempDir()
			require.NoError(t, c.plant(filepath.Join(root, ".local"), target))
			_, err = LocalDir(root)
			require.ErrorContains(t, err, c.says)

			// What root starts for another user hands folders over.
			place, err := placeOf(filepath.Join(t.TempDir(), "postgres"))
			require.NoError(t, err)
			if place.home != place.dir {
				require.NoError(t, os.MkdirAll(rootsPlace, 0o755))
			}
			require.NoError(t, c.plant(place.home, target))
			t.Cleanup(func() { require.NoError(t, RemovePostgres(place.dir)) })
			_, err = StartPostgres(t.Context(), place.dir, PostgresOptions{})
			require.ErrorContains(t, err, c.says)

			after, err := os.Stat(target)
			require.NoError(t, err)
			require.Equal(t, before.Sys(), after.Sys(), "what the link leads to is as it was")
			entries, err := os.ReadDir(target)
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}

func TestAFolderThatIsOpenToOthersIsClosed(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, ".local"), 0o777))
	require.NoError(t, os.Chmod(filepath.Join(root, ".local"), 0o777))
	local, err := LocalDir(root)
	require.NoError(t, err)
	info, err := os.Stat(local)
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o700, info.Mode())
}

func startPostgres(t *testing.T, dir string) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), dir, PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, StopPostgres(ctx, dir))
		require.NoError(t, RemovePostgres(dir))
		require.NoDirExists(t, p.home)
	})
	return p
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// connectAs tries to connect to a database of the server of another address.
func connectAs(t *testing.T, address, role, secret, database string) error {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.User, u.Path = url.UserPassword(role, secret), "/"+database
	conn, err := pgx.Connect(t.Context(), u.String())
	if err == nil {
		conn.Close(t.Context())
	}
	return err
}

func passwordOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	secret, _ := u.User.Password()
	require.NotEmpty(t, secret)
	return secret
}

func stateOf(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return fmt.Sprintf("no answer of PostgreSQL: %v", err)
	}
	return refused.Code
}
