package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

// With -profile the benchmark builds this file into cmd/orchestrator, too.
func init() {
	if address := os.Getenv("BENCH_PPROF"); address != "" {
		go func() { _ = http.ListenAndServe(address, nil) }()
	}
}
