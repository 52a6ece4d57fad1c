// Command warehouse is the participant that keeps stock. It reads WAREHOUSE_DATABASE_URL, WAREHOUSE_LISTEN (or APP_PORT, default
// 127.0.0.1:8081) and LOG_LEVEL.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/telemetry"
	"github.com/checkoutsaga/orchestrator/participants/warehouse"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "warehouse:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log, err := telemetry.NewLogger(os.Stderr, "warehouse", os.Getenv("LOG_LEVEL"))
	if err != nil {
		return err
	}
	service, err := warehouse.Open(ctx, warehouse.Config{DatabaseURL: os.Getenv("WAREHOUSE_DATABASE_URL")})
	if err != nil {
		return err
	}
	defer service.Close()
	server, err := rpcserver.Listen(rpcserver.Config{
		Address: rpcserver.AddressFromEnv("WAREHOUSE_LISTEN", "127.0.0.1:8081"), Ready: service.Ready, Log: log,
	})
	if err != nil {
		return err
	}
	service.Mount(server)
	log.Info("serving", "url", server.URL())
	return server.Run(ctx)
}
