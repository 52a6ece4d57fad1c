// Command trip-participant serves one of a trip's participants, such as `trip-participant airline`: on APP_PORT, with the database in
// DATABASE_URL.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/checkoutsaga/orchestrator/saga/participant"

	"example.com/trip/participants"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("say which: airline, agency or bank")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all, closeAll, err := participants.Open(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer closeAll()
	served, known := all[os.Args[1]]
	if !known {
		log.Fatalf("there is no participant %q", os.Args[1])
	}
	mux := http.NewServeMux()
	mux.Handle(participant.Handler(served))
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("APP_PORT"), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(ending)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
