package localstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Redis is a private Redis server on a loopback port.
type Redis struct {
	port int
}

// StartRedis starts the server whose data lies in dir, or finds it running. The server goes on when this process ends.
// Several processes may call it at once.
func StartRedis(ctx context.Context, dir string) (*Redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("Redis is not installed; `make install` installs it")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Redis tells its folder with all links resolved, and that is how a running one is recognised.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()

	if r := runningRedis(ctx, dir); r != nil {
		return r, nil
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	// Append-only with a sync each second: a stream must survive a stop, as it would on a broker in earnest.
	out, err := exec.CommandContext(ctx, program, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--daemonize", "yes", "--pidfile", filepath.Join(dir, "redis.pid"), "--logfile", filepath.Join(dir, "redis.log"),
		"--save", "", "--appendonly", "yes").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w: %s", err, lastLines(string(out), 5))
	}
	if err := os.WriteFile(portFile(dir), []byte(strconv.Itoa(port)), 0o644); err != nil {
		return nil, fmt.Errorf("note Redis' port: %w", err)
	}
	r := &Redis{port: port}
	waitCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := WaitFor(waitCtx, "Redis", func(ctx context.Context) error {
		if err := r.serves(ctx, dir); err != nil {
			return err
		}
		return r.hasLoaded(ctx)
	}); err != nil {
		return nil, fmt.Errorf("%w (its log: %s)", err, filepath.Join(dir, "redis.log"))
	}
	return r, nil
}

// StopRedis stops the server whose data lies in dir; one that does not run is fine.
func StopRedis(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	r := runningRedis(ctx, dir)
	if r == nil {
		return nil
	}
	// The server closes the connection instead of answering; what counts is that it is gone.
	_, _ = r.ask(ctx, "SHUTDOWN")
	waitCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return WaitFor(waitCtx, "Redis to stop", func(ctx context.Context) error {
		if r.serves(ctx, dir) == nil {
			return errors.New("it still answers")
		}
		return nil
	})
}

// Address is host:port of the server.
func (r *Redis) Address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port))
}

// runningRedis is the server that runs on dir, or nil.
func runningRedis(ctx context.Context, dir string) *Redis {
	text, err := os.ReadFile(portFile(dir))
	if err != nil {
		return nil
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil
	}
	r := &Redis{port: port}
	if r.serves(ctx, dir) != nil {
		return nil
	}
	return r
}

// serves tells whether the server answers and is the one of dir: another one may have taken the port meanwhile.
func (r *Redis) serves(ctx context.Context, dir string) error {
	answer, err := r.ask(ctx, "CONFIG GET dir")
	if err != nil {
		return err
	}
	if !strings.Contains(answer, "\n"+dir+"\r\n") {
		return errors.New("another Redis has its port")
	}
	return nil
}

// hasLoaded tells whether the server has read its data from disk; until then it refuses to work with it.
func (r *Redis) hasLoaded(ctx context.Context) error {
	answer, err := r.ask(ctx, "PING")
	if err == nil && !strings.HasPrefix(answer, "+PONG") {
		err = errors.New(strings.TrimSpace(answer))
	}
	return err
}

// ask sends one inline command and returns the answer as it comes.
func (r *Redis) ask(ctx context.Context, command string) (string, error) {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", r.Address())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	// QUIT makes the server close the connection after its answer, so that reading to the end needs no parser.
	if _, err := fmt.Fprintf(conn, "%s\r\nQUIT\r\n", command); err != nil {
		return "", err
	}
	var answer strings.Builder
	_, err = bufio.NewReader(conn).WriteTo(&answer)
	return answer.String(), err
}

func portFile(dir string) string { return filepath.Join(dir, "port") }
