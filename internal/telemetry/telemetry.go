// Package telemetry sets up how a process tells what it does. It knows no process.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger writes JSON lines to w, each with the name of the service. The level is debug, info, warn or error, as in the
// environment variable LOG_LEVEL; empty means info.
func NewLogger(w io.Writer, service, level string) (*slog.Logger, error) {
	var l slog.Level
	if level != "" {
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("LOG_LEVEL: must be debug, info, warn or error, not %q", level)
		}
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})).With("service", service), nil
}
