package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// Away tells whether an error means that the database cannot serve at present: it is not there, restarting, full, or has no
// connection left, or the connection broke. What was asked may have been done or not; asking again later is worth while. A wrong
// password or a database that does not exist is not away: no waiting mends it.
func Away(err error) bool {
	var told *pgconn.PgError
	isTold := errors.As(err, &told)
	var dial *pgconn.ConnectError
	if errors.As(err, &dial) {
		return !isTold || !begins(told.Code, wrongCodes)
	}
	if isTold {
		return begins(told.Code, awayCodes)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false // Whoever asked has gone or has waited long enough, whatever for.
	}
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// Beginnings of PostgreSQL's codes (its documentation, appendix A): for a server that cannot serve at present, and for a connection
// that it will never give. Any other refusal of a connection may pass: with a full disk the server says internal error.
var (
	awayCodes = []string{
		"08",                      // connection_exception
		"53",                      // insufficient_resources: disk full, out of memory, too many connections
		"57P01", "57P02", "57P03", // admin_shutdown, crash_shutdown, cannot_connect_now
		"58",    // system_error: it could not read or write its files
		"25006", // read_only_sql_transaction: a standby that is not promoted yet
	}
	wrongCodes = []string{
		"28",    // invalid_authorization_specification, such as a wrong password
		"3D000", // invalid_catalog_name: there is no such database
		"42501", // insufficient_privilege
	}
)

func begins(code string, beginnings []string) bool {
	return slices.ContainsFunc(beginnings, func(beginning string) bool { return strings.HasPrefix(code, beginning) })
}

// unheard is how long the other end may acknowledge nothing before a connection counts as broken. Without it, a connection to a
// machine that fell silent hangs for a quarter of an hour (tcp(7), tcp_retries2), and the work on it too.
const unheard = 10 * time.Second

// Dialer opens connections that notice that the other end is gone.
func Dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: unheard / 2, Interval: unheard / 5, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unheard.Milliseconds()))
			})
			return errors.Join(err, failed)
		},
	}
}
