// Command saga is what the first section of the benchmark compares: a saga of three calls, run by this engine and by programs that are
// written by hand. `saga participant STEP` is who does a step. `saga direct`, `saga log` and `saga group` call the three one after the
// other: with no log at all, with a log that commits each entry, and with one that commits what waits together (handwritten.go).
// `saga serve` is a program of this engine, by its public packages alone.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/checkoutsaga/orchestrator/orchestrator"
	"github.com/checkoutsaga/orchestrator/saga"
)

// Order is the input of the saga, and what each step is asked with.
type Order struct {
	Amount int64 `json:"amount"`
}

// steps are also the names of the participants, each of which does one.
var steps = []string{"reserve", "charge", "confirm"}

var bench = saga.For[Order]{
	Name: "bench", Version: 1,
	Steps: []saga.Step{
		saga.Do("reserve").At("reserve").UndoneBy("release"),
		saga.Pivot("charge").At("charge").UndoneBy("refund"),
		saga.Do("confirm").At("confirm").NothingToUndo(),
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var handler http.Handler
	var err error
	switch role := append(os.Args, "")[1]; role {
	case "participant":
		handler, err = newParticipant(ctx, os.Getenv("DATABASE_URL"))
	case "direct", "log", "group":
		handler, err = newProgram(ctx, role, os.Getenv("DATABASE_URL"))
	default:
		orchestrator.Main(orchestrator.Config{Sagas: []saga.Declaration{bench}})
	}
	if err == nil {
		err = serve(ctx, handler)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "saga:", err)
		os.Exit(1)
	}
}

// serve serves at LISTEN until ctx ends.
func serve(ctx context.Context, handler http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("POST /", handler)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: os.Getenv("LISTEN"), Handler: mux}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
