package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// PgBouncer puts PgBouncer in front of a new database, with more settings such as "pool_mode = session", and returns the address to
// use. Without the program the test is skipped.
func PgBouncer(t *testing.T, settings string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // Debian's is not on everybody's PATH.
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs PgBouncer: apt-get install pgbouncer")
	}
	database, err := url.Parse(URL(t))
	require.NoError(t, err)
	name, user := database.Path[1:], database.User.Username()
	password, _ := database.User.Password()
	port, err := localstack.FreePort()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "pgbouncer-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755)) // It runs as another user where root runs the test.
	file := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `[databases]
%s = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
%s
`, name, database.Hostname(), database.Port(), user, password, port, settings), 0o644))

	args := []string{"--quiet", file}
	if os.Geteuid() == 0 { // It refuses root.
		args = append([]string{"--user=nobody"}, args...)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	database.Host = "127.0.0.1:" + strconv.Itoa(port)
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), database.String())
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond, "PgBouncer does not answer")
	return database.String()
}
