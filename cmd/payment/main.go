// Command payment is the participant that moves money, with its sandbox card network. It reads PAYMENT_DATABASE_URL,
// PAYMENT_LISTEN (or APP_PORT, default 127.0.0.1:8082) and LOG_LEVEL.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/checkoutsaga/orchestrator/internal/rpcserver"
	"github.com/checkoutsaga/orchestrator/internal/telemetry"
	"github.com/checkoutsaga/orchestrator/participants/payment"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "payment:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log, err := telemetry.NewLogger(os.Stderr, "payment", os.Getenv("LOG_LEVEL"))
	if err != nil {
		return err
	}
	service, err := payment.Open(ctx, payment.Config{DatabaseURL: os.Getenv("PAYMENT_DATABASE_URL")}, log)
	if err != nil {
		return err
	}
	defer service.Close()
	server, err := rpcserver.Listen(rpcserver.Config{
		Address: rpcserver.AddressFromEnv("PAYMENT_LISTEN", "127.0.0.1:8082"), Ready: service.Ready, Log: log,
	})
	if err != nil {
		return err
	}
	service.Mount(server)
	log.Info("serving", "url", server.URL())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return service.Run(ctx) })
	return group.Wait()
}
