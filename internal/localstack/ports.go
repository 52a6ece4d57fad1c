package localstack

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// FreePorts are n different loopback ports that nobody uses now and no other living process of ours was given. They are below those
// that the kernel gives to outgoing connections: what is killed and started again must find its ports free.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range 1000 {
		port := 12000 + rand.IntN(20000)
		if !reserve(port) {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close() // After all are found, so that they differ.
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("find free ports: none")
}

// reserved are this process's reservations of ports; they end with it.
var reserved sync.Map

// reserve keeps a port from others on this machine that look for free ones, until it is used: tests in packages side by side start
// a hundred servers in a minute. The reservation is a socket that has only a name (unix(7), "abstract"), so users share it without
// sharing a folder.
func reserve(port int) bool {
	reservation, err := net.Listen("unix", fmt.Sprintf("@checkoutsaga-port-%d", port))
	if err != nil {
		return !errors.Is(err, syscall.EADDRINUSE) // A machine without such sockets has no reservations.
	}
	reserved.Store(port, reservation)
	return true
}

// FreePort is one of FreePorts.
func FreePort() (int, error) {
	ports, err := FreePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// WaitFor calls ready every 50 ms until it returns nil or ctx ends; then it returns ready's last error.
func WaitFor(ctx context.Context, what string, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-tick.C:
		}
	}
}
