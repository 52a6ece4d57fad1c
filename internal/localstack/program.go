package localstack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ProgramConfig says which program to start.
type ProgramConfig struct {
	// Name names its log and process id files in Dir, <name>.log and <name>.pid.
	Name string
	// Path is the executable.
	Path string
	Args []string
	// Env is added to the environment.
	Env []string
	Dir string
	// ReadyURL answers a GET with success once the program is ready. Empty: nobody waits for that.
	ReadyURL string
	// Tied: the program dies with this process.
	Tied bool
}

// Program is an application that runs in the background: one of ours beside its sidecar, or alone.
type Program struct {
	process *process
	ready   string
}

// StartProgram starts a program and waits until it is ready.
func StartProgram(ctx context.Context, c ProgramConfig) (*Program, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", c.Name, err)
	}
	p := &Program{
		process: &process{name: c.Name, program: c.Path, args: c.Args, env: c.Env, dir: dir, tied: c.Tied},
		ready:   c.ReadyURL,
	}
	if err := p.Restart(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// Launch starts it again after Kill or Stop, with the same arguments.
func (p *Program) Launch() error { return p.process.start() }

// Restart is Launch, and waits until it is ready.
func (p *Program) Restart(ctx context.Context) error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.WaitReady(ctx)
}

// WaitReady waits until it is ready.
func (p *Program) WaitReady(ctx context.Context) error {
	if p.ready == "" {
		return nil
	}
	return p.process.ready(ctx, answers(p.ready))
}

// Kill ends it without warning.
func (p *Program) Kill() { p.process.kill() }

// Stop asks it to end and waits for that; after grace it is killed.
func (p *Program) Stop(grace time.Duration) { p.process.stop(grace) }

// PID is its process id since its last start.
func (p *Program) PID() int { return p.process.pid }

// LogFile is where its output goes.
func (p *Program) LogFile() string { return p.process.logFile() }
