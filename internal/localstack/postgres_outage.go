package localstack

import (
	"context"
	"fmt"
	"path/filepath"
)

// Halt ends the server at once, as a crash does: every connection breaks, and what was not committed is lost.
func (p *Postgres) Halt(ctx context.Context) error { return p.control(ctx, "stop") }

// Restart starts the server again on its port, with the same settings. A running one is ended at once.
func (p *Postgres) Restart(ctx context.Context) error { return p.control(ctx, "restart") }

func (p *Postgres) control(ctx context.Context, verb string) error {
	err := run(ctx, p.owner, filepath.Join(p.bin, "pg_ctl"), verb, "--mode", "immediate", "--wait", "--timeout", "60",
		"--pgdata", p.data(), "--log", p.logFile())
	if err != nil {
		return fmt.Errorf("%s PostgreSQL: %w", verb, err)
	}
	return nil
}
