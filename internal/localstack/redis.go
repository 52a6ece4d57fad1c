package localstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// redis is a Redis server. Whoever is let in can make it write files as its user.
var redis = brokerKind{
	name:      Redis,
	portCount: 1,
	describe: func(dir string, ports []int, password string) ([]brokerProcess, error) {
		program, err := exec.LookPath("redis-server")
		if err != nil {
			return nil, errors.New("Redis is not installed; `make install` installs it")
		}
		config := filepath.Join(dir, "redis.conf")
		if err := os.WriteFile(config, []byte("requirepass "+password+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("configure Redis: %w", err)
		}
		// Synced before each answer. With a sync each second, Redis answers before a write that has to wait for the sync has left
		// the process, so a kill could take back what was confirmed. In production a replica prevents that.
		server := &process{name: Redis, program: program, dir: dir, args: []string{
			config, "--port", fmt.Sprint(ports[0]), "--bind", "127.0.0.1", "--dir", dir,
			"--save", "", "--appendonly", "yes", "--appendfsync", "always"}}
		// While it reads its data from disk it answers with an error.
		request, welcome := redisGreeting(password)
		return []brokerProcess{{server, greets(ports[0], request+"PING\r\n", welcome+"+PONG")}}, nil
	},
	env: func(address, password string) []string {
		return []string{"REDIS_HOST=" + address, "REDIS_PASSWORD=" + password}
	},
}

// DialRedis connects to a broker that is Redis, so that commands can be sent.
func (b *Broker) DialRedis(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", b.Address())
	if err != nil {
		return nil, err
	}
	request, welcome := redisGreeting(b.password)
	answer := make([]byte, len(welcome))
	if _, err = io.WriteString(conn, request); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err == nil && string(answer) != welcome {
		err = fmt.Errorf("it answers %q, not %q", answer, welcome)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("be let in by Redis: %w", err)
	}
	return conn, nil
}

func redisGreeting(password string) (request, welcome string) {
	return "AUTH " + password + "\r\n", "+OK\r\n"
}
