package embedded_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dapr/durabletask-go/task"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/commit"
	"github.com/checkoutsaga/orchestrator/internal/engine"
	"github.com/checkoutsaga/orchestrator/internal/engine/embedded"
	"github.com/checkoutsaga/orchestrator/internal/pg"
	"github.com/checkoutsaga/orchestrator/internal/testing/enginetest"
)

// opened is an engine as a process has it: with a pool and a committer of its own.
type opened struct {
	*embedded.Engine
	pool      *pgxpool.Pool
	committer *commit.Committer
	conns     *connections
}

func open(t testing.TB, url string, registry *task.TaskRegistry) *opened {
	t.Helper()
	o, err := tryOpen(t.Context(), url, registry)
	require.NoError(t, err)
	t.Cleanup(o.cut)
	return o
}

func tryOpen(ctx context.Context, url string, registry *task.TaskRegistry) (*opened, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	o := &opened{conns: &connections{}}
	config.ConnConfig.DialFunc = o.conns.dial
	config.MaxConns = 30
	if o.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	if err := pg.Migrate(ctx, o.pool, embedded.Migrations()); err != nil {
		o.pool.Close()
		return nil, err
	}
	o.committer = commit.New(o.pool)
	o.Engine = embedded.New(embedded.Config{Pool: o.pool, Committer: o.committer, Registry: registry, Log: enginetest.Log()})
	return o, nil
}

// cut ends all connections at once, as the end of the process would.
func (o *opened) cut() {
	o.conns.close()
	o.pool.Close()
}

// run runs the engine until the test ends.
func run(t testing.TB, e engine.Engine) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func await(t testing.TB, e engine.Engine, id string, state engine.State) {
	t.Helper()
	require.Eventually(t, func() bool {
		i, err := e.Inspect(t.Context(), id)
		return err == nil && i.State == state
	}, 20*time.Second, 5*time.Millisecond, "instance %s is not %s", id, state)
}

// connections are network connections that can all be cut at once.
type connections struct {
	mu     sync.Mutex
	open   []net.Conn
	closed bool
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := pg.Dialer().DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	c.open = append(c.open, conn)
	return conn, nil
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.open {
		_ = conn.Close()
	}
}
