package engine

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/dapr/durabletask-go/backend"
)

// Logger lets durabletask-go log through log, one level quieter than it wants to: it calls each turn of a workflow "info",
// a late timer of an ended workflow a warning, and what it tries again by itself an error.
func Logger(log *slog.Logger) backend.Logger { return logger{log} }

type logger struct{ log *slog.Logger }

func (l logger) Debug(v ...any)                 { l.print(slog.LevelDebug-4, v) }
func (l logger) Debugf(format string, v ...any) { l.printf(slog.LevelDebug-4, format, v) }
func (l logger) Info(v ...any)                  { l.print(slog.LevelDebug, v) }
func (l logger) Infof(format string, v ...any)  { l.printf(slog.LevelDebug, format, v) }
func (l logger) Warn(v ...any)                  { l.print(slog.LevelInfo, v) }
func (l logger) Warnf(format string, v ...any)  { l.printf(slog.LevelInfo, format, v) }
func (l logger) Error(v ...any)                 { l.print(slog.LevelWarn, v) }
func (l logger) Errorf(format string, v ...any) { l.printf(slog.LevelWarn, format, v) }

func (l logger) print(level slog.Level, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "durabletask: "+fmt.Sprint(v...))
	}
}

func (l logger) printf(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "durabletask: "+fmt.Sprintf(format, v...))
	}
}
