// Package telemetry sets up how a process tells what it does. It knows no process.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/checkoutsaga/orchestrator/internal/redact"
)

// NewLogger writes JSON lines to w, each with the name of the service. The level is debug, info, warn or error, as in the
// environment variable LOG_LEVEL; empty means info. Passwords in texts and errors are left out.
func NewLogger(w io.Writer, service, level string) (*slog.Logger, error) {
	var l slog.Level
	if level != "" {
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("LOG_LEVEL: must be debug, info, warn or error, not %q", level)
		}
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: withoutPasswords})).With("service", service), nil
}

// withoutPasswords redacts an attribute. Errors of libraries may repeat the address that they were given.
func withoutPasswords(_ []string, attr slog.Attr) slog.Attr {
	switch value := attr.Value.Any().(type) {
	case string:
		attr.Value = slog.StringValue(redact.Text(value))
	case error:
		attr.Value = slog.StringValue(redact.Text(value.Error()))
	}
	return attr
}
